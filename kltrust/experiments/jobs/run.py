"""Running a plan: group after group, chunk by chunk, each committed while the next computes.

The folder of a sweep or of a training is a run folder (see `record`) whose configuration is the
plan; in ``groups/`` is a run folder for each static group. A kill at any moment costs at most the
two chunks under way; a plan that goes on ends with the tables of one that never stopped.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import canary, hosts
from kltrust.experiments.engine.program import validate
from kltrust.experiments.jobs.events import Progress
from kltrust.experiments.jobs.lanes import Lanes
from kltrust.experiments.jobs.plan import Group, Plan, plan_training
from kltrust.experiments.store import files
from kltrust.experiments.store.record import (
    CHECKPOINTS,
    COMMIT,
    EVALUATION,
    GROUPS,
    METRICS,
    RUN,
    Record,
    RunError,
    begun,
    noting,
    still_whole,
)
from kltrust.experiments.store.run import Run
from kltrust.lazy import require_sweeps
from kltrust.types import PyTree

_PLAN = {
    "sweep": str,
    "seeds": [int],
    "settings": [{"label": str, "swept": dict, "experiment": dict}],
    "groups": [{"runs": [int], "width": int, "chunk_length": int, "spread?": bool}],
    "shard": (type(None), [int]),
    "on_nonfinite": str,
    "keep_best": bool,
}
"""What a plan in a run folder is made of, see `files.misfit`."""


def start(plan: Plan, path: str | Path, *, progress: Progress | None = None) -> Record:
    """Runs a plan in a folder that does not exist, or is empty; `results.load` reads its tables.

    Raises:
        ValueError: if a setting is wrong; nothing was compiled or written.
        RuntimeError: if this jaxlib computes wrong numbers (see `canary`).
        StorageError: if the folder can't be used; nothing was overwritten.
        NonFiniteError: in a training, names seed and iteration; what was committed before stands.
    """
    _prepare(plan)
    with shared(lambda: Run.create(path, plan.to_config())) as run:
        return _run_groups(run, plan, progress or Progress())


def train(
    experiment: Experiment,
    seeds: Sequence[int],
    path: str | Path,
    *,
    progress: Progress | None = None,
    **more: Any,
) -> Record:
    """A training, one run per seed: `start` of `plan.plan_training`, which takes what is more."""
    return start(plan_training(experiment, seeds, **more), path, progress=progress)


def resume(path: str | Path, *, progress: Progress | None = None) -> Record:
    """Goes on with an interrupted sweep or training, whose plan is in its folder.

    Raises:
        StorageError: if there is none, another process has it, or it is damaged.
        NonFiniteError: as `start`.
    """
    with shared(lambda: Run.open(path)) as run:
        plan = plan_of(run)
        hosts.on_first(lambda: _check_whole(run.path))
        if run.finished:
            return record_of(run)
        _prepare(plan)
        return _run_groups(run, plan, progress or Progress())


def _check_whole(path: Path) -> None:
    """Before anything is computed from it, or added to it."""
    parts_of(Record(path), needed=(METRICS, EVALUATION, CHECKPOINTS))


def plan_of(record: Record) -> Plan:
    """The plan of a folder.

    Raises:
        RunError: if it holds none.
    """
    if "group_of" in record.config:
        whole = record.path.parent.parent
        raise RunError(f"{record.path} is a part of {whole}: name the whole folder")
    if "sweep" not in record.config or "groups" not in record.config:
        raise RunError(
            f"{record.path} holds no training and no sweep: it was not made by `kltrust train` or "
            "`kltrust sweep`"
        )
    try:
        wrong = files.misfit(record.config, _PLAN)
        plan = None if wrong else Plan.from_config(record.config)
    except (TypeError, LookupError, AttributeError) as error:
        wrong = f"{type(error).__name__}: {error}"
    if plan is None or wrong is not None:
        with noting(record.path):
            raise files.DamagedError(record.path / RUN, f"is damaged ({wrong})")
    return plan


def group_path(path: Path, index: int) -> Path:
    """The run folder of a group."""
    return path / GROUPS / f"{index:03d}"


def parts_of(
    record: Record, *, needed: Sequence[str] = (METRICS, EVALUATION)
) -> tuple[Plan, list[tuple[Group, Record | None]]]:
    """The plan of a folder, and its groups with the folder of each, None where it has not begun.

    All that was committed is compared with its digests: a damaged file raises if it is of what is
    ``needed`` (metrics, evaluation, checkpoints), and is a warning otherwise.

    Raises:
        RunError: as `plan_of`.
        StorageError: names a file that is damaged or missing, and in a note what is still whole.
    """
    plan = plan_of(record)
    folders = [group_path(record.path, i) for i in range(len(plan.groups))]
    with noting(record.path):
        there = [begun(folder) for folder in folders]
        parts = [Record(folder) if t else None for folder, t in zip(folders, there, strict=True)]
        for i, (group, part) in enumerate(zip(plan.groups, parts, strict=True)):
            if part is None and (record.finished or any(there[i:])):
                raise files.DamagedError(folders[i], "is missing")
            if part is not None:
                _check_part(record, plan, group, part)
    damaged = [(name, error) for part in parts if part for name, error in part.damage().items()]
    for name, error in damaged:
        if name.startswith(tuple(needed)):
            error.add_note(still_whole(record.path))
            raise error
    for _, error in damaged:
        warnings.warn(DamageWarning(f"{error}; {still_whole(record.path)}"), stacklevel=2)
    return plan, list(zip(plan.groups, parts, strict=True))


def _check_part(record: Record, plan: Plan, group: Group, part: Record) -> None:
    """Whether a group's folder is that of the group, as far as the plan was."""
    expected = json.loads(files.to_json(group_config(record, plan, group)))
    # Older folders say less of themselves.
    said = {name: part.config.get(name, expected[name]) for name in expected}
    if said != expected or not {"runs", "seeds"} <= set(part.config):
        raise files.DamagedError(
            part.path / RUN, "is damaged (it is not of this group of the plan)"
        )
    if record.finished and not part.finished:
        raise files.DamagedError(part.path / COMMIT, "is damaged (the plan was finished after it)")


def iterations_done(plan: Plan, group: Group, part: Record | None) -> int:
    """By each run of a group, as its folder says."""
    planned = plan.experiment(group).num_iterations
    if part is None or part.finished:
        return 0 if part is None else planned
    return min((part.last_chunk + 1) * group.chunk_length, planned)


def group_config(record: Record, plan: Plan, group: Group) -> dict[str, Any]:
    """What a group's run folder says of itself, in the folder of the plan."""
    experiment = plan.experiment(group)
    return {
        "group_of": plan.name,
        "algorithm": experiment.algorithm,
        "env": experiment.env,
        "seeds": [plan.seed(run) for run in group.runs],
        **group._asdict(),
        "plan": files.digest(record.config),
    }


def _prepare(plan: Plan) -> None:
    require_sweeps("a run folder")
    hosts.check_versions()
    for group in plan.groups:
        validate(plan.experiment(group))
    canary.check()


def _run_groups(run: Run, plan: Plan, progress: Progress) -> Record:
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
        if begun(folder):
            return Run.open(folder)
        return Run.create(folder, group_config(whole, plan, group))

    try:
        with shared(enter) as run:
            progress.group(index, iterations_done(plan, group, run))
            if not run.finished:
                Lanes(plan, group).advance(run, progress)
            return run.summary
    except RunError as error:
        # Whoever goes on does so with the plan, not with one of its groups.
        message = str(error).replace(f"--resume {folder}", f"--resume {path}")
        raise RunError(message) from error


@contextlib.contextmanager
def shared(enter: Callable[[], Run]) -> Iterator[Run]:
    """A run folder that the first host enters, as every host sees it; closed at the end.

    Of several hosts, the first one alone reads and writes it. What it finds there, and whether it
    could write, the others learn by a broadcast, so that all go on or all stop.

    Raises:
        RunError, StorageError: what entering it raised, on all hosts.
    """
    if not hosts.are_several():
        with enter() as alone:
            yield alone
        return
    entered: list[Run] = []

    def facts() -> dict[str, Any]:
        entered.append(enter())
        names = ("config", "versions", "_digest", "_marker")
        return {"path": str(entered[0].path), **{n: vars(entered[0])[n] for n in names}}

    with _Shared(hosts.on_first(facts), *entered) as one_of_several:
        yield one_of_several


def record_of(run: Run) -> Record:
    """To look at; on other hosts than the first, which has the folder, what they know of it."""
    return Record(run.path) if hosts.is_first() else run


class DamageWarning(UserWarning):
    """A file of a run folder is damaged that was not needed."""


class _Shared(Run):
    """A run folder that one host writes to, and all know the state of."""

    _run: Any  # of the first host, which has the folder

    def __init__(self, facts: dict[str, Any], run: Any = None) -> None:
        vars(self).update(facts, path=Path(facts["path"]), _run=run)
        self._see(facts["_marker"])

    def commit(self, *arguments: Any, **keywords: Any) -> None:
        self._marked(lambda: self._run.commit(*arguments, **keywords))

    def finish(self, *arguments: Any) -> None:
        self._marked(lambda: self._run.finish(*arguments))

    def restore(self, like: PyTree, which: Literal["latest", "best"] = "latest") -> PyTree:
        state: PyTree = None

        def read() -> None:
            nonlocal state
            state = self._run.restore(like, which)

        hosts.on_first(read)
        return hosts.broadcast(state, like)

    def close(self) -> None:
        if self._run is not None:
            self._run.close()

    def _marked(self, write: Callable[[], None]) -> None:
        def marker() -> dict[str, Any]:
            write()
            return self._run._marker

        self._see(hosts.on_first(marker))
