"""The critic's losses, and the entropy as a loss."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.checks import check, same_shape
from kltrust.tree import in_float32
from kltrust.types import Array, Distribution, Number


@in_float32
def value_loss(value: Array, target: Array) -> Array:
    """(V - target)^2 / 2: [*E], like ``value`` and ``target``."""
    same_shape(value=value, target=target)
    return 0.5 * jnp.square(value - target)


@in_float32
def clipped_value_loss(value: Array, old_value: Array, target: Array, clip_eps: Number) -> Array:
    """The larger of two losses, that of V and that of V clipped to within eps of old V: [*E].

    The gradient is 0 where V has moved more than eps and is nearer to the target than the clipped
    value. If V has overshot so far that it is farther, it has its gradient again.

    Args:
        value: [*E].
        old_value: [*E] the prediction when the data was collected.
        target: [*E].
        clip_eps: [] or [*E], at least 0, in units of value; inf never clips.

    Raises:
        ValueError: if clip_eps is concrete and negative.
    """
    same_shape(value=value, old_value=old_value, target=target)
    check(clip_eps=(clip_eps, True))
    free = value_loss(value, target)
    held = value_loss(old_value + jnp.clip(value - old_value, -clip_eps, clip_eps), target)
    # Not jnp.maximum: at a tie (any V within the clip) take the gradient of the free loss.
    return jnp.where(free >= held, free, held)


def entropy_loss(dist: Distribution) -> Array:
    """-H(dist), in nats, of batch shape [*E]. Times a weight, it is the entropy bonus as a loss."""
    # Imported here, so that importing a loss does not import distributions.
    from kltrust.divergences import distribution_entropy

    return -distribution_entropy(dist)
