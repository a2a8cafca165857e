"""A training: a sweep of one setting that stops at a NaN and keeps the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.jobs import run
from kltrust.experiments.jobs.events import Progress
from kltrust.experiments.jobs.plan import plan_training
from kltrust.experiments.store.record import Record


def train(
    experiment: Experiment,
    seeds: Sequence[int],
    path: str | Path,
    *,
    width: int | None = None,
    spread: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Trains one run per seed in one program and keeps everything in the folder ``path``.

    Args:
        experiment: all settings.
        seeds: a run each.
        path: a folder that does not exist, or is empty.
        width: see `plan.plan_training`.
        spread: see there.
        progress: is told what happens.

    Returns:
        The finished training; `results.load` reads its tables, `run.resume` goes on with one that
        was interrupted.

    Raises:
        ValueError: if a setting is wrong; nothing was compiled or written.
        RuntimeError: if this jaxlib computes wrong numbers (see `canary`).
        StorageError: if the folder can't be used; nothing was overwritten.
        NonFiniteError: names seed and iteration; what was committed before stands.
    """
    plan = plan_training(experiment, seeds, width=width, spread=spread)
    return run.start(plan, path, progress=progress)
