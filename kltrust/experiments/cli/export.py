"""The command ``kltrust export``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from kltrust.experiments.cli.common import Switch


@dataclasses.dataclass(frozen=True)
class _Export:
    """Write the metrics of sweeps and trainings for TensorBoard or Weights & Biases.

    One of their runs for each of ours; the x axis is the environment steps of a run.
    """

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...")]
    """The folders of sweeps or trainings."""
    tensorboard: Annotated[Path | None, tyro.conf.arg(metavar="LOGDIR")] = None
    """Write event files there, for `tensorboard --logdir LOGDIR`."""
    wandb: Annotated[str | None, tyro.conf.arg(metavar="PROJECT")] = None
    """Log to this project of Weights & Biases, offline: `wandb sync` sends it."""
    online: Switch = False
    """With --wandb: send it now."""


def export(arguments: list[str]) -> int:
    """``kltrust export``."""
    options = tyro.cli(_Export, prog="kltrust export", args=arguments)
    if options.tensorboard is None and not options.wandb:
        raise ValueError("export where? --tensorboard LOGDIR, --wandb PROJECT, or both")
    if options.online and not options.wandb:
        raise ValueError("--online goes with --wandb PROJECT")
    from kltrust.experiments.reading import results

    loaded = results.load(*options.folders)
    from kltrust.experiments.reading import export

    if options.tensorboard is not None:
        folders = export.to_tensorboard(loaded, options.tensorboard)
        print(f"{len(folders)} runs: tensorboard --logdir {options.tensorboard}")
    if options.wandb:
        places = export.to_wandb(loaded, options.wandb, online=options.online)
        print(f"{len(places)} runs:")
        for place in places:
            print(place if options.online else f"  wandb sync {place}")
    return 0
