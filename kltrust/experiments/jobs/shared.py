"""A run folder that several hosts share: the first one alone reads and writes it.

What it finds there, and whether it could write, the others learn by a broadcast, so that all go on
or all stop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from kltrust.experiments.engine import hosts
from kltrust.experiments.store.record import Record
from kltrust.experiments.store.run import Run
from kltrust.experiments.store.tables import Columns
from kltrust.types import PyTree


@contextlib.contextmanager
def shared(enter: Callable[[], Run]) -> Iterator[Run]:
    """A run folder that the first host enters, as every host sees it; closed at the end.

    Raises:
        RunError, StorageError: what entering it raised, on all hosts.
    """
    if not hosts.are_several():
        with enter() as alone:
            yield alone
        return
    run: Run | None = None

    def facts() -> dict[str, Any]:
        nonlocal run
        run = enter()
        return {
            "path": str(run.path),
            "config": run.config,
            "versions": run.versions,
            "marker": run._marker,
        }

    with _Shared(hosts.on_first(facts), run) as one_of_several:
        yield one_of_several


def record_of(run: Run) -> Record:
    """To look at; on other hosts than the first, which has the folder, what they know of it."""
    return Record(run.path) if hosts.is_first() else run


class _Shared(Run):
    """A run folder that one host writes to, and all know the state of."""

    def __init__(self, facts: dict[str, Any], run: Run | None) -> None:
        self._run = run
        self.path, self._marker = Path(facts["path"]), facts["marker"]
        self.config, self.versions = facts["config"], facts["versions"]

    @property
    def _first(self) -> Run:
        assert self._run is not None, "only the first host has the folder"
        return self._run

    def commit(
        self,
        chunk: int,
        rows: Columns,
        state: PyTree,
        *,
        evaluation: Columns | None = None,
        score: float | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        self._marked(
            lambda: self._first.commit(
                chunk, rows, state, evaluation=evaluation, score=score, seconds=seconds
            )
        )

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        self._marked(lambda: self._first.finish(summary))

    def restore(self, like: PyTree, which: Literal["latest", "best"] = "latest") -> PyTree:
        state: PyTree = None

        def read() -> None:
            nonlocal state
            state = self._first.restore(like, which)

        hosts.on_first(read)
        return hosts.broadcast(state, like)

    def close(self) -> None:
        if self._run is not None:
            self._run.close()

    def _marked(self, write: Callable[[], None]) -> None:
        def marker() -> dict[str, Any]:
            write()
            return self._first._marker

        self._marker = hosts.on_first(marker)
