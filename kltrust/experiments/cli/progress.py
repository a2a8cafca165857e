"""Training as seen from a terminal: a live bar, or a line per chunk where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.jobs.training import Report


def fully_masked(number: int) -> str:
    """What a warning says of so many observations whose mask allowed no action."""
    return (
        f"{number:,} observations of this chunk allow no action by their mask, and so allowed all: "
        "check the environment's masks"
    )


class ConsoleProgress:
    """Return, KL and env-steps/s after every chunk."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self._bar: Progress | None = None

    def start(self, experiment: Experiment, seeds: Sequence[int], path: Path) -> None:
        """Announces the training."""
        plural = "s" if len(seeds) > 1 else ""
        self.console.print(
            f"[bold]{escape(experiment.algorithm)}[/] on [bold]{escape(experiment.env)}[/], "
            f"{len(seeds)} "
            f"seed{plural}, {experiment.num_iterations} iterations of {experiment.batch_size} "
            "steps each"
        )
        if self.console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("compiling", total=experiment.num_iterations)
            self._bar.start()

    def compiling(self, what: str) -> None:
        """Says why nothing moves."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"compiling {what}")
        else:
            self.console.print(f"compiling {what} ...")

    def chunk(self, report: Report) -> None:
        """Shows where the training stands, and warns of masks that forbid everything."""
        if report.fully_masked:
            warning = f"[yellow]warning:[/] {fully_masked(report.fully_masked)}"
            self.console.print(warning, soft_wrap=True)
        text = (
            f"return {report.evaluation:8.1f}   KL {report.kl:<8.2g}   "
            f"{report.steps_per_second:10,.0f} steps/s"
        )
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=report.iterations)
        else:
            steps = f"{report.env_steps:>11,} steps"
            line = f"{report.iterations:>6}/{report.of}  {steps}   {text}"
            self.console.print(line, soft_wrap=True)

    def end(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
