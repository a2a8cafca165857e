"""What the commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tyro

# Names and paths are there to be copied: never cut, the terminal wraps them.
WIDE = 400

Switch = tyro.conf.FlagCreatePairsOff[bool]


@contextlib.contextmanager
def naming(folder: Path, command: str) -> Iterator[None]:
    """Whoever interrupts a run is told how it goes on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        begun = (folder / "run.json").exists()
        goes_on = f"; `kltrust {command} --resume {folder}` goes on"
        raise KeyboardInterrupt(goes_on if begun else " before anything was written") from stop
