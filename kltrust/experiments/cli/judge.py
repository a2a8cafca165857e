"""The command ``kltrust judge``, and the few lines of it after a training or a sweep."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kltrust.experiments.cli.launch import Switch
from kltrust.experiments.store.record import Record

FOUND = 2
"""The exit status where something was found."""
_LINES = 3


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Say what is wrong with sweeps and trainings, from their metrics, worst first.

    Also while they go on. The exit status is 2 if something of the severity --fail or worse was
    found, else 0. What each finding means stands beside it, and in the documentation.
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
    options = tyro.cli(_Judge, prog="kltrust judge", args=arguments)
    if not options.folders:
        raise ValueError("judge what? As in `kltrust judge DIR`")
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
    """The worst findings of a folder in a few lines, and where there are more; notes are counted.

    Nothing is printed where nothing was found.
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
