"""Every update at its best size: the same effort for all, and the table."""

import json

import numpy as np
import pytest
import toys
import tuned
from common import SPECS, load_spec
from recorded import atlas as tables

SPEC = f"""{toys.ONE_GROUP}experiments = [{{ algorithms = "trpo" }}]
"""


class Known:
    """A runner whose scores are a known function of the size."""

    def __init__(self, score_of):
        self.score_of, self.calls = score_of, []

    def run(self, sizes, seeds, iterations, *, evaluate):
        assert evaluate
        self.calls.append((list(sizes), list(seeds), iterations))
        scores, training = np.array([self.score_of(s) for s in sizes], float).T
        return {"kl": np.ones((len(sizes), iterations)), "scores": scores, "training": training}


@pytest.mark.parametrize(
    ("score_of", "size"),
    [
        (lambda s: (-abs(np.log(s / 6)), 0), 6),
        (lambda s: (500, -s), 0.75),  # of equal scores, the one that learned faster
        (lambda s: (np.nan if s > 2 else s, s), 1.5),  # what broke is worst
    ],
)
def test_the_best_of_five_sizes(score_of, size, tmp_path):
    (tmp_path / "toy.toml").write_text(SPEC)
    (setting,) = load_spec(tmp_path / "toy.toml").settings
    pair = tuned.Tuned(setting, range(30), tmp_path, 3.0)
    runner = Known(score_of)
    pair.search(runner, 8)
    assert pair.done["chosen"] == {"size": size}
    ((sizes, seeds, iterations),) = runner.calls
    assert sizes == list(np.repeat([0.75, 1.5, 3, 6, 12], 2))
    assert (set(seeds), iterations, pair.lanes()) == ({1000, 1001}, 4, len(sizes))
    assert tuned.Tuned(setting, range(30), tmp_path, 3.0).done == pair.done
    with pytest.raises(ValueError, match="of other settings: take another folder"):
        tuned.Tuned(setting, range(30), tmp_path, 4.0)


def test_where_the_search_begins():
    rows = [
        {"label": "spo", "env": env, "size": size} for env, size in {"a": 1, "b": 2, "c": 9}.items()
    ]
    assert tuned.centre(rows, "spo", "c") == 9
    assert tuned.centre(rows, "spo", "d") == 2
    with pytest.raises(ValueError, match=r"no size of trpo: run benchmarks/atlas\.py"):
        tuned.centre(rows, "trpo", "c")
    # The atlas has a size for each.
    for s in load_spec(SPECS / "tuned.toml").settings:
        assert tuned.centre(json.loads(tuned.Options().atlas.read_text())["rows"], s.label, "x")


def test_a_small_table(tmp_path):
    (tmp_path / "toy.toml").write_text(SPEC)
    known = {"rows": [{"label": "trpo", "env": "Pendulum-v1", "size": 2.0}]}
    (tmp_path / "atlas.json").write_text(json.dumps(known))
    options = tuned.Options(
        tmp_path / "toy.toml", folder=tmp_path / "runs", atlas=tmp_path / "atlas.json", out=tmp_path
    )
    tuned.main(options)
    result = json.loads((tmp_path / "toy.json").read_text())
    (row,) = result["rows"]
    assert row["values"]["max_kl"] in [0.01 * s**2 for s in (0.5, 1, 2, 4, 8)]
    assert len(row["tuned"]["scores"]) == len(result["seeds"])
    better = {**row, "label": "spo", "tuned": dict(row["tuned"], scores=[900.0, 900.0])}
    both = result | {"rows": [{**row, "label": "ppo_clip"}, better]}
    line = next(x for x in tables.tuned({"": both}) if "`spo`" in x)
    assert "900.0 [900.0, 900.0], median 900.0; max_kl" in line
    assert line.endswith("| not shown, 1.00 [1.00, 1.00] on 1 |")  # of two seeds nothing is
    assert "Not yet measured" in tables.tuned({})[0]
