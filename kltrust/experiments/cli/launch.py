"""Shared parts of the commands: flags, devices, starting, resuming, and the summary."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kltrust.experiments.cli.typed import Rare

if TYPE_CHECKING:
    from kltrust.experiments.jobs.plan import Plan
    from kltrust.experiments.store.record import Record

# Users copy names and paths: they are never cut, and the terminal wraps them.
WIDE = 400

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclasses.dataclass(frozen=True)
class HostFlags:
    """How a process finds the other hosts, if there are any; see `hosts`."""

    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT"), Rare] = None
    """Several hosts: where the first one listens. The same command on all, but for --host."""
    num_hosts: Annotated[int | None, tyro.conf.arg(metavar="N"), Rare] = None
    """Several hosts: how many there are."""
    host: Annotated[int | None, tyro.conf.arg(metavar="I"), Rare] = None
    """Several hosts: the number of this one, from 0, which reads and writes the folder."""
    distributed: Annotated[Switch, Rare] = False
    """Several hosts that SLURM, Open MPI or a TPU pod started: JAX finds out the rest."""
    wait: Annotated[int, tyro.conf.arg(metavar="SECONDS"), Rare] = 300
    """Several hosts: how long to wait for the others to come."""

    @property
    def several(self) -> bool:
        """Whether the flags name other hosts."""
        return self.distributed or (self.coordinator, self.num_hosts, self.host) != (None,) * 3


@contextlib.contextmanager
def devices(flags: HostFlags, num_parts: int) -> Iterator[None]:
    """Uses all cores of all hosts, with at most one device per part; only the first host prints.

    Compiled programs are kept for other processes.
    """
    from kltrust.experiments.engine import hosts
    from kltrust.experiments.engine.devices import found, use_all_cores

    named = (flags.coordinator, flags.num_hosts, flags.host)
    check_flag("wait", flags.wait, 1, 10**7)
    for name, value in (("num-hosts", flags.num_hosts), ("host", flags.host)):
        if value is not None:
            check_flag(name, value, int(name == "num-hosts"), 10**6)
    if flags.distributed and named != (None,) * 3:
        raise ValueError(
            "--distributed finds the hosts by itself: leave out --coordinator, --num-hosts, --host"
        )
    # Every host makes a device of each core, however many runs there are.
    use_all_cores(sys.maxsize if flags.several else num_parts)
    if flags.several:
        hosts.join(*named, timeout=flags.wait)
    found()
    with hosts.only_first_prints():
        _keep_compilations()
        yield


def check_flag(name: str, value: int, least: int, most: int) -> None:
    """Refuses a count outside its limits."""
    if not least <= value <= most:
        range_ = f"at least {least}" if value < least else f"at most {most:,}"
        raise ValueError(f"--{name} must be {range_}, got {value}")


def free(folder: Path) -> Path:
    """The folder if it is new or empty, else the first free one of ``folder-2``, ``folder-3``."""
    chosen, number = folder, 2
    while chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
        chosen, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    if chosen != folder:
        print(f"{folder} is there already: this run is in {chosen}", file=sys.stderr)
    return chosen


def announce(plan: Plan, notes: Sequence[str] = (), *, measure: bool = False) -> None:
    """Prints what a plan will do, as ``--dry-run`` does; ``measure`` tries two iterations."""
    from kltrust.experiments.cli import tables
    from kltrust.experiments.engine import canary
    from kltrust.experiments.jobs import lanes

    measured = None
    if measure:
        canary.check()
        measured = [lanes.measure(plan, group) for group in plan.groups]
    print_table(tables.dry_run(plan, measured=measured))
    for line in (*notes, *tables.budget_notes(plan), *tables.fairness_notes(plan)):
        print(line)


def start(command: str, plan: Plan, out: Path, quiet: bool) -> int:
    """Runs a plan in a new folder and prints the result."""
    from kltrust.experiments.cli import tables
    from kltrust.experiments.jobs import run

    progress = _progress(quiet)
    if progress is not None and (folder := _first_time()):
        progress.note(f"compiling takes a minute; programs are kept in {folder} for the next start")
    for line in tables.budget_notes(plan) if progress is not None else ():
        progress.note(line)
    with _naming(out, command):
        record = run.start(plan, out, progress=progress)
    return conclude(record)


def resume(command: str, flags: HostFlags, folder: Path, quiet: bool, dry_run: bool = False) -> int:
    """Resumes the run in a folder, whichever command made it."""
    from kltrust.experiments.store.record import Record

    # With several hosts, only the first has the folder.
    with devices(flags, 1 if flags.several else _num_parts(Record(folder))):
        from kltrust.experiments.cli import tables
        from kltrust.experiments.engine import hosts, own
        from kltrust.experiments.jobs import run
        from kltrust.experiments.store import versions

        if dry_run:
            if hosts.is_first():
                begun = Record(folder)
                own.import_recorded(begun.code, begun.path)
                print_table(tables.dry_run(run.plan_of(begun)))
                print(_where_it_goes_on(begun))
            return 0
        if not flags.several:  # the others would wait too long for the first
            begun = Record(folder)
            if begun.finished:
                print(f"{begun.path} is finished already")
            for name, (then, now) in begun.changes().items():
                if name not in versions.DECISIVE:  # on those, the resume itself says more
                    note = f"note: {name} was {then!r}, is {now!r}: the bits may differ"
                    print(note, file=sys.stderr)
        with _naming(folder, command):
            record = run.resume(folder, progress=_progress(quiet))
        return conclude(record)


def _where_it_goes_on(record: Record) -> str:
    from kltrust.experiments.jobs.folder import iterations_done, parts_of

    if record.finished:
        return f"{record.path} is finished already: nothing is left to do"
    plan, parts = parts_of(record, needed=())
    left = [i for i, (_, part) in enumerate(parts) if part is None or not part.finished]
    if not left:
        return f"{record.path} has all iterations: only its end is left to write"
    group, part = parts[left[0]]
    where = f" in group {left[0]}" if len(parts) > 1 else ""
    done, planned = iterations_done(plan, group, part), plan.experiment(group).num_iterations
    return f"{record.path} would go on{where} after {done} of {planned} iterations"


@contextlib.contextmanager
def _naming(folder: Path, command: str) -> Iterator[None]:
    """Tells a user who interrupts a run how to resume it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        begun = (folder / "run.json").exists()
        goes_on = f"; `kltrust {command} --resume {folder}` goes on"
        raise KeyboardInterrupt(goes_on if begun else " before anything was written") from stop


def conclude(record: Record) -> int:
    """Prints the result: for one setting its numbers and pictures, for several where they are."""
    from kltrust.experiments.cli.judge import print_worst
    from kltrust.experiments.cli.tables import status_table
    from kltrust.experiments.engine import hosts

    if not hosts.is_first():
        return 0
    for run, iteration in record.summary.get("broken", {}).items():
        print(f"run {run} met a NaN or an infinity at iteration {iteration} and was left there")
    if len(record.config["settings"]) == 1:
        _print_setting(record)
    else:
        print_table(status_table(record), narrow=True)
    print_worst(record)
    shown = os.path.relpath(record.path)
    print(f"load it by  kltrust.load({shown!r})")
    print(f"see it by   kltrust report {shlex.quote(shown)}")
    print(f"judge it by kltrust judge {shlex.quote(shown)}")
    return 0


def print_table(table: Any, *, narrow: bool = False) -> None:
    """Prints a table in full width, so that names can be copied; the terminal wraps its lines.

    A ``narrow`` table fits the terminal and wraps its cells itself.
    """
    from rich.console import Console

    console = Console()
    fits = narrow and console.is_terminal
    Console(width=console.width if fits else max(console.width, 160)).print(table)


def _print_setting(record: Record) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kltrust.experiments.jobs.folder import parts_of
    from kltrust.experiments.reading import audit_plots, plots, results, statistics
    from kltrust.experiments.store.record import total_seconds

    plan, parts = parts_of(record)
    experiment, path = plan.settings[0].experiment, record.path
    loaded = results.load(path)
    metrics, scores = loaded.metrics, loaded.runs.score
    pictures = [
        plots.learning_curve(experiment, metrics, loaded.evaluations, path / "learning_curve.png"),
        audit_plots.audit_picture(experiment, metrics, path / "audit.png"),
    ]
    final = f"{scores[0]:.1f}"
    if len(scores) > 1:
        mean, iqm = statistics.mean_and_iqm(scores)
        final = f"mean {mean}, IQM {iqm} over {len(scores)} seeds"
    seconds = total_seconds(*(part.seconds for _, part in parts if part is not None))
    table = Table(show_header=False, box=None)
    for name, text in {
        "final return": f"{final} (acting by the mode)",
        "KL of an update": f"median {metrics.kl.median():.4g}, largest {metrics.kl.max():.4g} nats",
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in seconds.items()),
        "run folder": str(path),
        "pictures": ", ".join(str(picture) for picture in pictures if picture is not None),
        "play it": f"kltrust evaluate {shlex.quote(os.path.relpath(path))}",
    }.items():
        # As text: a folder's name may look like markup.
        table.add_row(name, Text(text, no_wrap=True))
    Console(width=WIDE).print(table)


def _num_parts(record: Record) -> int:
    """The number of devices that have something to do."""
    from kltrust.experiments.jobs.folder import plan_of

    plan = plan_of(record)
    spread = [plan.experiment(g).learner.num_envs for g in plan.groups if g.spread]
    return max([1, sum(len(plan.first_trained(group).runs) for group in plan.groups), *spread])


def _keep_compilations() -> None:
    import jax

    from kltrust.experiments.engine import devices

    if folder := devices.compilation_cache():
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _first_time() -> Path | None:
    """The folder of compiled programs, if it holds none yet."""
    from kltrust.experiments.engine import devices

    folder = devices.compilation_cache()
    return folder if folder is not None and not folder.is_dir() else None


def _progress(quiet: bool) -> Any:
    from kltrust.experiments.cli.progress import ConsoleProgress
    from kltrust.experiments.engine import hosts

    return ConsoleProgress() if hosts.is_first() and not quiet else None
