"""PPO of a checkout of purejaxrl, in an environment of its own: see `ours` for what a round is."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import jax


def train(checkout: str, config: dict[str, Any], seeds: int) -> Callable[[], None]:
    """A round: trainings from their start, all seeds in one vmap.

    Args:
        checkout: the repository's folder; its ``ppo.py`` is run as it is.
        config: as that file takes it.
        seeds: 1 is a training alone.
    """
    if seeds > 1:
        # With a thread a core, two cores and many seeds, its orthogonal initialisers wait for ever:
        # each QR decomposition of a batch holds a thread of the pool that its parts wait for.
        os.environ.setdefault("NPROC", str(2 * (os.cpu_count() or 1)))  # before JAX starts
    sys.path.insert(0, f"{checkout}/purejaxrl")
    whole = importlib.import_module("ppo").make_train(config)
    keys = jax.random.split(jax.random.PRNGKey(0), seeds)
    train = jax.jit(whole if seeds == 1 else jax.vmap(whole))

    def turn() -> None:
        jax.block_until_ready(train(keys[0] if seeds == 1 else keys))

    turn()
    return turn
