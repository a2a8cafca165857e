"""Settings that follow the KL from one iteration to the next: a penalty's weight, a step size."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.types import Array, Number


def follow_kl(
    value: Array,
    kl: Array,
    stopped: Array | bool = False,
    *,
    target_kl: Number,
    tolerance: Number,
    if_above: Number,
    if_below: Number,
    low: Number,
    high: Number,
) -> Array:
    """A setting for the next iteration, steered so that the KL of an iteration stays near a target.

    Its ``value`` [] in this iteration is multiplied by ``if_above`` where the KL is beyond
    target_kl * tolerance, by ``if_below`` where it is below target_kl / tolerance, and stays within
    ``low`` and ``high``. The ``kl`` [] is what this iteration came to: the mean KL(old || new) over
    the whole batch. An epoch that was undone, ``stopped`` [], leaves a small KL behind, but the
    reason was a large one.
    """
    factor = jnp.where(
        stopped | (kl > target_kl * tolerance),
        if_above,
        jnp.where(kl < target_kl / tolerance, if_below, 1.0),
    )
    return jnp.clip(value * factor, low, high).astype(value.dtype)


def dual_ascent(
    value: Array, kl: Array, *, target_kl: Number, step: Number, low: Number, high: Number
) -> Array:
    """A penalty's weight for the next iteration, by ascent on the dual of mean KL <= target_kl.

    value + step (kl / target_kl - 1), within ``low`` and ``high``: the ``value`` [] of this
    iteration rises in proportion to how far its ``kl`` [] was beyond ``target_kl``, and falls
    likewise, by ``step`` at most.
    """
    return jnp.clip(value + step * (kl / target_kl - 1), low, high).astype(value.dtype)
