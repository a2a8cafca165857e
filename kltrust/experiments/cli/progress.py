"""A plan as seen from outside: a bar per group, or a line per chunk where there is no terminal."""

from __future__ import annotations

from pathlib import Path

from rich import progress as bars
from rich.console import Console

from kltrust.experiments.jobs.events import Progress, Report
from kltrust.experiments.jobs.plan import Plan


class ConsoleProgress(Progress):
    """Return, KL, env-steps/s and broken runs after every chunk, group by group.

    On a terminal each group is a bar; in a pipe, a file or a notebook each chunk is a line.
    """

    def __init__(self, console: Console | None = None):
        # rich would make an output cell of every line in a notebook.
        self.console = console or Console(force_jupyter=False)
        self._bars: bars.Progress | None = None
        self._names: list[str] = []
        self._task, self._alone = bars.TaskID(0), False  # the tasks are numbered as the groups

    def start(self, plan: Plan, path: Path) -> None:
        """Announces a setting that is alone, and makes the bars."""
        experiments = [plan.experiment(group) for group in plan.groups]
        self._names = [
            self._writable(f"{e.algorithm} {e.env} x {len(group.runs)}")
            for e, group in zip(experiments, plan.groups, strict=True)
        ]
        self._alone = len(plan.settings) == 1
        if self._alone:
            (one,), seeds = experiments, len(plan.seeds)
            self._print(
                f"{one.algorithm} on {one.env}, {seeds} seed{'s' if seeds > 1 else ''}, "
                f"{one.num_iterations} iterations of {one.batch_size} steps each"
            )
        if not self.console.is_terminal:
            return
        self._bars = bars.Progress(
            bars.TextColumn("{task.fields[name]}", markup=False),
            bars.BarColumn(bar_width=20),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.description}", markup=False),
            console=self.console,
        )
        for e, name in zip(experiments, self._names, strict=True):
            self._bars.add_task("", total=e.num_iterations, start=False, name=name)
        self._bars.start()

    def group(self, index: int, done: int) -> None:
        """Its bar begins."""
        self._task = bars.TaskID(index)
        if self._bars is not None:
            self._bars.start_task(self._task)
            self._bars.update(self._task, completed=done)

    def compiling(self, what: str) -> None:
        """Says why nothing moves."""
        if self._bars is not None:
            self._bars.update(self._task, description=f"compiling {what}")
        else:
            self._say(f"compiling {what} ...")

    def chunk(self, report: Report) -> None:
        """Shows where the group stands, and warns of masks that forbid everything."""
        if report.fully_masked:
            self._say(
                f"warning: {report.fully_masked:,} observations of this chunk allow no action by "
                "their mask, and so allowed all: check the environment's masks"
            )
        label, score = report.best
        text = (
            f"{'return' if self._alone else f'best {label}'} {score:.1f}   KL {report.kl:.2g}   "
            f"{report.steps_per_second:,.0f} steps/s"
        )
        if report.broken:
            text += f"   {len(report.broken)} broken"
        if self._bars is not None:
            text = self._writable(text)
            self._bars.update(self._task, description=text, completed=report.iterations)
        else:
            steps = f"{report.env_steps:>11,} steps"
            self._say(f"{report.iterations:>6}/{report.of}  {steps}   {text}")

    def note(self, line: str) -> None:
        """Prints a line for people."""
        self._print(line)

    def end(self) -> None:
        """Leaves the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _say(self, text: str) -> None:
        self._print(text if self._alone else f"{self._names[self._task]}: {text}")

    def _print(self, line: str) -> None:
        self.console.print(self._writable(line), markup=False, highlight=False, soft_wrap=True)

    def _writable(self, text: str) -> str:
        """The text with escapes for what the terminal's encoding lacks."""
        encoding = self.console.encoding
        return text.encode(encoding, "backslashreplace").decode(encoding)
