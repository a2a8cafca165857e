"""Gathers the runs of some folders for a report, and names them so that no two are confused."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kltrust.experiments.config.fairness import (
    Difference,
    describe_differences,
    differences,
    shared_settings,
)
from kltrust.experiments.config.spec_setting import Setting
from kltrust.experiments.jobs.folder import parts_of
from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.reading import choice, results
from kltrust.experiments.report._page import listed
from kltrust.experiments.store.record import Record


class Source(NamedTuple):
    """One of the folders, with its groups; None for a group that has not begun.

    The name contains no path, since reports get published, and ends in a number if several folders
    share it.
    """

    name: str
    record: Record
    plan: Plan
    parts: list[tuple[Group, Record | None]]


@dataclass(frozen=True)
class Study:
    """All runs of a report, in tables like those of `Results`; notes stand before any number.

    ``runs`` has in addition the setting, the method (the label without its swept values), planned
    iterations, environment steps, seconds of training and the source (an index). ``metrics`` and
    ``evaluations`` have the run's label, method and env; evaluations also have the seconds up to
    each. ``unequal`` lists, by environment, the differences between methods besides the algorithm.
    """

    sources: tuple[Source, ...]
    runs: pd.DataFrame
    metrics: pd.DataFrame
    evaluations: pd.DataFrame
    notes: tuple[str, ...]
    unequal: dict[str, str] = field(default_factory=dict)

    @property
    def envs(self) -> list[str]:
        """The environments with an evaluated run, in order."""
        return list(dict.fromkeys(self.scored.env))

    @property
    def methods(self) -> list[str]:
        """The methods, in order: the algorithm, or its name in the specification."""
        return list(dict.fromkeys(self.runs.method))

    @property
    def scored(self) -> pd.DataFrame:
        """The runs that were evaluated."""
        return self.runs[self.runs.run.isin(self.evaluations.run)]

    def setting(self, run: int) -> Setting:
        """The setting of a run."""
        return self._settings[run]

    @functools.cached_property
    def _settings(self) -> dict[int, Setting]:
        return dict(zip(self.runs.run, self.runs.setting, strict=True))


def gather(paths: Sequence[str | Path]) -> Study:
    """Reads the folders; sweeps and trainings, finished or not.

    Raises:
        StorageError: if a folder holds no run, or is damaged.
        ValueError: if no folder is given, one is given twice, or no run has been evaluated yet.
    """
    if len({Path(p).absolute() for p in paths}) != len(paths):
        raise ValueError("a folder is given twice: its runs would count double")
    if not paths:
        raise ValueError("a report takes the folder of a sweep or of a training, or several")
    records = [Record(path) for path in paths]
    folders = [(record, *parts_of(record)) for record in records]
    loaded = results.of_folders(folders)
    if loaded.evaluations.empty:
        raise ValueError(
            f"no run in {', '.join(map(str, paths))} was evaluated yet: let it run up to its first "
            "evaluation, or go on with it by --resume"
        )
    names = [record.path.name for record in records]
    names = [n if names.count(n) == 1 else f"{n} ({i + 1})" for i, n in enumerate(names)]
    sources = tuple(Source(n, *folder) for n, folder in zip(names, folders, strict=True))
    runs = _named(_described(loaded.runs, sources), sources)
    of = runs.set_index("run")
    # The label that is unique in the report, and the method.
    metrics, evaluations = (
        frame.assign(**{name: frame.run.map(of[name]) for name in ("label", "method")})
        for frame in (loaded.metrics, loaded.evaluations)
    )
    share = (evaluations.iteration + 1) / evaluations.run.map(of.iterations)
    evaluations["seconds"] = evaluations.run.map(of.seconds) * share
    evaluations["mean_return"], imputed = _imputed(evaluations)
    scores = choice.score_runs(evaluations)
    for name in choice.BY:
        runs[name] = runs.run.map(scores[name])
    notes = (*_unfinished(runs, sources), *_broken(runs), *imputed)
    return Study(sources, runs, metrics, evaluations, notes, describe_differences(_unequal(runs)))


def _described(runs: pd.DataFrame, sources: Sequence[Source]) -> pd.DataFrame:
    """The runs with the columns that `Study` adds.

    The runs of a group share the devices, and so the training time, which excludes compilation.
    """
    known = []
    for i, source in enumerate(sources):
        settings = [setting for setting in source.plan.settings for _ in source.plan.seeds]
        rows = pd.DataFrame({"setting": settings, "source": i, "seconds": np.nan})
        for group, part in source.parts:
            total = np.nan if part is None else part.seconds.get("run", np.nan)
            rows.loc[list(group.runs), "seconds"] = total / len(group.runs)
        known.append(rows)
    runs = runs.join(pd.concat(known, ignore_index=True), on="run")
    experiments = [setting.experiment for setting in runs.setting]
    return runs.assign(
        method=[setting.method for setting in runs.setting],
        planned=[experiment.num_iterations for experiment in experiments],
        steps=runs.iterations * [experiment.batch_size for experiment in experiments],
    )


def _named(runs: pd.DataFrame, sources: Sequence[Source]) -> pd.DataFrame:
    """Adds the folder to a method's names if several folders use them for different runs."""
    digests = [setting.experiment.digest() for setting in runs.setting]
    of_label = runs.assign(digest=digests).groupby(["label", "env"])
    differ = of_label.digest.transform("nunique") > 1
    differ |= runs.duplicated(["label", "env", "seed"], keep=False)
    several = of_label.source.transform("nunique") > 1
    # All settings of the method: one without its folder would look like a method of its own.
    clashing = runs.method.isin(runs.method[several & differ])
    prefix = runs.source.map(lambda i: f"{sources[i].name}: ")
    for name in ("method", "label"):
        runs[name] = runs[name].where(~clashing, prefix + runs[name])
    return runs


def _unequal(runs: pd.DataFrame) -> list[Difference]:
    """The differences in settings, and in the steps and seeds done so far."""
    parts = []
    for (env, _), rows in runs[runs.iterations > 0].groupby(["env", "label"], sort=False):
        ran = {"environment steps": f"{rows.steps.min():,}", "seeds": listed(sorted(rows.seed))}
        parts.append(
            (env, rows.method.iloc[0], shared_settings(rows.setting.iloc[0].experiment) | ran)
        )
    return differences(parts)


def _unfinished(runs: pd.DataFrame, sources: Sequence[Source]) -> list[str]:
    notes = []
    for i, source in enumerate(sources):
        mine = runs[runs.source == i]
        if "stopped" in mine and source.record.finished:
            mine = mine[mine.stopped.isna()]  # the search is finished with the others
        done, waiting = (mine.iterations >= mine.planned).sum(), (mine.iterations == 0).sum()
        if not source.record.finished or done < len(mine):
            notes.append(
                f"{source.name} is not finished: {done} of {len(mine)} runs are, {waiting} have "
                "not begun. Only finished evaluations are shown. Do not compare settings that have "
                "trained for different numbers of steps."
            )
        if source.plan.shard is not None:
            notes.append("{} is shard {} of {} of a sweep.".format(source.name, *source.plan.shard))
    return notes


def _broken(runs: pd.DataFrame) -> list[str]:
    broken = runs[runs.broken.notna()]
    shown = [
        f"{row.label} on {row.env}, seed {row.seed} (iteration {row.broken})"
        for row in broken.head(8).itertuples()
    ]
    more = f", and {len(broken) - 8} more" if len(broken) > 8 else ""
    note = (
        f"{len(broken)} of {len(runs)} runs met a NaN or an infinity and stayed as they were "
        f"before it; each counts with that policy: {'; '.join(shown)}{more}."
    )
    return [note] if len(broken) else []


def _imputed(evaluations: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Returns, with the environment's worst for missing numbers: dropping them would flatter."""
    returns = evaluations.mean_return.astype(float)
    count = int((~np.isfinite(returns)).sum())
    note = (
        f"{count} of {len(returns)} evaluations gave no finite number; each counts as the worst "
        "evaluation on its environment."
    )
    return choice.impute_missing(evaluations), [note] if count else []
