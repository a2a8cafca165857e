"""Losses of a critic, and the entropy as a loss."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from kltrust.checks import check
from kltrust.tree import in_float32
from kltrust.types import Array, Distribution, Number


@in_float32
def value_loss(value: Array, target: Array) -> Array:
    """(V - target)^2 / 2: [*E], like ``value`` and ``target``."""
    chex.assert_equal_shape([value, target])
    return 0.5 * jnp.square(value - target)


@in_float32
def clipped_value_loss(value: Array, old_value: Array, target: Array, clip_eps: Number) -> Array:
    """The larger of the losses of V and of V held within eps of the old value: [*E].

    The gradient is 0 where V has moved more than eps and is nearer to the target than the held
    value. A V that overshot so far that it is farther has its own gradient again.

    ``value``, ``target`` and old_value, the prediction when the data was collected, are [*E].
    ``clip_eps`` is [] or [*E], at least 0, in units of value; inf never clips.

    Raises:
        ValueError: if clip_eps is concrete and negative.
    """
    chex.assert_equal_shape([value, old_value, target])
    check(clip_eps=(clip_eps, True))
    free = value_loss(value, target)
    held = value_loss(old_value + jnp.clip(value - old_value, -clip_eps, clip_eps), target)
    # Not jnp.maximum: at a tie (any V within the clip) the free loss's own gradient.
    return jnp.where(free >= held, free, held)


def entropy_loss(dist: Distribution) -> Array:
    """-H(dist), in nats, [*E] the batch shape: times a weight, the entropy bonus as a loss."""
    # Here, so that importing a loss brings no distributions along.
    from kltrust.divergences import distribution_entropy

    return -distribution_entropy(dist)
