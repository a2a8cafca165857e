"""A sweep that is killed at random moments, on whatever device there is: for accelerator.py.

kills.py chooses the moments; it forks, which no process with an accelerator outlives.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Result


def survival(spec: Path, folder: Path, number: int, seed: int = 0) -> Result:
    """Runs a sweep twice without kills, and kills it ``number`` times at random, in ``folder``.

    If a sweep ends before its kill, a new one begins. The tables of every finished sweep are
    compared with the first one's, value by value.
    """
    rng = np.random.default_rng(seed)
    for peaceful in (folder / "compiled", folder / "peaceful"):
        start = time.perf_counter()
        assert run(["sweep", str(spec), "--out", str(peaceful)]) == 0
        taken = time.perf_counter() - start
    print(f"in peace: {taken:.0f} s", flush=True)
    kills: list[Result] = []
    identical: list[bool] = []
    while len(kills) < number or not identical:
        killed = folder / f"killed{len(identical)}"
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            wait = float(rng.uniform(0, taken)) if len(kills) < number else None
            # If it was killed before it had written its plan, it starts anew.
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
    """The command's exit status, or minus the signal's number if it was killed."""
    command = [sys.executable, "-m", "kltrust.experiments.cli", *arguments, "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        return process.wait(kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def chunks(folder: Path) -> int:
    """The number of committed chunks in all groups together."""
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
