"""pgx's single-player games (Koyamada et al. 2023) as `Env`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pgx

from kltrust.environments._adapters import Core, box, shapes_of
from kltrust.environments._build import Stepped
from kltrust.types import Array, Discrete, Masked, MaskedSpace, PyTree

MAX_STEPS = 10_000
"""Far beyond any game that is lost; some MinAtar games can go on for ever."""


def names() -> tuple[str, ...]:
    """The single-player games; MinAtar's are in a separate package."""
    return tuple(n for n in pgx.available_envs() if n == "2048" or n.startswith("minatar-"))


def parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Only the time limit: pgx's games have no parameters."""
    return {"max_steps": MAX_STEPS}, {}


def build(name: str, arguments: dict[str, Any], fields: dict[str, Any]) -> Core:
    """The core of one of `names`."""
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

    def transition(key: Array, state: PyTree, action: Array) -> Stepped:
        state = env.step(state, action, key)
        return state, observe(state), state.rewards[0], state.terminated, state.truncated

    real = shapes_of(reset)
    low, high = (False, True) if np.dtype(real.obs.dtype) == bool else (-np.inf, np.inf)
    (num_actions,) = real.mask.shape
    limit = fields.get("max_steps", MAX_STEPS)
    space = MaskedSpace(box(low, high, real.obs))
    return Core(reset, transition, space, Discrete(num_actions), limit)
