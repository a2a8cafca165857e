"""The report of several folders side by side, and its tables in a browser."""

import re

import chrome
import numpy as np
import pytest
import toys

from kltrust.experiments import report
from kltrust.experiments.report import _difference, _page
from kltrust.experiments.report._gather import gather

ONE = toys.MADE.replace(', "Acrobot-v1"', "") + (
    '[[experiments]]\nalgorithms = "trpo"\ngrid.max_kl = [0.01, 0.02]\n'
)
MORE = '[[experiments]]\nalgorithms = "vanilla_pg"\n'


def metrics(group, first):
    shape = (len(group.runs), group.chunk_length)
    kl = np.full(shape, 0.01)
    measured = ("kl", "kl_max", "max_ratio", "clip_fraction", "entropy", "value_loss")
    counts = dict.fromkeys(("num_episodes", "return_sum", "length_sum"), np.ones(shape, int))
    return {**dict.fromkeys(measured, kl), "explained_variance": kl, **counts}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The second is worse on the first setting by 5, on others by noise; it has one setting more.

    Two seeds differ by what no test could tell from none; the third folder is the first again.
    """
    home = tmp_path_factory.mktemp("folders")
    off = {0: -5.0, 1: -5.1, 2: -4.9, 3: 3.0, 4: -4.0, 5: 1.0}

    def score(run, done):
        return 100.0 + 10 * run + done

    def other(run, done):
        return score(run, done) + off.get(run, 0.0)

    first, more = (toys.toy_plan(text, width=3) for text in (ONE, ONE + MORE))
    return [
        toys.write(home / "before", first, metrics, score),
        toys.write(home / "after", more, metrics, other),
        toys.write(home / "again", first, metrics, score),
    ]


def test_folders_are_set_side_by_side(folders):
    study = gather(folders)
    pairs = _difference.pairs(study)
    assert [pair.line for pair in pairs] == [
        "after against before, setting by setting: 1 worse, 1 not shown.",
        "again against before, setting by setting: 2 the same.",
    ]
    section = _difference.section(study, pairs)
    side, first, second = section.tables
    assert side.rows == [
        ["trpo max_kl=0.01", "CartPole-v1", "114.0", "109.0", "114.0"],
        ["trpo max_kl=0.02", "CartPole-v1", "144.0", "144.0", "144.0"],
    ]
    assert first.rows[0][:6] == ["trpo max_kl=0.01", "CartPole-v1", "3", "114.0", "109.0", GAP]
    assert [row[-1] for row in first.rows] == ["worse", "not shown"]
    assert list(first.best) == [0]
    assert [row[5] for row in second.rows] == ["0.00000 [0.00000, 0.00000]"] * 2
    assert "Only one of the two has vanilla_pg on CartPole-v1." in section.blocks
    assert [p.name for p in section.pictures] == ["difference-1", "difference-2"]
    # Two folders need no table of means beside the one of differences.
    composed = report.compose(folders[:2])
    (section,) = [s for s in composed.sections if s.name == "difference"]
    assert [t.name for t in section.tables] == ["difference-1"]
    assert composed.headlines[-1] == pairs[0].line
    assert _difference.pairs(gather(folders[:1])) == []


# Student's t of -5, -5.1, -4.9 at 1 - 0.05/2: 6.205 x 0.1 / sqrt(3) = 0.358.
GAP = "-5.00 [-5.36, -4.64]"


def test_what_can_t_be_compared_is_said(folders, tmp_path):
    alone = toys.toy_plan(ONE.replace("[4, 2, 9]", "[4]"), width=1)
    study = gather([folders[0], toys.write(tmp_path / "alone", alone, metrics, lambda r, d: d)])
    (pair,) = _difference.pairs(study)
    assert "an interval needs two seeds, got 3 and 1" in pair.line
    assert pair.table is None
    assert _difference.section(study, [pair]).tables == []


@pytest.mark.skipif(chrome.CHROMIUM is None, reason="there is no chromium here")
def test_in_a_browser_tables_sort_and_filter(tmp_path):
    values = ["1,012", "93.8 [90.1, 95.0]", "–", "-5", "< 0.1 %", "0.1 %", "inf"]
    many = [f"{i}" for i in range(13)]
    blocks = [
        _page.Table("few", "few", {"name": list("gfedcba"), "value": values}),
        _page.Table("many", "many", {"setting": [f"s{i}" for i in many], "mean": many}),
        _page.Table("facts", "facts", {"": ["x", "y"], "is": ["1", "2"]}, words=2),
    ]
    file = tmp_path / "page.html"
    file.write_text(_page.render("page", [], [_page.Section("s", "s", blocks)]), "utf-8")
    with chrome.opened() as page:
        page.go(file.as_uri())
        few = "document.querySelectorAll('table')[0]"
        cells = f"[...{few}.tBodies[0].rows].map(row => row.cells[1].textContent)"
        page.run(f"{few}.querySelectorAll('button')[1].focus()")
        page.key("Enter")
        up = ["-5", "< 0.1 %", "0.1 %", "93.8 [90.1, 95.0]", "1,012", "inf", "–"]
        assert [c.replace("\xa0", " ") for c in page.run(cells)] == up
        sorts = f"[...{few}.querySelectorAll('th')].map(head => head.getAttribute('aria-sort'))"
        assert page.run(sorts)[:2] == [None, "ascending"]
        page.key("Enter")
        down = [*up[:-1][::-1], "–"]
        assert [c.replace("\xa0", " ") for c in page.run(cells)] == down
        page.key("Enter")
        assert [c.replace("\xa0", " ") for c in page.run(cells)] == values  # as it was
        assert page.run(sorts)[:2] == [None, None]
        # Only a long table has a filter, and a table of facts has no buttons.
        assert page.run("document.querySelectorAll('.filter').length") == 1
        assert page.run("document.querySelectorAll('table')[2].querySelector('button')") is None
        for typed, left in (("mean>9", 3), ("s1", 4), ("s1 mean<=10", 2), ("", 13)):
            page.run(
                f"f = document.querySelector('.filter input'); f.value = {typed!r}; f.oninput()"
            )
            rows = "document.querySelectorAll('table')[1].tBodies[0].rows"
            assert page.run(f"[...{rows}].filter(row => !row.hidden).length") == left, typed
        assert page.errors == []
        assert not [r for r in page.requests if not re.match("file:|data:", r)]
