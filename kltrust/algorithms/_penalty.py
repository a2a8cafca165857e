"""What the methods with a KL in their loss, or a set point for it, share."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import jax.numpy as jnp

from kltrust.checks import check, check_count, check_range
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PolicyUpdate, PyTree
from kltrust.updates.controllers import check_order, follow_kl
from kltrust.updates.epochs import fit_by_minibatches
from kltrust.updates.minibatches import adam
from kltrust.updates.objectives import Divergence, mean_kl, penalised_loss


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
