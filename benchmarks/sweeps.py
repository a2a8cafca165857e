"""What does the host's work take of a sweep?

    python benchmarks/sweeps.py

A sweep runs with its progress shown, line by line, and adds up what every commit, every copy of a
state to the host, and every call of the progress takes: CPU seconds of all threads but XLA's own,
which on a CPU is what the work takes from the training; and seconds by the clock, which are more,
since the devices compute meanwhile on the same cores. Linux only: the threads' times are in /proc.

Writes sweep_host_work.json to benchmarks/results/
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from common import RESULTS, SPECS, Result, load_spec, options, run_sweep, versions, write


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    spec: Path = SPECS / "quickstart.toml"
    out: Path = RESULTS


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = host_work(options.spec, Path(folder))
    of = {"spec": options.spec.name, **result, "versions": versions()}
    write(options.out / "sweep_host_work.json", of)


def host_work(spec: Path, folder: Path) -> Result:
    from kltrust.experiments.cli.progress import ConsoleProgress
    from kltrust.experiments.engine import lanes
    from kltrust.experiments.jobs.run import parts_of
    from kltrust.experiments.store.record import Record
    from kltrust.experiments.store.run import Run

    seconds: Counter[str] = Counter()
    cpu: Counter[str] = Counter()
    watched = {
        "commits": [(Run, "commit"), (Run, "finish")],
        "copies of the state": [(lanes, "to_host")],
        "progress": [
            (ConsoleProgress, name) for name in ("start", "group", "compiling", "chunk", "end")
        ],
    }
    with contextlib.ExitStack() as stack:
        for what, functions in watched.items():
            for owner, name in functions:
                function = added(getattr(owner, name), what, seconds, cpu)
                stack.enter_context(mock.patch.object(owner, name, function))
        start = time.perf_counter()
        run_sweep(load_spec(spec), folder / "sweep")
        wall = time.perf_counter() - start
    _, parts = parts_of(Record(folder / "sweep"))
    compiling = sum(part.seconds["compile"] for _, part in parts if part)
    result = {
        "wall_seconds": round(wall, 1),
        "compile_seconds": round(compiling, 1),
        "host_cpu_seconds": {k: round(v, 4) for k, v in cpu.items()},
        "host_seconds": {k: round(v, 4) for k, v in seconds.items()},
        # CPU seconds over the wall's: as if a single core had to do it all.
        "share": round(cpu.total() / wall, 4),
        "share_by_the_clock": round(seconds.total() / wall, 4),
        "share_without_compilation": round(cpu.total() / (wall - compiling), 4),
    }
    print(result, flush=True)
    return result


def added(
    function: Callable[..., Any], what: str, seconds: Counter[str], cpu: Counter[str]
) -> Callable[..., Any]:
    """The function, wrapped to add up its seconds by the clock and by the CPU."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        start, cpu_start = time.perf_counter(), cpu_without_xla()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds[what] += time.perf_counter() - start
            cpu[what] += cpu_without_xla() - cpu_start

    return wrapped


def cpu_without_xla() -> float:
    """CPU seconds of this process that were not spent in XLA's threads, which live as long."""
    xla = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread may end meanwhile
            if (task / "comm").read_text("utf-8").startswith("tf_"):
                xla += int((task / "schedstat").read_text("utf-8").split()[0])
    return time.process_time() - 1e-9 * xla


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
