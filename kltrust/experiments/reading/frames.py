"""pandas frames of metrics from Python, and of learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from kltrust.experiments.reading.statistics import intervals
from kltrust.experiments.store import tables
from kltrust.lazy import require_sweeps
from kltrust.types import PyTree

if TYPE_CHECKING:
    import pandas as pd


def to_frame(metrics: PyTree, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """The `Metrics` of `kltrust.learner` -> a frame, a row per seed and iteration.

    A leaf's path names its column, as in ``extra.beta``; ``mean_return`` is the mean over the
    episodes that ended within the iteration, missing where none did.

    Args:
        metrics: leaves are [] for one step, [n] for `learner.run` or `learner.train`, and [S, n]
            for a ``vmap`` of these. They may have one more axis.
        seeds: the S seeds; None numbers them from 0. One seed has no column.

    Raises:
        ValueError: if the leaves have other shapes, or seeds are not S.

    Example:
        >>> state, metrics = jax.jit(lambda key: train(learner, key, 50))(key)  # doctest: +SKIP
        >>> to_frame(metrics).plot("iteration", ["mean_return", "kl"])  # doctest: +SKIP
    """
    require_sweeps("a frame")
    import pandas as pd

    arrays = jax.tree.map(np.asarray, metrics)
    lead = min((x.ndim for x in jax.tree.leaves(arrays)), default=0)
    if lead > 2:
        raise ValueError(f"metrics are [], [n] or [seeds, n] and got {lead} axes in front")
    arrays = jax.tree.map(lambda x: x.reshape((1,) * (2 - lead) + x.shape), arrays)
    number = len(jax.tree.leaves(arrays)[0])
    columns = tables.to_rows(arrays, range(number) if seeds is None else seeds)
    frame = pd.DataFrame({name: list(x) if x.ndim > 1 else x for name, x in columns.items()})
    if {"return_sum", "num_episodes"} <= set(frame):
        ended = frame.num_episodes.where(frame.num_episodes > 0)
        frame.insert(2, "mean_return", frame.return_sum / ended)
    return frame if lead == 2 or seeds is not None else frame.drop(columns="seed")


def learning_curves(
    evaluations: pd.DataFrame,
    by: Sequence[str],
    *,
    column: str = "mean_return",
    resamples: int = 500,
) -> pd.DataFrame:
    """The mean over runs of a column at every evaluation, for each group of runs.

    Args:
        evaluations: rows of `Results.evaluations`, with the columns ``by``.
        by: the columns that are equal for all runs of one curve.
        column: a column of the evaluations.
        resamples: how often the bootstrap resamples runs; its generator is seeded.

    Returns:
        A row for each point of each curve: ``by``, env_steps, runs (how many), mean, low and high
        (of the 95 % interval). Steps where a run of the group has no evaluation are left out.
    """
    import pandas as pd

    found = []
    # Runs whose algorithm does not have a setting form a group.
    groups = evaluations.groupby(list(by), sort=False, dropna=False) if len(evaluations) else ()
    for names, rows in groups:
        steps, grid = _grid(rows, column)
        if len(steps):
            mean, low, high = intervals(grid, lambda x: x.mean(axis=-2), resamples=resamples)
            own = dict(zip(by, names, strict=True))
            point = {"env_steps": steps, "runs": len(grid), "mean": mean, "low": low, "high": high}
            found.append(pd.DataFrame(own | point))
    columns = [*by, "env_steps", "runs", "mean", "low", "high"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def _grid(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [k] where all runs have a value, and the values [runs, k]."""
    steps, values = rows.env_steps.to_numpy(), rows[column].to_numpy(float)
    runs, counts = np.unique(rows.run.to_numpy(), return_counts=True)
    if len(set(counts)) == 1 and len(rows) > 1:
        order = np.lexsort((steps, rows.run.to_numpy()))
        shape = (len(runs), counts[0])
        steps_of, values_of = steps[order].reshape(shape), values[order].reshape(shape)
        if (steps_of == steps_of[0]).all() and not np.isnan(values_of).any():
            return steps_of[0], values_of
    # Runs of several folders may differ in their steps.
    grid = rows.pivot(index="run", columns="env_steps", values=column).dropna(axis="columns")
    return grid.columns.to_numpy(), grid.to_numpy()
