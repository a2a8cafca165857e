"""Running a plan: group after group, chunk by chunk, each committed while the next computes.

The folder of a sweep or of a training is a run folder (see `record`) whose configuration is the
plan. Its ``groups/`` holds a run folder for each static group. A kill at any moment costs at most
the two chunks under way. A resumed plan ends with the same tables as one that never stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import canary, hosts, own
from kltrust.experiments.engine.program import validate
from kltrust.experiments.jobs.events import Progress, RecordActivity
from kltrust.experiments.jobs.folder import (
    check_numerics,
    group_config,
    group_path,
    iterations_done,
    parts_of,
    plan_of,
)
from kltrust.experiments.jobs.lanes import Lanes
from kltrust.experiments.jobs.plan import Group, Plan, plan_training
from kltrust.experiments.jobs.searching import SearchLanes
from kltrust.experiments.store.layout import CHECKPOINTS, TABLES, RunError, holds_run
from kltrust.experiments.store.record import Record
from kltrust.experiments.store.run import Run
from kltrust.lazy import require_sweeps
from kltrust.types import PyTree


def start(plan: Plan, path: str | Path, *, progress: Progress | None = None) -> Record:
    """Runs a plan in a folder that does not exist, or is empty; `results.load` reads its tables.

    Raises:
        ValueError: if a setting is wrong; nothing was compiled or written.
        RuntimeError: if this jaxlib computes wrong numbers (see `canary`).
        StorageError: if the folder can't be used; nothing was overwritten.
        NonFiniteError: in a training, names seed and iteration; earlier commits stand.
    """
    _prepare(plan)
    with shared_run(lambda: Run.create(path, plan.to_config(), _code_of(plan))) as run:
        return _run_groups(run, plan, progress or Progress())


def train(
    experiment: Experiment,
    seeds: Sequence[int],
    path: str | Path,
    *,
    progress: Progress | None = None,
    **more: Any,
) -> Record:
    """Trains one run per seed: `start` with `plan.plan_training`, which takes more arguments."""
    return start(plan_training(experiment, seeds, **more), path, progress=progress)


def resume(path: str | Path, *, progress: Progress | None = None) -> Record:
    """Resumes an interrupted sweep or training from the plan in its folder.

    Raises:
        StorageError: if the folder holds none, another process holds it, or it is damaged.
        ValueError: if one of your modules, which it needs, is not found.
        NonFiniteError: as `start`.
    """
    with shared_run(lambda: Run.open(path)) as run:
        if not run.finished:
            own.import_recorded(run.code, run.path)
        plan = plan_of(run)
        hosts.on_first(lambda: _check_whole(run.path))
        if run.finished:
            return record_of(run)
        hosts.on_first(lambda: check_numerics(run))
        _prepare(plan)
        return _run_groups(run, plan, progress or Progress())


def _code_of(plan: Plan) -> dict[str, Any]:
    experiments = [setting.experiment for setting in plan.settings]
    names = [
        dict.fromkeys(e.algorithm for e in experiments),
        dict.fromkeys(e.env for e in experiments),
    ]
    return own.code_of(*names)


def _check_whole(path: Path) -> None:
    """Checks a folder before anything is computed from it, or added to it."""
    parts_of(Record(path), needed=(*TABLES, CHECKPOINTS))


def _prepare(plan: Plan) -> None:
    require_sweeps("a run folder")
    hosts.check_versions()
    for group in plan.groups:
        validate(plan.experiment(group).scheduling(plan.scheduled(group)))
    canary.check()


def _run_groups(run: Run, plan: Plan, progress: Progress) -> Record:
    progress = RecordActivity(progress, run.tell)
    progress.start(plan, run.path)
    summaries = []
    try:
        for i, group in enumerate(plan.groups):
            summaries.append(_run_group(run, plan, i, group, progress))
        broken = {k: v for summary in summaries for k, v in summary["broken"].items()}
        run.finish({"broken": broken})
    finally:
        progress.end()
    return record_of(run)


def _run_group(
    whole: Run, plan: Plan, index: int, group: Group, progress: Progress
) -> dict[str, Any]:
    path, folder = whole.path, group_path(whole.path, index)

    def enter() -> Run:
        if holds_run(folder):
            return Run.open(folder)
        return Run.create(folder, group_config(whole, plan, group))

    try:
        with shared_run(enter) as run:
            whole.begin(index + 1)
            progress.group(index, iterations_done(plan, group, run))
            if not run.finished:
                kind = Lanes if plan.search is None else SearchLanes
                kind(plan, group).advance(run, progress)
            return run.summary
    except RunError as error:
        # The error should name the plan's folder, to resume from, and not a group's.
        message = str(error).replace(f"--resume {folder}", f"--resume {path}")
        raise RunError(message) from error


@contextlib.contextmanager
def shared_run(enter: Callable[[], Run]) -> Iterator[Run]:
    """A run folder that the first host opens, as every host sees it; closed at the end.

    Only the first host reads and writes it. It broadcasts to the others what it found and whether
    it could write, so that all go on or all stop.

    Raises:
        RunError, StorageError: the error of opening it, on all hosts.
    """
    if not hosts.are_several():
        with enter() as alone:
            yield alone
        return
    entered: list[Run] = []

    def facts() -> dict[str, Any]:
        entered.append(enter())
        names = ("config", "versions", "code", "_description", "_marker")
        return {"path": str(entered[0].path), **{n: vars(entered[0])[n] for n in names}}

    with _Shared(hosts.on_first(facts), *entered) as one_of_several:
        yield one_of_several


def record_of(run: Run) -> Record:
    """A record to read; hosts without the folder, all but the first, get what they know of it."""
    return Record(run.path) if hosts.is_first() else run


class _Shared(Run):
    """A run folder that one host writes to; every host knows its state."""

    _run: Any  # on the first host only, which has the folder

    def __init__(self, facts: dict[str, Any], run: Any = None) -> None:
        vars(self).update(facts, path=Path(facts["path"]), _run=run)
        self._see(facts["_marker"])

    def commit(self, *arguments: Any, **keywords: Any) -> None:
        self._marked(lambda: self._run.commit(*arguments, **keywords))

    def begin(self, groups: int) -> None:
        self._marked(lambda: self._run.begin(groups))

    def finish(self, *arguments: Any) -> None:
        self._marked(lambda: self._run.finish(*arguments))

    def restore(self, like: PyTree, which: Literal["latest", "best"] = "latest") -> PyTree:
        state: PyTree = None

        def read() -> None:
            nonlocal state
            state = self._run.restore(like, which)

        hosts.on_first(read)
        return hosts.broadcast(state, like)

    def tell(self, doing: str) -> None:
        if self._run is not None:
            self._run.tell(doing)

    def close(self) -> None:
        if self._run is not None:
            self._run.close()

    def _marked(self, write: Callable[[], None]) -> None:
        def marker() -> dict[str, Any]:
            write()
            return self._run._marker

        self._see(hosts.on_first(marker))
