"""What a report is made from: the runs of some folders, named so that no two are mistaken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kltrust.experiments.config.spec import Setting
from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.reading import results
from kltrust.experiments.store.record import Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Source:
    """One of the folders.

    Attributes:
        record: the folder.
        plan: what was to be run.
        parts: its groups, each with its folder, None where it has not begun.
        first: the number of its first run among all folders.
    """

    record: Record
    plan: Plan
    parts: list[tuple[Group, Record | None]]
    first: int

    @property
    def name(self) -> str:
        """The folder's name, without the way to it: reports get published."""
        return self.record.path.name

    def setting(self, run: int) -> Setting:
        """The setting of a run by its number among all folders."""
        return self.plan.setting(run - self.first)


@dataclass(frozen=True)
class Study:
    """All runs that a report is about.

    Attributes:
        sources: the folders.
        runs: `Results.runs`, with ``method`` (the label without its swept values), ``planned``
            iterations, ``seconds`` (of training, see `_seconds`) and ``source``.
        metrics: `Results.metrics`, with label, method, env and seed of the run.
        evaluations: `Results.evaluations`, likewise, with ``seconds`` up to each of them.
        notes: what a reader has to know before any number.
    """

    sources: tuple[Source, ...]
    runs: pd.DataFrame
    metrics: pd.DataFrame
    evaluations: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def envs(self) -> list[str]:
        """The environments with an evaluated run, in order."""
        return list(dict.fromkeys(self.scored.env))

    @property
    def methods(self) -> list[str]:
        """The methods, in order: an algorithm, or what the specification calls it."""
        return list(dict.fromkeys(self.runs.method))

    @property
    def scored(self) -> pd.DataFrame:
        """The runs that were evaluated."""
        return self.runs[self.runs.run.isin(self.evaluations.run)]

    def setting(self, run: int) -> Setting:
        """The setting of a run."""
        return self.sources[int(self.runs.set_index("run").source[run])].setting(run)


def gather(paths: Sequence[str | Path]) -> Study:
    """Reads the folders; sweeps and trainings, finished or not.

    Raises:
        StorageError: if a folder holds no run, or is damaged.
        ValueError: if no folder is given, one is given twice, or no run was evaluated yet.
    """
    if len({Path(p).absolute() for p in paths}) != len(paths):
        raise ValueError("a folder is given twice: its runs would count double")
    loaded = results.load(*paths)
    if loaded.evaluations.empty:
        names = ", ".join(str(path) for path in paths)
        raise ValueError(
            f"no run in {names} was evaluated yet: let it run up to its first evaluation, or go on "
            "with it by --resume"
        )
    sources, first = [], 0
    for path in paths:
        record = Record(path)
        plan, parts = results.parts_of(record)
        sources.append(Source(record, plan, parts, first))
        first += len(plan.settings) * len(plan.seeds)
    runs = _named(loaded.runs, sources)
    ends = runs.set_index("run")[["method", "label", "env", "seconds", "iterations"]]
    metrics = loaded.metrics.join(ends[["method", "label", "env"]], on="run")
    evaluations = loaded.evaluations.join(ends, on="run")
    evaluations["seconds"] *= evaluations.iteration / evaluations.pop("iterations")
    evaluations["mean_return"], imputed = _imputed(evaluations)
    runs["score"] = runs.run.map(evaluations.groupby("run").mean_return.last())
    notes = (*_unfinished(runs, sources), *_broken(runs), *imputed)
    return Study(tuple(sources), runs, metrics, evaluations, notes)


def _named(runs: pd.DataFrame, sources: Sequence[Source]) -> pd.DataFrame:
    firsts = [source.first for source in sources]
    index = np.searchsorted(firsts, runs.run, side="right") - 1
    of = [(sources[i], run) for i, run in zip(index, runs.run, strict=True)]
    settings = [source.setting(run) for source, run in of]
    seconds = {k: v for source in sources for k, v in _seconds(source).items()}
    runs = runs.assign(
        source=index,
        method=[_method(setting) for setting in settings],
        planned=[setting.experiment.num_iterations for setting in settings],
        seconds=runs.run.map(seconds).astype(float),
    )
    digests = [setting.experiment.digest() for setting in settings]
    of_label = runs.assign(digest=digests).groupby(["label", "env"])
    several = of_label.source.transform("nunique") > 1
    differ = of_label.digest.transform("nunique") > 1
    differ |= runs.duplicated(["label", "env", "seed"], keep=False)
    # All settings of the method: one without its folder would look like a method of its own.
    clashing = runs.method.isin(runs.method[several & differ])
    # One name in several folders, for the same runs or for others: the folder tells them apart.
    titles = [source.name for source in sources]
    shown = [t if titles.count(t) == 1 else f"{t} ({i + 1})" for i, t in enumerate(titles)]
    prefix = runs.source.map(dict(enumerate(shown))) + ": "
    for name in ("method", "label"):
        runs[name] = runs[name].where(~clashing, prefix + runs[name])
    return runs


def _method(setting: Setting) -> str:
    """The label without what `spec_entry` appends for the swept values: one word for each."""
    words = setting.label.split(" ")
    return " ".join(words[: len(words) - len(setting.swept)]) or setting.label


def _seconds(source: Source) -> dict[int, float]:
    """Training seconds of each run: those of its group, in equal parts.

    The runs of a group share the devices, and so its time. Compilation is apart.
    """
    return {
        source.first + run: part.seconds.get("run", np.nan) / len(group.runs)
        for group, part in source.parts
        if part is not None
        for run in group.runs
    }


def _unfinished(runs: pd.DataFrame, sources: Sequence[Source]) -> list[str]:
    notes = []
    for i, source in enumerate(sources):
        mine = runs[runs.source == i]
        if not source.record.finished or (mine.iterations < mine.planned).any():
            done = int((mine.iterations >= mine.planned).sum())
            waiting = int((mine.iterations == 0).sum())
            notes.append(
                f"{source.name} is not finished: {done} of {len(mine)} runs are, {waiting} have "
                "not begun. Everything below rests on what was evaluated so far, and settings "
                "that are not equally far are not comparable."
            )
        if source.plan.shard is not None:
            notes.append("{} is shard {} of {} of a sweep.".format(source.name, *source.plan.shard))
    return notes


def _broken(runs: pd.DataFrame) -> list[str]:
    broken = runs[runs.broken.notna()]
    if broken.empty:
        return []
    shown = [
        f"{row.label} on {row.env}, seed {row.seed} (iteration {row.broken})"
        for row in broken.head(8).itertuples()
    ]
    more = f", and {len(broken) - 8} more" if len(broken) > 8 else ""
    return [
        f"{len(broken)} of {len(runs)} runs met a NaN or an infinity and stayed as they were "
        f"before it; each counts with that policy: {'; '.join(shown)}{more}."
    ]


def _imputed(evaluations: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Returns, with the environment's worst where there is no number: dropping it would flatter."""
    returns = evaluations.mean_return.astype(float)
    finite = returns.where(np.isfinite(returns))
    count = int(finite.isna().sum())
    note = (
        f"{count} of {len(returns)} evaluations gave no finite number; each counts as the worst "
        "evaluation on its environment."
    )
    worst = finite.groupby(evaluations.env).transform("min")
    return finite.fillna(worst), [note] if count else []
