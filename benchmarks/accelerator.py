"""The battery: what an accelerator computes, and how fast, in one command of nine minutes.

    python benchmarks/accelerator.py                                   with a network
    python benchmarks/accelerator.py --wheels wheels --out FILE.json   without one
    python benchmarks/accelerator.py --toy --out toy.json              all of it, small, on a CPU

    doctor           the device, and `kltrust doctor`, its canary included
    parity           the first update of every algorithm, beside the same on the CPU
    lanes_ppo_clip   2,048 runs of 4 x 128 steps on CartPole, as purejaxrl shows them
    lanes_trpo       likewise TRPO
    lanes_purejaxrl  likewise purejaxrl, with --purejaxrl CHECKOUT (github.com/luchris429/purejaxrl)
    environments     steps per second of one run, by its environments
    seeds            of one sweep, by its seeds
    minatar          256 runs on Breakout
    audit            what measuring adds to an iteration
    precision        TRPO's steps and the controls of an update, by fast products and by full ones
    kill             a sweep that is killed (kill -9) and goes on, beside one left in peace
    profile          the kernels of an iteration, and its phases

Every part is a process with a time limit. What it found, or how it failed, is in the file before
the next begins, and the same command goes on: with parts that have not run, then with those that
failed. A part that is cut off by the end of ``--minutes`` has not run.

What kltrust needs and this Python lacks is installed by pip, at the tested versions, with JAX for
CUDA 13. Where there is no network, carry a folder of wheels. It is made where there is one, for the
Python and the processor of the accelerator's machine, of the packages that are missing there::

    pip wheel --no-deps -w wheels .
    pip download --no-deps -d wheels -c constraints/newest.txt --only-binary=:all: \\
        --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \\
        distrax gymnax gymnasium farama-notifications tfp-nightly tyro decorator dm-tree \\
        docstring-parser gast typeguard

These 9 MB are enough where JAX, flax, optax, chex, orbax-checkpoint, pandas, pyarrow, matplotlib,
rich, jinja2 and seaborn are. They are unpacked beside the results, and go before what is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# This file needs only Python: it first finds out which packages are missing.
ROOT = Path(__file__).resolve().parent.parent
LIMITS = {
    "doctor": 90,
    "parity": 120,
    "lanes_ppo_clip": 120,
    "lanes_trpo": 120,
    "lanes_purejaxrl": 150,
    "environments": 120,
    "seeds": 120,
    "minatar": 90,
    "audit": 120,
    "precision": 90,
    "kill": 150,
    "profile": 90,
}
"""The parts in order, with the most seconds that each may take."""
LEAST = 20
"""Seconds that must be left for a part to begin."""
NEEDED = "kltrust, distrax, gymnax, jax, matplotlib, orbax.checkpoint, pandas, pyarrow, rich, tyro"
Result = dict[str, Any]


def main(options: argparse.Namespace) -> int:
    if options.run:
        return run_part(options.run, options)
    if unknown := set(options.parts) - set(LIMITS):
        raise SystemExit(f"--parts: no {', '.join(unknown)}; take some of {', '.join(LIMITS)}")
    end = time.monotonic() + 60 * options.minutes
    record = opened(options.out, "toy" if options.toy else "full")
    environment = prepared(options)

    def attempt(part: str, limit: float) -> Result:
        flags = ["--toy"] if options.toy else []
        if options.purejaxrl:
            flags += ["--purejaxrl", str(options.purejaxrl.absolute())]
        command = [sys.executable, __file__, "--run", part, *flags]
        return answer_of(command, limit, environment)

    wanted = options.parts or [p for p in LIMITS if p != "lanes_purejaxrl" or options.purejaxrl]
    left = go_on(record, wanted, attempt, end, options.out)
    if left:
        print(f"left for the next time: {', '.join(left)}; the same command goes on")
    failed = [part for part, found in record["parts"].items() if "failed" in found]
    return int(bool(left or failed))


def opened(path: Path, size: str) -> Result:
    """The existing record, or a new one."""
    if not path.exists():
        return {"size": size, "parts": {}}
    record = json.loads(path.read_text("utf-8"))
    if record["size"] != size:
        raise SystemExit(f"{path} is of the {record['size']} battery: take another --out")
    return record


def go_on(
    record: Result,
    wanted: list[str],
    attempt: Callable[[str, float], Result],
    end: float,
    path: Path,
) -> list[str]:
    """Runs the parts that the record lacks, then those that failed; returns the remaining parts.

    The record is written after each of them.
    """
    failed = [part for part in wanted if "failed" in record["parts"].get(part, {})]
    todo = [part for part in wanted if part not in record["parts"]] + failed
    for number, part in enumerate(todo):
        begin = time.monotonic()
        limit = LIMITS[part] if record["size"] == "full" else 10 * LIMITS[part]
        if end - begin < LEAST:
            return todo[number:]
        print(f"{part} ...", flush=True)
        found = attempt(part, min(limit, end - begin))
        if "failed" in found and time.monotonic() >= end:
            return todo[number:]
        found["took seconds"] = round(time.monotonic() - begin, 1)
        same_device(record, found, path)
        record["parts"][part] = found
        write(path, record)
        print(f"{part}: {found.get('failed', 'done')} ({found['took seconds']} s)", flush=True)
    return []


def same_device(record: Result, found: Result, path: Path) -> None:
    """Checks that a part ran on the same device as the whole record."""
    device = found.pop("device", None)
    if device is None:  # it failed before it knew
        return
    if record.setdefault("device", device) != device:
        there = record["device"]["kind"]
        raise SystemExit(f"{path} is of {there}, and here is {device['kind']}: take another --out")


def write(path: Path, record: Result) -> None:
    """Writes the record atomically: the next part may take the machine down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    part.replace(path)


def answer_of(command: list[str], limit: float, environment: Mapping[str, str]) -> Result:
    """The answer that a process writes into a file, or how the process failed."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        process = subprocess.Popen(
            [*command, "--answer", str(answer)], env=dict(environment), start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"it took more than {limit:g} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):  # with all that it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if answer.exists():
            return json.loads(answer.read_text("utf-8"))
        return {"failed": f"it ended with status {status}, and says why above"}


def run_part(part: str, options: argparse.Namespace) -> int:
    """Runs in a part's process: writes the result or the error into the answer's file."""
    if part == "kill":  # its sweeps need the device's memory, which this process would keep
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    try:
        from workers import battery

        device = battery.device()
        if device["platform"] == "cpu" and not options.toy:
            raise RuntimeError("JAX finds no accelerator: --toy runs the battery on a CPU")
        found = {"device": device}
        given = [str(options.purejaxrl)] if part == "lanes_purejaxrl" else []
        found |= battery.PARTS[part](battery.TOY if options.toy else battery.FULL, *given)
    except Exception as error:  # whatever it is: it is what is recorded
        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {error}"[:1000]}
    options.answer.write_text(json.dumps(found), "utf-8")
    return 0


# --- the installation -----------------------------------------------------------------------------


def prepared(options: argparse.Namespace) -> dict[str, str]:
    """The environment variables for the parts' processes, where all packages can be imported."""
    site = options.out.absolute().parent / "site"
    paths = [str(ROOT), *([str(site)] if options.wheels else []), os.environ.get("PYTHONPATH", "")]
    cache = Path(tempfile.gettempdir()) / "kltrust-battery"  # parts share what they compile
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    if options.toy:  # what is tried there is the battery, not the compiler
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
        environment |= {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if options.wheels:
        wheels = [str(wheel) for wheel in sorted(options.wheels.glob("*.whl"))]
        if not wheels:
            raise SystemExit(f"{options.wheels} holds no wheel: the help says how it is made")
        if not site.exists():
            pip("--no-index", "--no-deps", "--target", str(site), *wheels)
    elif not imports(environment):
        limits = str(ROOT / "constraints" / "newest.txt")
        extras = "sweeps" if options.toy else "sweeps,cuda13"
        pip("-c", limits, "-e", f"{ROOT}[{extras}]")
    if not imports(environment):
        raise SystemExit("kltrust can't be imported: the line above says what is missing")
    return environment


def imports(environment: Mapping[str, str]) -> bool:
    check = f"import importlib.metadata, {NEEDED}; importlib.metadata.version('kltrust')"
    return subprocess.run([sys.executable, "-c", check], env=dict(environment)).returncode == 0


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *arguments], check=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = Path(__file__).parent / "results"
    made.add_argument("--out", type=Path, default=results / "accelerator.json", metavar="FILE")
    made.add_argument("--parts", nargs="*", default=[], metavar="PART")
    made.add_argument("--wheels", type=Path, metavar="DIR")
    made.add_argument("--purejaxrl", type=Path, metavar="CHECKOUT")
    made.add_argument("--minutes", type=float, default=9.0)
    made.add_argument("--toy", action="store_true")
    for of_a_part in ("--run", "--answer"):
        made.add_argument(
            of_a_part, type=Path if of_a_part == "--answer" else str, help=argparse.SUPPRESS
        )
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
