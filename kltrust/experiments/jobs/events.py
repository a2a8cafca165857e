"""What a job tells while it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kltrust.experiments.jobs.plan import Plan


class Stopped(Exception):
    """`Chunk.stop` was called; what was committed stands, and a later start goes on."""


@dataclasses.dataclass(eq=False)
class Chunk:
    """Some iterations of L runs that share a compilation, on the host, before they are committed.

    Attributes:
        env, algorithm: of all these runs.
        labels: [L], the settings' names.
        seeds: [L].
        first: the index of the first of the n iterations.
        env_steps: of each run so far.
        metrics: `Metrics` of arrays [L, n, ...].
        returns: [L, 2, episodes] of the evaluation after the chunk: by the mode, and sampled.
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
        """Ends the whole sweep in order, once this chunk is committed."""
        self.stopping = True


OnChunk = Callable[[Chunk], Mapping[str, Any] | None]
"""Looks at a chunk; may return columns of one's own, each a number, [L] or [L, n] by its name."""


def with_columns(chunk: Chunk, columns: Mapping[str, Any] | None) -> Any:
    """The chunk's metrics with ``columns`` [L, n] beside those of ``metrics.extra``.

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
    """What is told about a training or a sweep while it goes on; this one keeps it to itself.

    Attributes:
        on_chunk: is given every chunk before its commit, see `OnChunk`.
    """

    on_chunk: OnChunk | None = None

    def start(self, plan: Plan, path: Path) -> None:
        """The plan begins, or goes on."""

    def group(self, index: int, done: int) -> None:
        """A group begins, or goes on after so many iterations."""

    def compiling(self, what: str) -> None:
        """The next report may take a while."""

    def computing(self, chunk: int, of: int) -> None:
        """A chunk is under way, its number from 1, of so many."""

    def chunk(self, report: Report) -> None:
        """A chunk was committed."""

    def end(self) -> None:
        """Nothing more will be reported, whatever the reason."""


class Telling(Progress):
    """Hands on what it is told, and says what is done now in a few words."""

    def __init__(self, shown: Progress, tell: Callable[[str], None]) -> None:
        """To another progress, and to a function of the words."""
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
        iterations: of each run so far.
        of: planned.
        env_steps: of each run so far.
        steps_per_second: environment steps of all runs together, compilation apart.
        best: label and score of the best setting now: return by the mode, mean over seeds.
        kl: mean KL(old || new) of the chunk's updates over all runs, nats.
        broken: the first bad iteration of each run that met a NaN or an infinity.
        compile_seconds: of the group so far, in this process.
        fully_masked: observations of the chunk whose mask allowed no action, of all runs.
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
