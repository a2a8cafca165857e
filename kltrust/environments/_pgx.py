"""pgx's games (Koyamada et al. 2023) as `Env`: those of one player."""

from __future__ import annotations

from typing import Any

import numpy as np
import pgx

from kltrust.environments._adapters import Core, shapes_of, unbounded
from kltrust.types import Array, Box, Discrete, Masked, MaskedSpace, PyTree

MAX_STEPS = 10_000
"""Far beyond any game that is lost; some games of MinAtar can go on for ever."""


def names() -> tuple[str, ...]:
    """Of the games of one player that pgx has; those of MinAtar are a package of their own."""
    return tuple(n for n in pgx.available_envs() if n == "2048" or n.startswith("minatar-"))


def parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Only the time limit: pgx's games have no parameters."""
    return {"max_steps": MAX_STEPS}, {}


def build(name: str, arguments: dict[str, Any], fields: dict[str, Any]) -> Core:
    """Of one of `names`."""
    try:
        env = pgx.make(name)
    except ImportError as error:
        raise RuntimeError(
            f"pgx/{name} needs the package pgx-minatar ({error}): pip install pgx-minatar (its "
            "licence is the GPL)"
        ) from error

    def observe(state: Any) -> Masked:
        return Masked(state.observation, state.legal_action_mask)

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        state = env.init(key)
        return state, observe(state)

    def transition(
        key: Array, state: PyTree, action: Array
    ) -> tuple[PyTree, PyTree, Array, Array, Array]:
        state = env.step(state, action, key)
        return state, observe(state), state.rewards[0], state.terminated, state.truncated

    real = shapes_of(reset)
    is_bits = np.dtype(real.obs.dtype) == bool
    space = unbounded(real.obs)
    if is_bits:
        space = Box(np.zeros(real.obs.shape, bool), np.ones(real.obs.shape, bool), *space[2:])
    (num_actions,) = real.mask.shape
    limit = fields.get("max_steps", MAX_STEPS)
    return Core(reset, transition, MaskedSpace(space), Discrete(num_actions), limit)
