"""PPO with the clipped surrogate and a learning rate that follows the KL."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import jax.numpy as jnp

from kltrust.checks import check, check_count, check_range
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PolicyUpdate, PyTree
from kltrust.updates.controllers import check_order, follow_kl
from kltrust.updates.epochs import fit_by_minibatches
from kltrust.updates.minibatches import adam
from kltrust.updates.objectives import clipped_loss, mean_kl


class AdaptiveState(NamedTuple):
    """Adam's state and its learning rate: [] float."""

    optimizer: PyTree
    learning_rate: Array


def ppo_adaptive_lr(
    *,
    init_learning_rate: Number = 1e-3,
    target_kl: Number = 0.01,
    clip_eps: Number = 0.2,
    num_epochs: int = 5,
    num_minibatches: int = 4,
    max_kl: Number = float("inf"),
    kl_tolerance: Number = 2.0,
    learning_rate_factor: Number = 1.5,
    min_learning_rate: Number = 1e-5,
    max_learning_rate: Number = 1e-2,
    entropy_coef: Number = 0.0,
    max_grad_norm: Number = 1.0,
) -> PolicyUpdate:
    """`ppo_clip` with a set point for its KL, held by the learning rate.

    After the epochs, with d the mean KL(old || new) over the whole batch, exact:
    d > target_kl * kl_tolerance divides the learning rate by learning_rate_factor,
    d < target_kl / kl_tolerance multiplies it, within its bounds, for the next iteration.

    The rule is that of the legged-robot trainings (Rudin et al. 2021 and their rsl_rl), where it is
    applied before every minibatch step, to that minibatch's KL so far; rl_games has it either so or
    after every epoch. Within an iteration the KL grows from 0: the first steps raise the rate,
    whatever it is, and the last ones lower it. Here the rule sees what the iteration came to, once.

    Args:
        init_learning_rate: Adam's at the start (1e-3: rsl_rl).
        target_kl: set point of the mean KL(old || new) per iteration, nats (0.01: rsl_rl).
        clip_eps: the half-width of the clipping interval; inf never clips.
        num_epochs: passes over the batch (5: rsl_rl).
        num_minibatches: parts of each pass (4: rsl_rl).
        max_kl: an epoch that ends at a mean KL above it is undone and is the last, and lowers the
            rate; inf never stops.
        kl_tolerance: factor around target_kl within which the rate stays; at least 1.
        learning_rate_factor: one step of the rate; at least 1.
        min_learning_rate: it never falls below (1e-5: rsl_rl).
        max_learning_rate: it never rises above (1e-2: rsl_rl).
        entropy_coef: weight of the mean entropy (nats).
        max_grad_norm: bound on the gradient's global norm (1: rsl_rl); inf is none.

    Extra:
        - ``epochs_applied``: epochs that moved the parameters; an undone one is not counted.
        - ``kl_stopped``: 1 if an epoch left ``max_kl`` and was undone, else 0.
        - ``learning_rate``: the one that this update was made with.

    Raises:
        ValueError: on a negative or zero setting that must not be; when traced, on a batch that
            does not divide into ``num_minibatches``.
    """
    check(
        init_learning_rate=(init_learning_rate, False),
        target_kl=(target_kl, False),
        clip_eps=(clip_eps, False),
        max_kl=(max_kl, False),
        min_learning_rate=(min_learning_rate, False),
        max_learning_rate=(max_learning_rate, False),
        entropy_coef=(entropy_coef, True),
        max_grad_norm=(max_grad_norm, False),
    )
    check_range(
        kl_tolerance=(kl_tolerance, 1, inf),
        learning_rate_factor=(learning_rate_factor, 1, inf),
    )
    check_order(min_learning_rate=min_learning_rate, max_learning_rate=max_learning_rate)
    check_count(num_epochs=num_epochs, num_minibatches=num_minibatches)

    def init(params: Params) -> AdaptiveState:
        # Adam's state does not depend on the rate, which comes last: a factor on what it proposes.
        optimizer = adam(init_learning_rate, max_grad_norm)
        return AdaptiveState(optimizer.init(params), jnp.asarray(init_learning_rate, jnp.float32))

    def update(
        policy: Policy, params: Params, state: AdaptiveState, batch: PolicyBatch, key: Array
    ) -> tuple[Params, AdaptiveState, dict[str, Array]]:
        learning_rate = state.learning_rate
        params, opt_state, extra = fit_by_minibatches(
            clipped_loss(policy, clip_eps, entropy_coef),
            policy,
            params,
            state.optimizer,
            batch,
            key,
            optimizer=adam(learning_rate, max_grad_norm),
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            max_kl=max_kl,
        )
        next_rate = follow_kl(
            learning_rate,
            mean_kl(policy, params, batch),
            extra["kl_stopped"],
            target_kl=target_kl,
            tolerance=kl_tolerance,
            if_above=1 / learning_rate_factor,
            if_below=learning_rate_factor,
            low=min_learning_rate,
            high=max_learning_rate,
        )
        return (
            params,
            AdaptiveState(opt_state, next_rate),
            {**extra, "learning_rate": learning_rate},
        )

    return PolicyUpdate(init, update)
