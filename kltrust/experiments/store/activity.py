"""Whether a process writes to a run folder, and what it says it does.

A held lock shows that a process writes: when the process ends, in whatever way, it loses the lock.
The lock's file says what the process does and since when. The file is not part of the run.
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
    """What is known about the process that holds, or last held, a folder.

    Attributes:
        alive: whether a process holds it now; None where the file system can't tell.
        doing: what the process does, or did last; "" if it did not say.
        since: when it began to do so, in seconds of `time.time`; 0 if unknown.
        seen: when the process last gave a sign, likewise.
    """

    alive: bool | None
    doing: str
    since: float
    seen: float


def record(lock: IO[bytes], doing: str) -> None:
    """Records what the process with this lock does from now on; on a full disk, records nothing."""
    said = {"doing": doing, "since": time.time()}
    with contextlib.suppress(OSError):
        lock.truncate(0)
        lock.write(json.dumps(said).encode())
        lock.flush()


def read(path: Path) -> Activity:
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
