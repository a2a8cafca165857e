"""Environments whose values, optima or failures are known by construction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.environments import from_functions
from kltrust.types import Box, Discrete, Env, Masked, MaskedSpace


def unbounded(*shape: int) -> Box:
    return Box(np.full(shape, -np.inf, np.float32), np.full(shape, np.inf, np.float32), shape)


def image() -> tuple[Box, jnp.ndarray]:
    """The space of small images of two colours, and one of them."""
    shape = 6, 5, 2
    return Box(np.zeros(shape), np.ones(shape), shape, np.uint8), jnp.zeros(shape, jnp.uint8)


def nothing(action_space, observation_space=None, obs=None) -> Env:
    """Nothing happens; only the spaces count."""
    obs = jnp.zeros(3, jnp.float32) if obs is None else obs
    space = unbounded(3) if observation_space is None else observation_space

    def transition(key, state, action):
        return state, obs, 1.0, False, False

    return from_functions(
        lambda key: (jnp.int32(0), obs), transition, space, action_space, max_steps=5
    )


def _constant_reset(key):
    return jnp.zeros((), jnp.int32), jnp.ones((1,), jnp.float32)


def reward_one(max_steps: int = 10, termination: float = 0.0) -> Env:
    """Reward 1 for ever, cut off after max_steps: V = 1 / (1 - gamma (1 - termination))."""

    def transition(key, steps, action):
        steps, obs = steps + 1, jnp.ones((1,), jnp.float32)
        return steps, obs, 1.0, jax.random.bernoulli(key, termination), steps >= max_steps

    return from_functions(_constant_reset, transition, unbounded(1), Discrete(2), name="reward_one")


def legal_arms(num_arms: int = 4, barren: float = 0.0, masked: bool = True) -> Env:
    """One pull an episode, of the arms that are allowed: the first, and each other at even odds.

    The last allowed arm pays 1, the others of them 0, a forbidden one -1: the optimum is 1. Without
    the mask the observation says nothing, and the best of four arms is the first: 1/8. With
    probability ``barren`` the mask allows nothing, and every arm pays 0.
    """

    def reset(key):
        arms_key, barren_key = jax.random.split(key)
        allowed = jax.random.bernoulli(arms_key, 0.5, (num_arms,)).at[0].set(True)
        allowed &= ~jax.random.bernoulli(barren_key, barren)
        obs = jnp.ones((1,), jnp.float32)
        return allowed, Masked(obs, allowed) if masked else obs

    def transition(key, allowed, arm):
        last = num_arms - 1 - jnp.argmax(allowed[::-1])
        reward = jnp.where(allowed[arm], (arm == last).astype(jnp.float32), -1.0)
        reward = jnp.where(jnp.any(allowed), reward, 0.0)
        return *reset(key), reward, True, False

    space = MaskedSpace(unbounded(1)) if masked else unbounded(1)
    return from_functions(
        reset, transition, space, Discrete(num_arms), max_steps=1, name="legal_arms"
    )


def chain(length: int = 5) -> Env:
    """Cells 0 to length - 1 in one-hot observations; 1 goes right, 0 goes back to the start.

    The last cell pays 1 and ends the episode, which is truncated after 4 length steps: the best
    return is 1, its value at the start gamma^(length - 2).
    """

    def observe(cell):
        return jax.nn.one_hot(cell, length, dtype=jnp.float32)

    def reset(key):
        cell = jnp.zeros((), jnp.int32)
        return cell, observe(cell)

    def transition(key, cell, action):
        cell = jnp.where(action == 1, cell + 1, 0)
        arrived = cell == length - 1
        return cell, observe(cell), arrived, arrived, False

    return from_functions(
        reset, transition, unbounded(length), Discrete(2), max_steps=4 * length, name="chain"
    )


def nan_reward(after: int = 3) -> Env:
    """Reward 1 for ``after`` steps, then NaN; episodes do not end."""

    def transition(key, steps, action):
        reward = jnp.where(steps < after, 1.0, jnp.nan)
        return steps + 1, jnp.ones((1,), jnp.float32), reward, False, False

    return from_functions(_constant_reset, transition, unbounded(1), Discrete(2), name="nan_reward")


def nan_obs(after: int = 3) -> Env:
    """Observation 1 for ``after`` steps, then NaN; episodes do not end."""

    def transition(key, steps, action):
        obs = jnp.where(steps < after, jnp.ones((1,), jnp.float32), jnp.nan)
        return steps + 1, obs, 1.0, False, False

    return from_functions(_constant_reset, transition, unbounded(1), Discrete(2), name="nan_obs")
