"""The commands ``kltrust report`` and ``kltrust export``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
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

    Example: kltrust report runs/first runs/second --out runs/both
    """

    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The folder to write to; an earlier report there is replaced. Default: DIR/report."""
    preset_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Also write the presets there, as ALGORITHM/ENV.toml. No file there is overwritten."""


@dataclasses.dataclass(frozen=True)
class _Export(_Folders):
    """Write the metrics of sweeps and trainings for TensorBoard or Weights & Biases.

    Each run becomes a run there. The x axis is the environment steps of a run.

    Example: kltrust export runs/quick --tensorboard logs --follow
    """

    tensorboard: Annotated[Path | None, tyro.conf.arg(metavar="LOGDIR")] = None
    """Write event files there, for `tensorboard --logdir LOGDIR`. It needs kltrust[tensorboard]."""
    wandb: Annotated[str | None, tyro.conf.arg(metavar="PROJECT")] = None
    """Log to this project of Weights & Biases, offline: `wandb sync` sends it. It needs
    kltrust[wandb]."""
    online: Switch = False
    """With --wandb: send it now."""
    follow: Switch = False
    """Go on exporting what the runs commit, until they are finished."""


def report(arguments: list[str]) -> int:
    """``kltrust report``."""
    options = typed.cli(_Report, prog="kltrust report", args=arguments)
    if not options.folders:
        raise ValueError("name the run folders, as in `kltrust report DIR`")
    from kltrust.experiments import report

    folder = report.report_folder(options.folders, options.out)
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
        raise ValueError("say where to export to: --tensorboard LOGDIR, --wandb PROJECT, or both")
    if options.online and not options.wandb:
        raise ValueError("--online goes with --wandb PROJECT")
    from kltrust.experiments.reading import export, results

    sinks: list[export.Sink] = []
    with contextlib.ExitStack() as opened:
        if options.tensorboard is not None:
            sinks.append(export.Tensorboard(options.tensorboard))
        if options.wandb:
            sinks.append(export.Wandb(options.wandb, online=options.online))
        for sink in sinks:
            opened.enter_context(contextlib.closing(sink))
        if options.follow:
            if not export.follow(options.folders, sinks, _new):
                print("no process works on it any more: what it has committed is exported")
        else:
            runs = export.runs_of(results.load(*options.folders))
            for sink in sinks:
                sink.log(runs)
    if options.tensorboard is not None:
        print(f"{len(sinks[0].locations)} runs: tensorboard --logdir {options.tensorboard}")
    if options.wandb:
        print(f"{len(sinks[-1].locations)} runs:")
        for location in sinks[-1].locations:
            print(location if options.online else f"  wandb sync {location}")
    return 0


def _new(steps: int, runs: int) -> None:
    print(f"{time.strftime('%H:%M:%S')} {steps} new rows of {runs} runs", flush=True)
