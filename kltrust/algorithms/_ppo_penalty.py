"""PPO with a KL penalty, fixed or adaptive."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

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


class PenaltyState(NamedTuple):
    """Adam's state and the penalty's weight: [] float."""

    optimizer: PyTree
    beta: Array


def ppo_penalty(
    *,
    learning_rate: Number = 3e-4,
    target_kl: Number = 0.01,
    init_beta: Number = 1.0,
    adaptive: bool = True,
    num_epochs: int = 10,
    num_minibatches: int = 32,
    max_kl: Number = float("inf"),
    beta_tolerance: Number = 1.5,
    beta_increase: Number = 2.0,
    beta_decrease: Number = 0.5,
    min_beta: Number = 1e-4,
    max_beta: Number = 1e4,
    entropy_coef: Number = 0.0,
    max_grad_norm: Number = 0.5,
) -> PolicyUpdate:
    """Epochs of Adam on the penalty surrogate, -r A + beta KL(old || new), the exact KL.

    Adaptive: after the epochs, with d the mean KL over the whole batch,
    d > target_kl * beta_tolerance multiplies beta by beta_increase, d < target_kl / beta_tolerance
    by beta_decrease, for the next iteration (Schulman et al. 2017, section 4, with 1.5, 2, 1/2;
    RLlib takes 2, 1.5, 1/2). Without any advantage to follow the parameters still drift by about
    a learning rate: Adam turns the KL's vanishing gradient into steps of its own size.

    Args:
        learning_rate: Adam's (3e-4: the paper, MuJoCo).
        target_kl: set point of the mean KL(old || new) per iteration, nats; used if adaptive.
        init_beta: the penalty's weight at the start, and throughout if not adaptive. It is
            relative to the advantages' scale: the papers' 0.3 to 10 presume standardised ones.
        adaptive: whether beta follows the KL. Static.
        num_epochs: passes over the batch (10: the paper).
        num_minibatches: parts of each pass (32: the paper's 2048 / 64).
        max_kl: an epoch that ends at a mean KL above it is undone and is the last; inf never stops.
        beta_tolerance: factor around target_kl within which beta stays; at least 1.
        beta_increase: at least 1.
        beta_decrease: at most 1.
        min_beta: beta never falls below it (a beta of 0 could never rise again).
        max_beta: beta never rises above it.
        entropy_coef: weight of the mean entropy (nats).
        max_grad_norm: bound on the gradient's global norm; inf is none.

    Extra:
        - ``epochs_applied``: epochs that moved the parameters; an undone one is not counted.
        - ``kl_stopped``: 1 if an epoch left ``max_kl`` and was undone, else 0.
        - ``beta``: the weight that this update was made with; the next one logs what became of it.

    Raises:
        ValueError: on a negative or zero setting that must not be; when traced, on a batch that
            does not divide into ``num_minibatches``.
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
    known = not any(isinstance(b, jax.core.Tracer) for b in (min_beta, max_beta))
    if known and min_beta > max_beta:
        raise ValueError(f"min_beta must not exceed max_beta, got {min_beta} and {max_beta}")
    check_count(num_epochs=num_epochs, num_minibatches=num_minibatches)
    optimizer = adam(learning_rate, max_grad_norm)

    def init(params: Params) -> PenaltyState:
        return PenaltyState(optimizer.init(params), jnp.asarray(init_beta, jnp.float32))

    def adapt(beta: Array, kl: Array, stopped: Array) -> Array:
        # An undone epoch leaves a small KL behind, but it was undone because the KL was large.
        factor = jnp.where(
            stopped | (kl > target_kl * beta_tolerance),
            beta_increase,
            jnp.where(kl < target_kl / beta_tolerance, beta_decrease, 1.0),
        )
        return jnp.clip(beta * factor, min_beta, max_beta).astype(beta.dtype)

    def update(
        policy: Policy, params: Params, state: PenaltyState, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PenaltyState, dict[str, Array]]:
        beta = state.beta

        def loss(params: Params, batch: PolicyBatch) -> Array:
            new = policy(params, batch.obs)
            kl = kl_divergence(batch.old, new)
            losses = penalty_surrogate_loss(log_ratio(new, batch), known_advantage(batch), kl, beta)
            return tree.weighted_mean(losses, batch.weight) - entropy_coef * mean_entropy(
                new, batch.weight
            )

        params, opt_state, extra = fit_by_minibatches(
            loss,
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
        if adaptive:
            next_beta = adapt(beta, mean_kl(policy, params, batch), extra["kl_stopped"])
        else:
            next_beta = beta
        return params, PenaltyState(opt_state, next_beta), {**extra, "beta": beta}

    return PolicyUpdate(init, update)
