"""A sweep as seen from a terminal: a bar per group, or a line per chunk where there is none."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kltrust.experiments.cli.progress import fully_masked
from kltrust.experiments.jobs.plan import Plan
from kltrust.experiments.jobs.sweep_report import Report


class SweepProgress:
    """Iterations, env-steps/s, the best setting so far and broken runs, group by group."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self._bars: Progress | None = None
        self._tasks: list[TaskID] = []
        self._names: list[str] = []
        self._index = 0

    def start(self, plan: Plan, path: Path) -> None:
        """Makes the bars."""
        experiments = [plan.experiment(group) for group in plan.groups]
        self._names = [
            f"{e.algorithm} {e.env} x {len(group.runs)}"
            for e, group in zip(experiments, plan.groups, strict=True)
        ]
        if not self.console.is_terminal:
            return
        self._bars = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=self.console,
        )
        self._tasks = [
            self._bars.add_task("", total=e.num_iterations, start=False, name=name)
            for e, name in zip(experiments, self._names, strict=True)
        ]
        self._bars.start()

    def group(self, index: int, done: int) -> None:
        """Its bar begins."""
        self._index = index
        if self._bars is not None:
            self._bars.start_task(self._tasks[index])
            self._bars.update(self._tasks[index], completed=done)

    def compiling(self, what: str) -> None:
        """Says why nothing moves."""
        if self._bars is not None:
            self._bars.update(self._tasks[self._index], description=f"compiling {what}")
        else:
            self._say(f"compiling {what} ...")

    def chunk(self, report: Report) -> None:
        """Shows where the group stands."""
        if report.fully_masked:
            self._say(f"warning: {fully_masked(report.fully_masked)}")
        label, score = report.best
        text = f"{report.steps_per_second:,.0f} steps/s   best {label} {score:.1f}"
        if report.broken:
            text += f"   {len(report.broken)} broken"
        if self._bars is not None:
            task = self._tasks[self._index]
            self._bars.update(task, description=text, completed=report.iterations)
        else:
            self._say(f"{report.iterations:>6}/{report.of}   {text}")

    def end(self) -> None:
        """Leaves the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _say(self, text: str) -> None:
        line = f"{self._names[self._index]}: {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
