"""How much of a sweep's time does the host spend on writing and on showing progress?

    python benchmarks/sweep_host_work.py

Runs a specification with its progress shown, line by line, and adds up the seconds of every commit,
of every copy of a state to the host, and of every call of the progress. The devices compute during
the commits: what is measured is an upper bound of the time that they wait. Writes
sweep_host_work.json to benchmarks/results/
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
    from kltrust.experiments import devices, lanes, plan, spec, store, sweep, sweep_progress
    from kltrust.experiments.versions import snapshot

    specification = spec.load(options.spec)
    devices.use_all_cores(len(specification.settings) * len(specification.seeds))
    seconds: dict[str, float] = {}

    shown = sweep_progress.SweepProgress()
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
            function = added(getattr(owner, name), what, seconds)
            stack.enter_context(mock.patch.object(owner, name, function))
        start = time.perf_counter()
        record = sweep.start(plan.make_plan(specification), folder / "sweep", progress=shown)
        wall = time.perf_counter() - start
        parts = [
            part.seconds for _, part in sweep.group_records(record.path, sweep.plan_of(record))
        ]
        compiling = sum(p["compile"] for p in parts if p)
    result = {
        "spec": options.spec.name,
        "wall_seconds": round(wall, 1),
        "compile_seconds": round(compiling, 1),
        "host_seconds": {k: round(v, 4) for k, v in seconds.items()},
        "share": round(sum(seconds.values()) / wall, 4),
        "share_without_compilation": round(sum(seconds.values()) / (wall - compiling), 4),
        "versions": snapshot(),
    }
    print({k: v for k, v in result.items() if k != "versions"})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sweep_host_work.json").write_text(json.dumps(result, indent=1) + "\n")


def added(function: Callable[..., Any], what: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """The function, its seconds added up."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - start

    return wrapped


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
