"""What is said of one environment: scores, curves and sensitivities, as frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.reading.statistics import Estimate
from kltrust.experiments.report._aggregate import intervals, means_and_iqms
from kltrust.experiments.report._gather import Study

if TYPE_CHECKING:
    import pandas as pd

POINTS = 500
"""Resamples for the interval of a point on a curve, of which there are many."""


def scores(study: Study) -> pd.DataFrame:
    """One row per environment and label that was evaluated.

    Columns: env, method, label, seeds (how many), mean and iqm (`Estimate`), value (of the mean),
    through (the mean over all evaluations: how fast it got there),
    worst (the score of the worst seed), iterations, planned, steps (environment steps of a run).
    Of an environment the highest mean comes first; of equal ones, the highest ``through``.
    """
    import pandas as pd

    rows = []
    through = study.evaluations.groupby("run").mean_return.mean()
    for env, runs in study.scored.groupby("env", sort=False):
        by_label = {str(label): part for label, part in runs.groupby("label", sort=False)}
        estimates = _estimates({k: part.score.to_numpy(float) for k, part in by_label.items()})
        for label, part in by_label.items():
            mean, iqm = estimates[str(label)]
            experiment = study.setting(int(part.run.iloc[0])).experiment
            rows.append(
                {
                    "env": env,
                    "method": part.method.iloc[0],
                    "label": label,
                    "run": int(part.run.iloc[0]),
                    "seeds": len(part),
                    "mean": mean,
                    "iqm": iqm,
                    "value": mean.value,
                    "through": through.reindex(part.run).mean(),
                    "worst": part.score.min(),
                    "iterations": int(part.iterations.min()),
                    "planned": int(part.planned.max()),
                    "steps": int(part.iterations.min()) * experiment.batch_size,
                }
            )
    table = pd.DataFrame(rows).sort_values(["value", "through"], ascending=False, ignore_index=True)
    order = {env: i for i, env in enumerate(study.envs)}
    return table.sort_values("env", key=lambda e: e.map(order), kind="stable", ignore_index=True)


def leaders(table: pd.DataFrame) -> pd.DataFrame:
    """Of `scores`, each method's best setting on each environment, by the mean."""
    return table.drop_duplicates(["env", "method"])


def curves(study: Study) -> pd.DataFrame:
    """The mean return over seeds at every evaluation.

    Columns: env, method, label, env_steps, seconds (see `Study`), mean, low, high.
    """
    import pandas as pd

    parts = []
    for (env, label), rows in study.evaluations.groupby(["env", "label"], sort=False):
        grid = rows.pivot(index="run", columns="env_steps", values="mean_return")
        grid = grid.dropna(axis="columns")  # runs of several folders may differ in their steps
        if grid.empty:
            continue
        mean, low, high = intervals(grid.to_numpy(), lambda x: x.mean(axis=0), resamples=POINTS)
        seconds = rows.groupby("env_steps").seconds.mean()[grid.columns]
        parts.append(
            pd.DataFrame(
                {
                    "env": env,
                    "method": rows.method.iloc[0],
                    "label": label,
                    "env_steps": grid.columns.to_numpy(),
                    "seconds": seconds.to_numpy(),
                    "mean": mean,
                    "low": low,
                    "high": high,
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["env", "label"])


def sensitivity(study: Study) -> pd.DataFrame:
    """The mean score against each swept setting, averaged over the others that were swept.

    Columns: env, method, key, value, mean, low, high, runs. Only where a method has two values.
    """
    import pandas as pd

    swept: dict[tuple[str, str, str], dict[Any, list[np.ndarray]]] = {}
    for (env, method, _), runs in study.scored.groupby(["env", "method", "label"], sort=False):
        for key, value in study.setting(int(runs.run.iloc[0])).swept.items():
            value = tuple(value) if isinstance(value, list) else value
            values = swept.setdefault((str(env), str(method), key), {})
            values.setdefault(value, []).append(runs.score.to_numpy(float))
    rows = []
    for (env, method, key), values in swept.items():
        for value, parts in values.items() if len(values) > 1 else ():
            if len({len(part) for part in parts}) == 1:
                grid = np.stack(parts, axis=1)  # [seeds, settings]
            else:
                grid = np.concatenate(parts)[:, None]
            found = intervals(grid, lambda x: np.array([x.mean()]), resamples=POINTS)
            mean, low, high = (float(x[0]) for x in found)
            rows.append((env, method, key, value, mean, low, high, grid.size))
    columns = ["env", "method", "key", "value", "mean", "low", "high", "runs"]
    return pd.DataFrame(rows, columns=columns)


def _estimates(scores: dict[str, np.ndarray]) -> dict[str, tuple[Estimate, Estimate]]:
    """All labels with one number of seeds at once: one bootstrap for each number."""
    found: dict[str, tuple[Estimate, Estimate]] = {}
    for size in {len(x) for x in scores.values()}:
        labels = [label for label, x in scores.items() if len(x) == size]
        grid = np.stack([scores[label] for label in labels], axis=1)
        found |= dict(zip(labels, means_and_iqms(grid), strict=True))
    return found
