"""How much of a sweep's time does the host spend on writing and on showing progress?

    python benchmarks/sweep_host_work.py

Runs a specification with its progress shown, line by line, and adds up what every commit, every
copy of a state to the host, and every call of the progress takes: CPU seconds of all threads but
XLA's own, which on a CPU is what the work takes from the training; and seconds by the clock, which
are more, since the devices compute meanwhile on the same cores. Linux only: it reads the threads'
times from /proc. Writes sweep_host_work.json to benchmarks/results/
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import tyro

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    spec: Path = HERE / "specs" / "quickstart.toml"
    out: Path = HERE / "results"


def main(options: Options) -> None:
    from kltrust.experiments.cli.progress import ConsoleProgress
    from kltrust.experiments.config import spec
    from kltrust.experiments.engine import devices, lanes
    from kltrust.experiments.jobs import plan, run
    from kltrust.experiments.store import run as store
    from kltrust.experiments.store.versions import snapshot

    specification = spec.load(options.spec)
    devices.use_all_cores(len(specification.settings) * len(specification.seeds))
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}

    shown = ConsoleProgress()
    watched = [
        (store.Run, "commit", "commits"),
        (store.Run, "finish", "commits"),
        (lanes, "to_host", "copies of the state"),
        *((shown, name, "progress") for name in ("start", "group", "compiling", "chunk", "end")),
    ]
    folder = Path(tempfile.mkdtemp())
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        for owner, name, what in watched:
            function = added(getattr(owner, name), what, seconds, cpu_seconds)
            stack.enter_context(mock.patch.object(owner, name, function))
        start = time.perf_counter()
        record = run.start(plan.make_plan(specification), folder / "sweep", progress=shown)
        wall = time.perf_counter() - start
        parts = [part.seconds for _, part in run.group_records(record.path, run.plan_of(record))]
        compiling = sum(p["compile"] for p in parts if p)
    result = {
        "spec": options.spec.name,
        "wall_seconds": round(wall, 1),
        "compile_seconds": round(compiling, 1),
        "host_cpu_seconds": {k: round(v, 4) for k, v in cpu_seconds.items()},
        "host_seconds": {k: round(v, 4) for k, v in seconds.items()},
        # CPU seconds over the wall's: as if a single core had to do it all.
        "share": round(sum(cpu_seconds.values()) / wall, 4),
        "share_by_the_clock": round(sum(seconds.values()) / wall, 4),
        "share_without_compilation": round(sum(cpu_seconds.values()) / (wall - compiling), 4),
        "versions": snapshot(),
    }
    print({k: v for k, v in result.items() if k != "versions"})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sweep_host_work.json").write_text(json.dumps(result, indent=1) + "\n")


def added(
    function: Callable[..., Any],
    what: str,
    seconds: dict[str, float],
    cpu_seconds: dict[str, float],
) -> Callable[..., Any]:
    """The function, its seconds by the clock and by the CPU added up."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        start, cpu_start = time.perf_counter(), cpu_without_xla()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - start
            cpu_seconds[what] = cpu_seconds.get(what, 0.0) + cpu_without_xla() - cpu_start

    return wrapped


def cpu_without_xla() -> float:
    """CPU seconds of this process that were not spent in XLA's threads, which live as long."""
    xla = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            if (task / "comm").read_text().startswith("tf_"):
                xla += int((task / "schedstat").read_text().split()[0])
    return time.process_time() - 1e-9 * xla


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
