"""Progress in a notebook: bars that are refreshed in place, as HTML and as plain text."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kltrust.experiments.cli.judge import Live
from kltrust.experiments.cli.pace import Pace, Remaining
from kltrust.experiments.cli.progress import Best, ConsoleProgress, masked, times, words
from kltrust.experiments.cli.tables import names_of
from kltrust.experiments.jobs.events import Progress, Report
from kltrust.experiments.jobs.plan import Plan

BETWEEN = 0.3
"""Seconds between two refreshes: each is a message to the browser."""


def suitable() -> Progress:
    """A `NotebookProgress` in a notebook, else a `ConsoleProgress`."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return NotebookProgress() if hasattr(shell, "kernel") else ConsoleProgress()


class NotebookProgress(Progress):
    """A bar for each group and one for the whole, in one output that changes in place.

    A reader without HTML sees the same as text. Nothing is fetched and no script runs.
    """

    def __init__(
        self,
        show: Callable[..., Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows through ``show``, by default `IPython.display.display`; ``clock`` is in seconds."""
        self._show, self._clock = show, clock
        self._handle: Any = None
        self._last = -BETWEEN
        self._rows: list[dict[str, Any]] = []
        self._found: list[str] = []
        self._remaining: Remaining | None = None
        self._judge: Live | None = None
        self._group, self._alone = 0, False
        self._best = Best()

    def start(self, plan: Plan, path: Path) -> None:
        """Makes the rows and shows them."""
        self._rows = [
            {"name": name, "done": 0, "of": plan.experiment(group).num_iterations, "said": ""}
            for name, group in zip(names_of(plan), plan.groups, strict=True)
        ]
        self._alone = len(plan.settings) == 1
        self._remaining, self._judge = Remaining(plan), Live(path)
        self._refresh(now=True)

    def group(self, index: int, done: int) -> None:
        """Goes on with the next row."""
        self._group = index
        self._say("beginning", done)

    def compiling(self, what: str) -> None:
        """Says why nothing moves."""
        self._say(f"compiling {what}", now=True)

    def computing(self, chunk: int, of: int) -> None:
        """Ends the message about compiling."""
        if "compiling" in self._rows[self._group]["said"]:
            self._say(f"computing chunk {chunk}")

    def chunk(self, report: Report) -> None:
        """Moves the row's bar, and shows what the judge newly found."""
        if self._remaining is not None:
            pace = Pace(report.compile_seconds, report.steps_per_second)
            self._remaining.report(self._group, report.iterations / report.of, pace)
        found = self._judge.update() if self._judge is not None else []
        self._found += [*(f"so far: {line}" for line in found), *masked(report)]
        self._say(words(self._best.named(report), self._alone), report.iterations)

    def end(self) -> None:
        """Shows the last state, and remembers how long things took."""
        self._refresh(now=True)
        if self._remaining is not None:
            self._remaining.remember()
            self._remaining = None

    def _say(self, text: str, done: int | None = None, *, now: bool = False) -> None:
        row = self._rows[self._group]
        row["said"] = text
        row["done"] = row["done"] if done is None else done
        self._refresh(now=now)

    def _refresh(self, *, now: bool) -> None:
        if not now and self._clock() < self._last + BETWEEN:
            return
        self._last = self._clock()
        shown = {"text/plain": self._text(), "text/html": self._html()}
        if self._handle is None:
            if self._show is None:
                from IPython.display import display

                self._show = display
            self._handle = self._show(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def _lines(self) -> list[tuple[str, float, str]]:
        """Name, share done and words of every row; the last one is the whole."""
        rows = [
            (
                row["name"],
                row["done"] / max(row["of"], 1),
                f"{row['done']}/{row['of']}  {row['said']}",
            )
            for row in self._rows
        ]
        share = self._remaining.share() if self._remaining is not None else 1.0
        return [*rows, ("all", share, times(self._remaining))]

    def _text(self) -> str:
        wide = max(len(name) for name, _, _ in self._lines())
        lines = [
            f"{name:{wide}} [{'#' * round(12 * share):12}] {said}".rstrip()
            for name, share, said in self._lines()
        ]
        return "\n".join([*lines, *self._found])

    def _html(self) -> str:
        rows = "".join(
            f'<tr><td style="text-align:left">{html.escape(name)}</td><td><progress max="1" '
            f'value="{share:.4f}" aria-label="{html.escape(name)}"></progress></td>'
            f'<td style="text-align:left">{html.escape(said)}</td></tr>'
            for name, share, said in self._lines()
        )
        found = "".join(f"<div>{html.escape(line)}</div>" for line in self._found)
        return f"<table>{rows}</table>{found}"
