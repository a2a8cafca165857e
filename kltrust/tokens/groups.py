"""Advantages of sequences from the rewards of a group: several answers to one prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust.advantages import standardize
from kltrust.tree import floats, in_float32, over
from kltrust.types import Array, Number


@in_float32
def group_advantages(reward: Array, mask: Array | None = None, epsilon: Number = 1e-8) -> Array:
    """(reward - mean) / (std + epsilon) of each group: GRPO (arXiv 2402.03300): [*E, G].

    A group whose rewards are all equal, to their rounding, or that has one member, gives 0: it
    tells nothing. The standard deviation is the biased one; trainers with the unbiased one have
    advantages sqrt(1 - 1/G) times these.

    ``reward`` is [*E, G], a group along the last axis. Members where ``mask`` [*E, G] is false may
    hold anything and get 0; None keeps all. ``epsilon`` is [].
    """
    (reward,) = floats(reward)
    mask = jnp.ones(reward.shape, bool) if mask is None else jnp.asarray(mask, bool)
    rows = (x.reshape(-1, x.shape[-1]) for x in (reward, mask))
    return jax.vmap(lambda r, m: standardize(r, m, epsilon))(*rows).reshape(reward.shape)


@in_float32
def leave_one_out_advantages(reward: Array, mask: Array | None = None) -> Array:
    """The reward less the mean of the group's others: RLOO (arXiv 2402.14740): [*E, G].

    Unbiased, since no reward is part of its own baseline: n / (n - 1) times reward - mean, which
    is Dr. GRPO's (arXiv 2503.20783). A group of equal rewards gives 0 exactly, and so does one
    with a single member, who has nobody to be compared with. Arguments as in `group_advantages`.
    """
    (reward,) = floats(reward)
    mask = jnp.ones(reward.shape, bool) if mask is None else jnp.asarray(mask, bool)
    # Centred about one of its rewards first: equal ones then differ from their mean by exactly 0.
    pivot = jnp.max(jnp.where(mask, reward, -jnp.inf), axis=-1, keepdims=True)
    shifted = jnp.where(mask, reward - pivot, 0)
    count = jnp.sum(mask, axis=-1, keepdims=True).astype(reward.dtype)
    others = count - 1
    return jnp.where(mask, over(count * shifted - jnp.sum(shifted, -1, keepdims=True), others), 0)
