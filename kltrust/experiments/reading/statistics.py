"""What is said of scores over seeds: mean and interquartile mean with bootstrap intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A point estimate and its 95 % percentile-bootstrap interval over seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Like ``499.1 [497.9, 500.0]``."""
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def mean_and_iqm(
    scores: Sequence[float] | np.ndarray, *, resamples: int = 2000
) -> tuple[Estimate, Estimate]:
    """Mean and interquartile mean over seeds (Agarwal et al. 2021), by rliable.

    Args:
        scores: one score per seed.
        resamples: of the bootstrap, whose generator is seeded.
    """
    from rliable import library, metrics

    table = {"scores": np.asarray(scores, np.float64)[:, None]}

    def both(x: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_mean(x), metrics.aggregate_iqm(x)])

    with numpy_seeded(0):
        values, intervals = library.get_interval_estimates(table, both, reps=resamples)
    (mean, iqm), (low, high) = values["scores"], intervals["scores"]
    return Estimate(mean, low[0], high[0]), Estimate(iqm, low[1], high[1])


@contextlib.contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Seeds NumPy: rliable 1.2 takes a random state and draws from the global one all the same."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
