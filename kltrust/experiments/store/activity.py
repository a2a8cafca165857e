"""Whether a process writes to a run folder, and what it says it does.

The lock says the one: a process that ends, however it ends, holds it no more. What the process does
stands in the lock's file, with the time since when. It is no part of the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO, NamedTuple

from kltrust.experiments.store.layout import COMMIT, LOCK


class Activity(NamedTuple):
    """What is known of the process that has, or had, a folder.

    Attributes:
        alive: whether a process has it now; None where the file system can't tell.
        doing: what it does, or did last; "" if it did not say.
        since: when it began to, in seconds of `time.time`; 0 if unknown.
        seen: the last sign of it, likewise.
    """

    alive: bool | None
    doing: str
    since: float
    seen: float


def tell(lock: IO[bytes], doing: str) -> None:
    """Says what the process that holds this lock does from now on; a full disk keeps it silent."""
    said = {"doing": doing, "since": time.time()}
    with contextlib.suppress(OSError):
        lock.truncate(0)
        lock.write(json.dumps(said).encode())
        lock.flush()


def of(path: Path) -> Activity:
    """The activity on a run folder. Takes its lock for an instant, beside other readers."""
    doing, since = "", 0.0
    alive: bool | None = False
    lock = path / LOCK
    with contextlib.suppress(FileNotFoundError):
        try:
            with open(lock, "rb") as held:
                alive = _is_held(held)
                with contextlib.suppress(ValueError, KeyError, TypeError):  # cut short, or none
                    said = json.loads(held.read())
                    doing, since = str(said["doing"]), float(said["since"])
        except OSError:
            alive = None
    seen = [since]
    for file in (lock, *path.glob(f"groups/*/{COMMIT}"), path / COMMIT):
        with contextlib.suppress(OSError):
            seen.append(os.stat(file).st_mtime)
    return Activity(alive, doing, since, max(seen))


def _is_held(file: IO[bytes]) -> bool | None:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
