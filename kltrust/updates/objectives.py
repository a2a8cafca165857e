"""The objectives that algorithms optimise, and the two measures of a step, on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.divergences import distribution_entropy, distribution_log_prob, kl_divergence
from kltrust.losses import clipped_surrogate_loss, penalty_surrogate_loss, surrogate_loss
from kltrust.types import Array, Number, Params, Policy, PolicyBatch

Divergence = Callable[[Any, Any], Array]
"""``divergence(old, new) -> [N]``, one per state, exact."""


def log_ratio(new: Any, batch: PolicyBatch) -> Array:
    """Log new(a|s) - log old(a|s) at the batch's actions: [N]."""
    old = jax.lax.stop_gradient(distribution_log_prob(batch.old, batch.action))
    return distribution_log_prob(new, batch.action) - old


def mean_kl(policy: Policy, params: Params, batch: PolicyBatch) -> Array:
    """Mean over the batch's states of KL(batch.old || policy(params)), nats: []."""
    return tree.weighted_mean(kl_divergence(batch.old, policy(params, batch.obs)), batch.weight)


def reverse_kl(old: Any, new: Any) -> Array:
    """KL(new || old) per state, nats: [N]."""
    return kl_divergence(new, old)


def surrogate(
    policy: Policy, params: Params, batch: PolicyBatch, entropy_coef: Number
) -> tuple[Array, Any]:
    """The objective to be maximised, mean r A + entropy_coef * mean entropy, and the new policy.

    Args:
        policy: the policy.
        params: its parameters.
        batch: rows of weight 0 count for nothing.
        entropy_coef: [] at least 0.

    Returns:
        (objective [], the distribution at the batch's states).
    """
    new = policy(params, batch.obs)
    loss = surrogate_loss(log_ratio(new, batch), known_advantage(batch))
    gain = -tree.weighted_mean(loss, batch.weight)
    return gain + entropy_bonus(entropy_coef, new, batch.weight), new


def clipped_loss(
    policy: Policy, clip_eps: Number, entropy_coef: Number
) -> Callable[[Params, PolicyBatch], Array]:
    """``loss(params, batch)``: mean clipped surrogate - entropy_coef * mean entropy.

    Args:
        policy: the policy.
        clip_eps: [] half-width of the interval of ratios.
        entropy_coef: [] at least 0.

    Returns:
        The loss, for `minibatch_epochs`.
    """

    def loss(params: Params, batch: PolicyBatch) -> Array:
        new = policy(params, batch.obs)
        losses = clipped_surrogate_loss(log_ratio(new, batch), known_advantage(batch), clip_eps)
        mean = tree.weighted_mean(losses, batch.weight)
        return mean - entropy_bonus(entropy_coef, new, batch.weight)

    return loss


def penalised_loss(
    policy: Policy, divergence: Divergence, beta: Number, entropy_coef: Number
) -> Callable[[Params, PolicyBatch], Array]:
    """``loss(params, batch)``: mean(-r A + beta divergence) - entropy_coef * mean entropy.

    Args:
        policy: the policy.
        divergence: of old and new, per state.
        beta: [] the penalty's weight.
        entropy_coef: [] at least 0.

    Returns:
        The loss, for `minibatch_epochs`.
    """

    def loss(params: Params, batch: PolicyBatch) -> Array:
        new = policy(params, batch.obs)
        losses = penalty_surrogate_loss(
            log_ratio(new, batch), known_advantage(batch), divergence(batch.old, new), beta
        )
        mean = tree.weighted_mean(losses, batch.weight)
        return mean - entropy_bonus(entropy_coef, new, batch.weight)

    return loss


def known_advantage(batch: PolicyBatch) -> Array:
    """The advantages, 0 in rows of weight 0.

    A weight of 0 keeps a NaN there out of a mean, but not out of its gradient, which is 0 * NaN.
    """
    if batch.weight is None:
        return batch.advantage
    return jnp.where(batch.weight > 0, batch.advantage, 0)


def mean_entropy(distribution: Any, weight: Array | None) -> Array:
    """Mean over states of the entropy, nats: []; NaN if the distribution knows no entropy.

    Args:
        distribution: of batch shape [*E].
        weight: [*E], or None for all ones.
    """
    try:
        return tree.weighted_mean(distribution_entropy(distribution), weight)
    except NotImplementedError:
        return jnp.full((), jnp.nan)


def entropy_bonus(entropy_coef: Number, distribution: Any, weight: Array | None) -> Array:
    """``entropy_coef`` times the mean entropy: []. A coefficient of 0 asks for no entropy.

    Args:
        entropy_coef: [] at least 0.
        distribution: of batch shape [*E].
        weight: [*E], or None for all ones.

    Raises:
        ValueError: if the distribution knows no entropy and the coefficient is not 0. Where that
            is only known at run time, value and gradient are NaN.
    """
    try:
        entropy = distribution_entropy(distribution)
    except NotImplementedError as error:
        if not isinstance(entropy_coef, jax.core.Tracer) and entropy_coef != 0:
            raise ValueError(
                f"entropy_coef={entropy_coef}, but {type(distribution).__name__} knows no entropy: "
                "set entropy_coef=0, or let the policy return the base distribution and bound the "
                "actions in the environment"
            ) from error
        leaves = [x for x in jax.tree.leaves(distribution) if jnp.issubdtype(x.dtype, jnp.floating)]
        return jnp.where(entropy_coef == 0, 0, jnp.nan) * jnp.sum(leaves[0])
    return tree.weighted(entropy_coef, tree.weighted_mean(entropy, weight))
