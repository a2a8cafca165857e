"""Scores over seeds: point estimates, and intervals that are the same every time."""

import json
from pathlib import Path

import numpy as np
import pytest

from kltrust.experiments.reading import statistics
from kltrust.experiments.reading.statistics import Estimate, mean_and_iqm


def test_estimates_and_intervals():
    scores = np.arange(20.0)
    mean, iqm = mean_and_iqm(scores)
    assert mean.value == 9.5
    assert iqm.value == np.mean(scores[5:15])
    # The normal interval of a mean of 20: what the bootstrap tends to.
    half = 1.96 * scores.std() / np.sqrt(20)
    np.testing.assert_allclose([mean.low, mean.high], [9.5 - half, 9.5 + half], atol=0.3)
    assert iqm.low < iqm.value < iqm.high
    assert str(mean).startswith("9.5 [")
    one = Estimate(-77.44699, -78.75655, -76.2448)
    assert f"{one}" == str(one) == "-77.4 [-78.8, -76.2]"
    assert f"{one:.2f}" == "-77.45 [-78.76, -76.24]"
    assert mean_and_iqm([3.0]) == ((3.0, 3.0, 3.0),) * 2  # one seed is its own estimate


def test_the_same_every_time_and_nobody_elses_draws_are_moved():
    np.random.seed(5)  # noqa: NPY002
    first = mean_and_iqm([1.0, 2.0, 7.0])
    after = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert np.random.random() == after  # noqa: NPY002
    assert mean_and_iqm([1.0, 2.0, 7.0]) == first


RECORDED = json.loads(Path(__file__).with_name("rliable.json").read_text())
X, Y = np.array(RECORDED["x"]), np.array(RECORDED["y"])


def profile(x):
    return statistics.performance_profile(x, np.array(RECORDED["thresholds"]))


@pytest.mark.parametrize(
    ("name", "scores", "function"),
    [
        ("mean", X, statistics.mean),
        ("median", X, statistics.median),
        ("interquartile_mean", X, statistics.interquartile_mean),
        ("optimality_gap", X, statistics.optimality_gap),
        ("performance_profile", X, profile),
        ("improvement", [X, Y], statistics.improvement),
    ],
)
def test_estimates_and_intervals_are_those_that_rliable_gave(name, scores, function):
    """By its draws: the intervals are equal, and not only alike."""
    found = statistics.intervals(scores, function, resamples=200)
    np.testing.assert_allclose(found, RECORDED[name], rtol=0, atol=1e-12)


def test_a_wider_interval_for_more_confidence():
    scores = np.random.default_rng(0).standard_normal((30, 1))
    usual, low, high = (
        statistics.intervals(scores, statistics.mean, resamples=4000, **kwargs)
        for kwargs in ({}, {"confidence": 0.5}, {"confidence": 0.99})
    )
    # The normal distribution's quantiles, 1.96, 0.674 and 2.576, times the standard error.
    error = scores.std() / np.sqrt(30)
    for found, quantile in ((usual, 1.96), (low, 0.674), (high, 2.576)):
        np.testing.assert_allclose(found[2] - found[1], 2 * quantile * error, rtol=0.06)


@pytest.mark.parametrize("count", range(1, 10))
def test_an_interquartile_mean_cuts_a_quarter_rounded_down(count):
    scores = np.random.default_rng(count).permutation(2.0 ** np.arange(count))
    cut = count // 4
    kept = 2.0 ** np.arange(cut, count - cut)
    assert statistics.interquartile_mean(scores[:, None]) == kept.mean()


def test_an_interval_covers_as_often_as_it_says():
    """Means of 30 normal numbers: a little less than 95 % of the intervals hold the true one."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        (found,) = statistics.estimates(
            generator.standard_normal((30, 1)), statistics.mean, resamples=200
        )
        covered += found.low <= 0 <= found.high
    assert 0.90 < covered / 200 < 0.97
