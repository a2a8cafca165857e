"""The commands ``kltrust report`` and ``kltrust export``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro

from kltrust.experiments.cli import typed
from kltrust.experiments.cli.launch import Switch


@dataclasses.dataclass(frozen=True)
class _Folders:
    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...")]
    """The folders of sweeps or trainings."""


@dataclasses.dataclass(frozen=True)
class _Report(_Folders):
    """Write what came out of sweeps and trainings as one page that needs no network.

    Also while they go on. Beside the page: its figures as PNG, its tables as Markdown, the best
    settings as presets for `kltrust train`, and specifications to run it all again.
    """

    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to write it; an earlier report there is replaced. DIR/report by default."""
    preset_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write the presets there too, as ALGORITHM/ENV.toml."""


@dataclasses.dataclass(frozen=True)
class _Export(_Folders):
    """Write the metrics of sweeps and trainings for TensorBoard or Weights & Biases.

    One of their runs for each of ours; the x axis is the environment steps of a run.
    """

    tensorboard: Annotated[Path | None, tyro.conf.arg(metavar="LOGDIR")] = None
    """Write event files there, for `tensorboard --logdir LOGDIR`."""
    wandb: Annotated[str | None, tyro.conf.arg(metavar="PROJECT")] = None
    """Log to this project of Weights & Biases, offline: `wandb sync` sends it."""
    online: Switch = False
    """With --wandb: send it now."""


def report(arguments: list[str]) -> int:
    """``kltrust report``."""
    options = typed.cli(_Report, prog="kltrust report", args=arguments)
    if not options.folders:
        raise ValueError("a report of what? As in `kltrust report DIR`")
    from kltrust.experiments import report

    folder = report.place(options.folders, options.out)
    composed = report.compose(options.folders, folder)
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


def export(arguments: list[str]) -> int:
    """``kltrust export``."""
    options = typed.cli(_Export, prog="kltrust export", args=arguments)
    if options.tensorboard is None and not options.wandb:
        raise ValueError("export where? --tensorboard LOGDIR, --wandb PROJECT, or both")
    if options.online and not options.wandb:
        raise ValueError("--online goes with --wandb PROJECT")
    from kltrust.experiments.reading import export, results

    loaded = results.load(*options.folders)
    if options.tensorboard is not None:
        folders = export.to_tensorboard(loaded, options.tensorboard)
        print(f"{len(folders)} runs: tensorboard --logdir {options.tensorboard}")
    if options.wandb:
        places = export.to_wandb(loaded, options.wandb, online=options.online)
        print(f"{len(places)} runs:")
        for place in places:
            print(place if options.online else f"  wandb sync {place}")
    return 0
