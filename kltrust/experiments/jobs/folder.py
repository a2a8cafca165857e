"""The folder of a plan: reads its plan and groups, and checks that all is as it was written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kltrust.experiments.jobs import trials
from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.store import files, versions
from kltrust.experiments.store.layout import (
    COMMIT,
    DECISIONS,
    EVALUATION,
    GROUPS,
    METRICS,
    RUN,
    RunError,
    holds_run,
    naming_whole_parts,
    whole_parts,
)
from kltrust.experiments.store.record import Record

_PLAN = {
    "sweep": str,
    "seeds": [int],
    "settings": [{"label": str, "swept": dict, "experiment": dict, "ranges?": dict}],
    "groups": [{"runs": [int], "width": int, "chunk_length": int, "spread?": bool}],
    "shard": (type(None), [int]),
    "on_nonfinite": str,
    "keep_best": bool,
    "search?": dict,
}
"""The kind of a plan in a run folder, see `files.misfit`."""


class NumericsWarning(UserWarning):
    """A run resumes under an option of JAX that changes the numbers."""


class DamageWarning(UserWarning):
    """A file of a run folder is damaged, but not needed here."""


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
        plan = None if wrong else Plan.from_config(record.config, record.code.get("algorithms"))
    except (TypeError, LookupError, AttributeError) as error:
        wrong = f"{type(error).__name__}: {error}"
    if plan is None or wrong is not None:
        with naming_whole_parts(record.path):
            raise files.DamagedError(record.path / RUN, f"is damaged ({wrong})")
    return plan


def group_path(path: Path, index: int) -> Path:
    """The run folder of a group."""
    return path / GROUPS / f"{index:03d}"


def parts_of(
    record: Record, *, needed: Sequence[str] = (METRICS, EVALUATION, DECISIONS)
) -> tuple[Plan, list[tuple[Group, Record | None]]]:
    """The plan of a folder, and its groups with the folder of each; None for one not yet begun.

    The plan of a search has the settings as decided, and its groups only the runs that have begun.
    All committed files are compared with their digests. A damaged file raises an error if it is
    ``needed`` (metrics, evaluation, checkpoints), and else gives a warning.

    Raises:
        RunError: as `plan_of`.
        StorageError: names a damaged or missing file; a note lists what is still whole.
    """
    plan = plan_of(record)
    folders = [group_path(record.path, i) for i in range(len(plan.groups))]
    with naming_whole_parts(record.path):
        there = [holds_run(folder) for folder in folders]
        parts = [Record(folder) if t else None for folder, t in zip(folders, there, strict=True)]
        for i, (group, part) in enumerate(zip(plan.groups, parts, strict=True)):
            if part is None and (record.finished or i < record.begun or any(there[i:])):
                raise files.DamagedError(folders[i], "is missing")
            if part is not None:
                _check_part(record, plan, group, part)
    damaged = [item for part in parts if part is not None for item in part.damage().items()]
    for name, error in sorted(damaged, key=lambda item: not item[0].startswith(tuple(needed))):
        note = whole_parts(record.path)
        if name.startswith(tuple(needed)):
            error.__notes__ = [note]
            raise error
        warnings.warn(f"{error}; {note}", DamageWarning, stacklevel=2)
    if plan.search is not None:
        with naming_whole_parts(record.path):
            boards = {
                group: trials.board_in(plan, group, part)
                for group, part in zip(plan.groups, parts, strict=True)
            }
        plan = trials.as_decided(plan, boards)
    return plan, list(zip(plan.groups, parts, strict=True))


def _check_part(record: Record, plan: Plan, group: Group, part: Record) -> None:
    """Checks that a group's folder belongs to the group, and is finished if the plan is."""
    expected = json.loads(files.to_json(group_config(record, plan, group)))
    # Older folders record less about themselves.
    said = {name: part.config.get(name, expected[name]) for name in expected}
    if said != expected or not {"runs", "seeds"} <= set(part.config):
        raise files.DamagedError(
            part.path / RUN, "is damaged (it is not of this group of the plan)"
        )
    if record.finished and not part.finished:
        raise files.DamagedError(part.path / COMMIT, "is damaged (the plan was finished after it)")


def check_numerics(record: Record) -> None:
    """Checks that this process computes like the one that began a folder; warns if bits may differ.

    Raises:
        RunError: if only one of the two uses 64-bit floats.
    """
    changes = record.changes()
    if "x64" in changes:
        then = "float64" if changes["x64"][0] else "float32"
        remedy = "set JAX_ENABLE_X64=1" if changes["x64"][0] else "unset JAX_ENABLE_X64"
        raise RunError(f"{record.path} was computed in {then}: {remedy}, and try again")
    for name, (then, now) in changes.items():
        if name in versions.DECISIVE:
            warnings.warn(
                f"{record.path}: {name} of JAX was {then!r}, is {now!r}: its numbers will not be "
                "those of a run that was never interrupted",
                NumericsWarning,
                stacklevel=3,
            )


def iterations_done(plan: Plan, group: Group, part: Record | None) -> int:
    """The iterations that each run of a group has done, from its folder; of a search, at most."""
    planned = plan.experiment(group).num_iterations
    if part is None or part.finished:
        return 0 if part is None else planned
    return min((part.last_chunk + 1) * group.chunk_length, planned)


def iterations_of_runs(plan: Plan, group: Group, part: Record | None) -> list[int]:
    """The iterations that the runs of a group have done, one by one."""
    if plan.search is not None:
        return trials.iterations_of(plan, group)
    return [iterations_done(plan, group, part)] * len(group.runs)


def group_config(record: Record, plan: Plan, group: Group) -> dict[str, Any]:
    """The configuration that a group's run folder records, within the folder of the plan."""
    experiment = plan.experiment(group)
    return {
        "group_of": plan.name,
        "algorithm": experiment.algorithm,
        "env": experiment.env,
        "seeds": [plan.seed(run) for run in group.runs],
        **group._asdict(),
        "plan": files.digest(record.config),
    }
