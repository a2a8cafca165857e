"""Scores over seeds: point estimates, and intervals that are the same every time."""

import numpy as np

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
