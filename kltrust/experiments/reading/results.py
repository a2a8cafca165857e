"""The results of sweeps and trainings as pandas frames, and as arrays of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.jobs.run import iterations_done, parts_of
from kltrust.experiments.store.record import Record
from kltrust.lazy import require_sweeps

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ["run", "iteration"]


@dataclass(frozen=True)
class Results:
    """Tables of finished or unfinished runs; ``run`` is the key between them.

    Attributes:
        runs: one row per run: label, algorithm, env, seed, the resolved settings by dotted name
            (``update.max_kl``), ``width``, ``iterations`` done, ``broken`` (the first iteration
            with a NaN or an infinity, missing if there was none; the run stayed as it was before),
            ``score`` (the last evaluation's mean return, acting by the mode).
        metrics: one row per run and iteration; what an algorithm does not report is missing.
        evaluations: one row per run and evaluation.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    evaluations: pd.DataFrame

    def scores(self, *, column: str = "mean_return", last: int = 1) -> dict[str, np.ndarray]:
        """Scores [runs, tasks] by label, for `statistics` or rliable; row i is seed i everywhere.

        A label is an algorithm and its swept values; a task is an environment, in the order of
        `tasks`. A run that broke counts with the last finite policy that it had.

        Args:
            column: of the evaluations: mean_return (by the mode) or sampled_mean_return.
            last: average so many evaluations at the end.

        Raises:
            ValueError: if a label lacks a run on some task, or no run was evaluated.
        """
        if last < 1 or column not in self.evaluations:
            known = ", ".join(c for c in self.evaluations.columns if c.endswith("mean_return"))
            raise ValueError(f"scores takes a column ({known or 'none yet'}) and last of 1 or more")
        ends = self.evaluations.groupby("run").tail(last).groupby("run")[column].mean()
        run = self.runs.run
        table = self.runs.assign(value=run.map(ends), there=run.isin(ends.index))
        found = {}
        for label, rows in table.groupby("label", sort=False):
            grid = rows.pivot(index="seed", columns="env", values=["value", "there"])
            # In the order of the seeds' list, and of the tasks: a pivot sorts.
            grid = grid.reindex(index=rows.seed.unique())
            there = grid["there"].reindex(columns=self.tasks).eq(True)
            if not there.all(axis=None):
                lacking = there.columns[~there.all(axis=0)]
                raise ValueError(
                    f"{label!r} lacks evaluated runs on {', '.join(lacking)}: finish the sweep, or "
                    "select runs that have all tasks"
                )
            found[str(label)] = grid["value"][self.tasks].to_numpy(np.float64)
        return found

    @property
    def tasks(self) -> list[str]:
        """The environments, in the order of `scores`'s columns."""
        return list(dict.fromkeys(self.runs.env))

    def select(self, **values: Any) -> Results:
        """The runs whose column has a value, as in ``select(algorithm="trpo")``.

        Args:
            **values: what the columns of ``runs`` are to hold, by name.
        """
        runs = self.runs
        for column, value in values.items():
            runs = runs[runs[column] == value]
        frames = (f[f.run.isin(runs.run)] for f in (self.metrics, self.evaluations))
        return Results(*(f.reset_index(drop=True) for f in (runs, *frames)))


def load(*paths: str | Path) -> Results:
    """Reads the folders of sweeps and of trainings, also while they go on.

    Args:
        *paths: one or more folders; runs of later ones are numbered after those before.

    Raises:
        StorageError: if a folder holds no run, or is damaged.
        ValueError: if no folder is given.

    Example:
        >>> results = load("runs/quickstart")                      # doctest: +SKIP
        >>> statistics.intervals(results.scores()["trpo"], statistics.mean)  # doctest: +SKIP
    """
    require_sweeps("a table of results")
    import pandas as pd

    if not paths:
        raise ValueError("load takes the folder of a sweep or of a training, or several")
    runs: list[dict[str, Any]] = []
    metrics: list[pd.DataFrame] = []
    evaluations: list[pd.DataFrame] = []
    first = 0
    for path in paths:
        record = Record(path)
        plan, parts = parts_of(record)
        for group, part in parts:
            runs += [_row(plan, group, run, part, first, record.path.name) for run in group.runs]
            if part is not None and part.last_chunk >= 0:
                for tables, table in ((metrics, part.metrics()), (evaluations, part.evaluations())):
                    tables.append(table.assign(run=table.run + first))
        first += len(plan.settings) * len(plan.seeds)
    table = pd.DataFrame(runs).sort_values("run", ignore_index=True)
    frames = [_concat(parts) for parts in (metrics, evaluations)]
    scores = frames[1].groupby("run").mean_return.last() if len(frames[1]) else {}
    table.insert(7, "score", table.run.map(scores).astype(float))
    table.insert(8, "broken", table.run.map(_broken(frames[0])).astype("Int64"))
    return Results(table, *frames)


def _row(
    plan: Plan, group: Group, run: int, part: Record | None, first: int, folder: str
) -> dict[str, Any]:
    setting = plan.setting(run)
    experiment = setting.experiment
    return {
        "run": first + run,
        "sweep": folder,
        "label": setting.label,
        "algorithm": experiment.algorithm,
        "env": experiment.env,
        "seed": plan.seed(run),
        "width": group.width,
        "iterations": iterations_done(plan, group, part),
        **experiment.flat(),
    }


def _broken(metrics: pd.DataFrame) -> dict[int, int]:
    """The first iteration of each run that a NaN or an infinity was counted in."""
    counts = metrics[[name for name in metrics.columns if name.startswith("nonfinite_")]]
    bad = metrics[(counts > 0).any(axis=1)]
    return dict(bad.groupby("run").iteration.min()) if len(bad) else {}


def _concat(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """One table in the order of runs; what an algorithm has no column of is missing."""
    import pandas as pd

    if not parts:
        return pd.DataFrame()
    shared = set.intersection(*(set(p.columns) for p in parts))
    # A flag or a count must not turn into a float because another algorithm has no such column.
    nullable = {"b": "boolean", "i": "Int64", "u": "Int64"}
    own = [p.dtypes[p.columns.difference(shared)] for p in parts]
    kinds = [{c: nullable[d.kind] for c, d in of.items() if d.kind in nullable} for of in own]
    typed = [p.astype(kind) for p, kind in zip(parts, kinds, strict=True)]
    return pd.concat(typed, ignore_index=True).sort_values(_KEYS, ignore_index=True)
