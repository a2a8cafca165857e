"""Curves of many runs at once, thinned as they are read: means over equal pieces of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """How far a table was read: the last chunk, and the rows of all chunks so far."""

    chunk: int = -1
    rows: int = 0


class Series:
    """A quantity of L runs along their training, as means over B buckets of rows.

    A value is a sum of numerators over a sum of denominators, so that the mean return of a bucket
    counts each episode once. The number of buckets is fixed from the start, by how long the
    training is planned to be: a longer training has wider buckets, and no value is thinned twice.

    Attributes:
        columns: the columns that `add` needs.
        stride: rows of a run in each bucket.
        place: how far a table has been read into it.
    """

    def __init__(self, columns: Sequence[str], lanes: int, rows: int, points: int) -> None:
        """For ``rows`` of each of so many ``lanes``, in at most ``points`` buckets."""
        self.columns = tuple(columns)
        self.stride = max(1, -(-rows // points))
        self.shape = (lanes, max(1, -(-rows // self.stride)))
        self.place = Place()
        self._above, self._below = np.zeros(self.shape), np.zeros(self.shape)
        self._changed = np.zeros(self.shape[1], np.int64)

    def add(
        self,
        lanes: np.ndarray,
        rows: np.ndarray,
        above: np.ndarray,
        below: np.ndarray | None = None,
        *,
        version: int,
    ) -> None:
        """Adds values [n], each of a lane and a row; what is not finite is left out.

        Args:
            lanes: [n], from 0.
            rows: [n], from 0: the iteration, or the number of the evaluation.
            above: [n], the numerators.
            below: [n], the denominators; None is 1 each.
            version: of the change, for `since`.
        """
        bucket = np.clip(rows // self.stride, 0, self.shape[1] - 1)
        above = np.asarray(above, np.float64)
        below = np.ones(len(above)) if below is None else np.asarray(below, np.float64)
        known = np.isfinite(above) & np.isfinite(below)
        place = (lanes * self.shape[1] + bucket)[known]
        size = self.shape[0] * self.shape[1]
        self._above += np.bincount(place, above[known], size).reshape(self.shape)
        self._below += np.bincount(place, below[known], size).reshape(self.shape)
        self._changed[np.unique(bucket)] = version

    def since(self, version: int) -> tuple[int, np.ndarray] | None:
        """The buckets that changed after a version -> the first one, means [L, buckets] float32.

        NaN where nothing is known; None if nothing has changed.
        """
        (new,) = np.nonzero(self._changed > version)
        if not len(new):
            return None
        first, last = int(new[0]), int(new[-1]) + 1
        with np.errstate(all="ignore"):
            means = self._above[:, first:last] / self._below[:, first:last]
        return first, means.astype(np.float32)


class Extremes:
    """What the table shows of each run, kept up as rows come: no row is looked at twice.

    Attributes:
        rows, total, largest, beyond, claimed: [L]: updates, the sum and the largest of their mean
            KL, how many went beyond the claim, and how many had one.
        score: [L], the last evaluation's mean return; NaN before the first.
        broken: [L], the first iteration with a NaN or an infinity; -1 is none.
        iterations: [L], so far.
    """

    def __init__(self, lanes: int) -> None:
        """Of so many ``lanes``."""
        self.rows, self.beyond, self.claimed = (np.zeros(lanes, np.int64) for _ in range(3))
        self.total, self.largest = np.zeros(lanes), np.full(lanes, np.nan)
        self.score, self.broken = np.full(lanes, np.nan), np.full(lanes, -1)
        self.iterations = np.zeros(lanes, np.int64)

    def add_updates(
        self, lanes: np.ndarray, iterations: np.ndarray, kl: np.ndarray, claim: np.ndarray
    ) -> None:
        """Adds updates [n]: lane and iteration of each, its mean KL, the claim, NaN without one."""
        np.maximum.at(self.iterations, lanes, iterations + 1)
        size, claimed = len(self.rows), ~np.isnan(claim)
        # What is no number is beyond every claim.
        beyond = claimed & ~(kl <= claim)
        finite = np.isfinite(kl)
        self.rows += np.bincount(lanes[finite], minlength=size)
        self.total += np.bincount(lanes[finite], kl[finite], size)
        np.fmax.at(self.largest, lanes[finite], kl[finite])
        self.beyond += np.bincount(lanes[beyond], minlength=size)
        self.claimed += np.bincount(lanes[claimed], minlength=size)

    def add_broken(self, lanes: np.ndarray, iterations: np.ndarray) -> None:
        """Adds iterations [n] with a NaN or an infinity; the first of a lane is kept."""
        for lane, iteration in zip(lanes.tolist(), iterations.tolist(), strict=True):
            if not 0 <= self.broken[lane] <= iteration:
                self.broken[lane] = iteration

    def add_evaluations(self, lanes: np.ndarray, rows: np.ndarray, returns: np.ndarray) -> None:
        """Adds evaluations [n]; the last of a lane is its score."""
        order = np.argsort(rows, kind="stable")
        self.score[lanes[order]] = returns[order]

    def table(self) -> dict[str, np.ndarray]:
        """Columns [L]: score, kl (mean), largest, beyond (a share, NaN without claim), and more."""
        with np.errstate(all="ignore"):
            return {
                "score": self.score,
                "kl": self.total / self.rows,
                "largest": self.largest,
                "beyond": self.beyond / np.where(self.claimed, self.claimed, np.nan),
                "broken": self.broken.astype(float),
                "iterations": self.iterations.astype(float),
            }
