"""Running a plan: group after group, chunk by chunk, each committed while the next computes.

The folder of a sweep or of a training is a run folder (see `record`) whose configuration is the
plan; in ``groups/`` is a run folder for each static group. A kill at any moment costs at most the
two chunks under way; a plan that goes on ends with the tables of one that never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import canary, hosts
from kltrust.experiments.engine.program import validate
from kltrust.experiments.jobs.events import Progress
from kltrust.experiments.jobs.lanes import Lanes
from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.jobs.shared import record_of, shared
from kltrust.experiments.store.record import RUN, Record, RunError
from kltrust.experiments.store.run import Run
from kltrust.lazy import require_sweeps

GROUPS = "groups"


def start(plan: Plan, path: str | Path, *, progress: Progress | None = None) -> Record:
    """Runs a plan in a new folder.

    Args:
        plan: from `plan.make_plan` or `plan.plan_training`.
        path: a folder that does not exist, or is empty.
        progress: is told what happens.

    Returns:
        The finished folder; `results.load` reads its tables.

    Raises:
        ValueError: if a setting is wrong; nothing was compiled or written.
        RuntimeError: if this jaxlib computes wrong numbers (see `canary`).
        StorageError: if the folder can't be used; nothing was overwritten.
        NonFiniteError: in a training, names seed and iteration; what was committed before stands.
    """
    _prepare(plan)
    with shared(lambda: Run.create(path, plan.to_config())) as run:
        return _run_groups(run, plan, progress or Progress())


def resume(path: str | Path, *, progress: Progress | None = None) -> Record:
    """Goes on with an interrupted sweep or training, whose plan is in its folder.

    Raises:
        StorageError: if there is none, another process has it, or it is damaged.
        NonFiniteError: as `start`.
    """
    with shared(lambda: Run.open(path)) as run:
        plan = plan_of(run)
        if run.finished:
            return record_of(run)
        _prepare(plan)
        return _run_groups(run, plan, progress or Progress())


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
    return Plan.from_config(record.config)


def group_path(path: Path, index: int) -> Path:
    """The run folder of a group."""
    return path / GROUPS / f"{index:03d}"


def group_records(path: Path, plan: Plan) -> Iterator[tuple[Group, Record | None]]:
    """Every group and its run folder, None where it has not begun."""
    for i, group in enumerate(plan.groups):
        folder = group_path(path, i)
        yield group, Record(folder) if (folder / RUN).exists() else None


def group_config(plan: Plan, group: Group) -> dict[str, Any]:
    """What a group's run folder says of itself."""
    experiment = plan.experiment(group)
    return {
        "group_of": plan.name,
        "algorithm": experiment.algorithm,
        "env": experiment.env,
        "seeds": [plan.seed(run) for run in group.runs],
        **group._asdict(),
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
            summaries.append(_run_group(run.path, plan, i, group, progress))
        broken = {k: v for summary in summaries for k, v in summary["broken"].items()}
        run.finish({"broken": broken})
    finally:
        progress.end()
    return record_of(run)


def _run_group(
    path: Path, plan: Plan, index: int, group: Group, progress: Progress
) -> dict[str, Any]:
    folder = group_path(path, index)

    def enter() -> Run:
        begun = (folder / RUN).exists()
        return Run.open(folder) if begun else Run.create(folder, group_config(plan, group))

    try:
        with shared(enter) as run:
            progress.group(index, _iterations(run, plan.experiment(group)))
            if not run.finished:
                Lanes(plan, group).advance(run, progress)
            return run.summary
    except RunError as error:
        # Whoever goes on does so with the plan, not with one of its groups.
        message = str(error).replace(f"--resume {folder}", f"--resume {path}")
        raise RunError(message) from error


def _iterations(run: Record, experiment: Experiment) -> int:
    return min((run.last_chunk + 1) * run.config["chunk_length"], experiment.num_iterations)
