"""Advantages of sequences from the rewards of a group of answers to one prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust.advantages import standardize
from kltrust.tree import floats, in_float32, safe_divide
from kltrust.types import Array, Number


@in_float32
def group_advantages(reward: Array, mask: Array | None = None, epsilon: Number = 1e-8) -> Array:
    """(reward - mean) / (std + epsilon) of each group: GRPO (arXiv 2402.03300): [*E, G].

    A group with one member, or whose rewards are equal up to rounding, carries no information and
    gives 0. The standard deviation is the biased one. Trainers that use the unbiased one have
    advantages sqrt(1 - 1/G) times these.

    ``reward`` is [*E, G], with a group along the last axis. Members where ``mask`` [*E, G] is false
    may hold anything and get 0; None keeps all. ``epsilon`` is [].
    """
    (reward,) = floats(reward)
    mask = jnp.ones(reward.shape, bool) if mask is None else jnp.asarray(mask, bool)
    rows = (x.reshape(-1, x.shape[-1]) for x in (reward, mask))
    return jax.vmap(lambda r, m: standardize(r, m, epsilon))(*rows).reshape(reward.shape)


@in_float32
def leave_one_out_advantages(reward: Array, mask: Array | None = None) -> Array:
    """The reward minus the mean of the group's other rewards: RLOO (arXiv 2402.14740): [*E, G].

    It is unbiased, since no reward is part of its own baseline. It equals n / (n - 1) times the
    advantage of Dr. GRPO (arXiv 2503.20783), reward - mean. A group of equal rewards gives exactly
    0, and so does a group with one member. Arguments as in `group_advantages`.
    """
    (reward,) = floats(reward)
    mask = jnp.ones(reward.shape, bool) if mask is None else jnp.asarray(mask, bool)
    # Centred about a reward of the group first, so equal rewards give exactly 0.
    pivot = jnp.max(jnp.where(mask, reward, -jnp.inf), axis=-1, keepdims=True)
    shifted = jnp.where(mask, reward - pivot, 0)
    count = jnp.sum(mask, axis=-1, keepdims=True).astype(reward.dtype)
    others = count - 1
    return jnp.where(
        mask, safe_divide(count * shifted - jnp.sum(shifted, -1, keepdims=True), others), 0
    )
