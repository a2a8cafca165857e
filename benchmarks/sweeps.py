"""Is a sweep that was killed the sweep that was not, and what does the host's work take of it?

    python benchmarks/sweeps.py
    python benchmarks/sweeps.py --parts sweep_host_work

    sweep_survival   a sweep runs twice in peace, the second time with its programs in the
                     compilation cache. Then again, killed (kill -9) at a moment drawn uniformly
                     from the time that the second one took, gone on with, killed again, and so on;
                     whenever one gets to its end before its kill, the next begins anew. The tables
                     of every one that ended are compared with those of the first, value by value
    sweep_host_work  a sweep runs with its progress shown, line by line, and adds up what every
                     commit, every copy of a state to the host, and every call of the progress
                     takes: CPU seconds of all threads but XLA's own, which on a CPU is what the
                     work takes from the training; and seconds by the clock, which are more, since
                     the devices compute meanwhile on the same cores. Linux only: the threads' times
                     are in /proc

Writes PART.json to benchmarks/results/
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tyro
from common import SPECS, Parts, Result, chosen, load_spec, run_sweep, versions, write


@dataclasses.dataclass(frozen=True)
class Options(Parts):
    """What is run."""

    spec: Path | None = None  # Default: survival.toml or quickstart.toml of benchmarks/specs/
    kills: int = 10
    seed: int = 0  # Of the moments


def main(options: Options) -> int:
    same = True
    for name in chosen("parts", options.parts, PARTS):
        part, default = PARTS[name]
        spec = options.spec or SPECS / default
        with tempfile.TemporaryDirectory() as folder:
            result = part(spec, Path(folder), options)
        write(options.out / f"{name}.json", {"spec": spec.name, **result, "versions": versions()})
        same &= all(result.get("identical", ()))
    return int(not same)


# --- survival -------------------------------------------------------------------------------------


def survival(spec: Path, folder: Path, options: Options) -> Result:
    rng = np.random.default_rng(options.seed)
    for peaceful in (folder / "compiled", folder / "peaceful"):
        start = time.perf_counter()
        assert run(["sweep", str(spec), "--out", str(peaceful)]) == 0
        taken = time.perf_counter() - start
    print(f"in peace: {taken:.0f} s", flush=True)
    kills: list[Result] = []
    identical: list[bool] = []
    while len(kills) < options.kills or not identical:
        killed = folder / f"killed{len(identical)}"
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            wait = float(rng.uniform(0, taken)) if len(kills) < options.kills else None
            # Where it was killed before it had written its plan, it begins anew.
            begun = (killed / "run.json").exists()
            what = ["--resume", str(killed)] if begun else [str(spec), "--out", str(killed)]
            status = run(["sweep", *what], wait)
            if status == -signal.SIGKILL:
                kills.append({"after_seconds": round(wait or 0, 2), "chunks": chunks(killed)})
                print(f"kill {len(kills)}: {kills[-1]}", flush=True)
        if status != 0:
            raise RuntimeError(f"a sweep that was gone on with ended with status {status}")
        identical.append(same(peaceful, killed))
        print(f"ended; tables identical: {identical[-1]}", flush=True)
    ended = {"sweeps_ended": len(identical), "identical": identical}
    return {"seconds_in_peace": round(taken, 1), "kills": kills, **ended}


def run(arguments: list[str], kill_after: float | None = None) -> int:
    """The command's exit status; minus the signal's number where it was killed."""
    command = [sys.executable, "-m", "kltrust.experiments.cli", *arguments, "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        return process.wait(kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def chunks(folder: Path) -> int:
    """Committed in all groups together."""
    commits = folder.glob("groups/*/commit.json")
    return sum(json.loads(path.read_text("utf-8"))["chunk"] + 1 for path in commits)


def same(first: Path, second: Path) -> bool:
    """Whether all tables of two sweeps hold the same values."""
    from kltrust.experiments.reading import results

    def tables(folder: Path) -> list[Any]:
        loaded = results.load(folder)
        found = (loaded.runs, loaded.metrics, loaded.evaluations)
        return [table.drop(columns="sweep", errors="ignore") for table in found]  # the folder

    return all(a.equals(b) for a, b in zip(tables(first), tables(second), strict=True))


# --- host work ------------------------------------------------------------------------------------


def host_work(spec: Path, folder: Path, options: Options) -> Result:
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
    """The function, its seconds by the clock and by the CPU added up."""

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


PARTS = {
    "sweep_survival": (survival, "survival.toml"),
    "sweep_host_work": (host_work, "quickstart.toml"),
}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
