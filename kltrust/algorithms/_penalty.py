"""What the methods with a KL in their loss, or a set point for it, share."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.algorithms._common import (
    fit_by_minibatches,
    known_advantage,
    mean_entropy,
    mean_kl,
)
from kltrust.audit import log_ratio
from kltrust.checks import check, check_count, check_range
from kltrust.divergences import kl_divergence
from kltrust.losses import penalty_surrogate_loss
from kltrust.minibatch import adam
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PolicyUpdate, PyTree

Divergence = Callable[[Any, Any], Array]
"""``divergence(old, new) -> [N]``, one per state, exact."""


def reverse_kl(old: Any, new: Any) -> Array:
    """KL(new || old) per state, nats: [N]."""
    return kl_divergence(new, old)


def penalised_loss(
    policy: Policy, divergence: Divergence, beta: Number, entropy_coef: Number
) -> Callable[[Params, PolicyBatch], Array]:
    """``loss(params, batch)``: mean(-r A + beta divergence) - entropy_coef * mean entropy."""

    def loss(params: Params, batch: PolicyBatch) -> Array:
        new = policy(params, batch.obs)
        losses = penalty_surrogate_loss(
            log_ratio(new, batch), known_advantage(batch), divergence(batch.old, new), beta
        )
        return tree.weighted_mean(losses, batch.weight) - entropy_coef * mean_entropy(
            new, batch.weight
        )

    return loss


def follow_kl(
    value: Array,
    kl: Array,
    stopped: Array,
    *,
    target_kl: Number,
    tolerance: Number,
    if_above: Number,
    if_below: Number,
    low: Number,
    high: Number,
) -> Array:
    """A setting for the next iteration, steered so that the KL of an iteration stays near a target.

    Args:
        value: [] what it was in this iteration.
        kl: [] what this iteration came to: the mean KL(old || new) over the whole batch.
        stopped: [] whether an epoch was undone. That leaves a small KL behind, but it was undone
            because the KL was large.
        target_kl: the set point.
        tolerance: factor around it within which the value stays.
        if_above: the value's factor beyond target_kl * tolerance.
        if_below: the value's factor below target_kl / tolerance.
        low: the value's least.
        high: the value's most.
    """
    factor = jnp.where(
        stopped | (kl > target_kl * tolerance),
        if_above,
        jnp.where(kl < target_kl / tolerance, if_below, 1.0),
    )
    return jnp.clip(value * factor, low, high).astype(value.dtype)


def check_order(**bounds: Number) -> None:
    """Refuses two known bounds, given as low = ..., high = ..., of which the first is larger."""
    (low_name, low), (high_name, high) = bounds.items()
    known = not any(isinstance(x, jax.core.Tracer) for x in (low, high))
    if known and low > high:
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low} and {high}")


class PenaltyState(NamedTuple):
    """Adam's state and the penalty's weight: [] float."""

    optimizer: PyTree
    beta: Array


def penalty_update(
    divergence: Divergence,
    *,
    learning_rate: Number,
    target_kl: Number,
    init_beta: Number,
    adaptive: bool,
    num_epochs: int,
    num_minibatches: int,
    max_kl: Number,
    beta_tolerance: Number,
    beta_increase: Number,
    beta_decrease: Number,
    min_beta: Number,
    max_beta: Number,
    entropy_coef: Number,
    max_grad_norm: Number,
) -> PolicyUpdate:
    """Epochs of Adam on -r A + beta divergence, beta fixed or following KL(old || new).

    The settings are those of `ppo_penalty`, and so are the errors.
    """
    check(
        learning_rate=(learning_rate, True),
        target_kl=(target_kl, False),
        init_beta=(init_beta, not adaptive),
        max_kl=(max_kl, False),
        beta_decrease=(beta_decrease, False),
        min_beta=(min_beta, False),
        max_beta=(max_beta, False),
        entropy_coef=(entropy_coef, True),
        max_grad_norm=(max_grad_norm, False),
    )
    check_range(
        beta_tolerance=(beta_tolerance, 1, inf),
        beta_increase=(beta_increase, 1, inf),
        beta_decrease=(beta_decrease, 0, 1),
    )
    check_order(min_beta=min_beta, max_beta=max_beta)
    check_count(num_epochs=num_epochs, num_minibatches=num_minibatches)
    optimizer = adam(learning_rate, max_grad_norm)

    def init(params: Params) -> PenaltyState:
        return PenaltyState(optimizer.init(params), jnp.asarray(init_beta, jnp.float32))

    def update(
        policy: Policy, params: Params, state: PenaltyState, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PenaltyState, dict[str, Array]]:
        beta = state.beta
        params, opt_state, extra = fit_by_minibatches(
            penalised_loss(policy, divergence, beta, entropy_coef),
            policy,
            params,
            state.optimizer,
            batch,
            key,
            optimizer=optimizer,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            max_kl=max_kl,
        )
        next_beta = beta
        if adaptive:
            next_beta = follow_kl(
                beta,
                mean_kl(policy, params, batch),
                extra["kl_stopped"],
                target_kl=target_kl,
                tolerance=beta_tolerance,
                if_above=beta_increase,
                if_below=beta_decrease,
                low=min_beta,
                high=max_beta,
            )
        return params, PenaltyState(opt_state, next_beta), {**extra, "beta": beta}

    return PolicyUpdate(init, update)
