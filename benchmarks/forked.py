"""Commands of kltrust in processes that are forked after the imports, and traps that kill them.

For kills.py. The process that calls these functions never starts JAX: a fork loses its threads.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import Result

IMPORTS = (  # none of which starts JAX
    *(f"kltrust.experiments.cli.{name}" for name in ("train", "sweep", "report", "judge")),
    *(f"kltrust.experiments.jobs.{name}" for name in ("run", "merge")),
    *("kltrust.experiments.reading.results", "kltrust.experiments.report"),
    *("distrax", "flax.nnx", "optax", "orbax.checkpoint", "pyarrow.parquet", "matplotlib.figure"),
)

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(list(IMPORTS))


class Trap(NamedTuple):
    """A process's signal to itself, some seconds after the event of this number."""

    event: str
    file: str
    number: int
    wait: float
    signal: int

    def set(self) -> None:
        """Sets the trap in this process, for good."""
        import jax

        left = [self.number]

        def seen(event: str, file: Any) -> None:
            if event == self.event and fnmatch.fnmatch(str(file), self.file):
                left[0] -= 1
                if left[0] == -1:
                    self.strike(self.wait)

        def audited(event: str, arguments: tuple[Any, ...]) -> None:
            if event in ("os.rename", "os.mkdir"):
                seen(event, arguments[0])
            elif event == "open" and writes(*arguments):
                seen("open", arguments[0])
                if self.event == "opened":
                    sys.setprofile(functools.partial(returned, arguments[0]))

        def returned(path: Any, frame: Any, event: str, argument: Any) -> None:
            if frame.f_code.co_filename != __file__:  # whatever comes next there
                sys.setprofile(None)
                seen("opened", path)

        waiting: list[threading.Timer] = []

        def compiling(event: str, **_: Any) -> None:
            # A program that is not found in the cache is compiled soon after.
            if event.endswith("compile_requests_use_cache") and self.event == "compile":
                waiting.append(self.strike(0.3 + self.wait))
            elif event.endswith("cache_hits") and waiting:
                waiting.pop().cancel()

        sys.addaudithook(audited)
        jax.monitoring.register_event_listener(compiling)

    def strike(self, wait: float) -> threading.Timer:
        """Sends the signal after ``wait`` seconds."""
        timer = threading.Timer(wait, os.kill, (os.getpid(), self.signal))
        if wait:
            timer.start()
        else:
            os.kill(os.getpid(), self.signal)
        return timer


def writes(file: Any, mode: Any, flags: Any) -> bool:
    return isinstance(mode, str) and not mode.startswith("r")


def child(arguments: list[str], log: Path, cache: Path, trap: Trap | None) -> None:
    """Runs a command of kltrust; both outputs go into a file."""
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["XDG_CACHE_HOME"] = str(cache)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from kltrust.experiments import cli

    if trap is not None:
        trap.set()
    try:
        status = cli.main(arguments)
    except KeyboardInterrupt:  # after its end
        status = 130
    import jax

    sys.stdout.flush()
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()  # as at a process's end
    sys.exit(status)


def asked(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function's result from another process, since this one never starts JAX."""
    receiver, sender = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    return found


def answer(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))


def chunks(folder: Path) -> list[int] | str:
    """The committed chunks in each group of a readable folder; else what is wrong with it."""
    from kltrust.experiments.jobs.folder import parts_of
    from kltrust.experiments.store.files import StorageError
    from kltrust.experiments.store.record import Record

    if not (folder / "run.json").exists():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            _, parts = parts_of(Record(folder), needed=("metrics", "evaluation", "checkpoints"))
        except (StorageError, UserWarning) as error:
            return str(error)
    return [part.last_chunk + 1 for _, part in parts if part is not None]


def digest(folder: Path) -> Result:
    """The digests of a folder's content, by name, without entries of a clock or a process."""
    from kltrust.experiments.store import checkpoint

    found: Result = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"):
        name = file.relative_to(folder).as_posix()
        if name.endswith("kltrust.json"):
            leaves, _ = checkpoint._read_manifest(file.parent, None)
            arrays = checkpoint._load_arrays(file.parent / "arrays", list(leaves))
            kinds = {k: [str(leaf), hexed(arrays[k].tobytes())] for k, leaf in leaves.items()}
            found[name] = hexed(json.dumps(kinds, sort_keys=True).encode())
        elif file.name == "run.json":
            found[name] = json.loads(file.read_bytes())["config"]
        elif file.name == "commit.json":
            marker = json.loads(file.read_bytes())
            done = {k: marker[k] for k in ("chunk", "parts", "schemas", "best", "finished")}
            found[name] = {**done, "broken": marker["summary"].get("broken")}
        elif "/checkpoints/" not in f"/{name}":
            found[name] = hexed(file.read_bytes())
    return found


def hexed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cut_programs(caches: Sequence[Path]) -> list[str]:
    from kltrust.experiments.engine.devices import unreadable

    return [file.name for cache in caches for file in unreadable(cache)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
