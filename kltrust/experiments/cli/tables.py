"""Tables for a terminal: what a plan will do, and how far it has come."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.table import Column, Table

from kltrust.experiments.cli import pace
from kltrust.experiments.config.fairness import (
    describe_differences,
    describe_grouped,
    differences,
    shared_settings,
)
from kltrust.experiments.engine.memory import estimate_memory, memory_of
from kltrust.experiments.jobs.folder import iterations_done, iterations_of_runs, parts_of
from kltrust.experiments.jobs.lanes import Measured
from kltrust.experiments.jobs.plan import Plan
from kltrust.experiments.reading.results import decisions_of
from kltrust.experiments.search.board import COPY, END, PAUSE, STOP
from kltrust.experiments.store import activity
from kltrust.experiments.store.record import COMMIT, Record

_GROUP = ("group", "algorithm", "environment")
_LAST = 8
"""The decisions of a search that a status shows."""


def _columns(titles: Iterable[str], **more: Any) -> list[Column]:
    """New ones for each table: a column keeps the cells of the table that it is in."""
    return [Column(title, no_wrap=True, **more) for title in titles]


def dry_run(plan: Plan, *, measured: list[Measured] | None = None) -> Table:
    """What a plan will do: groups, runs, devices, width, chunks, memory, steps.

    Memory and time are as measured, if they were. Else memory is estimated from shapes, and no time
    is shown.
    """
    devices = jax.devices()
    numbers = ["settings", "runs", "devices", "width", "iterations", "chunk", "memory", "steps"]
    numbers += ["time"] if measured else []
    table = Table(*_columns(_GROUP), *_columns(numbers, justify="right"), box=None)
    work = []
    for i, group in enumerate(plan.groups):
        experiment, lanes = plan.experiment(group), len(plan.first_trained(group).runs)
        memory = estimate_memory(experiment, lanes, group.width, group.chunk_length, len(devices))
        steps = plan.steps(group)
        work.append(steps)
        cells = (
            i,
            experiment.algorithm,
            experiment.env,
            len({id(plan.setting(run)) for run in group.runs}),
            len(group.runs),
            min(len(devices), -(-lanes // group.width)),
            group.width,
            experiment.num_iterations,
            group.chunk_length,
            f"{(measured[i].memory if measured else memory.total) / 2**20:,.1f} MiB",
            f"{steps:,}",
            *([duration(measured[i].compile_seconds + measured[i].seconds)] if measured else []),
        )
        table.add_row(*map(str, cells))
    part = "" if plan.shard is None else f", shard {plan.shard[0]} of {plan.shard[1]}"
    runs = sum(len(group.runs) for group in plan.groups)
    groups = f"{len(plan.groups)} static group{'s' * (len(plan.groups) != 1)}"
    table.title = f"{plan.name}{part}: {runs} run{'s' * (runs != 1)} in {groups}"
    if plan.search is not None:
        counts = " and ".join(str(len(plan.first_trained(group).runs)) for group in plan.groups)
        table.title += f"; {plan.search.name} on {counts} lanes, the steps are what it may take"
    where = f"{len(devices)} {devices[0].device_kind} device{'s' * (len(devices) > 1)}"
    if limit := memory_of(devices):
        where += f" of {limit / 2**30:,.1f} GiB, from which the width follows"
    if measured:
        running = sum(m.seconds for m in measured)
        seconds = running + sum(m.compile_seconds for m in measured)
        basis = f"{duration(seconds)}, by one iteration of each group, and the evaluations' time"
        counted = "by the compiler"
    else:
        paces, source = pace.expected(plan)
        compiling = sum(each.compile_seconds for each in paces)
        running = sum(of_group / each.rate for of_group, each in zip(work, paces, strict=True))
        basis = (
            f"about {duration(compiling + running)}, {duration(compiling)} of it compiling, "
            f"{source} (--measure tries it)"
        )
        counted = "by shapes"
    rate = f"{sum(work):,} environment steps, {sum(work) / max(running, 1e-9):,.0f} a second"
    table.caption = f"{where}; memory is per device, {counted}. {rate}: {basis}."
    return table


def names_of(plan: Plan) -> list[str]:
    """A name for each group: algorithm, environment, settings that tell it from others, runs."""
    experiments = [plan.experiment(group) for group in plan.groups]
    heads = [f"{e.algorithm} {e.env}" for e in experiments]
    settings = [e.flat() for e in experiments]
    names = []
    for i, group in enumerate(plan.groups):
        alike = [settings[j] for j in range(len(heads)) if heads[j] == heads[i]]
        apart = [
            f"{key.partition('.')[2]}={value}".replace(" ", "")
            for key, value in settings[i].items()
            if any(other.get(key) != value for other in alike)
        ]
        names.append(" ".join([heads[i], *apart, f"x {len(group.runs)}"]))
    return names


def budget_notes(plan: Plan) -> list[str]:
    """What a budget loses to whole iterations, where it is more than a twentieth."""
    notes: dict[str, None] = {}
    for experiment in (setting.experiment for setting in plan.settings):
        asked, size = experiment.budget.total_steps, experiment.batch_size
        run = experiment.num_iterations * size
        if asked - run > asked / 20:
            notes[
                f"note: {experiment.algorithm} on {experiment.env} takes {run:,} of the {asked:,} "
                f"steps: whole iterations of {size:,}"
            ] = None
        if experiment.budget.num_evals > experiment.num_iterations:
            notes[
                f"note: {experiment.algorithm} on {experiment.env} has {experiment.num_iterations} "
                f"evaluations, not {experiment.budget.num_evals:,}: one after each iteration"
            ] = None
    return list(notes)


def fairness_notes(plan: Plan) -> list[str]:
    """The differences between methods besides the algorithm."""
    of_settings = (
        (s.experiment.env, s.method, shared_settings(s.experiment)) for s in plan.settings
    )
    return [
        f"note: {text}" for text in describe_grouped(describe_differences(differences(of_settings)))
    ]


def status_table(record: Record, known: tuple[Plan, Any] | None = None) -> Table:
    """The state of every group of a folder; ``known`` is its `parts_of`, if it was read already."""
    plan, parts = known or parts_of(record, needed=())
    titles = ("runs", "iterations", "steps/s", "time left")
    names = [Column(title, overflow="fold") for title in ("algorithm", "environment")]
    table = Table(*_columns(_GROUP[:1]), *names, *_columns(titles), "broken", box=None)
    for i, (group, part) in enumerate(parts):
        experiment = plan.experiment(group)
        done, planned = iterations_done(plan, group, part), experiment.num_iterations
        seconds = 0.0 if part is None else part.seconds.get("run", 0.0)
        counts = iterations_of_runs(plan, group, part)
        steps, whole = sum(counts) * experiment.batch_size, plan.steps(group)
        rate = steps / seconds if seconds else 0.0
        left = duration(max(whole - steps, 0) / rate) if rate else ""
        table.add_row(
            str(i),
            experiment.algorithm,
            experiment.env,
            str(len(group.runs)),
            f"{done}/{planned}",
            f"{rate:,.0f}" if rate else "",
            "done" if part is not None and part.finished else left,
            " ".join(part.summary.get("broken", {})) if part is not None else "",
        )
    table.title = f"{plan.name}: {'finished' if record.finished else 'not finished'}"
    for group, board in plan.boards.items():
        now = Counter(board.states)
        paused, stopped = now[PAUSE], now[STOP]
        table.title += (
            f"\n{plan.search.name} of {plan.experiment(group).algorithm} on "
            f"{plan.experiment(group).env}: {board.begun} of {len(board.scores)} settings begun, "
            f"{sum(1 for _ in board.occupied())} train, {paused or stopped} "
            f"{'paused' if paused else 'stopped'}, {now[END]} ended"
        )
    begun = [part for _, part in parts if part is not None and part.last_chunk >= 0]
    commits = [part.path / COMMIT for part in begun]
    if latest := max((path.stat().st_mtime for path in commits if path.exists()), default=0.0):
        table.caption = f"last commit {_ago(latest)} ago"
    return table


def run_lines(paths: Sequence[Path]) -> Iterator[str]:
    """A line for each run folder: name, state and progress; the latest is the last."""
    from kltrust.experiments.watch._folder import Folder

    width = max(len(path.name) for path in paths)
    for path in sorted(paths, key=lambda path: activity.read(path).seen):
        folder = Folder(path)
        for look in (1, 2):  # the first does not tell damage from a writer at work
            folder.update(look)
        sentence = (
            " ".join(folder.sentence.split()) if folder.state not in ("finished", "stopped") else ""
        )
        share = f"{100 * folder.share():3.0f} %"
        yield f"{path.name:{width}}  {folder.state:8}  {share}  {sentence}".rstrip()


def search_table(plan: Plan, parts: Iterable[tuple[Any, Record | None]]) -> Table | None:
    """The last decisions of a search, from a folder's `parts_of`; None without any."""
    if plan.search is None:
        return None
    found = [decisions_of(plan, group, part) for group, part in parts]
    rows = [row for frame in found for row in frame.to_dict("records")]
    rows = [row for row in rows if row["action"] in (PAUSE, STOP, COPY)][-_LAST:]
    if not rows:
        return None
    table = Table("setting", "steps", "score", "action", Column("why", overflow="fold"), box=None)
    for row in rows:
        numbers = f"{row['env_steps']:,}", f"{row['score']:.4g}"
        table.add_row(row["label"], *numbers, row["action"], row["reason"])
    table.title = "the last decisions (all: kltrust.load(DIR).decisions)"
    return table


def activity_line(record: Record) -> str | None:
    """Whether a process works on an unfinished folder, and what it does."""
    if record.finished:
        return None
    found = activity.read(record.path)
    if found.alive:
        since = f" for {_ago(found.since)}" if found.since else ""
        return f"a process works on this folder: {found.doing or 'it does not say what'}{since}"
    if found.alive is None:
        last = f", it said it was {found.doing}" if found.doing else ""
        return (
            "this file system can't tell whether a process works on this folder; the last sign of "
            f"one is {_ago(found.seen)} old{last}"
        )
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.seen))
    last = f", {found.doing}" if found.doing else ""
    command = "train" if len(record.config["settings"]) == 1 else "sweep"
    return (
        f"no process works on this folder; the last sign of one is of {when} "
        f"({_ago(found.seen)} ago{last})\n"
        f"go on with it by kltrust {command} --resume {shlex.quote(os.path.relpath(record.path))}"
    )


def _ago(moment: float) -> str:
    return duration(max(0.0, time.time() - moment))


def duration(seconds: float) -> str:
    """Like ``1 h 4 min``, ``2 min 5 s`` or ``7 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
