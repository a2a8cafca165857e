"""The ratio, and the measurement that is part of every iteration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kltrust.divergences import distribution_entropy, kl_divergence
from kltrust.tree import weighted_mean
from kltrust.types import Array, Params, Policy, PolicyBatch


def log_ratio(new: Any, batch: PolicyBatch) -> Array:
    """Log new(a|s) - log old(a|s) at the batch's actions: [N]."""
    return new.log_prob(batch.action) - jax.lax.stop_gradient(batch.old.log_prob(batch.action))


def measure_update(policy: Policy, params: Params, batch: PolicyBatch) -> dict[str, Array]:
    """How far the policy moved, exactly, on the whole batch; see `Metrics`.

    Args:
        policy: the policy.
        params: after the update.
        batch: what the update saw.

    Returns:
        The fields kl to clip_fraction of `Metrics`, each [].
    """
    new = policy(params, batch.obs)
    kl = kl_divergence(batch.old, new)
    ratio = jnp.exp(log_ratio(new, batch))

    def mean(x: Array) -> Array:
        return weighted_mean(x, batch.weight)

    def largest(x: Array) -> Array:  # of what is never negative
        return jnp.max(x if batch.weight is None else jnp.where(batch.weight > 0, x, 0))

    return {
        "kl": mean(kl),
        "kl_reverse": mean(kl_divergence(new, batch.old)),
        "kl_max": largest(kl),
        "surrogate_gain": mean((ratio - 1) * batch.advantage),
        "entropy": mean(distribution_entropy(new)),
        "max_ratio": largest(ratio),
        "clip_fraction": mean((jnp.abs(ratio - 1) > 0.2).astype(ratio.dtype)),
    }
