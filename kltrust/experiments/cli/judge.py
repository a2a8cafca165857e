"""The command ``kltrust judge``, and its short form after a training or a sweep."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kltrust.experiments.cli import typed
from kltrust.experiments.cli.launch import Switch
from kltrust.experiments.store.record import Record

FOUND = 2
"""The exit status where something was found."""
_LINES = 3
_SECONDS = 10.0
_SHARE = 100


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Say what is wrong with sweeps and trainings, from their metrics, worst first.

    Also while they go on. The exit status is 2 if something of the severity --fail or worse was
    found, else 0. What each finding means stands beside it, and in the documentation.

    Example: kltrust judge runs/quick --fail warning
    """

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...")]
    """The folders of sweeps or trainings."""
    json: Switch = False
    """Print every finding of every run as JSON."""
    fail: Literal["note", "warning", "error", "never"] = "warning"
    """From which severity on the exit status is 2."""
    notes: Switch = True
    """Show notes, too."""


def judge(arguments: list[str]) -> int:
    """``kltrust judge``."""
    options = typed.cli(_Judge, prog="kltrust judge", args=arguments)
    if not options.folders:
        raise ValueError("name the run folders to judge, as in `kltrust judge DIR`")
    from kltrust import findings
    from kltrust.experiments.reading import results

    loaded = results.load(*options.folders)
    if loaded.metrics.empty:
        raise ValueError("no iteration is there yet: wait for the first commit")
    found = findings.judge(loaded)
    shown = found if options.notes else found.at_least("warning")
    if options.json:
        print(json.dumps({"runs": found.of, "findings": shown.to_dicts()}, indent=1))
    else:
        print(repr(shown) if len(shown) else f"nothing found in {found.of} runs")
    worse = options.fail != "never" and len(found.at_least(options.fail))
    return FOUND if worse else 0


def print_worst(record: Record) -> None:
    """Prints a folder's worst findings in a few lines, and where to find more; counts its notes.

    Prints nothing if nothing was found.
    """
    from kltrust import findings
    from kltrust.experiments.reading import results

    loaded = results.load(record.path)
    if loaded.metrics.empty:
        return
    found = findings.judge(loaded)
    serious = found.at_least("warning")
    for line in serious.lines(_LINES):
        print(line)
    if notes := len(found.names) - len(serious.names):
        print(f"{notes} note{'s' if notes > 1 else ''} by the judge")


class Live:
    """The judge beside a running job: reports each finding once, when it first appears.

    It looks after a commit, at the earliest ten seconds after the start or the last look, and takes
    at most one hundredth of the time. Notes are left for the end.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic):
        self._path, self._clock = path, clock
        self._told: set[str] = set()
        self._next = clock() + _SECONDS

    def update(self) -> list[str]:
        """New findings in a few lines, worst first; nothing if it is too early for a look."""
        if (start := self._clock()) < self._next:
            return []
        from kltrust import findings
        from kltrust.experiments.reading import results

        loaded = results.load(self._path)
        found = findings.judge(loaded) if len(loaded.metrics) else findings.Findings([], 0)
        new = [f for f in found.at_least("warning") if f.name not in self._told]
        self._told.update(f.name for f in new)
        now = self._clock()
        self._next = now + max(_SECONDS, _SHARE * (now - start))
        return findings.Findings(new, found.of).lines(_LINES)
