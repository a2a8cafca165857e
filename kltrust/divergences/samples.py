"""The KL from samples: of what the values and the gradients are right (k1, k2, k3: Schulman, 2020).

Two settings, and a formula that is right in one can be useless in the other.

A. a ~ old, fixed; log_ratio = log new(a) - log old(a), differentiated through new. Ours.
B. a ~ pi, the policy that is trained; log_ratio = log ref(a) - log pi(a), differentiated through
   pi (language models). "As a detached reward" is E_pi[stop_gradient(k) grad log pi].

docs/estimators.md has bias, variance and gradients of all of them, by enumeration. For sequences of
tokens: `sequences`. Where the distributions are known and not only samples, the KL itself is exact:
`divergences.kl_divergence`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from kltrust.divergences.numerics import phi_series
from kltrust.tree import floats, weighted, weighted_mean
from kltrust.types import Array, Number


def kl_k1(log_ratio: Array) -> Array:
    """``-log r``: unbiased, of high variance, negative for about half of the samples.

    A. Value: KL(old || new). Gradient as a loss term: that of KL(old || new), at any new.
    B. Value: KL(pi || ref). Gradient as a loss term: 0 in expectation, pure noise. As a detached
       reward: that of KL(pi || ref).

    Args:
        log_ratio: [*E], log new(a) - log old(a) at a ~ old.

    Returns:
        [*E] in nats.
    """
    return -jnp.asarray(log_ratio)


def kl_k2(log_ratio: Array) -> Array:
    """``(log r)^2 / 2``: never negative, of low variance, biased (to third order in the step).

    A. Value: biased. Gradient as a loss term: that of no KL, except that it vanishes at old with
       the right curvature.
    B. Value: biased. Gradient as a loss term: that of KL(pi || ref), while samples come from the
       current pi. As a detached reward: no restoring force near ref.

    Args:
        log_ratio: [*E], log new(a) - log old(a) at a ~ old.

    Returns:
        [*E] in nats.
    """
    return 0.5 * jnp.square(jnp.asarray(log_ratio))


def kl_k3(log_ratio: Array) -> Array:
    """``r - 1 - log r``: unbiased, never negative, of low variance near old (Schulman, 2020).

    A. Value: KL(old || new). Gradient as a loss term: that of KL(old || new), at any new.
    B. Value: KL(pi || ref). Gradient as a loss term: that of the *other* direction, KL(ref || pi).
       As a detached reward: no restoring force near ref.

    Args:
        log_ratio: [*E], log new(a) - log old(a) at a ~ old.

    Returns:
        [*E] in nats.
    """
    (log_ratio,) = floats(log_ratio)
    near = jnp.abs(log_ratio) < 0.5
    series = phi_series(jnp.where(near, log_ratio, 0))
    return jnp.where(near, series, jnp.expm1(log_ratio) - log_ratio)


def kl_control_variate(log_ratio: Array, coefficient: Number) -> Array:
    """``-log r + c (r - 1)``: k1 and c times a variable of mean 0; k1 at c = 0, k3 at c = 1.

    A. Value: KL(old || new), whatever the constant c. Gradient as a loss term: that of
       KL(old || new), at any new.
    B. Value: KL(pi || ref). Gradient as a loss term: c times that of KL(ref || pi). As a detached
       reward: that of KL(pi || ref) less c times that of KL(ref || pi), the two cancel near ref at
       c = 1.

    Args:
        log_ratio: [*E], log new(a) - log old(a) at a ~ old.
        coefficient: [] c, a constant; `control_variate_coefficient` has the one of least variance.

    Returns:
        [*E] in nats.
    """
    (log_ratio,) = floats(log_ratio)
    near = jnp.abs(log_ratio) < 0.5
    small = jnp.where(near, log_ratio, 0)
    # (r - 1) - log r by its series where the difference would cancel.
    close = coefficient * phi_series(small) - (1 - coefficient) * small
    return jnp.where(near, close, weighted(coefficient, jnp.expm1(log_ratio)) - log_ratio)


def control_variate_coefficient(log_ratio: Array, weight: Array | None = None) -> Array:
    """The c with which `kl_control_variate` varies least: E[(r - 1) log r] / E[(r - 1)^2], [].

    Positive, and 1 where all ratios are 1: near old, k3 is the best. From the very samples that it
    is used on, it costs a bias of order 1 / N. It is a constant to gradients.

    Args:
        log_ratio: [*E], log new(a) - log old(a) at a ~ old.
        weight: [*E] or None; with the probabilities of all actions it is exact.
    """
    (log_ratio,) = floats(jax.lax.stop_gradient(log_ratio))
    excess = jnp.expm1(log_ratio)
    square = weighted_mean(jnp.square(excess), weight)
    moved = square > 0
    covariance = weighted_mean(excess * log_ratio, weight)
    return jnp.where(moved, covariance / jnp.where(moved, square, 1), 1)


def kl_reverse_k1(log_ratio: Array) -> Array:
    """``r log r``: the other direction, from the same samples.

    A. Value: KL(new || old). Gradient as a loss term: that of KL(new || old), at any new.
    B. Value: KL(ref || pi). Gradient as a loss term or as a detached reward: that of no KL; for
       KL(pi || ref) with a ratio there is `ratio_weighted`.

    Args:
        log_ratio: [*E], log new(a) - log old(a) at a ~ old.

    Returns:
        [*E] in nats; 0 where new(a) = 0, negative where r < 1.
    """
    (log_ratio,) = floats(log_ratio)
    log_ratio = jnp.where(log_ratio == -jnp.inf, 0, log_ratio)
    return jnp.exp(log_ratio) * log_ratio


def kl_reverse_k3(log_ratio: Array) -> Array:
    """``r log r - (r - 1)``: as `kl_reverse_k1`, never negative, of low variance near old.

    A. Value: KL(new || old). Gradient as a loss term: that of KL(new || old), at any new.
    B. As `kl_reverse_k1`.

    Args:
        log_ratio: [*E], log new(a) - log old(a) at a ~ old.

    Returns:
        [*E] in nats; 1 where new(a) = 0.
    """
    (log_ratio,) = floats(log_ratio)
    near = jnp.abs(log_ratio) < 0.5
    small = jnp.where(near, log_ratio, 0)
    series = jnp.exp(small) * phi_series(-small)  # r (1/r - 1 + log r)
    return jnp.where(near, series, kl_reverse_k1(log_ratio) - jnp.expm1(log_ratio))


def ratio_weighted(estimate: Array, log_importance: Array) -> Array:
    """``(pi / mu) k``: an estimate for samples of pi, made one for samples of another policy, mu.

    B. With k1 or k3 of log ref - log pi as the estimate, and differentiated through the ratio,
       value and gradient are those of KL(pi || ref), on and off policy. On policy the ratio is 1
       and its gradient what counts: ``log_importance = log_pi - jax.lax.stop_gradient(log_pi)``.

    Args:
        estimate: [*E] k at a ~ mu.
        log_importance: [*E] log pi(a) - log mu(a), mu a constant.

    Returns:
        [*E]; 0 where pi(a) = 0.
    """
    chex.assert_equal_shape([estimate, log_importance])
    possible = log_importance != -jnp.inf
    ratio = jnp.exp(jnp.where(possible, log_importance, 0))
    return jnp.where(possible, ratio * jnp.where(possible, estimate, 0), 0)
