"""Statistics of scores over seeds: aggregates with bootstrap intervals (Agarwal et al. 2021).

Scores are arrays [seeds, tasks]. A statistic is a function of scores that also takes leading axes,
[..., seeds, tasks], so that one call computes it on many resamples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_AT_ONCE = 100
"""The number of resamples per call of a statistic: enough for speed, with little memory."""
_KEPT = 400_000
"""The most numbers that are drawn in one call and kept."""


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


def mean(scores: np.ndarray) -> np.ndarray:
    """The mean over seeds and tasks."""
    return scores.mean(axis=(-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """The median over tasks of the mean over seeds."""
    return np.median(scores.mean(axis=-2), axis=-1)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean of the middle half of all scores: a quarter is cut at each end, rounded down."""
    return _middle_half(scores.reshape(*scores.shape[:-2], -1))


def optimality_gap(scores: np.ndarray) -> np.ndarray:
    """How far scores fall short of one: 1 - mean(min(score, 1))."""
    return 1 - np.minimum(scores, 1).mean(axis=(-2, -1))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of all scores above each threshold: [..., thresholds]."""
    return (scores[..., None] > thresholds).mean(axis=(-3, -2))


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probability of improvement: P(X > Y) + P(X = Y) / 2 on a task, averaged over tasks.

    Every seed of X [..., n, tasks] is compared with every seed of Y [..., m, tasks].
    """
    return wins(x[..., :, None, :], y[..., None, :, :]).mean(axis=(-3, -2, -1))


def wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 where x > y, a half where they are equal."""
    return (x > y) + 0.5 * (x == y)


def mean_and_iqm(
    scores: Sequence[float] | np.ndarray, *, resamples: int = 2000
) -> tuple[Estimate, Estimate]:
    """Mean and interquartile mean over seeds.

    Args:
        scores: one score per seed.
        resamples: the bootstrap's resamples; its generator is seeded.
        confidence: the probability that an interval should hold the true value. With some ten
            seeds intervals of 0.99 and more are too narrow: to rank many settings take
            `kltrust.results.sequential_test`, whose error is that of all pairs together.
    """
    return means_and_iqms(np.asarray(scores, np.float64)[:, None], resamples=resamples)[0]


def means_and_iqms(scores: np.ndarray, *, resamples: int = 2000) -> list[tuple[Estimate, Estimate]]:
    """`mean_and_iqm` of each column of scores [seeds, columns], by one bootstrap."""

    def both(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x.mean(axis=-2), _middle_half(x.swapaxes(-2, -1))], axis=-1)

    found = estimates(scores, both, resamples=resamples)
    return list(zip(found[: scores.shape[1]], found[scores.shape[1] :], strict=True))


def estimates(
    scores: Any, function: Callable[..., Any], *, resamples: int = 2000, confidence: float = 0.95
) -> list[Estimate]:
    """Like `intervals`, but returns an `Estimate` for each entry of the statistic."""
    found = intervals(scores, function, resamples=resamples, confidence=confidence)
    return [Estimate(*map(float, row)) for row in zip(*found, strict=True)]


def intervals(
    scores: Any, function: Callable[..., Any], *, resamples: int = 2000, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic and its percentile-bootstrap interval: value, low, high, [k] each.

    The bootstrap is stratified: each column is resampled by itself, with replacement.

    Args:
        scores: [seeds, strata]; or a list of such arrays, each resampled by itself.
        function: maps [..., seeds, strata], or one such array for each in the list, to [...] or
            [..., k].
        resamples: the bootstrap's resamples; its generator is seeded.
        confidence: the probability that an interval should hold the true value. With some ten
            seeds intervals of 0.99 and more are too narrow: to rank many settings take
            `kltrust.results.sequential_test`, whose error is that of all pairs together.

    Example:
        >>> intervals(results.scores()["trpo"], interquartile_mean)    # doctest: +SKIP
    """
    arrays = [np.asarray(x) for x in (scores if isinstance(scores, list) else [scores])]
    shapes = tuple(x.shape for x in arrays)
    small = resamples * sum(map(math.prod, shapes)) <= _KEPT
    found = []
    for rows in _kept_draws(shapes, resamples) if small else _draws(shapes, resamples, _AT_ONCE):
        resampled = [x[of, np.arange(x.shape[1])] for x, of in zip(arrays, rows, strict=True)]
        found.append(np.reshape(function(*resampled), (len(rows[0]), -1)))
    tail = (100 - 100 * confidence) / 2
    low, high = np.percentile(np.concatenate(found), [tail, 100 - tail], axis=0)
    return np.atleast_1d(function(*arrays)), low, high


def _draws(
    shapes: tuple[tuple[int, ...], ...], resamples: int, block: int
) -> Iterator[list[np.ndarray]]:
    """The rows to draw from arrays of these shapes, [resamples, *shape], ``block`` at a time.

    They are rliable's draws after np.random.seed(0), so intervals recorded with it come out the
    same. The draws depend on the shapes alone.
    """
    generator = np.random.RandomState(0)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        rows = [[generator.randint(of[0], size=of) for of in shapes] for _ in range(count)]
        yield [np.stack(of) for of in zip(*rows, strict=True)]


@functools.lru_cache(maxsize=8)
def _kept_draws(
    shapes: tuple[tuple[int, ...], ...], resamples: int
) -> tuple[list[np.ndarray], ...]:
    """All draws at once, kept: a thousand settings of one sweep use the same draws."""
    return tuple(_draws(shapes, resamples, resamples))


def _middle_half(scores: np.ndarray) -> np.ndarray:
    """The mean over the last axis, after a quarter is cut at each end."""
    count = scores.shape[-1]
    cut = count // 4
    return np.sort(scores, axis=-1)[..., cut : count - cut].mean(axis=-1)
