"""Chooses the best setting: one rule for reports, presets, and policies to play or export.

The best setting of an environment has the highest mean score over its seeds. A setting that a
search stopped comes after all that went on to their end. A score is the mean
return of a run's last evaluation, acting by the mode. Among equal settings, the best has the
highest mean over all evaluations: it learned faster. If these are equal too, it is the first in the
specification. An evaluation without a finite number counts as the worst one on its environment:
leaving it out would flatter. The best run is the best seed of the best setting, by the same rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

BY = ["score", "through"]
"""The columns to sort by, highest first."""


def impute_missing(evaluations: pd.DataFrame) -> pd.Series:
    """The mean returns of evaluations; the environment's worst replaces a missing number."""
    returns = evaluations.mean_return.astype(float)
    finite = returns.where(np.isfinite(returns))
    return finite.fillna(finite.groupby(evaluations.env).transform("min"))


def score_runs(evaluations: pd.DataFrame) -> pd.DataFrame:
    """For each run: env, label, seed, ``score`` and ``through``, the mean over all its evaluations.

    Args:
        evaluations: rows of `Results.evaluations`, in their order.
    """
    by_run = evaluations.assign(mean_return=impute_missing(evaluations)).groupby("run", sort=False)
    found = by_run.agg(
        env=("env", "first"),
        label=("label", "first"),
        seed=("seed", "first"),
        score=("mean_return", "last"),
        through=("mean_return", "mean"),
    )
    return found.sort_index()


def rank_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """From `score_runs`, a row for each environment and label, an environment's best one first.

    Columns: env, label, seeds (how many), score and through (means over seeds), and ``stopped``,
    if the runs have it: whether a search stopped one of them.
    """
    more = {"stopped": ("stopped", lambda x: x.notna().any())} if "stopped" in runs else {}
    found = runs.groupby(["env", "label"], sort=False, as_index=False).agg(
        seeds=("seed", "count"), score=("score", "mean"), through=("through", "mean"), **more
    )
    return ranked(found)


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by `BY`; equal rows keep their order, NaN comes last, stopped ones later."""
    keys = [-table[name].fillna(-np.inf).to_numpy(float) for name in reversed(BY)]
    if "stopped" in table:
        stopped = table.stopped
        keys.append(stopped if stopped.dtype == bool else stopped.notna())
    order = np.lexsort(keys)
    return table.iloc[order].reset_index(drop=True)


def reason(rows: pd.DataFrame) -> str:
    """The end of a sentence: why the first of an environment's settings was chosen."""
    best, number = rows.iloc[0], len(rows)
    if np.isnan(best.score):
        return "no run has a score that is a number: the first"
    if number == 1:
        return "the only setting"
    if "stopped" in rows and not best.stopped and rows.stopped.any():
        rows = rows[~rows.stopped]
        whole = f"of {number} settings a search trained {len(rows)} to the end"
        return whole if len(rows) == 1 else f"{whole}; {reason(rows.drop(columns='stopped'))}"
    over = f"over {best.seeds} seed{'' if best.seeds == 1 else 's'}"
    ties = rows[rows.score == best.score]
    said = f"of {number} settings the highest mean at the last evaluation, {best.score:.2f} {over}"
    if len(ties) == 1:
        return said
    if (ties.through == best.through).sum() == 1:
        return f"{said}; of {len(ties)} equal ones the highest mean over all evaluations"
    return f"{said}; the first of {len(ties)} equal ones"
