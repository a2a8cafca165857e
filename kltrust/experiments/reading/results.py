"""The results of sweeps and trainings as pandas frames, and as arrays of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.checks import unknown
from kltrust.experiments.jobs.folder import iterations_of_runs, parts_of
from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.jobs.trials import stopped_runs
from kltrust.experiments.reading.frames import learning_curves
from kltrust.experiments.reading.stored_metrics import (
    NAMES,
    Part,
    StoredMetrics,
    concatenated,
    named,
)
from kltrust.experiments.store.record import Record
from kltrust.lazy import require_sweeps

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 5_000_000
"""The most numbers of metrics that are read at once by `load`."""
Folder = tuple[Record, Plan, list[tuple[Group, Record | None]]]
"""The folder of a sweep or a training, its plan and its groups, as `parts_of` returns them."""


class Results:
    """Tables of finished or unfinished runs; ``run`` is the key between them.

    All three tables begin with run, label, algorithm, env and seed. Iterations are numbered from 0,
    in all frames and messages. ``env_steps`` counts the steps up to the end of the row's iteration,
    and ``iterations`` counts iterations.

    Attributes:
        runs: one row per run: the resolved settings by dotted name (``update.max_kl``), ``width``,
            the ``iterations`` done, ``broken`` and ``score``. ``broken`` is the first iteration
            with a NaN or an infinity, where the run stayed as it was before; missing if there was
            none. ``score`` is the last evaluation's mean return, acting by the mode.
        metrics: one row per run and iteration. With many runs, it is read at the first access.
            Values that an algorithm does not report are missing. ``mean_return`` is the mean over
            the episodes that ended within the iteration, missing where none did.
        evaluations: one row per run and evaluation; ``iteration`` is the last one before it.
        decisions: what a search decided, in order: each row is one trial (a setting, with all its
            seeds) after a ``chunk``, its ``action``, ``score`` and ``reason``; None without a
            search. ``runs`` then has the column ``stopped``: the iterations after which a run was
            stopped or paused for good, missing for those that went on to their end.
        stand_ins: by name, stand-ins for your algorithms whose module is not imported.
    """

    def __init__(
        self,
        runs: pd.DataFrame,
        metrics: Any,
        evaluations: pd.DataFrame,
        stand_ins: Mapping[str, type] | None = None,
        decisions: pd.DataFrame | None = None,
    ) -> None:
        """Takes frames; ``metrics`` may also be an object that reads them later, as `load` uses."""
        self.runs, self.evaluations = runs, evaluations
        self._metrics, self.stand_ins = metrics, dict(stand_ins or {})
        self.decisions = decisions

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per run and iteration."""
        if isinstance(self._metrics, StoredMetrics):
            self._metrics = self._metrics.read()
        return self._metrics

    def read(self, *columns: str) -> pd.DataFrame:
        """Some columns of `metrics` -> a frame; only these are read.

        The columns that identify a row come first.

        Args:
            *columns: their names, as in ``read("kl", "mean_return")``.

        Raises:
            ValueError: if no run has such a column; names the nearest existing one.
            StorageError: if a table is damaged, or the folder is gone.
        """
        if isinstance(self._metrics, StoredMetrics):
            return self._metrics.read(columns)
        for name in columns:
            if name not in self._metrics:
                raise ValueError(unknown("column of the metrics", name, list(self._metrics)))
        keys = [k for k in ("run", *NAMES, "seed", "iteration", "env_steps") if k in self._metrics]
        return self._metrics[list(dict.fromkeys([*keys, *columns]))]

    def __repr__(self) -> str:
        """One line: the numbers of runs, algorithms, environments and seeds."""
        runs, some = self.runs, []
        for column, what in (("algorithm", "algorithm"), ("env", "environment"), ("seed", "seed")):
            count = runs[column].nunique() if column in runs else 0
            some.append(f"{count} {what}{'' if count == 1 else 's'}")
        there = f"{len(runs):,} run{'' if len(runs) == 1 else 's'} ({', '.join(some)})"
        return f"Results of {there}; see .runs, .metrics, .evaluations"

    def scores(self, *, column: str = "mean_return", last: int = 1) -> dict[str, np.ndarray]:
        """Scores [runs, tasks] by label, for `statistics` or rliable; row i is seed i everywhere.

        A label is an algorithm and its swept values; a task is an environment, in the order of
        `tasks`. A broken run counts with its last finite policy.

        Args:
            column: a column of the evaluations: mean_return (by the mode) or sampled_mean_return.
            last: the number of evaluations at the end to average.

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
            # Restores the order of the seeds' list and of the tasks: a pivot sorts.
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

    def learning_curves(
        self, by: str | Sequence[str] = "label", *, column: str = "mean_return"
    ) -> pd.DataFrame:
        """The mean over runs at every evaluation, with its 95 % interval, to draw or to compare.

        Args:
            by: one or several columns of `runs` that, with the environment, are equal for all runs
                of one curve, as in ``by=["algorithm", "update.max_kl"]``.
            column: a column of the evaluations: mean_return (by the mode) or sampled_mean_return.

        Returns:
            A row for each point: env, ``by``, env_steps, runs (how many), mean, low and high (of
            the percentile bootstrap over runs). Points that a run of a curve lacks are left out.

        Raises:
            ValueError: on an unknown column; names the nearest existing one.
        """
        keys = list(dict.fromkeys(["env", *([by] if isinstance(by, str) else by)]))
        for name in keys:
            if name not in self.runs:
                raise ValueError(unknown("column of the runs", name, list(self.runs)))
        if len(self.evaluations) and column not in self.evaluations:
            raise ValueError(
                unknown("column of the evaluations", column, list(self.evaluations.columns))
            )
        of = self.runs.set_index("run")
        rows = self.evaluations
        rows = rows.assign(**{name: rows.run.map(of[name]) for name in keys}) if len(rows) else rows
        return learning_curves(rows, keys, column=column)

    @property
    def tasks(self) -> list[str]:
        """The environments, in the order of `scores`'s columns."""
        return list(dict.fromkeys(self.runs.env))

    def select(self, **values: Any) -> Results:
        """The runs whose column has a value, as in ``select(algorithm="trpo")``.

        Args:
            **values: the wanted value of each named column of ``runs``.
        """
        runs = self.runs
        for column, value in values.items():
            # A tuple is one value of a setting; pandas would compare it row by row.
            whole = isinstance(value, list | tuple)
            chosen = [x == tuple(value) for x in runs[column]] if whole else runs[column] == value
            runs = runs[chosen]

        def of_runs(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame.run.isin(runs.run)].reset_index(drop=True)

        metrics = self._metrics
        if isinstance(metrics, StoredMetrics):
            metrics = metrics._replace(names=metrics.names.loc[runs.run])
        else:
            metrics = of_runs(metrics)
        frames = runs.reset_index(drop=True), metrics, of_runs(self.evaluations)
        decisions = self.decisions
        if decisions is not None:
            decisions = decisions.merge(runs[["label", "env"]].drop_duplicates())
        return Results(*frames, self.stand_ins, decisions)


def load(*paths: str | Path) -> Results:
    """Reads the folders of sweeps and of trainings, also while they go on.

    You need not import your own algorithms and environments. Metrics of more than five million
    numbers stay in the folders until you access them, as a whole or by `Results.read`; fewer are
    read at once.

    Args:
        *paths: one or more folders; runs are numbered in the order of the folders.

    Raises:
        StorageError: if a folder holds no run, or is damaged.
        ValueError: if no folder is given.

    Example:
        >>> results = load("runs/quickstart")                      # doctest: +SKIP
        >>> statistics.intervals(results.scores()["trpo"], statistics.mean)  # doctest: +SKIP
    """
    require_sweeps("a table of results")
    if not paths:
        raise ValueError("load takes the folder of a sweep or of a training, or several")
    records = [Record(path) for path in paths]
    found = of_folders([(record, *parts_of(record)) for record in records])
    if isinstance(found._metrics, StoredMetrics) and found._metrics.size <= AT_ONCE:
        found._metrics = found._metrics.read()
    return found


def of_folders(folders: Sequence[Folder]) -> Results:
    """Like `load`, for folders that are open already."""
    import pandas as pd

    runs: list[dict[str, Any]] = []
    parts: list[Part] = []
    evaluations: list[pd.DataFrame] = []
    broken: dict[int, int] = {}
    stopped: dict[int, int] = {}
    decisions: list[pd.DataFrame] = []
    first = 0
    for record, plan, groups in folders:
        settings = [{"label": s.label, **_plain(s.experiment)} for s in plan.settings]
        for group, part in groups:
            own = {"sweep": record.path.name, "width": group.width}
            counts = iterations_of_runs(plan, group, part)
            done = {first + run: count for run, count in zip(group.runs, counts, strict=True)}
            for run in group.runs:
                of = {"iterations": done[first + run], **settings[run // len(plan.seeds)]}
                runs.append({"run": first + run, **own, **of, "seed": plan.seed(run)})
            if plan.search is not None:
                decisions.append(decisions_of(plan, group, part))
                stopped |= {first + run: at for run, at in stopped_runs(plan, group).items()}
            if part is not None and part.last_chunk >= 0:
                parts.append(Part(part, first, done))
                table = part.evaluations()
                # A folder counts iterations done; frames number iterations from 0.
                ends = (table.run + first).map(done).fillna(0)
                table = table[table.iteration <= ends]  # later commits are not in `runs`
                numbers = table.iteration - 1
                evaluations.append(table.assign(run=table.run + first, iteration=numbers))
                broken |= {first + run: at for run, at in part.nonfinite().items()}
        first += len(plan.settings) * len(plan.seeds)
    table = pd.DataFrame(runs).sort_values("run", ignore_index=True)
    names = table.set_index("run")[NAMES]
    found = named(concatenated(evaluations), names)
    scores = found.groupby("run").mean_return.last() if len(found) else {}
    table["score"] = table.run.map(scores).astype(float)
    table["broken"] = table.run.map(broken).astype("Int64")
    ahead = ["run", *NAMES, "seed", "score", "broken", "iterations", "width", "sweep"]
    if decisions:
        table["stopped"] = table.run.map(stopped).astype("Int64")
        ahead.insert(ahead.index("broken"), "stopped")
    columns = [*ahead, *table.columns.drop(ahead)]
    updates = [s.experiment.update for _, plan, _ in folders for s in plan.settings]
    stand_ins = {u.name: type(u) for u in updates if hasattr(u, "stands_in")}
    decided = pd.concat(decisions, ignore_index=True) if decisions else None
    return Results(table[columns], StoredMetrics(tuple(parts), names), found, stand_ins, decided)


def decisions_of(plan: Plan, group: Group, part: Record | None) -> pd.DataFrame:
    """The decisions of a group's search, with names and environment steps."""
    import pandas as pd

    table = pd.DataFrame() if part is None else part.decisions()
    if not len(table):
        return table
    experiment, seeds = plan.experiment(group), len(plan.seeds)
    labels = [plan.setting(group.runs[trial * seeds]).label for trial in table.trial]
    iterations = (table.evaluations * group.chunk_length).clip(upper=experiment.num_iterations)
    names = {"label": labels, "algorithm": experiment.algorithm, "env": experiment.env}
    return pd.concat(
        [
            pd.DataFrame(names, index=table.index),
            table.assign(env_steps=iterations * experiment.batch_size),
        ],
        axis=1,
    )


def _plain(experiment: Any) -> dict[str, Any]:
    """Algorithm, environment and settings, with tuples for lists, so that one can group by them."""
    flat = {k: tuple(v) if isinstance(v, list) else v for k, v in experiment.flat().items()}
    return {"algorithm": experiment.algorithm, "env": experiment.env, **flat}
