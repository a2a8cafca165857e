"""The terms of a KL without cancellation, and with gradients that are never NaN.

A KL is a sum of terms that are never negative,

    KL(p || q) = sum_a p(a) phi(log q(a) - log p(a)),    phi(d) = e^d - 1 - d >= 0

since the sums of p and of q are both 1 and cancel. Near 0 phi is computed by its series. So in
float32 a KL is never below 0, and keeps its leading digits at 1e-10, where log p - log q has none
left.
"""

from __future__ import annotations

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp

from kltrust.tree import floats
from kltrust.types import Array


def phi_series(x: Array) -> Array:
    """e^x - 1 - x = x^2 (1/2! + x/3! + x^2/4! + ...) to the last digit for |x| <= 0.5."""
    tail = jnp.zeros_like(x)
    for k in reversed(range(14 if x.dtype == jnp.float64 else 8)):
        tail = tail * x + 1 / math.factorial(k + 2)
    return jnp.square(x) * tail


def log_series(x: Array) -> Array:
    """``x - log(1 + x)`` to the last digit for |x| <= 0.25, without a logarithm.

    With s = x / (2 + x): log(1 + x) = 2 (s + s^3/3 + s^5/5 + ...) and x - 2s = s x.
    """
    s = x / (2 + x)
    tail = jnp.zeros_like(x)
    for k in reversed(range(10 if x.dtype == jnp.float64 else 4)):
        tail = tail * jnp.square(s) + 1 / (2 * k + 3)
    return s * (x - 2 * jnp.square(s) * tail)


def kl_terms(log_p: Array, log_q: Array) -> Array:
    """``p phi(log q - log p)``, the terms of KL(p || q)."""
    neither_zero = (log_p != -jnp.inf) & (log_q != -jnp.inf)
    # The masks come before the arithmetic: a gradient of 0 times infinity would be NaN.
    d = jnp.where(neither_zero, log_q - log_p, 0)
    near = jnp.abs(d) < 0.5
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    # Far from 0 p phi(d) won't do: e^d may overflow where p has underflowed.
    terms = jnp.where(near, p * phi_series(jnp.where(near, d, 0)), q - p - p * d)
    return jnp.where(neither_zero, terms, jnp.where(log_p == -jnp.inf, q, jnp.inf))


def safe_log(p: Array) -> Array:
    """``log p``, -inf with a gradient of 0 where p = 0."""
    positive = p > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, p, 1)), -jnp.inf)


@jax.custom_jvp
def over_scale(x: Array, scale: Array) -> Array:
    """``x / scale`` with a derivative that squares no scale: (dx - (x / scale) dscale) / scale.

    JAX's derivative contains x / scale^2, which is 0 times infinity if x = 0 and the scale is below
    1e-19. The barrier keeps the compiler from joining the two divisions into that one again.
    """
    return x / scale


@over_scale.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x, scale), (dx, dscale) = primals, tangents
    quotient = jax.lax.optimization_barrier(over_scale(x, scale))
    return quotient, (dx - quotient * dscale) / scale


def rows(*arrays: Any) -> tuple[Array, ...]:
    """Arrays in one dtype, checked to have one rank and last axis: [N] never meets [N, 1]."""
    arrays = floats(*arrays)
    chex.assert_equal_rank(arrays)
    chex.assert_equal_shape_suffix(arrays, 1)
    return arrays
