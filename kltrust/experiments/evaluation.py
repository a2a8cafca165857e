"""Fresh episodes with the policies of a run folder."""

from __future__ import annotations

from typing import Literal

import jax
import numpy as np

from kltrust.experiments.program import build
from kltrust.experiments.record import Record
from kltrust.experiments.training import experiment_of, restore_states
from kltrust.learner import evaluate


def evaluate_run(
    record: Record,
    *,
    num_episodes: int = 100,
    seed: int = 0,
    deterministic: bool = True,
    which: Literal["latest", "best"] = "latest",
) -> np.ndarray:
    """Raw undiscounted returns [seeds, num_episodes].

    Args:
        record: the run folder.
        num_episodes: of each seed's policy; the start states differ between seeds.
        seed: of these episodes.
        deterministic: act by the mode, else sample.
        which: the last checkpoint or the best one.

    Raises:
        StorageError: if there is no checkpoint, or it is damaged.
    """
    experiment = experiment_of(record)
    states = restore_states(record, experiment, which)
    parts = build(experiment)
    keys = jax.random.split(jax.random.key(seed), len(record.config["seeds"]))

    def one(lane: tuple) -> jax.Array:
        state, key = lane
        return evaluate(parts.env, parts.agent, state, key, num_episodes, deterministic)

    return np.asarray(jax.jit(lambda lanes: jax.lax.map(one, lanes))((states, keys)))
