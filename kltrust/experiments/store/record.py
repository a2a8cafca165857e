"""What a run folder holds, and how to look at it, also while a run goes on.

run.json            the resolved configuration and the versions: written once
commit.json         the last complete chunk: whatever it does not name, never happened
metrics/            one Parquet part per chunk; one row per seed and iteration
evaluation/         likewise, where there were evaluations
checkpoints/        the latest state and the best one
metrics.parquet     all parts in one table, once the run is finished (evaluation.parquet too)
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kltrust.experiments.store import checkpoint, files, tables, versions
from kltrust.lazy import require_sweeps
from kltrust.types import PyTree

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "kltrust run 2"
RUN, COMMIT, LOCK = "run.json", "commit.json", ".lock"
METRICS, EVALUATION, CHECKPOINTS = "metrics", "evaluation", "checkpoints"


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
        if not (path / RUN).exists():
            raise RunError(
                f"{path} holds no run (it has no {RUN}): check the path, or start a run there "
                "without --resume"
            )
        description = files.read_json(path / RUN, "run")
        if description.get("format") != FORMAT:
            raise RunError(
                f"{path / RUN} has the format {description.get('format')!r}, this version reads "
                f"{FORMAT!r}: use the version of kltrust that wrote it, or check the path"
            )
        self.config: dict[str, Any] = description["config"]
        self.versions: dict[str, Any] = description["versions"]
        self._see(_read_marker(path))

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

    def columns(self) -> list[str]:
        """The names of the metrics' columns; none before the first chunk."""
        return list(self._marker["schemas"].get(METRICS, ()))

    def metrics(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All committed rows: one per seed and iteration; None is all columns."""
        return self._table(METRICS, columns)

    def nonfinite(self) -> dict[int, int]:
        """The first iteration of each run that a NaN or an infinity was counted in."""
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

    def _fresh(self, look: Callable[[], Any]) -> Any:
        """Looks again if a writer replaced what we were looking at."""
        while True:
            try:
                return look()
            except files.StorageError:
                before = self._marker
                self._see(_read_marker(self.path))
                if self._marker == before:
                    raise

    def _part(self, table: str, chunk: int) -> Path:
        return self.path / table / f"{chunk:06d}.parquet"

    def _files(self, table: str) -> list[Path]:
        """Those that hold a table."""
        return [self._whole(table)] if self.finished else self._parts(table)

    def _parts(self, table: str) -> list[Path]:
        return [self._part(table, chunk) for chunk in self._marker["parts"].get(table, [])]

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


def _read_marker(path: Path) -> dict[str, Any]:
    empty = {
        "chunk": -1,
        "parts": {},
        "schemas": {},
        "best": None,
        "seconds": {},
        "finished": False,
        "summary": {},
    }
    if not (path / COMMIT).exists():
        return empty
    return {**empty, **files.read_json(path / COMMIT, "the record of what was committed")}
