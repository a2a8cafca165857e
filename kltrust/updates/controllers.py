"""Settings that follow the KL from one iteration to the next."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust.types import Array, Number


def follow_kl(
    value: Array,
    kl: Array,
    stopped: Array,
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
        stopped: [] whether an epoch was undone. That leaves a small KL behind, but it was undone
            because the KL was large.
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


def check_order(**bounds: Number) -> None:
    """Refuses two known bounds, given as low = ..., high = ..., of which the first is larger."""
    (low_name, low), (high_name, high) = bounds.items()
    known = not any(isinstance(x, jax.core.Tracer) for x in (low, high))
    if known and low > high:
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low} and {high}")
