"""The sequential test: its error is what it promises, and it stops early where it can."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kltrust.experiments.report import _comparison
from kltrust.results import sequential_test

REPEATS = 300


def told(scores, **options):
    return [v for v in sequential_test(scores, exchanges=400, **options) if v.better]


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_what_is_alike_is_told_apart_as_seldom_as_promised(names):
    """Of 300 families, 5 % with a standard error of 1.3 %; skewed scores, five looks."""
    generator = np.random.default_rng(0)
    wrong = sum(
        bool(told({name: generator.exponential(size=25) for name in names})) for _ in range(REPEATS)
    )
    assert wrong / REPEATS < 0.09


def test_a_t_test_after_each_group_is_wrong_more_often():
    x, y = np.random.default_rng(0).standard_normal((2, 25, REPEATS))
    wrong = [stats.ttest_ind(x[:n], y[:n]).pvalue < 0.05 for n in range(5, 26, 5)]
    assert np.any(wrong, axis=0).mean() > 0.1


def test_the_clearer_a_difference_is_the_fewer_seeds_it_takes():
    generator = np.random.default_rng(1)
    x, y, z = generator.standard_normal((3, 30))
    found = sequential_test({"near": x, "nearer": y + 1, "far": z + 10})
    by_pair = {verdict.pair: verdict for verdict in found}
    for near in ("near", "nearer"):
        assert by_pair[near, "far"].better == "far"
        assert by_pair[near, "far"].seeds <= 10
    assert by_pair["near", "nearer"].better in ("nearer", None)
    assert by_pair["near", "nearer"].seeds > 10


def test_what_was_said_early_is_not_taken_back():
    """With fewer seeds done than are planned, verdicts are those that the whole will have."""
    generator = np.random.default_rng(2)
    scores = {name: generator.standard_normal(20) + shift for name, shift in zip("ab", (0, 2))}  # noqa: B905
    whole = sequential_test(scores)
    for done in (5, 10, 15):
        part = sequential_test({k: x[:done] for k, x in scores.items()}, planned=20)
        expected = whole if whole[0].seeds <= done else [whole[0]._replace(better=None, seeds=done)]
        assert part == expected


def test_tasks_count_by_their_mean():
    x, y = np.random.default_rng(3).standard_normal((2, 10, 3))
    y = y + 2
    assert sequential_test({"x": x, "y": y}) == sequential_test({"x": x.mean(1), "y": y.mean(1)})


def test_equal_scores_are_not_told_apart():
    assert told({"x": np.ones(20), "y": np.ones(20)}) == []


@pytest.mark.parametrize(("seeds", "planned"), [(4, None), (10, 5)])
def test_too_few_seeds(seeds, planned):
    scores = {name: np.arange(float(seeds)) for name in "xy"}
    with pytest.raises(ValueError, match="a group of 5 seeds at least"):
        sequential_test(scores, planned=planned)


@pytest.mark.parametrize("seeds", [9, 20])
def test_the_report_says_after_how_many_seeds(seeds):
    x, y = np.random.default_rng(4).standard_normal((2, seeds, 2))
    methods = {"a": x, "b": y + 5, "c": x[::-1]}
    frames = {name: pd.DataFrame(scores) for name, scores in methods.items()}
    said = _comparison._told_apart(SimpleNamespace(of_methods=frames))
    assert len(said) == (seeds >= 10)
    for text in said:
        assert "b above a after 5; a and c not in 20; b above c after 5." in text
