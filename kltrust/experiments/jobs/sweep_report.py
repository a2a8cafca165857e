"""What a sweep tells while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from kltrust.experiments.jobs.plan import Plan


class Progress(Protocol):
    """What is told about a sweep while it goes on."""

    def start(self, plan: Plan, path: Path) -> None:
        """A sweep begins, or goes on."""

    def group(self, index: int, done: int) -> None:
        """A group begins, or goes on after so many iterations."""

    def compiling(self, what: str) -> None:
        """The next report may take a while."""

    def chunk(self, report: Report) -> None:
        """A chunk was committed."""

    def end(self) -> None:
        """Nothing more will be reported, whatever the reason."""


class Report(NamedTuple):
    """How a group stands after a chunk.

    Attributes:
        iterations: of each run so far.
        of: planned.
        env_steps: of all runs of the group so far.
        steps_per_second: environment steps of all runs together, compilation apart.
        best: label and score of the best setting now: return by the mode, mean over seeds.
        broken: the first bad iteration of each run that met a NaN or an infinity.
        fully_masked: observations of the chunk whose mask allowed no action, of all runs.
    """

    iterations: int
    of: int
    env_steps: int
    steps_per_second: float
    best: tuple[str, float]
    broken: dict[int, int]
    fully_masked: int = 0


class Silent:
    """Tells nothing."""

    def start(self, plan: Plan, path: Path) -> None:
        """Nothing."""

    def group(self, index: int, done: int) -> None:
        """Nothing."""

    def compiling(self, what: str) -> None:
        """Nothing."""

    def chunk(self, report: Report) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""
