"""Is a sweep that was killed the sweep that was not? Ten times kill -9, at random moments.

    python benchmarks/sweep_survival.py

Runs a specification twice in peace, the second time with its programs in the compilation cache.
Then again, killed at a moment drawn uniformly from the time that the second one took, gone on with,
killed again, and so on; whenever one gets to its end before its kill, the next begins anew.
Compares the tables of every one that ended with those of the first, value by value. Writes
sweep_survival.json to benchmarks/results/
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """What is killed, and how often."""

    spec: Path = HERE / "specs" / "survival.toml"
    kills: int = 10
    seed: int = 0
    out: Path = HERE / "results"


def main(options: Options) -> int:
    rng = np.random.default_rng(options.seed)
    folder = Path(tempfile.mkdtemp())
    try:
        for peaceful in (folder / "compiled", folder / "peaceful"):
            start = time.perf_counter()
            assert run(["sweep", str(options.spec), "--out", str(peaceful)]) == 0
            taken = time.perf_counter() - start
        print(f"in peace: {taken:.0f} s", flush=True)
        kills: list[dict[str, Any]] = []
        identical: list[bool] = []
        while len(kills) < options.kills or not identical:
            killed = folder / f"killed{len(identical)}"
            status = -signal.SIGKILL
            while status == -signal.SIGKILL:
                wait = float(rng.uniform(0, taken)) if len(kills) < options.kills else None
                # Where it was killed before it had written its plan, it begins anew.
                begun = (killed / "run.json").exists()
                what = ["--resume", str(killed)] if begun else [str(options.spec)]
                where = [] if begun else ["--out", str(killed)]
                status = run(["sweep", *what, *where], wait)
                if status == -signal.SIGKILL:
                    kills.append({"after_seconds": round(wait or 0, 2), "chunks": chunks(killed)})
                    print(f"kill {len(kills)}: {kills[-1]}", flush=True)
            if status != 0:
                raise RuntimeError(f"a sweep that was gone on with ended with status {status}")
            identical.append(same(peaceful, killed))
            print(f"ended; tables identical: {identical[-1]}", flush=True)
        result = {
            "spec": options.spec.name,
            "seconds_in_peace": round(taken, 1),
            "kills": kills,
            "sweeps_ended": len(identical),
            "identical": identical,
            "versions": versions(),
        }
    finally:
        shutil.rmtree(folder)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sweep_survival.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(identical) else 1


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
    return sum(json.loads(path.read_text())["chunk"] + 1 for path in commits)


def same(first: Path, second: Path) -> bool:
    """Whether all tables of two sweeps hold the same values."""
    from kltrust.experiments.reading import results

    one, two = results.load(first), results.load(second)
    tables = ("runs", "metrics", "evaluations")
    # The name of the folder is one of the columns.
    pairs = [(getattr(one, t), getattr(two, t)) for t in tables]
    return all(
        a.drop(columns="sweep", errors="ignore").equals(b.drop(columns="sweep", errors="ignore"))
        for a, b in pairs
    )


def versions() -> dict[str, Any]:
    from kltrust.experiments.store.versions import snapshot

    return snapshot()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
