"""The commands ``kltrust sweep``, ``status`` and ``merge``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kltrust.experiments.cli.common import HostFlags, Switch, all_hosts, are_several, naming

if TYPE_CHECKING:
    from kltrust.experiments.config.spec import Spec
    from kltrust.experiments.jobs.plan import Plan
    from kltrust.experiments.jobs.sweep_lanes import Measured
    from kltrust.experiments.store.record import Record


@dataclasses.dataclass(frozen=True)
class _Sweep(HostFlags):
    """Run a grid of experiments, each static group in one compilation.

    The runs are spread over all devices. SPEC is a TOML file (see benchmarks/specs); an interrupted
    sweep goes on with --resume.
    """

    spec: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[SPEC]")] = None
    """The specification."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The folder of the results: a new or an empty one; runs/NAME by default."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Go on with the sweep in this folder."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Only the I-th of N parts, for an array job; `kltrust merge` puts them together."""
    width: int = 0
    """Runs per block on a device, 0 to choose."""
    dry_run: Switch = False
    """Show what would be done, and do nothing."""
    measure: Switch = False
    """With --dry-run: compile every group and try two iterations, to tell time and memory."""
    quiet: Switch = False
    """Print nothing but the result."""


@dataclasses.dataclass(frozen=True)
class _Status:
    """How far a sweep is, from its folder: also while another process runs it."""

    sweep: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The sweep's folder."""


@dataclasses.dataclass(frozen=True)
class _Merge:
    """Put the shards of a sweep together: one folder, as if it had run in one piece."""

    shards: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SHARD ...")]
    """The folders of all shards."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to make."""


def sweep(arguments: list[str]) -> int:
    """``kltrust sweep``."""
    options = tyro.cli(_Sweep, prog="kltrust sweep", args=arguments)
    if options.resume is not None:
        return _resume(options)
    if options.spec is None:
        raise ValueError("which specification? As in `kltrust sweep SPEC.toml`")
    from kltrust.experiments.config import spec

    specification = spec.load(options.spec)
    with _devices(options, len(specification.settings) * len(specification.seeds)):
        return _start(options, specification)


def _start(options: _Sweep, specification: Spec) -> int:
    from kltrust.experiments.cli.sweep_tables import dry_run
    from kltrust.experiments.jobs import plan, sweep

    plan.check_spec(specification)
    planned = plan.make_plan(
        specification, width=options.width or None, shard=_shard(options.shard)
    )
    if options.dry_run:
        _print(dry_run(planned, measured=_measure(planned) if options.measure else None))
        return 0
    out = options.out or _default_out(planned)
    if not options.quiet:
        _print(dry_run(planned))
    with naming(out, "sweep"):
        record = sweep.start(planned, out, progress=_progress(options.quiet))
    return _conclude(record)


def status(arguments: list[str]) -> int:
    """``kltrust status``."""
    options = tyro.cli(_Status, prog="kltrust status", args=arguments)
    from kltrust.experiments.cli.sweep_tables import status_table
    from kltrust.experiments.store.record import Record

    _print(status_table(Record(options.sweep)))
    return 0


def merge(arguments: list[str]) -> int:
    """``kltrust merge``."""
    options = tyro.cli(_Merge, prog="kltrust merge", args=arguments)
    from kltrust.experiments.jobs import merge

    return _conclude(merge.merge(options.shards, options.out))


def _measure(plan: Plan) -> list[Measured]:
    from kltrust.experiments.engine import canary
    from kltrust.experiments.jobs.sweep_lanes import measure

    canary.check()
    return [measure(plan, group) for group in plan.groups]


def _resume(options: _Sweep) -> int:
    given = [options.spec, options.out, options.shard, options.width or None]
    if any(value is not None for value in given):
        raise ValueError("--resume goes on with the plan of the folder: leave the others out")
    from kltrust.experiments.store.record import Record

    folder = options.resume or Path()
    # Of several hosts, only the first has the folder.
    config = {} if are_several(options) else Record(folder).config
    with _devices(options, sum(len(g["runs"]) for g in config.get("groups", [{"runs": [0]}]))):
        from kltrust.experiments.cli.sweep_tables import dry_run
        from kltrust.experiments.engine import hosts
        from kltrust.experiments.jobs import sweep

        if options.dry_run:
            if hosts.is_first():
                _print(dry_run(sweep.plan_of(Record(folder))))
            return 0
        with naming(folder, "sweep"):
            return _conclude(sweep.resume(folder, progress=_progress(options.quiet)))


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    i, slash, n = text.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal()):
        raise ValueError(f"--shard takes I/N, as in 1/4, got {text!r}")
    return int(i), int(n)


def _default_out(plan: Plan) -> Path:
    part = "" if plan.shard is None else f"-shard{plan.shard[0]}of{plan.shard[1]}"
    return Path("runs") / f"{plan.name}{part}"


@contextlib.contextmanager
def _devices(options: _Sweep, num_runs: int) -> Iterator[None]:
    """All cores of all hosts; on accelerators, compilations that a second sweep finds again."""
    from kltrust.experiments.engine import devices

    if are_several(options):
        with all_hosts(options):
            _keep_compilations()
            yield
    else:
        devices.use_all_cores(num_runs)
        _keep_compilations()
        yield


def _keep_compilations() -> None:
    """On accelerators, unless another folder or none was asked for."""
    import jax

    # On a CPU, XLA greets what it loads from there with pages of errors about tuning flags: who
    # wants it all the same sets JAX_COMPILATION_CACHE_DIR.
    name = "jax_compilation_cache_dir"
    is_set = jax.config.values[name] is not None or name.upper() in os.environ
    if jax.default_backend() != "cpu" and not is_set:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update(name, str(Path(home) / "kltrust" / "xla"))


def _progress(quiet: bool) -> Any:
    from kltrust.experiments.engine import hosts

    if quiet or not hosts.is_first():
        return None
    from kltrust.experiments.cli.sweep_progress import SweepProgress

    return SweepProgress()


def _conclude(record: Record) -> int:
    from kltrust.experiments.cli.sweep_tables import status_table
    from kltrust.experiments.engine import hosts

    if not hosts.is_first():
        return 0

    broken = record.summary.get("broken", {})
    for run, iteration in broken.items():
        print(f"run {run} met a NaN or an infinity at iteration {iteration} and was left there")
    _print(status_table(record))
    shown = os.path.relpath(record.path)
    print(f"load it by  kltrust.results.load({shown!r})")
    print(f"see it by   kltrust report {shown}")
    return 0


def _print(table: Any) -> None:
    from rich.console import Console

    # Wide, so that names are there to be copied; the terminal wraps them.
    console = Console()
    Console(width=max(console.width, 160)).print(table)
