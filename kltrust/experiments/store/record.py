"""What a run folder holds, and how to look at it, also while a run goes on.

run.json            the resolved configuration and the versions: written once
commit.json         the last complete chunk: whatever it does not name, never happened
metrics/            one Parquet part per chunk; one row per seed and iteration
evaluation/         likewise, where there were evaluations
checkpoints/        the latest state and the best one
metrics.parquet     all parts in one table, once the run is finished (evaluation.parquet too)
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kltrust.experiments.store import checkpoint, files, tables, versions
from kltrust.lazy import require_sweeps
from kltrust.types import PyTree

if TYPE_CHECKING:
    import pandas as pd

FORMATS = "kltrust run 3", "kltrust run 2"
"""Those that are read, the newest first: the older one has no digests."""
RUN, COMMIT, LOCK = "run.json", "commit.json", ".lock"
METRICS, EVALUATION, CHECKPOINTS = "metrics", "evaluation", "checkpoints"
GROUPS = "groups"
"""The run folders of a plan's groups, in the folder of the plan."""
_SHOWN = 8


_NUMBER = (int, float)
_DESCRIPTION = {"config": dict, "versions": {"packages": dict}}
_MARKER = {
    "chunk": int,
    "parts": {str: [int]},
    "schemas": dict,
    "best": (type(None), {"chunk": int, "score": _NUMBER}),
    "seconds": {str: _NUMBER},
    "finished": bool,
    "summary": {"broken?": {str: int}},
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
    "files": {},
}
"""What is committed before the first chunk: nothing."""


class RunError(files.StorageError):
    """A run folder can't be used as asked; the message names the remedy."""


class Record:
    """A run folder as its last commit left it. Takes no lock and writes nothing.

    Attributes:
        path: the folder.
        config: the resolved configuration, as JSON gives it back.
        versions: `versions.snapshot` when the run began.
        last_chunk: the index of the last complete chunk; -1 before the first.
        finished: whether `Run.finish` was reached.
        seconds: by kind (compile, run, ...), summed over all chunks and sessions.
        summary: what `Run.finish` was given.
        best: ``{"chunk": ..., "score": ...}`` of the best checkpoint, or None if none was scored.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads the folder ``path``.

        Raises:
            RunError: if it holds no run.
            StorageError: if it is damaged.
            RuntimeError: if the extra ``sweeps`` is not installed.
        """
        require_sweeps("a run folder")
        self.path = path = Path(path).absolute()
        if not path.is_dir():
            raise RunError(f"there is no run folder {path}: check the path")
        if not os.path.lexists(path / RUN) and not (os.path.lexists(path / COMMIT) and begun(path)):
            raise RunError(
                f"{path} holds no run (it has no {RUN}): check the path, or start a run there "
                "without --resume"
            )
        with noting(path):
            description = files.read_json(path / RUN, _DESCRIPTION, formats=FORMATS)
            self.config: dict[str, Any] = description["config"]
            self.versions: dict[str, Any] = description["versions"]
            # A commit belongs to one description; older ones stand alone.
            self._digest = files.digest(description)
            self._sealed: bool = description["format"] == FORMATS[0]
            self._see(self._read_marker())

    def _read_marker(self) -> dict[str, Any]:
        file = self.path / COMMIT
        if not self._sealed and not os.path.lexists(file):
            return BEGINNING
        marker = BEGINNING | files.read_json(file, _MARKER, sealed=self._sealed)
        if marker.get("run", self._digest) != self._digest:
            raise files.DamagedError(
                file, f"is damaged (it does not belong to the {RUN} beside it)"
            )
        return marker

    def _see(self, marker: dict[str, Any]) -> None:
        self._marker = marker
        self.last_chunk: int = marker["chunk"]
        self.finished: bool = marker["finished"]
        self.seconds: dict[str, float] = marker["seconds"]
        self.summary: dict[str, Any] = marker["summary"]
        self.best: dict[str, Any] | None = marker["best"]

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Versions and devices that are not what they were, as name to (then, now).

        A run that goes on under other ones is sound, but its bits need not be those of a run that
        was never interrupted.
        """
        now = versions.snapshot(self.versions["packages"])
        return versions.differences(self.versions, now)

    def metrics(self) -> pd.DataFrame:
        """All committed rows: one per seed and iteration."""
        return self._table(METRICS)

    def evaluations(self) -> pd.DataFrame:
        """All committed rows of evaluations; empty if there were none."""
        return self._table(EVALUATION)

    def restore(self, like: PyTree, which: Literal["latest", "best"] = "latest") -> PyTree:
        """The latest committed state or the best one, which is the latest if none had a score.

        Its structure, shapes and dtypes are those of ``like``: see `checkpoint.restore`.

        Raises:
            RunError: if nothing was committed yet.
            CheckpointError: if the checkpoint is damaged, or of another structure.
        """
        if which not in ("latest", "best"):
            raise ValueError(f"which must be 'latest' or 'best', got {which!r}")

        def load() -> PyTree:
            if self.last_chunk < 0:
                raise RunError(
                    f"{self.path} holds no checkpoint yet (it stopped within its first chunk): "
                    "start it again from its configuration"
                )
            chunk = self.best["chunk"] if which == "best" and self.best else self.last_chunk
            return checkpoint.restore(self._checkpoint(chunk), like)

        return self._fresh(load)

    def _table(self, table: str) -> pd.DataFrame:
        import pandas as pd

        if "groups" in self.config:
            raise RunError(
                f"{self.path} holds a plan, whose groups have the tables: read them by "
                f"kltrust.load({str(self.path)!r})"
            )

        def load() -> pd.DataFrame:
            if table not in self._marker["parts"]:
                return pd.DataFrame()
            return tables.read(self._files(table)).to_pandas()

        return self._fresh(load)

    def damage(self) -> dict[str, files.StorageError]:
        """What was committed and can't be read as it was written: errors by the file's name."""
        found: dict[str, files.StorageError] = {}

        def look() -> None:
            found.clear()
            for name in belonging(self._marker):
                try:
                    _verify(self.path / name, self._marker["files"].get(name))
                except files.StorageError as error:
                    found[name] = error
            for error in found.values():
                raise error

        with contextlib.suppress(files.StorageError):
            self._fresh(look)
        return found

    def _fresh(self, look: Callable[[], Any]) -> Any:
        """Looks again if a writer replaced what we were looking at."""
        while True:
            try:
                return look()
            except files.StorageError as error:
                before = self._marker
                with noting(self.path):
                    self._see(self._read_marker())
                    if self._marker == before:
                        raise error

    def _files(self, table: str) -> dict[Path, int | None]:
        """The files of a table, each with its CRC-32 if it was kept."""
        names = _table_files(self._marker, table)
        return {self.path / name: self._marker["files"].get(name) for name in names}

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _part(self, table: str, chunk: int) -> Path:
        return self.path / table / f"{chunk:06d}.parquet"

    def _whole(self, table: str) -> Path:
        return self.path / f"{table}.parquet"

    def _checkpoint(self, chunk: int) -> Path:
        return self.path / CHECKPOINTS / f"{chunk:06d}"


def total_seconds(*several: Mapping[str, float]) -> dict[str, float]:
    """`Record.seconds` of several, summed by kind."""
    total: Counter[str] = Counter()
    for seconds in several:
        total.update(seconds)
    return dict(total)


def belonging(marker: Mapping[str, Any]) -> list[str]:
    """The names of the tables and checkpoints that a commit consists of."""
    best = marker["best"]["chunk"] if marker["best"] else marker["chunk"]
    kept = sorted({marker["chunk"], best} - {-1})
    names = [name for table in marker["parts"] for name in _table_files(marker, table)]
    return names + [f"{CHECKPOINTS}/{chunk:06d}" for chunk in kept]


def _table_files(marker: Mapping[str, Any], table: str) -> list[str]:
    if marker["finished"]:
        return [f"{table}.parquet"]
    return [f"{table}/{chunk:06d}.parquet" for chunk in marker["parts"].get(table, [])]


def begun(path: Path) -> bool:
    """Whether a folder holds a run: a kill before it was described leaves none.

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


def _verify(file: Path, crc32: int | None) -> None:
    """Whether a table or a checkpoint is as it was written, all of it."""
    if file.parent.name == CHECKPOINTS:
        checkpoint.verify(file, crc32)
    elif crc32 is None:  # its pages have checksums of their own
        tables.read({file: None})
    else:
        files.read(file, crc32)


@contextlib.contextmanager
def noting(path: Path) -> Iterator[None]:
    """Damage that is found within gets a note: what is still whole."""
    try:
        yield
    except files.DamagedError as error:
        if not hasattr(error, "__notes__"):
            error.add_note(still_whole(path))
        raise


def still_whole(path: Path) -> str:
    """The tables and checkpoints that can be read in a folder and its groups, in a sentence."""
    path = path.parent.parent if path.parent.name == GROUPS else path
    found = []
    for folder in [path, *sorted(path.glob(f"{GROUPS}/*"))]:
        sums: dict[str, int] = {}
        with contextlib.suppress(files.StorageError):
            sums = files.read_json(folder / COMMIT, _MARKER).get("files", {})
        patterns = ("*.parquet", f"{METRICS}/*.parquet", f"{EVALUATION}/*.parquet", "checkpoints/*")
        for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
            with contextlib.suppress(files.StorageError):
                _verify(file, sums.get(file.relative_to(folder).as_posix()))
                found.append(file.relative_to(path).as_posix())
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"still whole in {path}: {', '.join(found[:_SHOWN]) or 'no table, no checkpoint'}{more}"
