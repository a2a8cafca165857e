"""The importance-sampled surrogate: free, clipped, penalised, constrained."""

from __future__ import annotations

import chex
import jax.numpy as jnp
import numpy as np

from kltrust.checks import check, require
from kltrust.tree import floats, in_float32, weighted, weighted_mean
from kltrust.types import Array, Number


@in_float32
def importance_ratio(log_ratio: Array) -> Array:
    """``r = exp(log_ratio)``, continued as a straight line where it nears overflow.

    Below sqrt(largest float), 1.8e19 in float32, this is exp and nothing else. Above it exp would
    soon be inf, and the 0 * inf of a clipped or zero-advantage sample NaN in everyone's gradient.

    Returns:
        [*E] like log_ratio; 0 where that is -inf (new rules the action out), NaN where it is NaN.
    """
    return ratio_below(log_ratio, 2)


def ratio_below(log_ratio: Array, power: int) -> Array:
    """`importance_ratio`, but a line where r^power nears overflow: for losses of that order.

    ``log_ratio`` is [*E], and ``power`` at least 2.
    """
    (log_ratio,) = floats(log_ratio)
    edge = float(np.log(jnp.finfo(log_ratio.dtype).max)) / power
    return jnp.exp(jnp.minimum(log_ratio, edge)) * (1 + jnp.maximum(log_ratio - edge, 0))


@in_float32
def surrogate_loss(log_ratio: Array, advantage: Array) -> Array:
    """-r A: importance-sampled policy improvement (Schulman et al., 2015, eq. 14): [*E].

    log_ratio and ``advantage`` are [*E].
    """
    chex.assert_equal_shape([log_ratio, advantage])
    return -importance_ratio(log_ratio) * advantage


@in_float32
def clipped_surrogate_loss(
    log_ratio: Array,
    advantage: Array,
    clip_eps: Number,
    *,
    clip_high: Number | None = None,
    dual_clip: Number | None = None,
) -> Array:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A) (Schulman et al., 2017, eq. 7): [*E].

    The gradient is that of -r A until r has left [1 - eps, 1 + eps] in the direction A asks for,
    and 0 from there on: on the edge, and at eps = 0, it is still the former. A NaN is no ratio
    beyond the edge: it makes the loss NaN.

    log_ratio and ``advantage`` are [*E]; ``clip_eps`` is [] or [*E], at least 0; inf never clips.
    ``clip_high``, likewise, is another eps above 1: the edge is then 1 + clip_high where A > 0
    (Yu et al., 2025, 0.2 and 0.28). ``dual_clip``, likewise, above 1, is a second edge where A < 0:
    no gradient beyond r = dual_clip either, -max(min(r A, clip(r) A), dual_clip A) (Ye et al.,
    2020, 3). It gives back what the sample has lost beyond there, so that it is no drift. Without
    them the two sides are alike, and a bad action's ratio may rise and rise.

    Raises:
        ValueError: if a width is concrete and negative, or dual_clip and at most 1.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    check(clip_eps=(clip_eps, True))
    clip_high = clip_eps if clip_high is None else clip_high
    check(clip_high=(clip_high, True))
    ratio = importance_ratio(log_ratio)
    # One comparison instead of min and clip, whose ties would divide the gradient.
    rewarded = advantage > 0
    bound = jnp.where(rewarded, 1 + clip_high, 1 - clip_eps)
    inside = jnp.where(rewarded, ratio <= bound, ratio >= bound)
    if dual_clip is not None:
        require(lambda x: x > 1, "greater than 1", dual_clip=dual_clip)
        beyond = (advantage < 0) & (ratio > dual_clip)
        bound, inside = jnp.where(beyond, dual_clip, bound), inside & ~beyond
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
