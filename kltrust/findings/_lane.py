"""The metrics of one run, in the form that conditions read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kltrust.findings._declare import Evidence, Missing


class Lane:
    """One run: columns of its metrics by name, a row per iteration, and the claims of its settings.

    ``claims`` are settings by their role ("bound", "set point", "clip", "floor", "ceiling",
    "value clip", "gradient bound"); infinity is no claim. ``where`` says which run it is.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        claims: Mapping[str, float] | None = None,
        where: Mapping[str, Any] | None = None,
    ):
        self.columns, self.claims = columns, dict(claims or {})
        self.where = {"label": "", "env": "", "seed": None, "run": None, **(where or {})}
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """A column [n] or [n, K] as float64."""
        if name not in self._read:
            if name not in self.columns:
                raise Missing(name)
            column = self.columns[name]
            if getattr(getattr(column, "dtype", None), "kind", "") == "O":
                rows = [x for x in column if isinstance(x, np.ndarray)]
                same = len(rows) == len(column) and len({row.shape for row in rows}) == 1
                column = np.stack(rows) if same else _numbers(column)
            self._read[name] = np.asarray(column, np.float64)
        column = self._read[name]
        if not column.size or np.isnan(column).all():
            raise Missing(name)  # the column belongs to another algorithm in the same table
        return column

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        try:
            return self[name].size > 0
        except Missing:
            return False

    @property
    def length(self) -> int:
        """The number of iterations."""
        return len(self["kl"] if "kl" in self.columns else next(iter(self.columns.values())))

    @property
    def iterations(self) -> np.ndarray:
        """[n] the iterations' numbers."""
        if "iteration" in self.columns:
            return np.asarray(self.columns["iteration"], np.int64)
        return np.arange(self.length)

    def claim(self, role: str) -> float:
        """The value of the setting with this role."""
        value = self.claims.get(role)
        if value is None or not np.isfinite(value):
            raise Missing(role)
        return float(value)

    def in_force(self, role: str, column: str) -> np.ndarray:
        """[n] a setting as the algorithm reports it, since a schedule may move it; or its claim."""
        if self.has(column):
            return self[column]
        return np.full(self.length, self.claim(role))

    def need(self, iterations: int) -> None:
        """Raises `Missing` for a run with fewer iterations."""
        if self.length < iterations:
            raise Missing(f"{iterations} iterations")

    def late(self, x: np.ndarray) -> np.ndarray:
        """The second half: the start of a training is not typical."""
        return x[len(x) // 2 :]

    def when(
        self,
        quantity: str,
        bad: np.ndarray,
        *,
        values: np.ndarray | None = None,
        limit: Any = None,
        share: float = 0.0,
        late: bool = False,
        detail: str = "",
    ) -> Evidence | None:
        """Evidence if more than a ``share`` of the iterations, by default any, is ``bad`` [n].

        The values [n] are those of the column ``quantity``, unless others are given. ``late``
        counts the second half alone.
        """
        values = self[quantity] if values is None else values
        counted = np.arange(len(bad)) >= len(bad) // 2 if late else np.ones(len(bad), bool)
        seen = np.asarray(bad, bool) & counted
        if not seen.any() or seen.sum() <= share * counted.sum():
            return None
        limits = None if limit is None else np.broadcast_to(np.asarray(limit, float), values.shape)
        distance = np.abs(values) if limits is None else np.abs(values - limits)
        distance = np.where(np.isnan(values), np.inf, distance)
        worst = int(np.argmax(np.where(seen, distance, -1)))
        return Evidence(
            quantity,
            float(values[worst]),
            None if limits is None else float(limits[worst]),
            int(self.iterations[np.argmax(seen)]),
            int(seen.sum()),
            int(counted.sum()),
            detail,
        )

    def typical(
        self,
        quantity: str,
        limit: float,
        beyond: Callable[[np.ndarray, float], np.ndarray],
        *,
        values: np.ndarray | None = None,
        detail: str = "",
    ) -> Evidence | None:
        """Evidence if the median of the second half is beyond a limit; NaN does not count."""
        values = self[quantity] if values is None else values
        late = self.late(values)
        late = late[~np.isnan(late)]
        if not late.size or not beyond(np.median(late), limit):
            return None
        with np.errstate(invalid="ignore"):
            bad = beyond(values, limit)
        found = self.when(quantity, bad, values=values, limit=limit, detail=detail)
        return found._replace(value=float(np.median(late))) if found else None

    def returns(self, windows: int) -> np.ndarray:
        """Mean return in each of this number of equal windows; NaN where no episode ended.

        For other libraries, whose logs have a mean and no sums, each iteration counts once.
        """
        if self.has("return_mean"):
            total, count = self["return_mean"], np.ones(self.length)
        else:
            total, count = self["return_sum"], self["num_episodes"]
        known = np.isfinite(total)
        parts = np.array_split(np.arange(self.length), windows)
        sums = [(total[p][known[p]].sum(), count[p][known[p]].sum()) for p in parts]
        return np.array([s / c if c else np.nan for s, c in sums])


def _numbers(column: Any) -> list[float]:
    """A column of objects as floats, with NaN for missing entries."""
    return [
        float(x) if isinstance(x, int | float | np.number | np.bool_) else np.nan for x in column
    ]
