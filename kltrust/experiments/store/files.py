"""The few file operations that results rest on: each either happens wholly or not at all.

A file is written beside its place, flushed to the disk and renamed over it, so that a reader (or
the next process, after a crash) sees the old content or the new one. Clean-up runs on errors, not
on interrupts: whatever a kill leaves behind is debris with a name of its own, `is_debris`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEBRIS = ".partial"
"""The end of the name of what is not yet in its place."""


class StorageError(RuntimeError):
    """Something on disk can't be read or written; the message names the remedy."""


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Puts ``data`` at ``path``, replacing what is there, durably and in one instant."""
    partial = path.with_name(path.name + DEBRIS)
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def publish_folder(partial: Path, path: Path) -> None:
    """Renames a finished folder into its place after all that it holds has reached the disk."""
    for folder, _, names in os.walk(partial):
        for name in names:
            _sync(Path(folder, name))
        sync_folder(Path(folder))
    os.rename(partial, path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file or a folder if it can: what remains is debris, and nobody's loss."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def is_debris(path: Path) -> bool:
    """Whether an interrupted write left this behind."""
    return path.name.endswith(DEBRIS)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        StorageError: if it can't be read, or is not an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StorageError(f"there is no {what} at {path}: check the path") from error
    except OSError as error:
        raise StorageError(f"can't read {what} {path}: {explain(error)}") from error
    except ValueError as error:
        raise StorageError(
            f"{what} {path} is damaged ({error}): take it from a backup, or start anew elsewhere"
        ) from error
    if not isinstance(content, dict):
        raise StorageError(f"{what} {path} is not one of kltrust's: check the path")
    return content


def to_json(content: Any) -> bytes:
    """JSON for a person to read; NumPy and JAX scalars and arrays become plain numbers and lists.

    Infinity and NaN are written as Python's ``json`` writes and reads them: a setting that is off
    is often ``inf``, and has to come back as it was.
    """
    return (json.dumps(content, indent=2, default=_plain) + "\n").encode()


def explain(error: BaseException) -> str:
    """What a failed file operation means, and what to do about it."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "quota" in text:
        return "the disk is full: free some space, or take a folder on another disk"
    if number == errno.EFBIG or "File too large" in text:
        return "a file is larger than this process may write: raise the limit (ulimit -f)"
    if number == errno.EROFS or "Read-only file system" in text:
        return "the file system is read-only: take a folder that can be written to"
    if number in (errno.EACCES, errno.EPERM) or "Permission denied" in text:
        return "permission denied: take a folder of your own, or change its permissions"
    return text or type(error).__name__


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns the disk's errors into a `StorageError`: what was being done, and what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"can't {doing}: {explain(error)}") from error


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable; a file system that can't is taken at its word."""
    with contextlib.suppress(OSError):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"{value!r} ({type(value).__name__}) has no place in JSON: "
        "turn it into numbers, strings, lists and dicts first"
    )
