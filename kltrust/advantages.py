"""Advantages from a critic, and their standardisation."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from kltrust.checks import check_share, same_shape
from kltrust.lowering import scan
from kltrust.tree import floats, in_float32, weighted_mean
from kltrust.types import Array, Number


@in_float32
def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    *,
    gamma: Number,
    lam: Number,
) -> Array:
    """Generalised advantage estimation (Schulman et al., 2016), with time limits kept apart.

        delta_t = reward_t + gamma [not terminated_t] next_value_t - value_t
        A_t     = delta_t + gamma lam [not terminated_t and not truncated_t] A_{t+1}

    A terminated step has no future value. A truncated step has that of the observation before the
    reset. Both stop the trace. If both are set, the episode has terminated. The last step
    bootstraps from its next_value. ``A + value`` are the TD(lam) targets of the critic. For a
    separate discount and trace at each step, give gamma and lam the shape [T, ...] of the rewards.

    Args:
        reward: [T, ...] the reward of each step.
        value: [T, ...] V(obs_t).
        next_value: [T, ...] V(next_obs_t), of the observation *before* any auto-reset.
        terminated: [T, ...] bool.
        truncated: [T, ...] bool.
        gamma: the discount, in [0, 1]: [], or [T, ...] with size 1 along axes where it is constant.
        lam: in [0, 1], shaped likewise: 0 is the one-step temporal difference, 1 the Monte Carlo
            return.

    Returns:
        [T, ...] in the dtype of ``value``, or in the default float dtype if that is an integer's.

    Raises:
        ValueError: if gamma or lam is concrete and not in [0, 1].
        AssertionError: if shapes or ranks differ.
    """
    check_share(gamma=gamma, lam=lam)
    same_shape(
        reward=reward,
        value=value,
        next_value=next_value,
        terminated=terminated,
        truncated=truncated,
    )
    # Full rank or scalar: [B] without the first axis would pass for one number per environment.
    chex.assert_rank([gamma, lam], {0, jnp.ndim(reward)})
    terminated, truncated = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
    (value,) = floats(value)
    # A selection, not a product: a critic's value of a terminal state may be anything, even NaN.
    future = jnp.where(terminated, 0, next_value)
    delta = (reward + gamma * future - value).astype(value.dtype)
    decay = jnp.where(terminated | truncated, 0, gamma * lam).astype(value.dtype)
    decay = jnp.broadcast_to(decay, delta.shape)

    def backwards(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, decay = step
        advantage = delta + decay * later
        return advantage, advantage

    _, advantage = scan(backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantage


@in_float32
def standardize(x: Array, weight: Array | None = None, epsilon: Number = 1e-8) -> Array:
    """(x - mean) / (std + epsilon) over all entries, with the biased standard deviation.

    A batch without variance beyond the rounding of its entries gives zeros, not noise. The
    ``weight`` is non-negative, or None for all ones. Entries of weight 0 may hold anything: they
    are left out of the statistics and become 0. ``epsilon`` is [].

    Returns:
        [*E], like ``x`` and ``weight``.
    """
    (x,) = floats(x)
    counted = jnp.ones_like(x, bool) if weight is None else jnp.broadcast_to(weight, x.shape) > 0
    x = jnp.where(counted, x, 0)
    # Centred about an entry first: equal entries then differ from their mean by exactly 0.
    pivot = jnp.max(jnp.where(counted, x, -jnp.inf))
    shifted = x - jnp.where(jnp.isfinite(pivot), pivot, 0)
    centred = shifted - weighted_mean(shifted, weight)
    std = jnp.sqrt(weighted_mean(jnp.square(centred), weight))
    varies = std > jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(x))
    return jnp.where(counted & varies, centred / (std + epsilon), 0)
