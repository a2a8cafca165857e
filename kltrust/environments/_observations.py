"""Observations with parts left out: tasks that ask for a memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kltrust.types import Array, Box, Env, EnvStep, PyTree


def hide_observations(env: Env, keep: Sequence[int]) -> Env:
    """The environment with all entries of its observation hidden but some.

    CartPole's velocities are its entries 1 and 3: ``hide_observations(env, keep=(0, 2))`` shows
    positions alone, from which a policy without memory can't tell where the pole is going.

    An observation of ``env`` is a vector, a Box of shape [F]; of the result one of shape
    [len(keep)], the entries of ``keep`` in this order.

    Raises:
        ValueError: for another kind of observation, or entries that it does not have.
    """
    space = env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise ValueError(f"{env.name}: only the entries of a vector can be hidden, not of {space}")
    places = [int(place) for place in keep]
    size = space.shape[0]
    if not places or len(set(places)) < len(places) or not all(0 <= i < size for i in places):
        raise ValueError(
            f"{env.name}: keep must name different entries among 0 to {size - 1}, at least one; "
            f"got {keep!r}"
        )
    index = np.asarray(places)

    def shown(obs: Array) -> Array:
        return obs[..., index]

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return state, shown(obs)

    def showing(step: EnvStep) -> EnvStep:
        def shown_step(key: Array, state: PyTree, action: PyTree) -> Any:
            state, obs, outcome = step(key, state, action)
            return state, shown(obs), outcome._replace(next_obs=shown(outcome.next_obs))

        return shown_step

    low, high = (np.broadcast_to(bound, space.shape)[index] for bound in (space.low, space.high))
    return env._replace(
        reset=reset,
        step=showing(env.step),
        step_batch=env.step_batch and showing(env.step_batch),
        observation_space=Box(low, high, (len(places),), space.dtype),
    )
