"""What a plan will do, and how far it is, as tables for a terminal."""

from __future__ import annotations

import time
from typing import Any

import jax
from rich.table import Table

from kltrust.experiments.engine.memory import estimate_memory
from kltrust.experiments.jobs.lanes import Measured
from kltrust.experiments.jobs.plan import Plan
from kltrust.experiments.jobs.run import group_records, plan_of
from kltrust.experiments.store.record import COMMIT, Record


def dry_run(plan: Plan, *, measured: list[Measured] | None = None) -> Any:
    """What a plan will do: groups, runs, devices, width, chunks, memory, steps; a rich table.

    Memory and time are those measured, if they were; else an estimate from shapes, and none.
    """
    devices = jax.devices()
    table = Table(box=None)
    for title in ("group", "algorithm", "environment"):
        table.add_column(title, no_wrap=True)
    numbers = ("settings", "runs", "devices", "width", "iterations", "chunk", "memory", "steps")
    for title in (*numbers, "time") if measured else numbers:
        table.add_column(title, justify="right", no_wrap=True)
    total = 0
    for i, group in enumerate(plan.groups):
        experiment, runs = plan.experiment(group), len(group.runs)
        memory = estimate_memory(experiment, runs, group.width, group.chunk_length, len(devices))
        steps = runs * experiment.num_iterations * experiment.batch_size
        total += steps
        cells = (
            len({id(plan.setting(run)) for run in group.runs}),
            runs,
            min(len(devices), -(-runs // group.width)),
            group.width,
            experiment.num_iterations,
            group.chunk_length,
            f"{(measured[i].memory if measured else memory.total) / 2**20:,.1f} MiB",
            f"{steps:,}",
            *([duration(measured[i].compile_seconds + measured[i].seconds)] if measured else []),
        )
        table.add_row(str(i), experiment.algorithm, experiment.env, *map(str, cells))
    part = "" if plan.shard is None else f", shard {plan.shard[0]} of {plan.shard[1]}"
    runs = sum(len(group.runs) for group in plan.groups)
    table.title = f"{plan.name}{part}: {runs} runs in {len(plan.groups)} static groups"
    where = f"{len(devices)} {devices[0].device_kind} device{'s' * (len(devices) > 1)}"
    if measured:
        seconds = sum(m.compile_seconds + m.seconds for m in measured)
        basis = f"{duration(seconds)}, by one iteration of each group, and the evaluations' time"
        counted = "by the compiler"
    else:
        basis = f"{duration(total / 1e5)} at 100,000 a second (--measure tries what it is here)"
        counted = "by shapes"
    table.caption = (
        f"{where}; memory is per device, {counted}. {total:,} environment steps: {basis}."
    )
    return table


def status_table(record: Record) -> Any:
    """Where every group of a folder stands; a rich table."""
    plan = plan_of(record)
    table = Table(box=None)
    for title in (
        "group",
        "algorithm",
        "environment",
        "runs",
        "iterations",
        "steps/s",
        "time left",
    ):
        table.add_column(title, no_wrap=True)
    table.add_column("broken runs")
    latest = 0.0
    for i, (group, part) in enumerate(group_records(record.path, plan)):
        experiment = plan.experiment(group)
        chunks = 0 if part is None else part.last_chunk + 1
        finished = part is not None and part.finished
        planned = experiment.num_iterations
        done = planned if finished else min(chunks * group.chunk_length, planned)
        seconds = 0.0 if part is None else part.seconds.get("run", 0.0)
        per_iteration = experiment.batch_size * len(group.runs)
        rate = done * per_iteration / seconds if seconds else 0.0
        left = (planned - done) * per_iteration / rate if rate else None
        if part is not None and (part.path / COMMIT).exists():
            latest = max(latest, (part.path / COMMIT).stat().st_mtime)
        table.add_row(
            str(i),
            experiment.algorithm,
            experiment.env,
            str(len(group.runs)),
            f"{done}/{planned}",
            f"{rate:,.0f}" if rate else "",
            "done" if finished else "" if left is None else duration(left),
            " ".join(part.summary.get("broken", {})) if part is not None else "",
        )
    table.title = f"{plan.name}: {'finished' if record.finished else 'not finished'}"
    if latest:
        table.caption = f"last commit {duration(max(0.0, time.time() - latest))} ago"
    return table


def duration(seconds: float) -> str:
    """Like ``1 h 4 min``, ``2 min 5 s`` or ``7 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
