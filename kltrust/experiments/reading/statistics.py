"""What is said of scores over seeds: mean and interquartile mean with bootstrap intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A point estimate and its 95 % percentile-bootstrap interval over seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Like ``499.1 [497.9, 500.0]``."""
        return format(self)

    def __format__(self, spec: str) -> str:
        spec = spec or ".1f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean_and_iqm(
    scores: Sequence[float] | np.ndarray, *, resamples: int = 2000
) -> tuple[Estimate, Estimate]:
    """Mean and interquartile mean over seeds (Agarwal et al. 2021), by rliable.

    Args:
        scores: one score per seed.
        resamples: of the bootstrap, whose generator is seeded.
    """
    return means_and_iqms(np.asarray(scores, np.float64)[:, None], resamples=resamples)[0]


def means_and_iqms(scores: np.ndarray, *, resamples: int = 2000) -> list[tuple[Estimate, Estimate]]:
    """`mean_and_iqm` of each column of scores [seeds, columns], by one bootstrap."""
    from scipy.stats import trim_mean

    def both(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x.mean(axis=0), trim_mean(x, 0.25, axis=0)])

    found = estimates(scores, both, resamples=resamples)
    return list(zip(found[: scores.shape[1]], found[scores.shape[1] :], strict=True))


def estimates(
    scores: Any, function: Callable[..., Any], *, resamples: int = 2000
) -> list[Estimate]:
    """As `intervals`, an `Estimate` for each entry of the statistic."""
    found = intervals(scores, function, resamples=resamples)
    return [Estimate(*map(float, row)) for row in zip(*found, strict=True)]


def intervals(
    scores: Any, function: Callable[..., Any], *, resamples: int = 2000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic and its 95 % percentile-bootstrap interval: value, low, high, [k] each.

    Args:
        scores: [seeds, strata], each column resampled by itself; or a list of such arrays, each
            resampled by itself.
        function: from the array, or the arrays, to a number or a list of k of them.
        resamples: of the bootstrap, whose generator is seeded.
    """
    from rliable import library

    def vector(*arrays: np.ndarray) -> np.ndarray:
        return np.atleast_1d(function(*arrays))

    with numpy_seeded(0):
        value, interval = library.get_interval_estimates({"": scores}, vector, reps=resamples)
    return value[""], *interval[""]


@contextlib.contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Seeds NumPy: rliable 1.2 takes a random state and draws from the global one all the same."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
