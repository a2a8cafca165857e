"""The progress of a plan: a bar per group, or a line per chunk if there is no terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from kltrust.experiments.cli.judge import Live
from kltrust.experiments.cli.pace import Pace, Remaining
from kltrust.experiments.cli.tables import names_of
from kltrust.experiments.jobs.events import Progress, Report
from kltrust.experiments.jobs.plan import Plan

WHOLE = "all"
"""The name of the whole plan's row."""


class ConsoleProgress(Progress):
    """Return, KL and env-steps/s after every chunk, group by group, and the time left.

    On a terminal each group is a bar; in a pipe, a file or a notebook each chunk is a line. Both
    need 80 columns.
    """

    def __init__(self, console: Console | None = None):
        # In a notebook, rich would make an output cell of every line.
        self.console = console or Console(force_jupyter=False)
        self._bars: bars.Progress | None = None
        self._names: list[str] = []
        self._remaining: Any = None
        self._judge: Live | None = None
        self._group, self._alone = 0, False
        self._tasks: list[bars.TaskID] = []
        self._best = Best()

    def start(self, plan: Plan, path: Path) -> None:
        """Announces the setting, if there is only one, and makes the bars."""
        experiments = [plan.experiment(group) for group in plan.groups]
        self._names = [self._writable(name) for name in names_of(plan)]
        self._remaining = Remaining(plan)
        self._judge = Live(path)
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
            _Name(), bars.BarColumn(bar_width=12), _Count(), _Said(), console=self.console
        )
        more: dict[str, Any] = {"begun": False, "of": self._remaining}
        for e, name in zip(experiments, self._names, strict=True):
            self._tasks.append(
                self._bars.add_task("waiting", total=e.num_iterations, name=name, **more)
            )
        self._tasks.append(self._bars.add_task("", total=1.0, name=WHOLE, **more))
        self._bars.start()

    def group(self, index: int, done: int) -> None:
        """Starts the group's bar."""
        self._group = index
        if self._bars is not None:
            self._bars.update(self._tasks[index], completed=done, description="", begun=True)

    def compiling(self, what: str) -> None:
        """Says why nothing moves."""
        if self._bars is not None:
            self._bars.update(self._tasks[self._group], description=what, since=time.monotonic())
        else:
            self._say(f"compiling {what} ...")

    def computing(self, chunk: int, of: int) -> None:
        """Ends the message about compiling."""
        if self._bars is not None:
            task = self._tasks[self._group]
            if self._bars.tasks[task].fields.get("since") is not None:
                self._bars.update(task, description=f"computing chunk {chunk}", since=None)

    def chunk(self, report: Report) -> None:
        """Shows where the group stands and what the judge newly found; warns of odd masks."""
        report = self._best.named(report)
        for line in masked(report):
            self._say(line)
        text = words(report, self._alone)
        if self._remaining is not None:
            pace = Pace(report.compile_seconds, report.steps_per_second)
            self._remaining.report(self._group, report.iterations / report.of, pace)
        if self._bars is not None:
            self._bars.update(self._tasks[-1], completed=self._remaining.share())
            self._bars.update(
                self._tasks[self._group],
                description=self._writable(text),
                completed=report.iterations,
                since=None,
            )
        else:
            text = words(report, self._alone, times(self._remaining))
            self._say(f"{report.iterations}/{report.of}   {text}")
        for line in self._judge.update() if self._judge is not None else ():
            self._print(f"so far: {line}")

    def note(self, line: str) -> None:
        """Prints a line for people."""
        self._print(line)

    def end(self) -> None:
        """Leaves the terminal as it was, and remembers how long things took."""
        if self._remaining is not None:
            self._remaining.remember()
            self._remaining = None
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _say(self, text: str) -> None:
        self._print(text if self._alone else f"{self._names[self._group]}: {text}")

    def _print(self, line: str) -> None:
        self.console.print(self._writable(line), markup=False, highlight=False, soft_wrap=True)

    def _writable(self, text: str) -> str:
        """The text with escapes for what the terminal's encoding lacks."""
        encoding = self.console.encoding
        return text.encode(encoding, "backslashreplace").decode(encoding)


class Best:
    """Names the best setting: the same as before, while it ties to the digit that is shown."""

    def __init__(self) -> None:
        self._before = ""

    def named(self, report: Report) -> Report:
        """The report with the name that is to be shown."""
        label, score = report.best
        before = report.scores.get(self._before)
        if before is None or f"{before:.1f}" != f"{score:.1f}":
            self._before = label
        return report._replace(best=(self._before, score))


def words(report: Report, alone: bool, timed: str = "") -> str:
    """How a group stands; the best setting is named where there is not one ``alone``."""
    label, score = report.best
    text = f"return {score:.1f}   KL {report.kl:.2g}   {report.steps_per_second:,.0f} steps/s"
    if report.broken:
        text += f"   {len(report.broken)} broken"
    text += f"   {timed}" if timed else ""
    return text if alone else f"{text}   best: {label}"


def masked(report: Report) -> list[str]:
    """A warning where masks of a chunk allowed no action."""
    if not report.fully_masked:
        return []
    return [
        f"warning: {report.fully_masked:,} observations of this chunk allow no action by "
        "their mask, and so allowed all: check the environment's masks"
    ]


def times(remaining: Remaining | None) -> str:
    """Like ``1:05 gone, 0:30 left``."""
    if remaining is None:
        return ""
    return f"{_clock(remaining.elapsed())} gone, {_clock(remaining.left())} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Column(bars.ProgressColumn):
    """A cell of a group's row, or of the last row, which is the whole plan's."""

    def render(self, task: bars.Task) -> Text:
        """The cell, grey while the group waits."""
        whole = task.total == 1.0 and task.fields["name"] == WHOLE
        waits = not whole and not task.fields["begun"]
        return Text(self.cell(task, whole), style="dim" if waits else "", no_wrap=True)

    def cell(self, task: bars.Task, whole: bool) -> str:
        raise NotImplementedError


class _Name(_Column):
    def cell(self, task: bars.Task, whole: bool) -> str:
        return task.fields["name"]


class _Count(_Column):
    def cell(self, task: bars.Task, whole: bool) -> str:
        return "" if whole else f"{task.completed:.0f}/{task.total:.0f}"


class _Said(_Column):
    max_refresh = 0.5

    def cell(self, task: bars.Task, whole: bool) -> str:
        if whole:
            return times(task.fields["of"])
        since = task.fields.get("since")
        if since is None:
            return task.description
        return f"compiling for {time.monotonic() - since:.0f} s: {task.description}"
