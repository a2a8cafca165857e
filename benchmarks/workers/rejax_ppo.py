"""PPO of rejax, in its own environment: see `ours` for what a round is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from rejax import PPO


def train(settings: dict[str, Any], seeds: int) -> Callable[[], None]:
    """A round: trainings from their start, all seeds in one vmap; no evaluation between.

    Args:
        settings: of its PPO.
        seeds: 1 is a training alone.
    """
    steps = settings["total_timesteps"]
    algorithm = PPO.create(**settings, eval_freq=steps, skip_initial_evaluation=True)
    algorithm = algorithm.replace(eval_callback=lambda *_: ())
    keys = jax.random.split(jax.random.PRNGKey(0), seeds)
    train = jax.jit(algorithm.train if seeds == 1 else jax.vmap(algorithm.train))

    def turn() -> None:
        jax.block_until_ready(train(keys[0] if seeds == 1 else keys))

    turn()
    return turn
