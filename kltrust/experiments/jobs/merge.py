"""Merges the shards of a sweep, which ran independently, into one sweep."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.experiments.engine import own
from kltrust.experiments.jobs.folder import check_numerics, group_config, group_path, parts_of
from kltrust.experiments.jobs.lanes import restore_states
from kltrust.experiments.jobs.plan import Group, Plan, static_key
from kltrust.experiments.store import files
from kltrust.experiments.store.layout import holds_run
from kltrust.experiments.store.record import (
    CHECKPOINTS,
    EVALUATION,
    METRICS,
    Record,
    RunError,
    total_seconds,
)
from kltrust.experiments.store.run import Run


def merge(shards: Sequence[str | Path], path: str | Path) -> Record:
    """Merges the folders of all shards, in any order, into one new folder, with tables and states.

    At equal widths it holds, bit for bit, the final tables of the same sweep run in one piece. If a
    merge was killed, the same call resumes it; if it was complete, the call changes nothing.

    Raises:
        ValueError: if these are not all shards of one sweep, once each.
        StorageError: if a shard is unfinished, or a folder can't be used.
    """
    records = [Record(shard) for shard in shards]
    for record in records:
        own.import_recorded(record.code, record.path)
    found = [parts_of(r, needed=(METRICS, EVALUATION, CHECKPOINTS)) for r in records]
    for record in records:
        check_numerics(record)
    plan = _whole(records, [plan for plan, _ in found])
    parts = [part for _, of_shard in found for _, part in of_shard if part is not None]
    config = plan.to_config()
    if (merged := _same_run(path, config)) and merged.finished:
        return merged
    with _entered(path, config, records[0].code) as run:
        broken: dict[str, int] = {}
        for i, group in enumerate(plan.groups):
            mine = [part for part in parts if set(part.config["runs"]) <= set(group.runs)]
            mine.sort(key=lambda part: part.config["runs"][0])
            broken |= _merge_group(run, i, plan, group, mine)
        run.finish({"broken": broken})
    return Record(path)


def _whole(records: list[Record], plans: list[Plan]) -> Plan:
    """The whole plan, put together from the shards."""
    if not plans:
        raise ValueError("merge takes the folders of all shards of a sweep")
    shards: list[tuple[int, int]] = []
    for record, plan in zip(records, plans, strict=True):
        if plan.shard is None:
            raise ValueError(f"{record.path} is no shard: it was made without --shard")
        shards.append(plan.shard)
        like = dataclasses.replace(
            plans[0], groups=plan.groups, shard=(plan.shard[0], shards[0][1])
        )
        if plan != like:
            raise ValueError(f"{record.path} is of another sweep than {records[0].path}")
        if not record.finished:
            raise RunError(
                f"{record.path} is not finished: go on with it by --resume {record.path}"
            )
    numbers, of = [i for i, _ in shards], shards[0][1]
    if sorted(numbers) != list(range(1, of + 1)):
        missing = sorted(set(range(1, of + 1)) - set(numbers))
        what = f"lacking {missing}" if missing else "one is given twice"
        raise ValueError(f"there are {of} shards, each is needed once: {what}")
    groups: list[Group] = []
    for group in (g for plan in sorted(plans, key=lambda p: p.shard or ()) for g in plan.groups):
        if groups and _continues(plans[0], groups[-1], group):
            groups[-1] = groups[-1]._replace(runs=groups[-1].runs + group.runs)
        else:
            groups.append(group)
    return dataclasses.replace(plans[0], groups=tuple(groups), shard=None)


def _continues(plan: Plan, group: Group, other: Group) -> bool:
    """Whether a shard's first group is the rest of the last group of the shard before it."""
    if static_key(plan.experiment(group)) != static_key(plan.experiment(other)):
        return False
    if group[1:] != other[1:]:
        raise ValueError(
            f"shards ran the same group at the widths {group.width} and {other.width}: run them "
            "with one --width"
        )
    return True


def _entered(
    path: str | Path, config: dict[str, Any], code: Mapping[str, Any] | None = None
) -> Run:
    """A new run folder, or one that holds only the beginning of the same merge.

    Raises:
        RunError: if it holds another run, a finished one, or chunks that a run has computed.
        StorageError: if it is damaged, or the disk fails.
    """
    there = _same_run(path, config)
    if there and not there.finished and there.last_chunk < 0:
        return Run.open(path)
    return Run.create(path, config, code)


def _same_run(path: str | Path, config: dict[str, Any]) -> Record | None:
    """The run in a folder, if it is of this configuration."""
    if holds_run(Path(path)) and (there := Record(path)).config == json.loads(
        files.to_json(config)
    ):
        return there
    return None


def _merge_group(
    whole: Run, index: int, plan: Plan, group: Group, parts: list[Record]
) -> dict[str, int]:
    broken = {k: v for part in parts for k, v in part.summary["broken"].items()}
    folder, config = group_path(whole.path, index), group_config(whole, plan, group)
    if holds_run(folder) and Record(folder).finished:
        return broken
    states = [restore_states(part, plan.experiment(group)) for part in parts]
    state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)
    tables = ([getattr(p, t)() for p in parts] for t in ("metrics", "evaluations"))
    rows, evaluation = map(_columns, tables)
    seconds = total_seconds(*(part.seconds for part in parts))
    summary = {"broken": broken, "compilations": {}, "memory": {}, "devices": 0}
    with _entered(folder, config) as run:
        # Committed and finished at once: else a resume could train on from this chunk.
        run.commit(0, rows, state, evaluation=evaluation, seconds=seconds, summary=summary)
    return broken


def _columns(tables: list[Any]) -> dict[str, np.ndarray]:
    import pandas as pd

    table = pd.concat(tables, ignore_index=True).sort_values(["iteration", "run"])
    columns = {name: table[name].to_numpy() for name in table.columns}
    # To pandas, a column of vectors is a column of objects.
    return {name: np.stack(c) if c.dtype == object else c for name, c in columns.items()}
