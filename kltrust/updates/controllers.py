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

    Args:
        value: [] what it was in this iteration.
        kl: [] what this iteration came to: the mean KL(old || new) over the whole batch.
        stopped: [] whether an epoch was undone. Undoing it leaves a small KL behind, but the reason
            was a large one.
        target_kl: the set point.
        tolerance: factor around it within which the value stays.
        if_above: the value's factor beyond target_kl * tolerance.
        if_below: the value's factor below target_kl / tolerance.
        low: the value's least.
        high: the value's most.
    """
    factor = jnp.where(
        stopped | (kl > target_kl * tolerance),
        if_above,
        jnp.where(kl < target_kl / tolerance, if_below, 1.0),
    )
    return jnp.clip(value * factor, low, high).astype(value.dtype)
