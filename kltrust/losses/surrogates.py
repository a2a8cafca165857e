"""The importance-sampled surrogate: plain, clipped, penalised, and the KL constraint."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from kltrust.checks import check, require, same_shape
from kltrust.tree import floats, in_float32, weighted, weighted_mean
from kltrust.types import Array, Number


@in_float32
def importance_ratio(log_ratio: Array) -> Array:
    """``r = exp(log_ratio)``, continued as a straight line where it nears overflow.

    Below sqrt(largest float), 1.8e19 in float32, it is exactly exp. Above, exp would soon be inf.
    Then 0 * inf from one clipped or zero-advantage sample would make the whole gradient NaN.

    Returns:
        [*E] like log_ratio; 0 where that is -inf (new rules the action out), NaN where it is NaN.
    """
    return ratio_below(log_ratio, 2)


def ratio_below(log_ratio: Array, power: int) -> Array:
    """The ratio, for losses of order r^power: a straight line where r^power nears overflow: [*E].

    ``log_ratio`` is [*E], as in `importance_ratio`; ``power`` is at least 2.
    """
    (log_ratio,) = floats(log_ratio)
    edge = float(np.log(jnp.finfo(log_ratio.dtype).max)) / power
    return jnp.exp(jnp.minimum(log_ratio, edge)) * (1 + jnp.maximum(log_ratio - edge, 0))


@in_float32
def surrogate_loss(log_ratio: Array, advantage: Array) -> Array:
    """-r A: importance-sampled policy improvement (Schulman et al., 2015, eq. 14): [*E].

    ``log_ratio`` and ``advantage`` are [*E].
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
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

    The gradient is that of -r A until r leaves [1 - eps, 1 + eps] in the direction that A asks for,
    and 0 beyond. On the edge, and so at r = 1 with eps = 0, it is still that of -r A. A NaN ratio
    makes the loss NaN.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        clip_eps: [] or [*E], at least 0; inf never clips.
        clip_high: a different eps for A > 0, where the edge is then 1 + clip_high (Yu et al., 2025,
            take 0.2 and 0.28). None takes clip_eps.
        dual_clip: [] or [*E], greater than 1: a second edge for A < 0, beyond which there is no
            gradient either: -max(min(r A, clip(r) A), dual_clip A) (Ye et al., 2020, take 3).
            It forgives the sample its loss beyond the edge (D < 0), so it is no drift. With None
            the ratio of a bad action may rise without bound.

    Raises:
        ValueError: if a width is concrete and negative, or dual_clip is concrete and at most 1.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
    check(clip_eps=(clip_eps, True))
    clip_high = clip_eps if clip_high is None else clip_high
    check(clip_high=(clip_high, True))
    ratio = importance_ratio(log_ratio)
    # A comparison instead of min and clip, which would split the gradient at ties.
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

    Args:
        log_ratio: [*E].
        advantage: [*E].
        kl: [*E] the KL at each state, exact (`divergences.kl_divergence`) or estimated.
        beta: [] or [*E], at least 0, relative to the advantages' scale; 0 leaves the KL out, even
            if it is infinite.

    Raises:
        ValueError: if beta is concrete and negative.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage, kl=kl)
    check(beta=(beta, True))
    return surrogate_loss(log_ratio, advantage) + weighted(beta, kl)


@in_float32
def kl_constraint(kl: Array, max_kl: Number, *, weight: Array | None = None) -> Array:
    """Mean KL over states minus its bound: [], or [K]. At most 0 inside the trust region.

    ``kl`` [*E] is the KL at each state, in nats. ``max_kl`` is the bound [], or several [K]. The
    ``weight`` is [*E], or None for all ones; states of weight 0 are left out.

    Raises:
        ValueError: if max_kl is concrete and negative.
    """
    check(max_kl=(max_kl, True))
    return weighted_mean(kl, weight) - max_kl
