"""Which setting is the best: one rule for reports, presets, policies that are played or exported.

The best setting of an environment has the highest mean score over its seeds. A score is the mean
return of a run's last evaluation, acting by the mode. Of equal settings the best has the highest
mean over all evaluations: it got there first. If these are equal too, it is the first of the
specification. An evaluation that gave no finite number counts as the worst one on its environment:
leaving it out would flatter. The best run is the best setting's, and chosen among its seeds alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

BY = ["score", "through"]
"""By these, the highest first."""


def imputed(evaluations: pd.DataFrame) -> pd.Series:
    """The mean returns of evaluations, with the environment's worst where there is no number."""
    returns = evaluations.mean_return.astype(float)
    finite = returns.where(np.isfinite(returns))
    return finite.fillna(finite.groupby(evaluations.env).transform("min"))


def of_runs(evaluations: pd.DataFrame) -> pd.DataFrame:
    """By run: env, label, seed, ``score`` and ``through``, the mean over all its evaluations.

    Args:
        evaluations: rows of `Results.evaluations`, in their order.
    """
    by_run = evaluations.assign(mean_return=imputed(evaluations)).groupby("run", sort=False)
    found = by_run.agg(
        env=("env", "first"),
        label=("label", "first"),
        seed=("seed", "first"),
        score=("mean_return", "last"),
        through=("mean_return", "mean"),
    )
    return found.sort_index()


def settings(runs: pd.DataFrame) -> pd.DataFrame:
    """From `of_runs`, a row for each environment and label: the best of an environment first.

    Columns: env, label, seeds (how many), score and through (means over seeds).
    """
    found = runs.groupby(["env", "label"], sort=False, as_index=False).agg(
        seeds=("seed", "count"), score=("score", "mean"), through=("through", "mean")
    )
    return ranked(found)


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """By `BY`, rows of equal ones as they were, what is no number last."""
    order = np.lexsort([-table[name].fillna(-np.inf).to_numpy(float) for name in reversed(BY)])
    return table.iloc[order].reset_index(drop=True)


def why(rows: pd.DataFrame) -> str:
    """Why the first of some settings of one environment was chosen, in a sentence's end."""
    best, number = rows.iloc[0], len(rows)
    if np.isnan(best.score):
        return "no run has a score that is a number: the first"
    if number == 1:
        return "the only setting"
    over = f"over {best.seeds} seed{'' if best.seeds == 1 else 's'}"
    ties = rows[rows.score == best.score]
    said = f"of {number} settings the highest mean at the last evaluation, {best.score:.2f} {over}"
    if len(ties) == 1:
        return said
    if (ties.through == best.through).sum() == 1:
        return f"{said}; of {len(ties)} equal ones the highest mean over all evaluations"
    return f"{said}; the first of {len(ties)} equal ones"
