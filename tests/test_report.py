"""The report: what it says of sweeps made by hand, whose numbers are known, and how the page is."""

import base64
import errno
import itertools
import json
import re
from importlib import resources

import common
import matplotlib
import numpy as np
import pandas as pd
import pytest
import record
import toys
from browser import CHROMIUM, Page, measured

from kltrust.algorithms import find_algorithm
from kltrust.experiments import cli, report
from kltrust.experiments.config import presets, spec
from kltrust.experiments.config.experiment import BudgetSettings, Experiment
from kltrust.experiments.jobs import plan
from kltrust.experiments.reading import baseline
from kltrust.experiments.report import (
    _export,
    _gather,
    _measured,
    _page,
    _region,
    _style,
    _summaries,
)
from kltrust.experiments.store import files

STRANGE = "<b>a & $b$ | c"
SPEC = f"""{toys.MADE}
[[experiments]]
algorithms = "trpo"
grid.max_kl = [0.01, 0.02]
[[experiments]]
label = {json.dumps(STRANGE)}
algorithms = "ppo_clip"
grid.clip_eps = [0.2, inf]
"""
ITERATIONS, CHUNK = 4, 2


def score(planned, run, iteration):
    """Known: rises with the setting's number, the seed and the iteration."""
    setting = run // len(planned.seeds)
    return 100.0 * iteration + 10.0 * (setting % 2) + planned.seed(run)


def metrics_of(planned, group, first, broken):
    """KL is 0.8 of the bound, and 1.2 of it at the last iteration for the second seed."""
    kl = np.full((len(group.runs), CHUNK), 0.008, np.float32)
    for i, run in enumerate(group.runs):
        bound = getattr(planned.setting(run).experiment.update, "max_kl", np.inf)
        kl[i] = 0.8 * bound if np.isfinite(bound) else kl[i]
        if planned.seed(run) == 2 and first + CHUNK == ITERATIONS:
            kl[i, -1] *= 1.5
    kl[np.isin(group.runs, broken), -1] = np.nan
    bad = np.isnan(kl)
    some = {"kl": kl, "kl_max": 10 * kl, "max_ratio": 1 + kl, "clip_fraction": 0 * kl}
    extra = {"accepted": kl > 0} if planned.experiment(group).algorithm == "trpo" else {}
    return {**some, "nonfinite_update": bad.astype(np.int32), "extra": extra}


def write(path, text=SPEC, *, broken=(), scores=score, **progress):
    planned = plan.make_plan(spec.parse(text), width=3)
    return toys.write(
        path,
        planned,
        lambda group, first: metrics_of(planned, group, first, broken),
        lambda run, done: scores(planned, run, done),
        **progress,
    )


def one_training(path, algorithm="npg", seeds=(7,), **update):
    experiment = Experiment(
        "CartPole-v1",
        find_algorithm(algorithm)(**update),
        budget=BudgetSettings(total_steps=4096, num_evals=1, anneal=0.5),
    )

    def metrics(group, first):
        some = {name: np.full((len(seeds), CHUNK), 0.02) for name in ("kl", "kl_max")}
        zeros = np.zeros((len(seeds), CHUNK), int)
        return {
            **some,
            "clip_fraction": 0.02 + zeros,
            "max_ratio": 1.5 + zeros,
            "nonfinite_update": zeros,
        }

    planned = plan.plan_training(experiment, seeds, width=1)
    return toys.write(path, planned, metrics, lambda run, done: 1.0 + run, chunks=1)


@pytest.fixture(autouse=True, scope="module")
def few_resamples():
    """What a bootstrap does with more is not tested here."""
    patch = pytest.MonkeyPatch()
    for module, name in ((_summaries, "RESAMPLES"), (_summaries, "POINTS")):
        patch.setattr(module, name, 50)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report") / "made")


@pytest.fixture(scope="module")
def written(made):
    return report.make_report([made])


@pytest.fixture(scope="module")
def page(written):
    return (written / "index.html").read_text()


def test_a_fair_comparison_says_so(made):
    study = _gather.gather([made])
    assert study.unequal == {}


def test_all_that_is_written(made, written):
    assert written == made / "report"
    names = sorted(str(p.relative_to(written)) for p in written.rglob("*") if p.is_file())
    envs = ("Acrobot-v1", "CartPole-v1")
    named = ("kl", "learning", "learning-in-seconds", "sensitivity")
    pictures = [f"{n}-{e}" for n in named for e in envs]
    pictures += ["aggregates", "improvement", "profiles", "region", "score-at-kl"]
    assert names == sorted(
        ["index.html", "tables.md", "specs/0-made.toml"]
        + [f"presets/{a}/{e}.toml" for a in ("trpo", "ppo_clip") for e in envs]
        + [f"figures/{name}.png" for name in pictures]
    )
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in written.glob("figures/*"))
    assert not list(made.glob("*.partial"))
    template = resources.files("kltrust.experiments.report") / "template.html.j2"
    assert template.is_file()


def test_the_page_needs_nothing_beside_it_and_can_be_read_by_all(page):
    parsed = Page(page)
    links = [link for k in ("src", "href", "srcset", "data") for link in parsed.values(k)]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in page
    assert "url(" not in page
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in parsed.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    images = parsed.of("img")
    assert len(images) == 15  # two of them, the learning curves, twice
    assert all(re.search(r"\d", image["alt"]) for image in images)
    frames = [a for a in parsed.of("div") if "scroll" in a.get("class", "")]
    assert len(frames) == len(images) + len(parsed.of("table"))
    assert all(a["tabindex"] == "0" and a["role"] == "region" for a in frames)
    assert "prefers-color-scheme: dark" in page
    for image in images:
        svg = base64.b64decode(image["src"].partition(",")[2]).decode()
        # No ground of its own, and lighter colours on a dark one.
        assert "@media (prefers-color-scheme: dark){[style*=" in svg
        assert "#ffffff" not in svg
        assert svg.count("</style>") == 1
    assert "@media print" in page


def test_the_answer_comes_first_and_then_the_learning_curves(page):
    """Nothing else stands before them, whatever there is to say."""
    summary = page[page.index('<main id="content"') : page.index('id="what-ran"')]
    answer = summary.index("the highest mean")
    curves = [summary.index(f"Learning curves on {env}") for env in ("CartPole-v1", "Acrobot-v1")]
    assert answer < curves[0] < curves[1] < summary.index("updates exceeded the bound")
    assert "<table" not in summary
    assert summary.count('class="pictures"') == 1


def test_a_method_has_one_colour():
    rows = pd.DataFrame({"method": ["a", "b", "a", "a"], "label": ["a 1", "b", "a 2", "a 1"]})
    looks = _style.of_settings(rows, _style.looks_of(["b", "a"]))
    assert list(looks) == ["a 1", "a 2", "b"]
    assert looks["a 1"]["color"] == looks["a 2"]["color"] != looks["b"]["color"]
    assert looks["a 1"]["linestyle"] != looks["a 2"]["linestyle"]


def test_numbers_of_ones_own_are_drawn_and_those_that_stand_still_are_said():
    steps = np.tile(np.arange(4), 2)
    updates = pd.DataFrame(
        {
            "env": "walk",
            "method": np.repeat(["mine", "other"], 4),
            "label": np.repeat(["mine x=1", "other"], 4),
            "seed": 0,
            "env_steps": steps,
            "entropy": 2.0 - steps,
            "value_loss": np.nan,
            "extra.beta": np.where(np.arange(8) < 4, 1.0 + steps, np.nan),
            "extra.epochs": np.where(np.arange(8) < 4, 3.0, np.nan),
        }
    )
    scores = pd.DataFrame({"env": "walk", "method": ["mine", "mine", "other"]})
    scores["label"] = ["mine x=1", "mine x=2", "other"]
    with matplotlib.rc_context(_style.RC):
        section = _measured.section(updates, scores, _style.looks_of(["mine", "other"]))
    said, picture = section.sections[0].blocks
    assert said == "The same in every update: epochs 3."
    assert picture.alt == (
        "Medians at the end. entropy of the policy, nats: mine -1, other -1; beta: mine 4."
    )
    entropy, beta = picture.figure.axes
    assert [line.get_color() for line in entropy.lines] == list(_style.COLOURS[:2])
    assert len(beta.lines) == 1
    alone = updates[["env", "label", "method"]]
    assert _measured.section(alone, scores, {}) is None


def test_commands_name_paths_from_where_one_stands(tmp_path, made, monkeypatch):
    study = _gather.gather([made])
    presets, specifications = _export.presets(_summaries.scores(study)), {"specs/0-a.toml": ""}
    monkeypatch.chdir(tmp_path)
    for folder, beside in ((tmp_path / "my runs/report", "'my runs/report/"), (made, "")):
        here = report._make._from_here(folder)
        blocks = _export.repeat(study, specifications, presets, here).blocks
        (again, *_, train) = (b.text for b in blocks if isinstance(b, _page.Code))
        end = "'" if beside else ""
        assert again.startswith(f"kltrust sweep {beside}specs/0-a.toml{end} --out runs/again")
        assert f"--preset {beside}presets/" in train
        assert ("folder of this page" in blocks[0]) == (not beside)


def test_labels_that_look_like_markup_are_text(page, written):
    assert "<b>" not in page
    assert "&lt;b&gt;a &amp; $b$ | c clip_eps=inf" in page
    rows = [r for r in (written / "tables.md").read_text().splitlines() if "a & $b$" in r]
    assert rows
    assert all("&lt;b>a & $b$ \\| c" in row for row in rows if row.startswith("|"))


def test_the_best_settings_are_presets_and_the_specification_is_what_ran(made, written):
    loaded = presets.preset("trpo", "CartPole-v1", written / "presets/trpo/CartPole-v1.toml")
    planned = plan.make_plan(spec.parse(SPEC), width=3)
    by_name = {(s.label, s.experiment.env): s.experiment for s in planned.settings}
    assert loaded == by_name["trpo max_kl=0.02", "CartPole-v1"]
    file = written / "presets/ppo_clip/Acrobot-v1.toml"
    assert presets.preset("ppo_clip", "Acrobot-v1", file).update.clip_eps == np.inf
    again = spec.load(written / "specs/0-made.toml")
    assert (again.name, again.seeds) == ("made", (4, 2, 9))
    assert {(s.label, s.experiment.env): s.experiment for s in again.settings} == by_name


@pytest.mark.parametrize(
    ("algorithm", "update", "env_params"),
    [
        ("npg", {}, {"gravity": 9.0}),
        ("ppo_clip", {"optimizer": "adamw(weight_decay=0.1)", "max_grad_norm": np.inf}, {}),
    ],
)
def test_all_settings_are_in_presets_and_specifications(tmp_path, algorithm, update, env_params):
    made = Experiment("CartPole-v1", find_algorithm(algorithm)(**update), env_params=env_params)
    file = tmp_path / "preset.toml"
    file.write_text(_export.sections_toml(made))
    assert presets.preset(algorithm, "CartPole-v1", file) == made
    head = f'[[experiments]]\nalgorithms = "{algorithm}"\nenvs = "CartPole-v1"\n'
    parts = ['[sweep]\nname = "x"\nseeds = [0]\npreset = "none"\n', head]
    again = spec.parse("".join([*parts, _export.sections_toml(made, prefix="experiments.")]))
    assert [setting.experiment for setting in again.settings] == [made]


def test_the_numbers_of_the_page_are_those_of_the_runs(written):
    text = (written / "tables.md").read_text()
    # Seeds 4, 2, 9 and 400 for four iterations; the second setting has ten more.
    assert "| **trpo max_kl=0.02** | 3 | 415.0 [" in text
    assert "| trpo max_kl=0.01 | 3 | 405.0 [" in text
    zero = baseline.random_return("CartPole-v1", {})
    assert f"| CartPole-v1 | trpo max_kl=0.02 | {zero:.1f} | a random policy | 415.0 |" in text
    # One update in twelve is at 1.2 of the bound; of clip_eps 0.2 it is 0.012 of 0.02.
    assert "| trpo max_kl=0.01 | bound 0.01 | 12 | 8.3 % | 0.8 | 0.008 |" in text
    assert "clip_eps=0.2 | heuristic 0.02 | 12 | 0 % | 0.4 | 0.008 |" in text
    assert "clip_eps=inf | none | 12 | – | – | 0.008 |" in text


def test_normalised_scores_and_choices(made):
    compared = _summaries.compare(_gather.gather([made]))
    best = compared.scores["trpo max_kl=0.02"]
    assert best.columns.tolist() == ["CartPole-v1", "Acrobot-v1"]
    assert best.index.tolist() == [4, 2, 9]
    assert best.mean().tolist() == pytest.approx([1, 1])
    zero = baseline.random_return("CartPole-v1", {})
    expected = (np.array([414, 412, 419]) - zero) / (415 - zero)
    assert best["CartPole-v1"].to_numpy() == pytest.approx(expected)
    assert compared.chosen["trpo"] == "trpo max_kl=0.02"
    values = _summaries.aggregates(best)
    assert values[1].value == pytest.approx(1)
    assert all(e.low <= e.value <= e.high for e in values)
    assert values == _summaries.aggregates(best)  # seeded


def test_zero_is_a_random_policy_where_it_is_recorded(made, monkeypatch):
    study = _gather.gather([made])
    assert set(_summaries.find_scales(study).zero_of) == {"a random policy"}
    # With other parameters than the recorded ones it is the first evaluation of all runs: 205,
    # and 10 more for every second setting.
    assert baseline.random_return("CartPole-v1", {"gravity": 5.0}) is None
    monkeypatch.setattr(baseline, "_recorded", lambda: {"Acrobot-v1": -500.0})
    scales = _summaries.find_scales(study)
    assert scales.zero_of.to_dict() == {
        "CartPole-v1": "all first evaluations",
        "Acrobot-v1": "a random policy",
    }
    assert scales.zero.to_dict() == {"CartPole-v1": 210, "Acrobot-v1": -500}


def test_the_recorded_returns_of_a_random_policy():
    rows = json.loads((common.RESULTS / "random_policy.json").read_text("utf-8"))["rows"]
    assert {row["env"]: row["mean"] for row in rows} == baseline._recorded()
    known = next(row for row in rows if row["env"] == "CartPole-v1")
    found = record.random_baseline("CartPole-v1", 500)
    error = np.hypot(known["standard_error"], found["standard_error"])
    assert abs(found["mean"] - known["mean"]) < 4 * error
    assert 20 < known["mean"] < 25


def test_paired_probability_of_improvement():
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, (2, 6, 3)).astype(float)
    seeds_x, seeds_y = [3, 1, 4, 5, 9, 2], [9, 2, 6, 5, 3, 8]
    scores = {"x": pd.DataFrame(x, seeds_x), "y": pd.DataFrame(y, seeds_y)}
    estimate = _summaries.paired_improvements(scores)["x", "y"]
    won = count = 0
    for task in range(3):
        for i, seed in enumerate(seeds_x):
            if seed in seeds_y:
                a, b = x[i, task], y[seeds_y.index(seed), task]
                won, count = won + (1 if a > b else 0.5 if a == b else 0), count + 1
    assert count == 4 * 3
    assert estimate.value == pytest.approx(won / count)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    # A method that is a little better on every seed: pairing sees it, the crowd does not.
    base = pd.DataFrame(np.arange(12.0) * 10)
    scores = {"better": base + 1, "base": base}
    assert _summaries.paired_improvements(scores)["better", "base"].low == 1.0
    assert _summaries.improvements(scores)["better", "base"].low < 0.5
    # The same scores under other seeds are other pairs; strangers are none.
    rolled = scores | {"base": base.set_axis([11, *range(11)])}
    assert _summaries.paired_improvements(rolled)["better", "base"].value < 0.2
    strangers = scores | {"base": base.set_axis(range(100, 112))}
    assert _summaries.paired_improvements(strangers) == {}


@pytest.mark.parametrize(
    ("algorithm", "update", "kind", "value", "stop"),
    [
        ("trpo", {"max_kl": 0.02}, _region.BOUND, 0.02, np.inf),
        ("npg", {"target_kl": 0.03}, _region.SET_POINT, 0.03, np.inf),
        ("ppo_penalty", {"target_kl": 0.03}, _region.SET_POINT, 0.03, np.inf),
        ("ppo_penalty", {"target_kl": 0.03, "max_kl": 0.1}, _region.SET_POINT, 0.03, 0.1),
        ("ppo_penalty", {"adaptive": False}, _region.NONE, np.inf, np.inf),
        ("ppo_penalty", {"adaptive": False, "max_kl": 0.1}, _region.BOUND, 0.1, np.inf),
        ("ppo_reverse_kl", {"target_kl": 0.03}, _region.SET_POINT, 0.03, np.inf),
        ("ppo_reverse_kl", {"adaptive": False}, _region.NONE, np.inf, np.inf),
        # The rate that follows the KL is what this one is named for, not its clipping.
        ("ppo_adaptive_lr", {"target_kl": 0.03}, _region.SET_POINT, 0.03, np.inf),
        ("ppo_adaptive_lr", {"target_kl": np.inf}, _region.HEURISTIC, 0.02, np.inf),
        ("mdpo", {"step_size": 0.5}, _region.NONE, np.inf, np.inf),
        ("mdpo", {"max_kl": 0.1}, _region.BOUND, 0.1, np.inf),
        ("ppo_clip", {"clip_eps": 0.2}, _region.HEURISTIC, 0.02, np.inf),
        ("ppo_clip", {"clip_eps": np.inf}, _region.NONE, np.inf, np.inf),
        ("vanilla_pg", {}, _region.NONE, np.inf, np.inf),
    ],
)
def test_what_each_algorithm_claims(algorithm, update, kind, value, stop):
    claim = _region.claim_of(Experiment("e", find_algorithm(algorithm)(**update)))
    assert (claim.kind, claim.stop) == (kind, stop)
    assert claim.value == pytest.approx(value)


def test_the_claim_in_force(tmp_path):
    # Half annealed over two iterations: (1 - 0.5 * 0)^2 and (1 - 0.5 / 2)^2 of it.
    study = _gather.gather([one_training(tmp_path / "npg", target_kl=0.1)])
    assert _region.updates(study).claim.tolist() == pytest.approx([0.1, 0.1 * 0.75**2])
    # What an algorithm reports of itself goes before; what it does not, is worked out.
    study.metrics["extra.target_kl"] = pd.array([0.07, None], dtype="Float64")
    table = _region.updates(study)
    assert table.claim.tolist() == pytest.approx([0.07, 0.1 * 0.75**2])
    table.loc[1, "kl"] = np.nan
    (row,) = _region.measured(study, table).itertuples()
    assert (row.nonfinite, row.above, row.median) == (1, 0.5, 0.02)
    # A learning rate is annealed in its place, where it is a setting and not what follows the KL.
    for name, last in (("ppo_penalty", 0.1), ("ppo_adaptive_lr", 0.1 * 0.75**2)):
        study = _gather.gather([one_training(tmp_path / name, name, target_kl=0.1)])
        assert _region.updates(study).claim.tolist() == pytest.approx([0.1, last])


def test_half_finished_sweeps_and_broken_runs(tmp_path, capsys):
    def scores(planned, run, iteration):
        return np.nan if run == 7 else score(planned, run, iteration)

    path = write(tmp_path / "half", chunks=1, groups=3, broken=(7,), scores=scores)
    composed = report.compose([path])
    notes = " ".join(composed.notes)
    assert "half is not finished: 0 of 24 runs are, 6 have not begun" in notes
    assert "1 of 24 runs met a NaN" in notes
    assert "trpo max_kl=0.01 on Acrobot-v1, seed 2 (iteration 1)" in notes
    assert "1 of 18 evaluations gave no finite number" in notes
    assert len(composed.headlines) == 2
    assert "Left out of the comparison" in _text(composed)
    # The run without a score counts as the worst on its environment.
    runs = _gather.gather([path]).runs.set_index("run").score
    assert runs[7] == runs[6:12].drop(7).min()
    nothing = write(tmp_path / "nothing", groups=0)
    assert cli.main(["report", str(nothing)]) == 1
    assert "was evaluated yet: let it run" in capsys.readouterr().err
    assert not (nothing / "report").exists()


def test_a_comparison_that_is_not_fair_is_marked(tmp_path):
    """Rollout, steps and seeds: the headline, what ran and the comparison say what differs."""
    unlike = SPEC.replace('"ppo_clip"', '"ppo_clip"\nlearner = { num_envs = 16, num_steps = 128 }')
    composed = report.compose([write(tmp_path / "unlike", unlike)])
    named = (
        f"methods differ in more than the algorithm: learner.num_envs (trpo 8; {STRANGE} 16), "
        f"learner.num_steps (trpo 256; {STRANGE} 128)"
    )
    assert len(composed.headlines) == 2
    assert all(line.endswith(f"; but {named}.") for line in composed.headlines)
    of = {section.name: section.blocks for section in composed.sections}
    envs = "on CartPole-v1, Acrobot-v1"
    assert of["what-ran"][-1] == [f"O{envs[1:]} {named}."]
    assert f"Not like with like: {envs} {named}." in of["better"]
    # The same settings, and other steps and seeds.
    some = SPEC.replace("[4, 2, 9]", "[4, 2]").replace("trpo", "npg").replace("max_kl", "step_size")
    some = some.replace("step_size = [0.01, 0.02]", "gamma = [0.99]")
    other = write(tmp_path / "other", some.split("[[experiments]]\nlabel")[0], chunks=1)
    unequal = _gather.gather([write(tmp_path / "fair"), other]).unequal
    assert unequal["CartPole-v1"].endswith(
        f"environment steps (trpo, {STRANGE} 8,192; npg 4,096), "
        f"seeds (trpo, {STRANGE} 3: 2, 4, 9; npg 2: 2, 4)"
    )


def _text(composed):
    parts = [s for section in composed.sections for s in section.walk()]
    return " ".join(block for part in parts for block in part.blocks if isinstance(block, str))


def test_trainings_by_themselves_and_folders_that_share_names(tmp_path, made, capsys):
    alone = one_training(tmp_path / "alone")
    mine = ["report", str(alone), "--preset-dir", str(tmp_path / "mine")]
    assert cli.main(mine) == 0
    out = capsys.readouterr().out
    assert "CartPole-v1, 1 seed: npg has the highest mean, 1.00." in out
    assert presets.preset("npg", "CartPole-v1", tmp_path / "mine/npg/CartPole-v1.toml")
    # What a person changed there is not overwritten, and nothing else is written then.
    assert cli.main(mine) == 0
    preset, before = tmp_path / "mine/npg/CartPole-v1.toml", (alone / "report").stat().st_ino
    preset.write_text("[update]\n")
    assert cli.main(mine) == 1
    assert f"{preset} exists and differs" in capsys.readouterr().err
    assert preset.read_text() == "[update]\n"
    assert (alone / "report").stat().st_ino == before
    text = (alone / "report/tables.md").read_text()
    assert "| **npg** | 1 | 1.00 | 1.00 | 1.00 | 4,096 |" in text  # no interval from one seed
    # The same name for other settings: the folders tell them apart, at all seeds.
    other = one_training(tmp_path / "other", seeds=(8, 9), target_kl=0.05)
    study = _gather.gather([alone, other])
    assert study.runs.label.tolist() == ["alone: npg", "other: npg", "other: npg"]
    assert study.methods == ["alone: npg", "other: npg"]
    # One setting that clashes takes its method's others with it.
    wider = write(tmp_path / "wider", SPEC.replace("[0.01, 0.02]", "[0.02, 0.03]"), groups=1)
    study = _gather.gather([made, wider])
    trpo = study.runs[study.runs.algorithm == "trpo"]
    assert set(trpo.method) == {"made: trpo", "wider: trpo"}
    assert "wider: trpo max_kl=0.03" in set(trpo.label)
    # The same name for the same settings and other seeds: more seeds.
    more = one_training(tmp_path / "more", seeds=(8, 9))
    study = _gather.gather([alone, more, made])
    assert study.runs.label.tolist()[:4] == ["npg", "npg", "npg", "trpo max_kl=0.01"]
    assert study.runs.method.iloc[3] == "trpo"
    assert study.setting(4).label == "trpo max_kl=0.01"


def test_a_training_has_seconds(toy_training, toy_sweep):
    study = _gather.gather([toy_training.path, toy_sweep.path])
    for table in (study.runs, study.evaluations):
        assert (table.seconds > 0).all()
    (part,) = toys.parts(toy_training)
    assert study.runs.seconds[0] == part.seconds["run"] / len(toys.SEEDS)


def test_a_report_replaces_a_report_and_nothing_else(tmp_path, monkeypatch, capsys):
    alone = one_training(tmp_path / "alone")
    out = tmp_path / "out"
    composed = report.compose([alone])
    report.write(composed, out)
    (out / "stale.txt").write_text("of an earlier one")
    report.write(composed, report.report_folder([alone], out))
    assert not (out / "stale.txt").exists()
    before = {p: p.read_bytes() for p in out.rglob("*.toml")}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "publish_folder", full)
        with pytest.raises(files.StorageError, match="the disk is full"):
            report.write(composed, out)
    assert {p: p.read_bytes() for p in out.rglob("*.toml")} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "out"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/index.html").write_text("<h1>not ours</h1>")
    assert cli.main(["report", str(alone), "--out", str(tmp_path / "theirs")]) == 1
    assert "holds something that is no report" in capsys.readouterr().err
    assert (tmp_path / "theirs/index.html").read_text() == "<h1>not ours</h1>"
    assert cli.main(["report", str(alone), str(alone)]) == 1
    assert "given twice" in capsys.readouterr().err


def test_numbers_and_shares():
    numbers = [-1012.4, 93.84, 1.0, 0.5, np.nan]
    assert [_page.number(x) for x in numbers] == ["-1,012", "93.8", "1.00", "0.500", "–"]
    # Some is never shown as none, nor nearly all as all.
    shares = [0.0, 1e-5, 0.083, 0.9999, 1.0]
    assert [_page.share(x) for x in shares] == ["0 %", "< 0.1 %", "8.3 %", "> 99.9 %", "100 %"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_the_page_never_scrolls_sideways(page, written, width, tmp_path):
    found = measured(written / "index.html", width, tmp_path)
    assert width - 20 <= found["client"] <= width
    assert found["scroll"] == found["client"]
    assert found["height"] > 3000
    assert found["images"]
    assert found["asked"] == []
    if width == 390:
        assert found["inside"]  # its tables do
        broken = page.replace(".scroll { overflow-x: auto;", ".scroll {")
        assert broken != page
        broken = broken.replace("</main>", '<img src="https://example.invalid/x.png"></main>')
        broken = broken.replace("img-src data:", "img-src *")
        (tmp_path / "broken.html").write_text(broken)
        control = measured(tmp_path / "broken.html", width, tmp_path)
        assert control["scroll"] > control["client"]
        assert control["asked"] == ["https://example.invalid/x.png"]
