"""What the commands that run a plan share: devices, starting, going on, and the last word."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kltrust.experiments.cli.common import WIDE, HostFlags, all_hosts, are_several, naming

if TYPE_CHECKING:
    from kltrust.experiments.jobs.plan import Plan
    from kltrust.experiments.store.record import Record


@contextlib.contextmanager
def devices(flags: HostFlags, num_parts: int) -> Iterator[None]:
    """All cores of all hosts; on accelerators, compilations that a second process finds again.

    Args:
        flags: how to find the other hosts.
        num_parts: on a CPU, no more devices than these.
    """
    from kltrust.experiments.engine.devices import use_all_cores

    with contextlib.ExitStack() as hosts:
        if are_several(flags):
            hosts.enter_context(all_hosts(flags))
        else:
            use_all_cores(num_parts)
        _keep_compilations()
        yield


def start(command: str, plan: Plan, out: Path, quiet: bool) -> int:
    """Runs a plan in a new folder and says what came out."""
    from kltrust.experiments.jobs import run

    with naming(out, command):
        record = run.start(plan, out, progress=_progress(quiet))
    return conclude(record)


def resume(command: str, flags: HostFlags, folder: Path, quiet: bool, dry_run: bool = False) -> int:
    """Goes on with a folder, whichever command made it."""
    from kltrust.experiments.store.record import Record

    # Of several hosts, only the first has the folder.
    several = are_several(flags)
    with devices(flags, 1 if several else _num_parts(Record(folder))):
        from kltrust.experiments.cli import tables
        from kltrust.experiments.engine import hosts
        from kltrust.experiments.jobs import run

        if dry_run:
            if hosts.is_first():
                print_table(tables.dry_run(run.plan_of(Record(folder))))
            return 0
        if not several:  # the others would wait too long for the first
            _tell_changes(Record(folder))
        with naming(folder, command):
            record = run.resume(folder, progress=_progress(quiet))
        return conclude(record)


def _tell_changes(record: Record) -> None:
    if record.finished:
        print(f"{record.path} is finished already")
    for name, (then, now) in record.changes().items():
        print(f"note: {name} was {then!r}, is {now!r}: the bits may differ", file=sys.stderr)


def conclude(record: Record) -> int:
    """Says what came out: of one setting its numbers and pictures, of several where they stand."""
    from kltrust.experiments.engine import hosts
    from kltrust.experiments.jobs.run import plan_of

    if not hosts.is_first():
        return 0
    for run, iteration in record.summary.get("broken", {}).items():
        print(f"run {run} met a NaN or an infinity at iteration {iteration} and was left there")
    plan = plan_of(record)
    if len(plan.settings) == 1:
        _print_setting(record, plan)
    else:
        from kltrust.experiments.cli.tables import status_table

        print_table(status_table(record))
    shown = os.path.relpath(record.path)
    print(f"load it by  kltrust.load({shown!r})")
    print(f"see it by   kltrust report {shlex.quote(shown)}")
    return 0


def print_table(table: Any) -> None:
    """Wide, so that names are there to be copied; the terminal wraps them."""
    from rich.console import Console

    console = Console()
    Console(width=max(console.width, 160)).print(table)


def _print_setting(record: Record, plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kltrust.experiments.jobs.run import group_records
    from kltrust.experiments.reading import audit_plots, plots, results, statistics
    from kltrust.experiments.store.record import total_seconds

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
    seconds = total_seconds(part for _, part in group_records(path, plan))
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
    """How many devices have something to do."""
    groups = record.config.get("groups", [])
    if any(group["spread"] for group in groups):
        return record.config["settings"][0]["experiment"]["learner"]["num_envs"]
    return max(1, sum(len(group["runs"]) for group in groups))


def _keep_compilations() -> None:
    import jax

    from kltrust.experiments.engine import devices

    if folder := devices.compilation_cache():
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _progress(quiet: bool) -> Any:
    from kltrust.experiments.engine import hosts

    if quiet or not hosts.is_first():
        return None
    from kltrust.experiments.cli.progress import ConsoleProgress

    return ConsoleProgress()
