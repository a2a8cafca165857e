"""The content of a run folder, and a reader for it that also works while a run goes on.

run.json            the resolved configuration and the versions: written once
commit.json         the last complete chunk: files that it does not name do not count
metrics/            one Parquet part per chunk; one row per seed and iteration
evaluation/         likewise, where there were evaluations
decisions/          likewise, what a search decided
checkpoints/        the latest state and the best one
metrics.parquet     all parts in one table, once the run is finished (evaluation.parquet too)
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kltrust.experiments.store import checkpoint, files, layout, tables, versions
from kltrust.experiments.store.layout import (
    CHECKPOINTS,
    COMMIT,
    DECISIONS,
    EVALUATION,
    GROUPS,
    LOCK,
    METRICS,
    RUN,
    RunError,
)
from kltrust.lazy import require_sweeps
from kltrust.types import PyTree

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CHECKPOINTS",
    "COMMIT",
    "EVALUATION",
    "GROUPS",
    "LOCK",
    "METRICS",
    "RUN",
    "Record",
    "RunError",
    "total_seconds",
]


class Record:
    """A run folder as its last commit left it. Takes no lock and writes nothing.

    Attributes:
        path: the folder.
        config: the resolved configuration, as JSON gives it back.
        versions: `versions.snapshot` when the run began.
        code: your modules, their digests and commits, when the run began, see `own.code_of`.
        last_chunk: the index of the last complete chunk; -1 before the first.
        finished: whether `Run.finish` was reached.
        seconds: by kind (compile, run, ...), summed over all chunks and sessions.
        summary: the summary given to `Run.finish`.
        begun: how many groups of a plan have had folders.
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
        with layout.naming_whole_parts(path):
            self._description = layout.describe(path)
            self._see(layout.committed(path, self._description))
        self.config: dict[str, Any] = self._description["config"]
        self.versions: dict[str, Any] = self._description["versions"]
        self.code: dict[str, Any] = self._description.get("code", {})
        self._checked: set[tuple[str, int | None]] = set()

    def _see(self, marker: dict[str, Any]) -> None:
        self._marker = marker
        self.last_chunk: int = marker["chunk"]
        self.finished: bool = marker["finished"]
        self.seconds: dict[str, float] = marker["seconds"]
        self.summary: dict[str, Any] = marker["summary"]
        self.begun: int = marker["begun"]
        self.best: dict[str, Any] | None = marker["best"]

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Versions and devices that have changed since, as name to (then, now).

        A run that resumes under others is sound, but its bits may differ from those of a run that
        was never interrupted.
        """
        now = versions.snapshot(self.versions["packages"])
        return versions.differences(self.versions, now)

    def columns(self) -> list[str]:
        """The names of the metrics' columns; none before the first chunk."""
        return list(self._marker["schemas"].get(METRICS, ()))

    def metrics(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All committed rows, one per seed and iteration; None takes all columns."""
        return self._table(METRICS, columns)

    def decisions(self) -> pd.DataFrame:
        """All committed decisions of a search, in order, see `jobs.trials`; empty without one."""
        return self._table(DECISIONS)

    def nonfinite(self) -> dict[int, int]:
        """For each run with a NaN or an infinity, the first iteration that counted one."""
        import pyarrow.compute as pc

        counts = [name for name in self.columns() if name.startswith("nonfinite_")]
        if not counts:
            return {}

        def bad(batch: Any) -> Any:
            above = [pc.greater(batch.column(name), 0) for name in counts]
            return functools.reduce(pc.or_, above)

        def load() -> list[dict[str, Any]]:
            return tables.rows_where(self._files(METRICS), ["run", "iteration", *counts], bad)

        first: dict[int, int] = {}
        for row in self._fresh(load):
            run, iteration = row["run"], row["iteration"]
            first[run] = min(iteration, first.get(run, iteration))
        return first

    def evaluations(self) -> pd.DataFrame:
        """All committed rows of evaluations; empty if there were none."""
        return self._table(EVALUATION)

    def restore(self, like: PyTree, which: Literal["latest", "best"] = "latest") -> PyTree:
        """The latest committed state, or the best one; if none had a score, the latest is the best.

        The state has the structure, shapes and dtypes of ``like``: see `checkpoint.restore`.

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
            place = self._checkpoint(chunk)
            return checkpoint.restore(place, like, self._marker["files"].get(self._name(place)))

        return self._fresh(load)

    def _table(self, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        import pandas as pd

        if "groups" in self.config:
            raise RunError(
                f"{self.path} holds a plan, whose groups have the tables: read them by "
                f"kltrust.load({str(self.path)!r})"
            )

        def load() -> pd.DataFrame:
            if table not in self._marker["parts"]:
                return pd.DataFrame()
            return tables.read(self._files(table), columns).to_pandas()

        return self._fresh(load)

    def damage(self) -> dict[str, files.StorageError]:
        """Errors by file name, for committed files that can't be read as they were written."""
        found: dict[str, files.StorageError] = {}

        def look() -> None:
            found.clear()
            for name in layout.parts_of_commit(self._marker):
                try:
                    self._check(name)
                except files.StorageError as error:
                    found[name] = error
            for first in found.values():
                raise first

        with contextlib.suppress(files.StorageError):
            self._fresh(look)
        return found

    def _fresh(self, look: Callable[[], Any]) -> Any:
        """Looks again if a writer has replaced the files meanwhile."""
        while True:
            try:
                with layout.naming_whole_parts(self.path):
                    return look()
            except files.StorageError:
                before = self._marker
                self._see(layout.committed(self.path, self._description))
                if self._marker == before:
                    raise

    def _files(self, table: str) -> list[Path]:
        """The files of a table, each compared with its digest the first time."""
        names = layout.table_files(self._marker, table)
        for name in names:
            self._check(name)
        return [self.path / name for name in names]

    def _check(self, name: str) -> None:
        """Compares a table or a checkpoint with its digest, once."""
        crc32 = self._marker["files"].get(name)
        if (name, crc32) not in self._checked:
            layout.verify(self.path / name, crc32)
            self._checked.add((name, crc32))

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _part(self, table: str, chunk: int) -> Path:
        return self.path / table / f"{chunk:06d}.parquet"

    def _whole(self, table: str) -> Path:
        return self.path / f"{table}.parquet"

    def _checkpoint(self, chunk: int) -> Path:
        return self.path / CHECKPOINTS / f"{chunk:06d}"


def total_seconds(*several: Mapping[str, float]) -> dict[str, float]:
    """`Record.seconds` of several records, summed by kind."""
    total: Counter[str] = Counter()
    for seconds in several:
        total.update(seconds)
    return dict(total)
