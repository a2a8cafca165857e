"""The KL from samples: k1, k2, k3, their values and their gradients (Schulman, 2020).

Two settings, and a formula that is right in one can be useless in the other.

A. a ~ old, fixed; log_ratio = log new(a) - log old(a), differentiated through new. Ours.
B. a ~ pi, the policy that is trained; log_ratio = log ref(a) - log pi(a), differentiated through
   pi (language models). "As a detached reward" is E_pi[stop_gradient(k) grad log pi].
"""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.numerics import floats, phi_series
from kltrust.types import Array


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
