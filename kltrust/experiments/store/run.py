"""Writing a run folder, chunk by chunk, so that no committed chunk is ever lost.

A chunk's parts and checkpoint are written under names that nothing refers to yet. Then replacing
``commit.json``, which is atomic, makes them part of the run. So a kill at any moment, a full disk
or a power failure costs only the chunk under way. `record` lists the files of the folder.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import fcntl
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from kltrust.experiments.store import activity, checkpoint, files, tables, versions
from kltrust.experiments.store.layout import (
    BEGINNING,
    DECISIONS,
    FORMATS,
    TABLES,
    holds_run,
    parts_of_commit,
)
from kltrust.experiments.store.record import (
    CHECKPOINTS,
    COMMIT,
    EVALUATION,
    LOCK,
    METRICS,
    RUN,
    Record,
    RunError,
    total_seconds,
)
from kltrust.experiments.store.tables import Columns
from kltrust.types import PyTree

__all__ = ["Record", "Run", "RunError"]


class Run(Record):
    """A run folder to write to: `Run.create` makes a new one, `Run.open` resumes one.

    It holds the folder's lock until `close`, or the end of a ``with`` block. To read a run without
    writing, also while another process writes, use `Record`.
    """

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        """Used by `create` and `open`: call one of those instead."""
        super().__init__(path)
        self._lock: IO[bytes] | None = lock

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], code: Mapping[str, Any] | None = None
    ) -> Run:
        """Makes a run folder at a path that does not exist, or is an empty folder, and locks it.

        The resolved configuration holds names, numbers, lists and dicts. ``code`` describes your
        modules and comes from `own.code_of`.

        Raises:
            RunError: if the folder holds anything, or another process has it.
            StorageError: if the disk fails.
        """
        path = Path(path).absolute()
        description = files.sealed(
            {
                "format": FORMATS[0],
                "created": _now(),
                "config": dict(config),
                "versions": versions.snapshot(),
                **({"code": dict(code)} if code else {}),
            }
        )
        beginning = files.sealed({**BEGINNING, "run": description["crc32"]})
        with files.explained(f"make the run folder {path}"):
            path.mkdir(parents=True, exist_ok=True)
            _refuse_occupied(path)
            with _locked(path) as lock:
                _refuse_occupied(path)
                # In this order: a description without a commit is a damaged folder.
                files.write_atomic(path / COMMIT, files.to_json(beginning))
                files.write_atomic(path / RUN, files.to_json(description))
                return cls(path, lock)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Locks an existing run folder to resume it, and removes files that were never committed.

        Raises:
            RunError: if it holds no run, or another process has it.
            StorageError: if it is damaged, or the disk fails.
        """
        path = Record(path).path
        with files.explained(f"go on with the run {path}"), _locked(path) as lock:
            run = cls(path, lock)
            run._clear()
            return run

    def commit(
        self,
        chunk: int,
        rows: Columns,
        state: PyTree,
        *,
        evaluation: Columns | None = None,
        decisions: Columns | None = None,
        score: float | None = None,
        seconds: Mapping[str, float] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes a chunk part of the run: all of it, or nothing.

        Args:
            chunk: ``last_chunk + 1``.
            rows: the chunk's metrics, plain scalars, the same columns and dtypes in every chunk
                (`tables.to_rows` makes them).
            state: the state after the chunk: any pytree of arrays. It may be donated afterwards.
            evaluation: rows of a second table, in chunks with an evaluation.
            decisions: rows of a third one, in chunks after which a search decided something.
            score: higher is better; the best-scored state is kept beside the latest. None and NaN
                are no score.
            seconds: spent on this chunk, by kind, as in ``{"compile": 2.1, "run": 0.4}``.
            summary: if given, the first chunk is the whole run, and the same atomic write finishes
                the run: see `finish`.

        Raises:
            ValueError: if the chunk is not the next one, or the rows do not match the table.
            RunError: if the run is finished or closed, or the disk fails; earlier commits stand.
        """
        self._check_open()
        if self.finished:
            raise RunError(f"the run {self.path} is finished: start another in a folder of its own")
        if chunk != self.last_chunk + 1:
            raise ValueError(f"chunk {chunk} can't follow chunk {self.last_chunk}: commit in order")
        if chunk and summary is not None:
            raise ValueError(f"chunk {chunk} is not the whole run: end it by finish")
        more = {EVALUATION: evaluation, DECISIONS: decisions}
        given = {METRICS: rows, **{table: c for table, c in more.items() if c is not None}}
        encoded = {table: tables.encode(columns) for table, columns in given.items()}
        marker = copy.deepcopy(self._marker)
        marker |= {"chunk": chunk, "seconds": total_seconds(self.seconds, seconds or {})}
        if summary is not None:
            marker |= {"finished": True, "summary": dict(summary)}
        for table, (_, schema) in encoded.items():
            marker["parts"].setdefault(table, []).append(chunk)
            before = marker["schemas"].setdefault(table, schema)
            if changed := sorted(dict(before.items() ^ schema.items())):
                raise ValueError(
                    f"the columns of {table} changed, {', '.join(changed)}: give every chunk the "
                    "same columns and dtypes (a sweep goes on with the on_chunk that it began with)"
                )
        best = -math.inf if self.best is None else self.best["score"]
        if score is not None and score > best:
            marker["best"] = {"chunk": chunk, "score": float(score)}
        sums: dict[str, int] = {}
        with self._nothing_lost(f"save chunk {chunk}"):
            for table, (data, _) in encoded.items():
                part = self._part(table, chunk) if summary is None else self._whole(table)
                part.parent.mkdir(exist_ok=True)
                files.write_atomic(part, data)
                sums[self._name(part)] = zlib.crc32(data)
            place = self._checkpoint(chunk)
            place.parent.mkdir(exist_ok=True)
            files.remove(place)
            sums[self._name(place)] = checkpoint.save(place, state)
            self._mark(marker, sums)
        self._drop_others(CHECKPOINTS)

    def begin(self, groups: int) -> None:
        """Records how many groups of a plan have folders: a missing one is damage from now on."""
        self._check_open()
        if groups > self.begun:
            with self._nothing_lost(f"begin group {groups - 1}"):
                self._mark({**self._marker, "begun": groups}, {})

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Ends the run: joins the parts of each table into one, and records your summary.

        Calling it twice is harmless, and so is a kill in the middle.
        """
        self._check_open()
        if not self.finished:
            sums: dict[str, int] = {}
            with self._nothing_lost("finish the run"):
                for table in self._marker["parts"]:
                    whole = tables.to_parquet(tables.read(self._files(table)))
                    files.write_atomic(self._whole(table), whole)
                    sums[self._name(self._whole(table))] = zlib.crc32(whole)
                done = {"finished": True, "summary": dict(summary or {})}
                self._mark({**self._marker, **done}, sums)
        for table in self._marker["parts"]:
            files.remove(self.path / table)

    def tell(self, doing: str) -> None:
        """Tells readers of the folder what this process does, see `activity`."""
        if self._lock is not None:
            activity.record(self._lock, doing)

    def close(self) -> None:
        """Releases the folder's lock; what was committed stands."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.utime(self._lock.fileno())  # the last sign of this process
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Run:
        """Closed at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes; what was committed stands, whatever happened."""
        self.close()

    def _mark(self, marker: dict[str, Any], sums: Mapping[str, int]) -> None:
        """Replaces the marker by one that also holds the CRC-32 of these files."""
        known = {**self._marker["files"], **sums}
        kept = {name: known[name] for name in parts_of_commit(marker) if name in known}
        marker |= {"files": kept, "run": files.digest(self._description), "updated": _now()}
        files.write_atomic(self.path / COMMIT, files.to_json(files.sealed(marker)))
        self._see(marker)

    def _check_open(self) -> None:
        if self._lock is None:
            raise RunError(f"{self.path} is closed: open it again with Run.open")

    @contextlib.contextmanager
    def _nothing_lost(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (OSError, files.StorageError) as error:
            self._clear()
            raise RunError(
                f"can't {doing} of {self.path}: {files.explain(error)}. What was committed before "
                f"stands: then go on with --resume {self.path}"
            ) from error

    def _clear(self) -> None:
        """Removes the files of an interrupted commit: nothing refers to them."""
        for table in TABLES:
            self._drop_others(table)
            if not self.finished:
                files.remove(self._whole(table))
        for file in filter(files.is_debris, self.path.iterdir()):
            files.remove(file)
        self._drop_others(CHECKPOINTS)

    def _drop_others(self, folder: str) -> None:
        """Removes files from a folder that are not part of the commit."""
        kept = {self.path / name for name in parts_of_commit(self._marker)}
        for entry in (self.path / folder).glob("*"):
            if entry not in kept:
                files.remove(entry)


def _refuse_occupied(path: Path) -> None:
    if not holds_run(path):
        return
    if os.path.lexists(path / RUN):
        raise RunError(
            f"{path} holds a run already: --resume {path} goes on with it, at the settings that it "
            "began with; for a new run take another folder"
        )
    held = sorted(p.name for p in path.iterdir() if p.name != LOCK and not files.is_debris(p))
    raise RunError(
        f"{path} is not empty (it holds {held[0]}): take a new folder, so that nothing is "
        "overwritten"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Takes the folder's lock; `Run.close` releases it, and so does an error within."""
    with contextlib.ExitStack() as on_error:
        lock = on_error.enter_context(open(path / LOCK, "ab"))
        for tries_left in (4, 3, 2, 1, 0):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if tries_left:  # a process that checks whether it is free holds it for an instant
                    time.sleep(0.01)
                    continue
                raise RunError(
                    f"another process is writing to {path}: wait for it, stop it, or take another "
                    "folder"
                ) from error
        yield lock
        on_error.pop_all()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
