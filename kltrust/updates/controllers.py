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
    """A setting for the next iteration, steered so that an iteration's KL stays near a target: [].

    Args:
        value: [] the setting in this iteration.
        kl: [] the mean KL(old || new) of this iteration over the whole batch.
        stopped: [] whether an epoch was undone. The KL that remains is then small, but the undone
            one was large: the KL counts as above the target.
        target_kl: the target, nats.
        tolerance: factor around the target within which the value stays.
        if_above: multiplies the value if the KL is above target_kl * tolerance.
        if_below: multiplies it if the KL is below target_kl / tolerance.
        low: the smallest value returned.
        high: the largest.
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

    value + step (kl / target_kl - 1), within ``low`` and ``high``. The ``value`` [] of this
    iteration rises in proportion to the excess of its ``kl`` [] over ``target_kl``, and falls
    likewise, by ``step`` at most.
    """
    return jnp.clip(value + step * (kl / target_kl - 1), low, high).astype(value.dtype)
