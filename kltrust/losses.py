"""Losses as pure functions: to be minimised, elementwise over any leading shape, unreduced.

``log_ratio`` is log new(a) - log old(a) at the actions a ~ old. Reduce with `weighted_mean`,
which leaves padding out. At log_ratio = 0 every surrogate has the gradient of the policy
gradient, -A grad log new(a). Gradients are taken of what the caller differentiates: advantages,
targets and old values are used as they come.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp
import numpy as np

from kltrust.checks import check
from kltrust.tree import floats, in_float32, weighted, weighted_mean
from kltrust.types import Array, Distribution, Number

__all__ = [
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "entropy_loss",
    "importance_ratio",
    "kl_constraint",
    "penalty_surrogate_loss",
    "surrogate_loss",
    "value_loss",
    "weighted_mean",
]


@in_float32
def importance_ratio(log_ratio: Array) -> Array:
    """``r = exp(log_ratio)``, continued as a straight line where it nears overflow.

    Below sqrt(largest float), 1.8e19 in float32, this is exp and nothing else. Above it exp would
    soon be inf, and the 0 * inf of a clipped or zero-advantage sample NaN in everyone's gradient.

    Returns:
        [*E] like log_ratio; 0 where that is -inf (new rules the action out), NaN where it is NaN.
    """
    (log_ratio,) = floats(log_ratio)
    edge = 0.5 * float(np.log(jnp.finfo(log_ratio.dtype).max))
    return jnp.exp(jnp.minimum(log_ratio, edge)) * (1 + jnp.maximum(log_ratio - edge, 0))


@in_float32
def surrogate_loss(log_ratio: Array, advantage: Array) -> Array:
    """-r A: importance-sampled policy improvement (Schulman et al., 2015, eq. 14): [*E].

    log_ratio and ``advantage`` are [*E].
    """
    chex.assert_equal_shape([log_ratio, advantage])
    return -importance_ratio(log_ratio) * advantage


@in_float32
def clipped_surrogate_loss(log_ratio: Array, advantage: Array, clip_eps: Number) -> Array:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A) (Schulman et al., 2017, eq. 7): [*E].

    The gradient is that of -r A until r has left [1 - eps, 1 + eps] in the direction A asks for,
    and 0 from there on: on the edge, and at eps = 0, it is still the former. A NaN is no ratio
    beyond the edge: it makes the loss NaN.

    log_ratio and ``advantage`` are [*E]; ``clip_eps`` is [] or [*E], at least 0; inf never clips.

    Raises:
        ValueError: if clip_eps is concrete and negative.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    check(clip_eps=(clip_eps, True))
    ratio = importance_ratio(log_ratio)
    # One comparison instead of min and clip, whose ties would divide the gradient.
    rewarded = advantage > 0
    bound = jnp.where(rewarded, 1 + clip_eps, 1 - clip_eps)
    inside = jnp.where(rewarded, ratio <= bound, ratio >= bound)
    return -jnp.where(inside | jnp.isnan(ratio), ratio, bound) * advantage


@in_float32
def penalty_surrogate_loss(log_ratio: Array, advantage: Array, kl: Array, beta: Number) -> Array:
    """-r A + beta KL(old || new) (Schulman et al., 2017, eq. 8): [*E].

    log_ratio, ``advantage`` and ``kl``, that at each state, exact (`divergences.kl_divergence`) or
    estimated, are [*E]. ``beta`` is [] or [*E], at least 0, relative to the advantages' scale; at 0
    there is no KL, even if it is infinite.

    Raises:
        ValueError: if beta is concrete and negative.
    """
    chex.assert_equal_shape([log_ratio, advantage, kl])
    check(beta=(beta, True))
    return surrogate_loss(log_ratio, advantage) + weighted(beta, kl)


@in_float32
def kl_constraint(kl: Array, max_kl: Number, *, weight: Array | None = None) -> Array:
    """Mean KL over states, less its bound: at most 0 where the trust region holds: [], or [K].

    ``kl`` [*E] is that at each state, and ``max_kl`` [] the bound, in nats; or several, [K]. States
    of ``weight`` 0 are left out; it is [*E], or None for all ones.

    Raises:
        ValueError: if max_kl is concrete and negative.
    """
    check(max_kl=(max_kl, True))
    return weighted_mean(kl, weight) - max_kl


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
