"""A run folder that several hosts share: the first one alone reads and writes it.

What it finds there, and whether it could write, the others learn by a broadcast, so that all go on
or all stop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from kltrust.experiments.engine import hosts
from kltrust.experiments.store.record import Record
from kltrust.experiments.store.run import Run
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
    entered: list[Run] = []

    def facts() -> dict[str, Any]:
        entered.append(enter())
        names = ("config", "versions", "_marker")
        return {"path": str(entered[0].path), **{n: getattr(entered[0], n) for n in names}}

    with _Shared(hosts.on_first(facts), *entered) as one_of_several:
        yield one_of_several


def record_of(run: Run) -> Record:
    """To look at; on other hosts than the first, which has the folder, what they know of it."""
    return Record(run.path) if hosts.is_first() else run


class _Shared(Run):
    """A run folder that one host writes to, and all know the state of."""

    _run: Any  # of the first host, which has the folder

    def __init__(self, facts: dict[str, Any], run: Any = None) -> None:
        vars(self).update(facts, path=Path(facts["path"]), _run=run)

    def commit(self, *arguments: Any, **keywords: Any) -> None:
        self._marked(lambda: self._run.commit(*arguments, **keywords))

    def finish(self, *arguments: Any) -> None:
        self._marked(lambda: self._run.finish(*arguments))

    def restore(self, like: PyTree, which: Literal["latest", "best"] = "latest") -> PyTree:
        state: PyTree = None

        def read() -> None:
            nonlocal state
            state = self._run.restore(like, which)

        hosts.on_first(read)
        return hosts.broadcast(state, like)

    def close(self) -> None:
        if self._run is not None:
            self._run.close()

    def _marked(self, write: Callable[[], None]) -> None:
        def marker() -> dict[str, Any]:
            write()
            return self._run._marker

        self._marker = hosts.on_first(marker)
