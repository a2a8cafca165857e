"""The command ``kltrust report``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class _Report:
    """Write what came out of sweeps and trainings as one page that needs no network.

    Also while they go on. Beside the page: its figures as PNG, its tables as Markdown, the best
    settings as presets for `kltrust train`, and specifications to run it all again.
    """

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...")]
    """The folders of sweeps or trainings."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to write it; an earlier report there is replaced. DIR/report by default."""
    preset_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write the presets there too, as ALGORITHM/ENV.toml."""


def report(arguments: list[str]) -> int:
    """``kltrust report``."""
    options = tyro.cli(_Report, prog="kltrust report", args=arguments)
    if not options.folders:
        raise ValueError("a report of what? As in `kltrust report DIR`")
    from kltrust.experiments import report

    folder = report.place(options.folders, options.out)
    composed = report.compose(options.folders)
    report.write(composed, folder, options.preset_dir)
    for line in (*composed.notes, *composed.headlines):
        print(line)
    presets = len(composed.presets)
    print(f"wrote {os.path.relpath(folder / 'index.html')}, figures/, tables.md, specs/")
    print(
        f"and {presets} preset{'s' if presets > 1 else ''} in "
        f"{os.path.relpath(options.preset_dir or folder / 'presets')}"
    )
    return 0
