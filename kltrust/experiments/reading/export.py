"""Exports results to dashboards: TensorBoard and Weights & Biases.

Everything is read from a finished or a growing folder. So no training waits for a dashboard, and
you can export long after.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kltrust.experiments.reading.results import Results, load
from kltrust.experiments.store import activity
from kltrust.experiments.store.record import Record
from kltrust.lazy import import_extra

if TYPE_CHECKING:
    import pandas as pd

# Columns that identify a row: they are not measurements.
_KEYS = ["run", "label", "algorithm", "env", "seed", "iteration", "env_steps"]
# The columns of `Results.runs` that are not settings.
_OUTCOMES = ["run", "iterations", "score", "broken"]


class Exported(NamedTuple):
    """One run in the form that a dashboard takes.

    The name is sweep/label/environment/seed, unique among the exported runs. The history maps
    environment steps of the run to values by tag, such as ``train/kl`` or
    ``evaluation/mean_return``. Missing and NaN values are left out.
    """

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: dict[int, dict[str, float]]


def exported(results: Results) -> Iterator[Exported]:
    """Every run that has at least one row."""
    if not len(results.metrics):
        return
    metrics = results.metrics
    ended = metrics.num_episodes.where(metrics.num_episodes > 0)  # else there is no mean
    metrics = metrics.rename(columns={"mean_return": "episode_return"})
    train = _by_run(metrics.assign(episode_length=metrics.length_sum / ended), "train")
    evaluation = _by_run(results.evaluations, "evaluation")
    taken: set[str] = set()
    for _, row in results.runs.set_index("run", drop=False).loc[list(train)].iterrows():
        name = f"{row.sweep}/{row.label}/{row.env}/seed{row.seed}"
        # Two folders with the same name may hold the same run.
        name = f"{name}-run{row.run}" if name in taken else name
        taken.add(name)
        history = train[row.run].join(evaluation.get(row.run), how="outer").to_dict("index")
        there = row.dropna()
        yield Exported(
            name,
            there.drop(_OUTCOMES, errors="ignore").to_dict(),
            there[there.index.intersection(_OUTCOMES[1:])].to_dict(),
            {int(i): {k: v for k, v in of.items() if v == v} for i, of in history.items()},
        )


def _by_run(table: pd.DataFrame, section: str) -> dict[int, pd.DataFrame]:
    """The numbers of each run by environment steps, with columns as tags of a section."""
    # A dashboard can't show a column of vectors (the path of an update).
    columns = [c for c in table.columns if c not in _KEYS and table[c].dtype != object]
    numbers = table.set_index("env_steps")[columns].astype(float).add_prefix(f"{section}/")
    return dict(iter(numbers.groupby(table.run.to_numpy())))


def follow(
    folders: Sequence[str | Path],
    sinks: Sequence[Sink],
    told: Callable[[int, int], None],
    *,
    seconds: float = 5.0,
) -> bool:
    """Exports runs as they grow, until all are finished, or no process works on them any more.

    Args:
        folders: folders of sweeps or trainings.
        sinks: the dashboards to export to; they stay open.
        told: is told how many steps of how many runs are new, after each look that finds some.
        seconds: the time between two looks.

    Returns:
        Whether all runs are finished.
    """
    seen: list[float] = []
    while True:
        records = [Record(folder) for folder in folders]
        finished = [record.finished for record in records]
        now = [activity.read(record.path) for record in records]
        last = [of.seen for of in now]
        if last != seen:
            seen, runs = last, list(exported(load(*folders)))
            if new := max(sink.log(runs) for sink in sinks):
                told(new, len(runs))
        if all(finished) or all(
            f or of.alive is False for f, of in zip(finished, now, strict=True)
        ):
            return all(finished)
        time.sleep(seconds)


class Sink:
    """A dashboard that can be given the same runs repeatedly: it takes what is new in each."""

    def __init__(self) -> None:
        """Starts with nothing logged."""
        self.locations: list[str] = []
        self._open: dict[str, Any] = {}
        self._last: dict[str, int] = {}

    def log(self, runs: Sequence[Exported]) -> int:
        """Logs the new rows of each run, in the order of steps; returns the number of new steps.

        Raises:
            RuntimeError: if the dashboard refuses, or its folder can't be written to.
            ValueError: if a run is there already.
        """
        with self.explained():
            fresh = [run for run in runs if run.name not in self._open]
            self.check(fresh)
            for run in fresh:
                self._open[run.name] = self.begin(run)
            new = 0
            for run in runs:
                rows = {k: v for k, v in run.history.items() if k > self._last.get(run.name, -1)}
                self.write(self._open[run.name], run, rows)
                self._last[run.name] = max(rows, default=self._last.get(run.name, -1))
                new += len(rows)
        return new

    def check(self, runs: Sequence[Exported]) -> None:
        """Refuses runs that can't be opened, before any of them is opened."""

    def begin(self, run: Exported) -> Any:
        """Opens a run, and adds its place to ``places``."""
        raise NotImplementedError

    def write(self, opened: Any, run: Exported, rows: dict[int, dict[str, float]]) -> None:
        """Adds rows to a run."""
        raise NotImplementedError

    def end(self, opened: Any) -> None:
        """Closes a run."""
        raise NotImplementedError

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within, turns the dashboard's errors into ours."""
        yield

    def close(self) -> None:
        """Closes all runs."""
        with self.explained():
            while self._open:
                self.end(self._open.popitem()[1])


class Tensorboard(Sink):
    """Event files in a folder for each run; needs ``pip install 'kltrust[tensorboard]'``."""

    def __init__(self, logdir: str | Path) -> None:
        """Writes to the folder for ``tensorboard --logdir``; other runs may be in it.

        Raises:
            RuntimeError: if tensorboardX is missing.
        """
        super().__init__()
        self._logdir = Path(logdir)
        self._library = import_extra("tensorboardX", "tensorboard", "an export to TensorBoard")

    def check(self, runs: Sequence[Exported]) -> None:
        for folder in map(self._folder, runs):
            if folder.exists():
                raise ValueError(
                    f"{folder} is there already, and TensorBoard would draw both exports as one "
                    "line: remove it, or export to another folder"
                )

    def begin(self, run: Exported) -> Any:
        writer = self._library.SummaryWriter(str(self._folder(run)))
        self.locations.append(str(self._folder(run)))
        rows = [f"| {k} | {v} |" for k, v in {**run.config, **run.summary}.items()]
        table = ["| setting | value |", "| --- | --- |", *rows]
        writer.add_text("settings", "\n".join(table))
        return writer

    def write(self, opened: Any, run: Exported, rows: dict[int, dict[str, float]]) -> None:
        for step, values in rows.items():
            for tag, value in values.items():
                opened.add_scalar(tag, value, step)
        opened.flush()

    def end(self, opened: Any) -> None:
        opened.close()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise RuntimeError(f"can't write to {self._logdir}: {reason}") from error

    def _folder(self, run: Exported) -> Path:
        return self._logdir.joinpath(*map(_file_name, run.name.split("/")))


class Wandb(Sink):
    """Runs of a project at Weights & Biases; needs ``pip install 'kltrust[wandb]'``.

    Locations are folders for ``wandb sync``, or the addresses of the runs if online.
    """

    def __init__(
        self, project: str, *, online: bool = False, folder: str | Path | None = None
    ) -> None:
        """Logs to this ``project``; if ``online``, at once, as the user of ``wandb login``.

        W&B keeps its files in ``folder``; None takes its default, ``./wandb``.

        Raises:
            RuntimeError: if wandb is missing.
        """
        super().__init__()
        self._project, self._online, self._folder = project, online, folder
        self._library = import_extra("wandb", "wandb", "an export to Weights & Biases")

    def begin(self, run: Exported) -> Any:
        quiet = self._library.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True
        )
        opened = self._library.init(
            project=self._project,
            name=run.name,
            group=run.config["sweep"],
            job_type=run.config["algorithm"],
            config=run.config,
            mode="online" if self._online else "offline",
            dir=self._folder,
            settings=quiet,
            reinit="create_new",
        )
        self.locations.append(opened.url if self._online else str(Path(opened.dir).parent))
        return opened

    def write(self, opened: Any, run: Exported, rows: dict[int, dict[str, float]]) -> None:
        for step, values in rows.items():
            opened.log(values, step=step)
        opened.summary.update(run.summary)

    def end(self, opened: Any) -> None:
        opened.finish()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except (self._library.errors.Error, OSError) as error:
            raise RuntimeError(f"Weights & Biases refuses: {error}") from error


def runs_of(results: Results) -> list[Exported]:
    """All runs of `exported`.

    Raises:
        ValueError: if there are none.
    """
    if not (runs := list(exported(results))):
        raise ValueError("there is nothing to export yet: no run has finished its first chunk")
    return runs


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=+,-]+", "_", text)
