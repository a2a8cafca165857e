"""A chunk's metrics and evaluations as columns, checked for NaN and infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kltrust.experiments.store import tables


class NonFiniteError(RuntimeError):
    """A reward, an observation or a parameter became NaN or infinite; the message says when."""


_CAUSES = {
    "nonfinite_rewards": "the environment returned {} NaN or infinite rewards",
    "nonfinite_observations": "the environment returned {} NaN or infinite observations",
    "nonfinite_update": "the parameters became NaN or infinite",
}


def check_finite(metrics: Any, seeds: Sequence[int], first_iteration: int) -> None:
    """Raises `NonFiniteError` on the first NaN or infinity of a chunk, and names its place."""
    counts = np.stack([np.asarray(getattr(metrics, name)) for name in _CAUSES])
    if not counts.any():
        return
    iteration = int(np.argmax(counts.any(axis=(0, 1))))
    lane = int(np.argmax(counts[:, :, iteration].any(axis=0)))
    cause = int(np.argmax(counts[:, lane, iteration] > 0))
    what = list(_CAUSES.values())[cause].format(int(counts[cause, lane, iteration]))
    remedy = (
        "take a smaller learning rate, a bound max_kl or a tighter gradient-norm bound"
        if cause == 2
        else "check the environment's parameters and its reward"
    )
    raise NonFiniteError(
        f"seed {seeds[lane]}, iteration {first_iteration + iteration}: {what}: {remedy}. "
        "The chunk was not saved; what was committed before it stands"
    )


def metric_rows(
    metrics: Any,
    runs: Sequence[int],
    seeds: Sequence[int],
    first_iteration: int,
    reached: np.ndarray,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Metrics [L, n] as columns: a row per run and iteration, up to the run's first bad iteration.

    ``reached`` is the iteration of each lane's state; it is lower for a frozen lane.
    """
    rows = tables.to_rows(metrics, runs, first_iteration)
    length = len(rows["iteration"]) // len(runs)
    rows = {
        "run": rows.pop("seed"),
        "seed": np.repeat(np.asarray(seeds, np.int64), length),
        "env_steps": (rows["iteration"] + 1) * batch_size,
        **rows,
    }
    kept = rows["iteration"] <= np.repeat(reached, length)
    return {name: column[kept] for name, column in rows.items()}


def evaluation_rows(
    returns: np.ndarray, runs: Sequence[int], seeds: Sequence[int], iteration: int, batch_size: int
) -> dict[str, np.ndarray]:
    """Returns [lanes, 2, episodes], by the mode and sampled, as one row per run; no padding."""
    number = len(runs)
    mode, sampled = np.moveaxis(returns[:number], 1, 0)
    return {
        "run": np.asarray(runs),
        "seed": np.asarray(seeds, np.int64),
        "iteration": np.full(number, iteration),
        "env_steps": np.full(number, iteration * batch_size),
        "mean_return": mode.mean(axis=1),
        "std_return": mode.std(axis=1),
        "sampled_mean_return": sampled.mean(axis=1),
        "num_episodes": np.full(number, mode.shape[1]),
    }
