"""A penalty, then fix-up steps: a hard bound on the largest KL by first-order steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from kltrust import loops, tree
from kltrust.algorithms._ppo_penalty import PenaltyState
from kltrust.algorithms._registry import algorithm
from kltrust.divergences import kl_divergence
from kltrust.losses import penalty_surrogate_loss
from kltrust.settings import setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, UpdateReport
from kltrust.updates import FirstOrder, Sample, minibatch_epoch, sample_loss
from kltrust.updates.fields import LEARNING_RATE


@algorithm("fixpo")
class FixPO(FirstOrder):
    """Penalty epochs, then fix-up steps until the largest KL of a state is within its bound.

    First come the epochs of `ppo_penalty` on -r A + beta KL(old || new). Then come passes over the
    batch that take a step only on minibatches with a state beyond ``max_state_kl``. The weight on
    the KL doubles from pass to pass, until the whole batch is within the bound (Zentner et al.
    2023). If ``max_fixups`` passes do not get there, the update returns the old parameters, bit for
    bit: the bound holds for every state of the batch, whatever happens. Beta follows the largest KL
    d before the passes, by ascent on the dual: beta + beta_step (dual_scale d / max_state_kl - 1).

    Extra:
        - ``beta``: the weight that the penalty epochs were made with.
        - ``fixups``: the number of passes after the epochs.
        - ``fixed``: 1 if the update ended within the bound, 0 if it was undone.
    """

    State = PenaltyState

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    max_state_kl: Number = setting(
        0.2,
        "Hard bound on the largest KL(old || new) of a state of the batch, nats.",
        above=0,
        anneal=2,
        role="state bound",
        usual="0.1 to 0.5 (Zentner et al. 2023)",
    )
    max_fixups: int = setting(
        10,
        "Maximum number of passes that shorten a step over the bound; then it is given up.",
        at_least=1,
        usual="10; few are needed (Zentner et al. 2023)",
    )
    init_beta: Number = setting(
        1.0, "The penalty's weight at the start.", at_least=0, role="drift", usual="0.3 to 10"
    )
    beta_step: Number = setting(
        0.1, "Step of the ascent on beta.", at_least=0, usual="0.01 to 1; 0 leaves beta alone"
    )
    dual_scale: Number = setting(
        3.0,
        "The ascent aims at max_state_kl / dual_scale, so that few steps exceed the bound.",
        at_least=1,
        usual="3 (Zentner et al. 2023)",
    )

    def losses(self, sample: Sample, coefficient: Array) -> Array:
        """The penalty surrogate."""
        return penalty_surrogate_loss(sample.log_ratio, sample.advantage, sample.kl(), coefficient)

    def first_coefficient(self) -> Number:
        """Beta of the first iteration."""
        return self.init_beta

    def next_coefficient(self, coefficient: Array, kl: Array, stopped: Array) -> Array:
        """Unchanged: beta follows the largest KL, not this mean."""
        return coefficient

    def update(
        self,
        policy: Policy,
        params: Params,
        state: PenaltyState,
        batch: PolicyBatch,
        key: Array,
    ) -> tuple[Params, PenaltyState, UpdateReport]:
        """Epochs, fix-up passes, and the next beta."""
        old, beta = params, state.beta
        params, state, report = super().update(policy, params, state, batch, key)
        optimizer = self.make_optimizer(self.learning_rate)

        def largest_kl(params: Params, batch: PolicyBatch) -> Array:
            kl = kl_divergence(batch.old, tree.in_full_precision(policy)(params, batch.obs))
            return jnp.max(kl if batch.weight is None else jnp.where(batch.weight > 0, kl, 0))

        def mend(carry: tuple, minibatch: PolicyBatch) -> tuple:
            params, opt_state, weight = carry
            loss = sample_loss(policy, lambda s: self.losses(s, weight), self.entropy_coef)
            changes, next_state = optimizer.update(
                jax.grad(loss)(params, minibatch), opt_state, params
            )
            outside = ~(largest_kl(params, minibatch) <= self.max_state_kl)
            after = optax.apply_updates(params, changes), next_state
            return (*tree.where(outside, after, (params, opt_state)), weight), None

        def again(carry: tuple, key: Array) -> tuple:
            def passed(carry: tuple) -> tuple:
                inner, number, _ = carry
                (params, opt_state, weight), _ = minibatch_epoch(
                    mend, inner, batch, key, self.num_minibatches, batch.blocks.number
                )
                kl = largest_kl(params, batch)
                return (params, opt_state, 2 * weight), number + 1, kl

            within = carry[-1] <= self.max_state_kl
            return loops.cond(within, lambda c: c, passed, carry), None

        kl = largest_kl(params, batch)
        weight = jnp.maximum(beta, 1.0).astype(beta.dtype)
        start: Any = ((params, state.optimizer, weight), jnp.int32(0), kl)
        passes = jax.random.split(jax.random.fold_in(key, 1), self.max_fixups)
        ((params, opt_state, _), fixups, reached), _ = loops.scan(again, start, passes)
        fixed = (reached <= self.max_state_kl) & tree.all_finite(params)
        params = tree.where(fixed, params, old)
        rise = self.beta_step * (self.dual_scale * kl / self.max_state_kl - 1)
        # An infinite or NaN KL raises beta by one step.
        rise = jnp.where(jnp.isfinite(rise), rise, self.beta_step)
        state = PenaltyState(opt_state, jnp.maximum(beta + rise, 0).astype(beta.dtype))
        extra = {**report.extra, "fixups": fixups, "fixed": fixed}
        return params, state, report._replace(extra=extra)


fixpo = FixPO
