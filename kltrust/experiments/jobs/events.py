"""What a job tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kltrust.experiments.jobs.plan import Plan


class Progress:
    """What is told about a training or a sweep while it goes on; this one keeps it to itself."""

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
