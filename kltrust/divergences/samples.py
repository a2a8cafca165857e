"""Estimators of the KL from samples, and what the value and gradient of each one estimate.

The names k1, k2 and k3 are from Schulman, 2020. There are two settings, and a formula that is right
in one can be useless in the other.

A. a ~ old, fixed; log_ratio = log new(a) - log old(a), differentiated through new. This is the
   setting of kltrust's updates.
B. a ~ pi, the policy that is trained; log_ratio = log ref(a) - log pi(a), differentiated through
   pi (language models). "As a detached reward" means the gradient
   E_pi[stop_gradient(k) grad log pi].

docs/estimators.md has bias, variance and gradients of all estimators, by enumeration. For sequences
of tokens see `tokens`. If you know the distributions and not only samples, use the exact KL,
`divergences.kl_divergence`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust.checks import same_shape
from kltrust.divergences.numerics import phi_series
from kltrust.tree import floats, in_float32, weighted, weighted_mean
from kltrust.types import Array, Number


def kl_k1(log_ratio: Array) -> Array:
    """``-log r``: unbiased, with high variance, negative for about half of the samples.

    A. Value: KL(old || new). Gradient as a loss term: that of KL(old || new), at any new.
    B. Value: KL(pi || ref). Gradient as a loss term: 0 in expectation, pure noise. As a detached
       reward: that of KL(pi || ref).

    Args:
        log_ratio: [*E], log new(a) - log old(a) at a ~ old.

    Returns:
        [*E] in nats.
    """
    return -jnp.asarray(log_ratio)


@in_float32
def kl_k2(log_ratio: Array) -> Array:
    """``(log r)^2 / 2``, [*E] as in `kl_k1`: never negative, with low variance, biased.

    A. Value: biased (to third order in the step). Gradient as a loss term: not that of any KL, but
       it vanishes at old with the right curvature.
    B. Value: biased. Gradient as a loss term: that of KL(pi || ref), while samples come from the
       current pi. As a detached reward: no restoring force near ref.
    """
    return 0.5 * jnp.square(jnp.asarray(log_ratio))


@in_float32
def kl_k3(log_ratio: Array) -> Array:
    """``r - 1 - log r``, [*E] as in `kl_k1`: unbiased, never negative, low variance near old.

    A. Value: KL(old || new). Gradient as a loss term: that of KL(old || new), at any new.
    B. Value: KL(pi || ref). Gradient as a loss term: that of the *other* direction, KL(ref || pi).
       As a detached reward: no restoring force near ref. (Schulman, 2020.)
    """
    (log_ratio,) = floats(log_ratio)
    near = jnp.abs(log_ratio) < 0.5
    series = phi_series(jnp.where(near, log_ratio, 0))
    return jnp.where(near, series, jnp.expm1(log_ratio) - log_ratio)


@in_float32
def kl_control_variate(log_ratio: Array, coefficient: Number) -> Array:
    """``-log r + c (r - 1)``, [*E] as in `kl_k1`: k1 plus c times a variable with mean 0.

    It is k1 at c = 0 and k3 at c = 1. ``coefficient`` is c [], a constant;
    `control_variate_coefficient` gives the c with the least variance.

    A. Value: KL(old || new), whatever the constant c. Gradient as a loss term: that of
       KL(old || new), at any new.
    B. Value: KL(pi || ref). Gradient as a loss term: c times that of KL(ref || pi). As a detached
       reward: that of KL(pi || ref) minus c times that of KL(ref || pi); at c = 1 the two cancel
       near ref.
    """
    (log_ratio,) = floats(log_ratio)
    near = jnp.abs(log_ratio) < 0.5
    small = jnp.where(near, log_ratio, 0)
    # By the series of (r - 1) - log r where the difference would cancel.
    close = coefficient * phi_series(small) - (1 - coefficient) * small
    return jnp.where(near, close, weighted(coefficient, jnp.expm1(log_ratio)) - log_ratio)


@in_float32
def control_variate_coefficient(log_ratio: Array, weight: Array | None = None) -> Array:
    """The c that minimises `kl_control_variate`'s variance: E[(r - 1) log r] / E[(r - 1)^2], [].

    It is positive, and 1 if all ratios are 1: near old, k3 is the best. Estimating c from the same
    samples that it is used on adds a bias of order 1 / N. Gradients treat it as a constant.
    log_ratio [*E] is as in `kl_k1`. With all actions, weighted by their probabilities as ``weight``
    [*E], the result is exact.
    """
    (log_ratio,) = floats(jax.lax.stop_gradient(log_ratio))
    excess = jnp.expm1(log_ratio)
    square = weighted_mean(jnp.square(excess), weight)
    moved = square > 0
    covariance = weighted_mean(excess * log_ratio, weight)
    return jnp.where(moved, covariance / jnp.where(moved, square, 1), 1)


@in_float32
def kl_reverse_k1(log_ratio: Array) -> Array:
    """``r log r``, [*E] as in `kl_k1`: the other direction; 0 where new(a) = 0, negative at r < 1.

    A. Value: KL(new || old). Gradient as a loss term: that of KL(new || old), at any new.
    B. Value: KL(ref || pi). Gradient as a loss term or as a detached reward: not that of any KL.
       For KL(pi || ref) with a ratio use `ratio_weighted`.
    """
    (log_ratio,) = floats(log_ratio)
    log_ratio = jnp.where(log_ratio == -jnp.inf, 0, log_ratio)
    return jnp.exp(log_ratio) * log_ratio


@in_float32
def kl_reverse_k3(log_ratio: Array) -> Array:
    """``r log r - (r - 1)``, [*E] as in `kl_k1`: never negative, with low variance near old.

    It is 1 where new(a) = 0. Its value and gradient estimate the same as those of `kl_reverse_k1`.
    """
    (log_ratio,) = floats(log_ratio)
    near = jnp.abs(log_ratio) < 0.5
    small = jnp.where(near, log_ratio, 0)
    series = jnp.exp(small) * phi_series(-small)  # r (1/r - 1 + log r)
    return jnp.where(near, series, kl_reverse_k1(log_ratio) - jnp.expm1(log_ratio))


@in_float32
def ratio_weighted(estimate: Array, log_importance: Array) -> Array:
    """``(pi / mu) k``: corrects an estimate [*E] for samples drawn from mu instead of pi.

    B. With k1 or k3 of log ref - log pi as the estimate, and differentiated through the ratio,
       value and gradient are those of KL(pi || ref), on and off policy. On policy the ratio is 1,
       and only its gradient matters: ``log_importance = log_pi - jax.lax.stop_gradient(log_pi)``.

    The ``estimate`` is k at a ~ mu, and log_importance [*E] is log pi(a) - log mu(a), with mu held
    constant. The result is 0 where pi(a) = 0.
    """
    same_shape(estimate=estimate, log_importance=log_importance)
    possible = log_importance != -jnp.inf
    ratio = jnp.exp(jnp.where(possible, log_importance, 0))
    return jnp.where(possible, ratio * jnp.where(possible, estimate, 0), 0)
