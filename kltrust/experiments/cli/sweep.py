"""The commands ``kltrust sweep``, ``status`` and ``merge``."""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from kltrust.experiments.cli import launch, typed
from kltrust.experiments.cli.launch import HostFlags, Switch

if TYPE_CHECKING:
    from kltrust.experiments.config.spec import Spec


@dataclasses.dataclass(frozen=True)
class _Sweep(HostFlags):
    """Run a grid of experiments, each static group in one compilation.

    The runs are spread over all devices. SPEC is a TOML file (see benchmarks/specs). An interrupted
    sweep goes on with --resume.

    Example: kltrust sweep benchmarks/specs/quickstart.toml --out runs/quick
    """

    spec: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[SPEC]")] = None
    """The specification."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The folder of the results: a new or an empty one; runs/NAME by default."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Go on with the sweep in this folder."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Only the I-th of N parts, for an array job; `kltrust merge` puts them together."""
    width: Annotated[int, typed.Rare] = 0
    """Runs per block on a device, 0 to choose."""
    dry_run: Switch = False
    """Show what would be done, and do nothing."""
    measure: Switch = False
    """With --dry-run: compile every group and try two iterations, to tell time and memory."""
    quiet: Switch = False
    """Print nothing but the result."""


@dataclasses.dataclass(frozen=True)
class _Status:
    """Tell how far a sweep or a training is, from its folder: also while another process runs it.

    Example: kltrust status runs/quick
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The folder of the sweep or training, or a folder of such folders, such as runs."""


@dataclasses.dataclass(frozen=True)
class _Merge:
    """Put the shards of a sweep together: one folder, as if it had run in one piece.

    Example: kltrust merge runs/grid-shard1of2 runs/grid-shard2of2 --out runs/grid
    """

    shards: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SHARD ...")]
    """The folders of all shards."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to make."""


def sweep(arguments: list[str]) -> int:
    """``kltrust sweep``."""
    options = typed.cli(_Sweep, prog="kltrust sweep", args=arguments)
    if options.resume is not None:
        given = [options.spec, options.out, options.shard, options.width or None]
        if any(value is not None for value in given):
            raise ValueError(
                "--resume takes everything from the folder: leave out the other options"
            )
        return launch.resume("sweep", options, options.resume, options.quiet, options.dry_run)
    if options.spec is None:
        raise ValueError("name a specification, as in `kltrust sweep SPEC.toml`")
    typed.check_file("specification", options.spec)
    from kltrust.experiments.config import spec

    specification = spec.load(options.spec)
    with launch.devices(options, len(specification.settings) * len(specification.seeds)):
        return _start(options, specification)


def _start(options: _Sweep, specification: Spec) -> int:
    from kltrust.experiments.jobs import plan

    launch.check_flag("width", options.width, 0, 2**20)
    plan.check_spec(specification)
    shard = _shard(options.shard)
    planned = plan.make_plan(specification, width=options.width or None, shard=shard)
    if options.dry_run:
        launch.announce(planned, specification.notes, measure=options.measure)
        return 0
    if not options.quiet:
        launch.announce(planned, specification.notes)
    part = "-shard{}of{}".format(*shard) if shard else ""
    out = options.out or launch.free(Path("runs") / f"{planned.name}{part}")
    return launch.start("sweep", planned, out, options.quiet)


def status(arguments: list[str]) -> int:
    """``kltrust status``."""
    options = typed.cli(_Status, prog="kltrust status", args=arguments)
    from kltrust.experiments.cli.tables import activity_line, run_lines, search_table, status_table
    from kltrust.experiments.jobs.folder import parts_of
    from kltrust.experiments.store.layout import runs_in
    from kltrust.experiments.store.record import Record

    if inner := runs_in(options.folder):
        for row in run_lines(inner):
            print(row)
        print(f"see one by kltrust status {shlex.quote(os.path.join(options.folder, 'RUN'))}")
        return 0
    record = Record(options.folder)
    known = parts_of(record, needed=())
    launch.print_table(status_table(record, known), narrow=True)
    if (decisions := search_table(*known)) is not None:
        launch.print_table(decisions, narrow=True)
    if line := activity_line(record):
        print(line)
    return 0


def merge(arguments: list[str]) -> int:
    """``kltrust merge``."""
    options = typed.cli(_Merge, prog="kltrust merge", args=arguments)
    from kltrust.experiments.engine.devices import found
    from kltrust.experiments.jobs import merge

    found()
    return launch.conclude(merge.merge(options.shards, options.out))


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    i, slash, n = text.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal()):
        raise ValueError(f"--shard takes I/N, as in 1/4, got {text!r}")
    return int(i), int(n)
