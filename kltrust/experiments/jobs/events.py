"""The events that a job reports while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kltrust.experiments.jobs.plan import Plan


class Stopped(Exception):
    """`Chunk.stop` was called; committed chunks stand, and a later start resumes the sweep."""


@dataclasses.dataclass(eq=False)
class Chunk:
    """Some iterations of L runs that share a compilation, on the host, before they are committed.

    Attributes:
        env, algorithm: the same for all these runs.
        labels: [L], the settings' names.
        seeds: [L].
        first: the index of the first of the n iterations.
        env_steps: environment steps of each run so far.
        metrics: `Metrics` of arrays [L, n, ...].
        returns: [L, 2, episodes], from the evaluation after the chunk: by the mode, and sampled.
    """

    env: str
    algorithm: str
    labels: list[str]
    seeds: list[int]
    first: int
    env_steps: int
    metrics: Any
    returns: np.ndarray
    stopping: bool = dataclasses.field(default=False, init=False, repr=False)

    def stop(self) -> None:
        """Ends the whole sweep cleanly, once this chunk is committed."""
        self.stopping = True


OnChunk = Callable[[Chunk], Mapping[str, Any] | None]
"""Looks at a chunk; may return your own columns by name, each a number, [L] or [L, n]."""


def with_columns(chunk: Chunk, columns: Mapping[str, Any] | None) -> Any:
    """The chunk's metrics with ``columns`` [L, n] added to those in ``metrics.extra``.

    Raises:
        ValueError: if a column's name is taken or not a name, or its shape does not fit.
    """
    if columns is None:
        return chunk.metrics
    if not isinstance(columns, Mapping):
        raise ValueError(f"on_chunk returns columns by their names, or None, got {columns!r}")
    shape = np.shape(chunk.metrics.kl)[:2]
    extra = dict(chunk.metrics.extra)
    for name, column in columns.items():
        if not isinstance(name, str) or not name.isidentifier() or name in extra:
            raise ValueError(f"on_chunk: {name!r} can't name a column: it is taken, or no name")
        values = np.asarray(column, np.float64)
        if values.ndim == 1:
            values = values[:, None]
        try:
            extra[name] = np.broadcast_to(values, shape).astype(np.float32)
        except ValueError:
            raise ValueError(
                f"on_chunk: {name} has shape {np.shape(column)}; give a number, "
                f"[{shape[0]}] one for each run, or {list(shape)} one for each iteration"
            ) from None
    return chunk.metrics._replace(extra=extra)


class Progress:
    """Is told how a training or a sweep goes on; this base class ignores it.

    Attributes:
        on_chunk: called with every chunk before its commit, see `OnChunk`.
    """

    on_chunk: OnChunk | None = None

    def start(self, plan: Plan, path: Path) -> None:
        """The plan begins, or resumes."""

    def group(self, index: int, done: int) -> None:
        """A group begins, or resumes after ``done`` iterations."""

    def compiling(self, what: str) -> None:
        """The next report may take a while."""

    def computing(self, chunk: int, of: int) -> None:
        """The chunk of this number, from 1, is under way, ``of`` all the chunks."""

    def chunk(self, report: Report) -> None:
        """A chunk was committed."""

    def end(self) -> None:
        """Nothing more will be reported, whatever the reason."""


class RecordActivity(Progress):
    """Passes on every event, and says in a few words what is being done."""

    def __init__(self, shown: Progress, tell: Callable[[str], None]) -> None:
        """Passes events on to ``shown``, and the words to the function ``tell``."""
        self._shown, self._tell, self._of = shown, tell, ""
        self._groups = 0
        self.on_chunk = shown.on_chunk

    def start(self, plan: Plan, path: Path) -> None:
        self._groups = len(plan.groups)
        self._shown.start(plan, path)

    def group(self, index: int, done: int) -> None:
        self._of = f" of group {index}" if self._groups > 1 else ""
        self._tell(f"beginning{self._of or ' it'}")
        self._shown.group(index, done)

    def compiling(self, what: str) -> None:
        self._tell(f"compiling {what}{self._of}")
        self._shown.compiling(what)

    def computing(self, chunk: int, of: int) -> None:
        self._tell(f"computing chunk {chunk} of {of}{self._of}")
        self._shown.computing(chunk, of)

    def chunk(self, report: Report) -> None:
        self._shown.chunk(report)

    def end(self) -> None:
        self._shown.end()


class Report(NamedTuple):
    """How a group stands after a chunk.

    Attributes:
        iterations: iterations of each run so far.
        of: planned iterations.
        env_steps: environment steps of each run so far.
        steps_per_second: environment steps of all runs together, without compilation.
        best: label and score of the best setting now: return by the mode, mean over seeds. Among
            equals it is the first of the plan.
        kl: mean KL(old || new) of the chunk's updates over all runs, nats.
        broken: the first bad iteration of each run that met a NaN or an infinity.
        compile_seconds: the group's compilation so far, in this process.
        fully_masked: observations of the chunk whose mask allowed no action, over all runs.
        scores: the score of each setting in the chunk by label, in the plan's order.
    """

    iterations: int
    of: int
    env_steps: int
    steps_per_second: float
    best: tuple[str, float]
    kl: float
    broken: dict[int, int]
    compile_seconds: float = 0.0
    fully_masked: int = 0
    scores: Mapping[str, float] = {}
