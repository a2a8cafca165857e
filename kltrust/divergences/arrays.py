"""Divergences between probability arrays, which hold a distribution along their last axis.

All are in nats. By convention ``0 log 0 = 0``, and KL(p || q) is infinite where p has mass and q
has none. Gradients stay finite in both cases.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust.checks import check, same_shape
from kltrust.divergences.numerics import kl_terms, log_series, phi_series, rows, safe_log
from kltrust.tree import in_float32
from kltrust.types import Array, Number


@in_float32
def categorical_kl(p: Array, q: Array) -> Array:
    """KL(p || q) = sum_a p(a) log(p(a) / q(a)), in nats: [..., A] -> [...].

    Probabilities must sum to one. The KL is inf where q = 0 < p for some outcome.
    """
    p, q = rows(p, q)
    neither_zero = (p > 0) & (q > 0)
    # When p and q are close, q - p is exact, but log p - log q has lost digits. So use
    # p log(p/q) - p + q = p (u - log(1 + u)), u = (q - p) / p.
    near = jnp.abs(q - p) < 0.25 * p
    u = jnp.where(near, q - p, 0) / jnp.where(near, p, 1)
    log_ratio = jnp.where(neither_zero, safe_log(p), 0) - jnp.where(neither_zero, safe_log(q), 0)
    terms = jnp.where(near, p * log_series(u), q - p + p * log_ratio)
    return jnp.sum(jnp.where(neither_zero, terms, jnp.where(p > 0, jnp.inf, q)), axis=-1)


@in_float32
def categorical_kl_from_logits(logits_p: Array, logits_q: Array) -> Array:
    """KL(softmax(logits_p) || softmax(logits_q)), in nats: [..., A] -> [...].

    A logit of -inf is an impossible outcome. The KL is inf if an outcome is possible under p only.
    """
    logits_p, logits_q = rows(logits_p, logits_q)
    terms = kl_terms(jax.nn.log_softmax(logits_p), jax.nn.log_softmax(logits_q))
    return jnp.sum(terms, axis=-1)


def entropy(p: Array) -> Array:
    """H(p) = -sum_a p(a) log p(a), in nats: [..., A] -> [...]."""
    return cross_entropy(p, p)


@in_float32
def cross_entropy(p: Array, q: Array) -> Array:
    """H(p, q) = -sum_a p(a) log q(a) = H(p) + KL(p || q), in nats: [..., A] -> [...].

    It is inf where q = 0 < p for some outcome.
    """
    p, q = rows(p, q)
    terms = -p * jnp.log(jnp.where(q > 0, q, 1))
    return jnp.sum(jnp.where((q > 0) | (p == 0), terms, jnp.inf), axis=-1)


@in_float32
def total_variation(p: Array, q: Array) -> Array:
    """TV(p, q) = 1/2 sum_a |p(a) - q(a)|, between 0 and 1: [..., A] -> [...]."""
    p, q = rows(p, q)
    return 0.5 * jnp.sum(jnp.abs(p - q), axis=-1)


@in_float32
def jensen_shannon(p: Array, q: Array) -> Array:
    """JS(p, q) = (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, in nats: [..., A] -> [...].

    It is symmetric, and at most log 2.
    """
    p, q = rows(p, q)
    mixture = 0.5 * (p + q)
    return 0.5 * (categorical_kl(p, mixture) + categorical_kl(q, mixture))


@in_float32
def renyi(p: Array, q: Array, alpha: Number) -> Array:
    """D_alpha(p || q) = log(sum_a p(a)^alpha q(a)^(1 - alpha)) / (alpha - 1), in nats: [...].

    It increases in alpha. The limits are -log q(p > 0) at 0, KL(p || q) at 1, log max p/q at inf.
    It is inf if q = 0 < p for some outcome and alpha >= 1, or if the supports are disjoint.
    ``p`` and ``q`` are [..., A]. The order alpha [] is at least 0 and may be traced.
    See van Erven and Harremoes, "Renyi divergence and Kullback-Leibler divergence" (2014).

    Raises:
        ValueError: if alpha is concrete and negative.
    """
    check(alpha=(alpha, True))
    p, q = rows(p, q)
    alpha = jnp.asarray(alpha, p.dtype)
    excess = alpha - 1
    generic = jnp.isfinite(alpha) & (excess != 0)
    excess = jnp.where(generic, excess, 1)
    both = (p > 0) & (q > 0)
    lost = (p > 0) & (q == 0)
    # As in `categorical_kl`: q - p is exact where the two are close.
    close = both & (jnp.abs(q - p) < 0.25 * p)
    u = jnp.where(close, q - p, 0) / jnp.where(close, p, 1)
    log_p = jnp.where(both, safe_log(p), 0)
    log_ratio = jnp.where(close, -jnp.log1p(u), log_p - jnp.where(both, safe_log(q), 0))
    # sum p (p/q)^excess = 1 + sum p (e^(excess x) - 1), x = log(p/q). Subtracting excess (p - q),
    # which sums to 0, leaves terms of second order in x: p phi(excess x) + excess p phi(-x), with
    # phi from `numerics`. So the sum keeps its digits where p and q are near. There no term can
    # overflow.
    exponent = excess * log_ratio
    near = jnp.max(jnp.abs(exponent), axis=-1, keepdims=True) < 0.5
    p_phi = jnp.where(close, p * log_series(u), q - p + p * log_ratio)
    change = p * phi_series(jnp.where(near, exponent, 0)) + excess * p_phi
    # Outcomes that only q has, and those that only p has if alpha < 1.
    change = jnp.where(both, change, jnp.where(lost, -(1 + excess) * p, excess * q))
    change = jnp.sum(change, axis=-1)
    near = near[..., 0] & (change > -1)
    top = jnp.max(jnp.where(both, log_p + exponent, -jnp.inf), axis=-1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    total = jnp.sum(both * jnp.exp(jnp.where(both, log_p + exponent - top, 0)), axis=-1)
    log_sum = jnp.where(near, jnp.log1p(jnp.where(near, change, 0)), top[..., 0] + safe_log(total))
    finite = jnp.where(generic, log_sum / excess, categorical_kl(p, q))
    largest = jnp.max(jnp.where(both, log_ratio, -jnp.inf), axis=-1)
    finite = jnp.where(jnp.isposinf(alpha), largest, jnp.maximum(finite, 0))
    return jnp.where(jnp.any(lost, axis=-1) & (alpha >= 1), jnp.inf, finite)


@in_float32
def pinsker_bound(kl: Array) -> Array:
    """sqrt(kl / 2), an upper bound on TV(p, q): [*E]; kl [*E] in nats, in either direction."""
    return jnp.sqrt(0.5 * jnp.asarray(kl))


def masked_logits(logits: Array, mask: Array) -> Array:
    """The logits [..., A] with -inf for outcomes that the mask forbids.

    The mask is [..., A] bool, true for a legal outcome. A row of the mask that forbids everything
    is ignored, since a row of -inf alone would give NaN. Divergences, entropies and their gradients
    are exact on the result. With a large negative number instead of -inf, illegal outcomes would
    have a finite, huge KL.
    """
    same_shape(logits=logits, mask=mask)
    mask = jnp.asarray(mask, bool)
    return jnp.where(mask | ~jnp.any(mask, axis=-1, keepdims=True), logits, -jnp.inf)
