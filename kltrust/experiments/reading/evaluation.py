"""Fresh episodes with trained policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from kltrust.experiments.engine.program import build
from kltrust.experiments.reading.trained import Trained
from kltrust.learner import evaluate


def evaluate_runs(
    runs: Sequence[Trained],
    *,
    num_episodes: int = 100,
    seed: int = 0,
    deterministic: bool = True,
    which: Literal["latest", "best"] = "latest",
) -> np.ndarray:
    """Raw undiscounted returns [runs, num_episodes].

    Args:
        runs: of one setting, from `find_runs`.
        num_episodes: of each run's policy; the start states differ between runs.
        seed: of these episodes.
        deterministic: act by the mode, else sample.
        which: the last checkpoint or the best one.

    Raises:
        StorageError: if there is no checkpoint, or it is damaged.
    """
    parts = build(runs[0].experiment)
    places = np.asarray([run.place for run in runs])
    states = jax.tree.map(lambda x: x[places], runs[0].states(which))
    keys = jax.random.split(jax.random.key(seed), len(runs))

    def one(lane: tuple) -> jax.Array:
        state, key = lane
        return evaluate(parts.env, parts.agent, state, key, num_episodes, deterministic)

    return np.asarray(jax.jit(lambda lanes: jax.lax.map(one, lanes))((states, keys)))
