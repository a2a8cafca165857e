"""Masks beside observations, for actions that only some states allow.

The mask comes from the environment and is no feature for the network. The logits of forbidden
actions are set to -inf (`masked_logits`), for old and new alike. So both have the same support, and
their KL, their ratio and the Fisher matrix are those of the allowed actions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.types import Array, Discrete, Env, Masked, MaskedSpace, MultiDiscrete, PyTree, Space


def mask_of(obs: PyTree) -> Array | None:
    """The mask of an observation [*E, *O]: bool [*E, ...] as in `Masked`, or None without one."""
    return obs.mask if isinstance(obs, Masked) else None


def without_mask(x: Any) -> Any:
    """``x``, an observation [*E, *O] or a space, without its mask, if it has one."""
    return x.obs if isinstance(x, Masked | MaskedSpace) else x


def space_leaves(space: Any) -> tuple[list[Any], Any]:
    """The spaces of an observation's arrays, except the mask, and their structure."""
    return jax.tree.flatten(without_mask(space), is_leaf=lambda x: isinstance(x, Space))


def existing_actions(space: Discrete | MultiDiscrete) -> np.ndarray:
    """All true, [n], for Discrete; for MultiDiscrete, [k, max(nvec)], false from ``nvec[i]`` on."""
    sizes = np.asarray(space.nvec)[:, None] if isinstance(space, MultiDiscrete) else space.n
    return np.arange(np.max(sizes)) < sizes


def allowed_actions(space: Discrete | MultiDiscrete, mask: Array) -> Array:
    """The actions of the ``space`` that have a probability: bool, like ``mask``, as in `Masked`.

    They are the actions that the mask allows, or all in a row where it allows none.
    """
    legal, exists = _legal(space, mask)
    return jnp.where(jnp.any(legal, axis=-1, keepdims=True), legal, exists)


def count_fully_masked(space: Space, obs: PyTree) -> Array:
    """The number of observations whose mask allows no action (for any one entry): [] int32.

    ``space`` is the action space and ``obs`` is [*E, *O]. Without a mask the count is 0.
    """
    mask = mask_of(obs)
    if mask is None or not isinstance(space, Discrete | MultiDiscrete):
        return jnp.int32(0)
    nothing = ~jnp.any(_legal(space, mask)[0], axis=-1)
    if isinstance(space, MultiDiscrete):
        nothing = jnp.any(nothing, axis=-1)
    return jnp.sum(nothing, dtype=jnp.int32)


def check_masks(env: Env, obs: PyTree) -> None:
    """Refuses an environment if its masks do not fit its actions, or are not declared.

    It reads only the spaces and the name of ``env``, and the shapes and dtypes of one observation
    ``obs``.

    Raises:
        ValueError: says what the mask must be.
    """
    if isinstance(env.observation_space, MaskedSpace) != isinstance(obs, Masked):
        raise ValueError(
            f"{env.name}: an observation Masked(obs, mask) has the space MaskedSpace(space of "
            "obs), and no other observation has: let both have the mask, or none"
        )
    if not isinstance(obs, Masked):
        return
    space = env.action_space
    if not isinstance(space, Discrete | MultiDiscrete):
        raise ValueError(
            f"{env.name}: masks are for Discrete and MultiDiscrete actions, not for {space}"
        )
    shape = existing_actions(space).shape
    if obs.mask.dtype != bool or obs.mask.shape != shape:
        raise ValueError(
            f"{env.name}: the mask is {obs.mask.dtype}{list(obs.mask.shape)}; over the actions "
            f"{space} it must be bool{list(shape)}, true for an allowed action"
        )


def _legal(space: Discrete | MultiDiscrete, mask: Array) -> tuple[Array, Array]:
    """The existing actions that the mask allows, and all existing actions."""
    exists = jnp.broadcast_to(existing_actions(space), mask.shape)
    return jnp.asarray(mask, bool) & exists, exists
