"""The few file operations that results rest on: each one happens completely or not at all.

A file is written beside its place, flushed to the disk and renamed into its place. So a reader, or
the next process after a crash, sees either the old content or the new. Clean-up runs on errors, not
on interrupts: a kill may leave debris, which `is_debris` knows by its name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

DEBRIS = ".partial"
"""The suffix of files and folders that are not in their place yet."""


class StorageError(RuntimeError):
    """Something on disk can't be read or written; the message names the remedy."""


class DamagedError(StorageError):
    """A file is missing or not as it was written; a note lists what is still whole."""

    def __init__(self, file: Path, wrong: str) -> None:
        self.file, self.wrong = file, wrong
        super().__init__(f"{file} {wrong}: take it from a backup, or run again elsewhere")


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Puts ``data`` at ``path``, durably and atomically, in place of any file there."""
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
    """Renames a finished folder into its place once all its content has reached the disk."""
    for folder, _, names in os.walk(partial):
        for name in names:
            _sync(Path(folder, name))
        sync_folder(Path(folder))
    os.rename(partial, path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file or a folder if possible: any rest is harmless debris."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def is_debris(path: Path) -> bool:
    """Whether an interrupted write left this behind."""
    return path.name.endswith(DEBRIS)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file of a run folder for reading.

    Raises:
        DamagedError: if it is missing, or not a file.
        StorageError: if the system does not let us read it.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        yield file


def check(path: Path, crc32: int) -> None:
    """Compares a file with the CRC-32 that was recorded when it was written.

    Raises:
        DamagedError: if they differ, or there is no file.
        StorageError: if the system does not let us read it.
    """
    found = 0
    with opened(path) as file, explained(f"read {path}"):
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    if found != crc32:
        raise DamagedError(path, "is damaged (its bytes are not those that were written)")


def unreadable(path: Path, error: OSError) -> StorageError:
    """The error for an unreadable path: damage if it is missing or no file, else a system fault."""
    if error.errno == errno.ENOENT:
        return DamagedError(path, "is missing")
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
        return DamagedError(path, f"is damaged ({error.strerror})")
    return StorageError(f"can't read {path}: {explain(error)}")


def read_json(
    path: Path, kind: Any, *, formats: Sequence[str] = (), sealed: bool = False
) -> dict[str, Any]:
    """The object in a JSON file that `sealed` made; files of older formats have no digest.

    Args:
        path: the file.
        kind: the kind of its content, see `misfit`.
        formats: the formats that it may name, the newest first; the newest has a digest.
        sealed: whether it must have a digest in an older format, too.

    Raises:
        DamagedError: if it is missing, of another kind, or not as it was written.
        StorageError: if it has another format, or the system does not let us read it.
    """
    with opened(path) as file, explained(f"read {path}"):
        data = file.read()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, f"is damaged ({error})") from error
    wrong = misfit(content, {"format": str} if formats else dict)
    if wrong is None and formats and content["format"] not in formats:
        raise StorageError(
            f"{path} has the format {content['format']!r}, this version reads {formats[0]!r}: use "
            "the version of kltrust that wrote it, or check the path"
        )
    sealed |= wrong is None and content.get("format") in formats[:1]
    wrong = wrong or misfit(content, kind)
    if wrong is None and (sealed or "crc32" in content):
        changed = content.get("crc32") != digest(content)
        wrong = "it is not what was written" if changed else None
    if wrong is not None:
        raise DamagedError(path, f"is damaged ({wrong})")
    return content


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as JSON gives it back, with its `digest` as ``crc32``."""
    plain = json.loads(to_json(content))
    head = {name: plain.pop(name) for name in ("format", "crc32") if name in plain}
    return {**head, "crc32": digest(plain), **plain}


def digest(content: Mapping[str, Any]) -> int:
    """CRC-32 of an object in JSON, without its entries for digest and format."""
    rest = {name: value for name, value in content.items() if name not in ("crc32", "format")}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def misfit(value: Any, kind: Any, at: str = "it") -> str | None:
    """Says in words where JSON does not match a kind; None if it does.

    A kind is a type; a tuple of kinds, one of which must match; ``[kind]`` for a list;
    ``{str: kind}`` for an object with any names; or ``{"name": kind}`` for an object with these
    names, where ``"name?"`` may be missing.
    """
    if isinstance(kind, tuple):
        found = [misfit(value, one, at) for one in kind]
        return None if None in found else found[0]
    outer = type(kind) if isinstance(kind, list | dict) else kind
    if not isinstance(value, outer) or (isinstance(value, bool) and outer is not bool):
        return f"{at} is {type(value).__name__}, not {outer.__name__}"
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(kind, list):
        parts = [(x, kind[0], f"{at}[{i}]") for i, x in enumerate(value)]
    elif isinstance(kind, dict):
        names = {k.removesuffix("?"): v for k, v in kind.items() if k is not str}
        lacking = [k for k in names if k not in value and f"{k}?" not in kind]
        if lacking:
            return f"{at} has no {lacking[0]!r}"
        kinds = dict.fromkeys(value, kind[str]) if str in kind else names
        parts = [(value[k], one, f"{at}.{k}") for k, one in kinds.items() if k in value]
    return next((wrong for part in parts if (wrong := misfit(*part)) is not None), None)


def to_json(content: Any) -> bytes:
    """JSON for a person to read; NumPy and JAX scalars and arrays become plain numbers and lists.

    Infinity and NaN are written as Python's ``json`` writes and reads them: a setting that is
    switched off is often ``inf``, and must be read back as ``inf``.
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
    """Turns the disk's errors into a `StorageError` that says what failed and what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"can't {doing}: {explain(error)}") from error


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable, where the file system can."""
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
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"{value!r} ({type(value).__name__}) can't be written as JSON: "
        "turn it into numbers, strings, lists and dicts first"
    )
