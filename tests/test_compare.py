"""Is one set of runs worse than another?"""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import toys
from scipy import stats

from kltrust.results import compare


def results(scores, seeds=None):
    """As `load` gives them, of scores {(env, label): [seeds]}."""
    rows, run = [], 0
    for (env, label), values in scores.items():
        numbers = range(len(values)) if seeds is None else seeds
        for seed, score in zip(numbers, values, strict=True):
            named = {"run": run, "env": env, "label": label, "seed": seed}
            rows += [{**named, "mean_return": 0.0}, {**named, "mean_return": score}]
            run += 1
    return SimpleNamespace(evaluations=pd.DataFrame(rows))


A = {("one", "x"): [10.0, 12, 14, 11], ("one", "y"): [5.0, 6, 7, 5], ("two", "x"): [0.0, 1, 2, 1]}


def test_settings_are_matched_and_judged_seed_by_seed():
    worse = np.array(A["one", "x"]) - [3.0, 3.1, 2.9, 3.0]
    b = {("one", "y"): [4.0, 9, 5, 6.5], ("one", "x"): worse, ("two", "z"): [1.0] * 4}
    b["two", "x"] = A["two", "x"]
    table, only = compare(results(A), results(b))
    assert list(table.label) == ["x", "y", "x"]
    assert list(table.verdict) == ["worse", "not shown", "the same"]
    assert only == ["z on two"]
    # The oracle: Student's t of the differences, at 1 - 0.05/3.
    gap = worse - A["one", "x"]
    half = stats.t.ppf(1 - 0.05 / 6, 3) * gap.std(ddof=1) / 2
    np.testing.assert_allclose(table.loc[0, ["low", "high"]].astype(float), [-3 - half, -3 + half])
    spared, _ = compare(results(A), results(b), margin=3.5)
    assert spared.verdict[0] == "not shown"
    assert compare(results(b), results(A))[0].verdict[1] == "better"
    # With other seeds nothing is paired, and spread over seeds hides what pairs had shown.
    unpaired = compare(results(A), results(b, seeds=[7, 8, 9, 10]))[0]
    assert list(unpaired.verdict) == ["not shown"] * 3
    test = stats.ttest_ind(worse, A["one", "x"], equal_var=False).confidence_interval(1 - 0.05 / 3)
    np.testing.assert_allclose(unpaired.loc[0, ["low", "high"]].astype(float), list(test))


def test_the_level_holds_for_all_settings_together():
    rng = np.random.default_rng(0)
    names = [("env", name) for name in "abc"]
    alarms = []
    for _ in range(200):
        pair = [results({name: rng.normal(size=5) for name in names}) for _ in range(2)]
        table, _ = compare(*pair, level=0.8)
        alarms.append((table.verdict != "not shown").any())
    # At most one in five, of which 200 tries may show three standard errors more.
    assert np.mean(alarms) < 0.2 + 3 * np.sqrt(0.2 * 0.8 / 200)
    assert np.mean(alarms) > 0.05  # the control: it can be wrong at all


@pytest.mark.parametrize(
    ("b", "options", "message"),
    [
        ({("one", "xx"): [1.0, 2]}, {}, "no setting in common.*did you mean 'x' by 'xx'"),
        ({("one", "x"): [1.0]}, {}, "needs two seeds, got 4 and 1"),
        (A, {"level": 1.0}, "level lies between 0 and 1"),
        (A, {"margin": -1.0}, "^margin is 0 or more, got -1.0"),
    ],
)
def test_what_cannot_be_compared(b, options, message):
    with pytest.raises(ValueError, match=message):
        compare(results(A), results(b), **options)


def test_the_command_and_its_status(tmp_path, said):
    def metrics(group, first):
        return {"kl": np.full((len(group.runs), group.chunk_length), 0.01)}

    planned = toys.toy_plan(toys.MADE + '[[experiments]]\nalgorithms = "ppo_clip"\n', width=3)
    scores = {"a": lambda run, done: 10.0 + run, "b": lambda run, done: 5.0 + run + 0.1 * (run % 2)}
    a, b = (toys.write(tmp_path / n, planned, metrics, score) for n, score in scores.items())
    status, out, _ = said("compare", a, b)
    assert status == 2
    assert "worse" in out
    assert "ppo_clip on CartPole-v1" in out
    assert said("compare", b, a)[0] == 0
    assert said("compare", a, a)[:2][0] == 0
    assert said("compare", a, b, "--margin", "10")[0] == 0
    (row,) = {r["verdict"] for r in json.loads(said("compare", a, b, "--json")[1])}
    assert row == "worse"
    assert said("compare", a, tmp_path / "none")[0] == 1
