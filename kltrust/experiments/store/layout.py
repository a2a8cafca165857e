"""The files of a run folder, and checks that they are as they were written.

A description says what is run, a commit says how much of it is done. Each holds its own digest. A
commit also holds the digests of its description and of its tables and checkpoints. So a file that
is missing, cut short, edited or from another folder is noticed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kltrust.experiments.store import checkpoint, files, tables

FORMATS = "kltrust run 3", "kltrust run 2"
"""The formats that can be read, the newest first: the older one has no digests."""
RUN, COMMIT, LOCK = "run.json", "commit.json", ".lock"
METRICS, EVALUATION, CHECKPOINTS = "metrics", "evaluation", "checkpoints"
DECISIONS = "decisions"
TABLES = METRICS, EVALUATION, DECISIONS
GROUPS = "groups"
"""The subfolder of a plan's folder that holds the run folders of its groups."""
_SHOWN = 8
_NAMED = 3
"""The most run folders that an error names."""


CODE = {
    "import": [str],
    "sources": {str: (type(None), str)},
    "registered": {str: str},
    "algorithms": {str: {str: dict}},
    "commits": {str: {"commit": (type(None), str), "dirty": (type(None), bool)}},
}
"""The kind of a description's entry about your own modules, see `own.code_of`."""
_NUMBER = (int, float)
_DESCRIPTION = {"config": dict, "versions": {"packages": dict}, "code?": CODE}
_MARKER = {
    "chunk": int,
    "parts": {str: [int]},
    "schemas": dict,
    "best": (type(None), {"chunk": int, "score": _NUMBER}),
    "seconds": {str: _NUMBER},
    "finished": bool,
    "summary": {"broken?": {str: int}},
    "begun?": int,
    "files?": {str: int},
    "run?": int,
}
BEGINNING: dict[str, Any] = {
    "chunk": -1,
    "parts": {},
    "schemas": {},
    "best": None,
    "seconds": {},
    "finished": False,
    "summary": {},
    "begun": 0,
    "files": {},
}
"""The commit before the first chunk: it is empty."""


class RunError(files.StorageError):
    """A run folder can't be used as asked; the message names the remedy."""


class NoRunError(RunError):
    """A folder holds no run itself, but run folders.

    Attributes:
        places: the folder, and a run folder in it.
    """

    def __init__(self, message: str, folder: Path, inner: Path) -> None:
        super().__init__(message)
        self.places = folder, inner


def runs_in(path: Path) -> list[Path]:
    """The run folders within a folder that holds no run itself, by name."""
    return [] if (path / RUN).exists() else [run.parent for run in sorted(path.glob(f"*/{RUN}"))]


def describe(path: Path) -> dict[str, Any]:
    """The description of a folder's run.

    Raises:
        RunError: if the folder holds no run; it names those in the folder.
        StorageError: if it is damaged.
    """
    if not path.is_dir():
        raise RunError(f"there is no run folder {path}: check the path")
    if not os.path.lexists(path / RUN) and not (os.path.lexists(path / COMMIT) and holds_run(path)):
        if inner := runs_in(path):
            names = ", ".join(run.name for run in inner[:_NAMED])
            more = ", ..." if len(inner) > _NAMED else ""
            count = "1 run folder" if len(inner) == 1 else f"{len(inner)} run folders"
            message = f"{path} holds no run itself, but {count} ({names}{more}): name one of them"
            raise NoRunError(message, path, inner[0])
        raise RunError(
            f"{path} holds no run (it has no {RUN}): check the path, or start a run there without "
            "--resume"
        )
    return files.read_json(path / RUN, _DESCRIPTION, formats=FORMATS)


def committed(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """The last commit to a folder with this description; older formats do not link the two.

    Raises:
        StorageError: if it is damaged.
    """
    file, sealed = path / COMMIT, description["format"] == FORMATS[0]
    if not sealed and not os.path.lexists(file):
        return BEGINNING
    marker = BEGINNING | files.read_json(file, _MARKER, sealed=sealed)
    own = files.digest(description)
    if marker.get("run", own) != own:
        wrong = f"is damaged (it and the {RUN} beside it do not belong together)"
        raise files.DamagedError(file, wrong)
    return marker


def parts_of_commit(marker: Mapping[str, Any]) -> list[str]:
    """The names of the tables and checkpoints that a commit consists of."""
    best = marker["best"]["chunk"] if marker["best"] else marker["chunk"]
    kept = sorted({marker["chunk"], best} - {-1})
    names = [name for table in marker["parts"] for name in table_files(marker, table)]
    return names + [f"{CHECKPOINTS}/{chunk:06d}" for chunk in kept]


def table_files(marker: Mapping[str, Any], table: str) -> list[str]:
    """The names of a table's files; there may be none."""
    if marker["finished"]:
        return [f"{table}.parquet"]
    return [f"{table}/{chunk:06d}.parquet" for chunk in marker["parts"].get(table, [])]


def holds_run(path: Path) -> bool:
    """Whether a folder holds a run: after a kill before the description, it holds none.

    Raises:
        StorageError: if it is no folder, or damaged.
    """
    try:
        held = {p.name for p in path.iterdir() if p.name != LOCK and not files.is_debris(p)}
    except FileNotFoundError:
        return False
    except OSError as error:
        raise files.unreadable(path, error) from error
    if held == {COMMIT}:
        return files.read_json(path / COMMIT, _MARKER)["chunk"] >= 0
    return bool(held)


def verify(file: Path, crc32: int | None) -> None:
    """Checks that a whole table or checkpoint is as it was written."""
    if file.parent.name == CHECKPOINTS:
        checkpoint.verify(file, crc32)
    elif crc32 is not None:
        files.check(file, crc32)
    else:  # its pages have checksums of their own
        tables.read([file])


@contextlib.contextmanager
def naming_whole_parts(path: Path) -> Iterator[None]:
    """Adds a note to errors about damage raised within: it lists what is still whole."""
    try:
        yield
    except files.DamagedError as error:
        if not hasattr(error, "__notes__"):
            error.add_note(whole_parts(path))
        raise


def whole_parts(path: Path) -> str:
    """The tables and checkpoints that can be read in a folder and its groups, in a sentence."""
    path = path.parent.parent if path.parent.name == GROUPS else path
    found = []
    for folder in [path, *sorted(path.glob(f"{GROUPS}/*"))]:
        sums: dict[str, int] = {}
        with contextlib.suppress(files.StorageError):
            sums = files.read_json(folder / COMMIT, _MARKER).get("files", {})
        patterns = ("*.parquet", *(f"{table}/*.parquet" for table in TABLES), "checkpoints/*")
        for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
            with contextlib.suppress(files.StorageError):
                verify(file, sums.get(file.relative_to(folder).as_posix()))
                found.append(file.relative_to(path).as_posix())
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"still whole in {path}: {', '.join(found[:_SHOWN]) or 'no table, no checkpoint'}{more}"
