"""What is said of one environment: scores, curves and sensitivities, as frames."""

from typing import Any

import numpy as np
import pandas as pd

from kltrust.experiments.reading.statistics import estimates, intervals, mean, means_and_iqms
from kltrust.experiments.report import _aggregate
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._tables import estimate

POINTS = 500
"""Resamples for the interval of a point on a curve, of which there are many."""


def scores(study: Study) -> pd.DataFrame:
    """One row per environment and label that was evaluated.

    Columns: env, method, label, setting, seeds (how many), mean, low and high (of its interval),
    shown and iqm (mean and IQM as text), through (the mean over all evaluations: how fast it got
    there), worst (the score of the worst seed), iterations, planned, steps (environment steps of a
    run). Of an environment the highest mean comes first; of equal ones, the highest ``through``.
    """
    through = study.evaluations.groupby("run").mean_return.mean()
    runs = study.scored.assign(through=study.scored.run.map(through))
    table = runs.groupby(["env", "label"], sort=False, as_index=False).agg(
        method=("method", "first"),
        setting=("setting", "first"),
        seeds=("run", "size"),
        scores=("score", list),
        through=("through", "mean"),
        worst=("score", "min"),
        iterations=("iterations", "min"),
        planned=("planned", "max"),
        steps=("steps", "min"),
    )
    found = {}
    for (_, seeds), part in table.groupby(["env", "seeds"]):
        grid = np.array(part.scores.tolist(), float).T
        both = means_and_iqms(grid, resamples=_aggregate.RESAMPLES)
        for i, (middle, iqm) in zip(part.index, both, strict=True):
            found[i] = (*middle, estimate(middle, seeds), estimate(iqm, seeds))
    columns = ["mean", "low", "high", "shown", "iqm"]
    table = table.join(pd.DataFrame.from_dict(found, orient="index", columns=columns))
    table["order"] = table.env.map(study.envs.index)
    by, ascending = ["order", "mean", "through"], [True, False, False]
    return table.sort_values(by, ascending=ascending, ignore_index=True)


def curves(study: Study) -> pd.DataFrame:
    """The mean return over seeds at every evaluation.

    Columns: env, method, label, env_steps, seconds (see `Study`), mean, low, high.
    """
    parts = []
    for (env, label), rows in study.evaluations.groupby(["env", "label"], sort=False):
        grid = rows.pivot(index="run", columns="env_steps", values="mean_return")
        grid = grid.dropna(axis="columns")  # runs of several folders may differ in their steps
        if not grid.empty:
            found = intervals(grid.to_numpy(), lambda x: x.mean(axis=-2), resamples=POINTS)
            seconds = rows.groupby("env_steps").seconds.mean()[grid.columns]
            part = seconds.reset_index().assign(env=env, method=rows.method.iloc[0], label=label)
            parts.append(part.assign(**dict(zip(("mean", "low", "high"), found, strict=True))))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["env", "label"])


def sensitivity(study: Study) -> pd.DataFrame:
    """The mean score against each swept setting, averaged over the others that were swept.

    Columns: env, method, key, value, mean, low, high. Only where a method has two values.
    """
    swept: dict[tuple[str, str, str], dict[Any, list[np.ndarray]]] = {}
    for (env, method, _), runs in study.scored.groupby(["env", "method", "label"], sort=False):
        for key, value in runs.setting.iloc[0].swept.items():
            value = tuple(value) if isinstance(value, list) else value
            values = swept.setdefault((env, method, key), {})
            values.setdefault(value, []).append(runs.score.to_numpy(float))
    rows = []
    for names, values in swept.items():
        for value, parts in values.items() if len(values) > 1 else ():
            alike = len({len(part) for part in parts}) == 1
            grid = np.stack(parts, axis=1) if alike else np.concatenate(parts)[:, None]
            (found,) = estimates(grid, mean, resamples=POINTS)
            rows.append((*names, value, *found))
    return pd.DataFrame(rows, columns=["env", "method", "key", "value", "mean", "low", "high"])
