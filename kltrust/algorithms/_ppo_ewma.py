"""PPO whose proximal policy is an average of the weights, apart from the behaviour policy."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kltrust import tree
from kltrust.algorithms._registry import algorithm
from kltrust.losses import clipped_surrogate_loss, importance_ratio
from kltrust.settings import setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree, UpdateReport
from kltrust.updates import MinibatchEpochs, Sample, log_ratio, sample_loss
from kltrust.updates.fields import CLIP_EPS, LEARNING_RATE


class EWMAState(NamedTuple):
    """The optimiser's state, the proximal parameters, and the sum of their weights: [] float."""

    optimizer: PyTree
    proximal: Params
    mass: Array


@algorithm("ppo_ewma")
class PPOEWMA(MinibatchEpochs):
    """Epochs of minibatch steps on the decoupled clipped surrogate (Hilton et al. 2021).

    minimise  -mean(p min(q A, clip(q, 1 - eps, 1 + eps) A)),  p = prox / old,  q = new / prox

    The importance weight p q is relative to old, the policy that acted. The clip is relative to
    another policy, prox: an exponentially weighted average of the parameters over all gradient
    steps, including those of earlier updates. Each step multiplies the older weights by

    decay = 1 - 1 / (1 + center_of_mass n),  n = num_epochs num_minibatches

    and the sum of weights normalises the average. How far new may go then no longer depends on the
    number of updates that a batch is split into. The authors' decay of 0.889 is a centre of mass of
    one of their updates, which have 8 steps.

    Extra:
        - ``proximal_mass``: the sum of the average's weights, 1 / (1 - decay) in the long run.
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    clip_eps: Number = setting(0.2, **CLIP_EPS)
    center_of_mass: Number = setting(
        1.0,
        "The mean age of what the average holds, in updates; 0 is new itself, inf never forgets.",
        at_least=0,
        infinite=True,
        usual="1 (Hilton et al. 2021)",
    )

    def init(self, params: Params) -> EWMAState:
        """The average of the first parameters alone."""
        first = jax.tree.map(jnp.copy, params)  # a state that is donated holds no buffer twice
        adam = super().make_optimizer(self.learning_rate).init(params)
        return EWMAState(adam, first, jnp.ones((), tree.wide_dtype(params)))

    def make_optimizer(self, learning_rate: Number) -> optax.GradientTransformation:
        """For (parameters, proximal parameters): a step of the former, which joins the average."""
        inner = super().make_optimizer(learning_rate)
        steps = self.num_epochs * self.num_minibatches
        decay = 1 - 1 / (1 + self.center_of_mass * steps)

        def init(both: tuple[Params, Params]) -> PyTree:
            return inner.init(both[0]), jnp.ones((), tree.wide_dtype(both[0]))

        def update(gradients: Any, state: PyTree, both: Any = None) -> tuple[Any, PyTree]:
            (opt_state, mass), (params, proximal) = state, both
            changes, opt_state = inner.update(gradients[0], opt_state, params)
            new = optax.apply_updates(params, changes)
            grown = (decay * mass + 1).astype(mass.dtype)
            towards = tree.scale(1 / grown, tree.add_scaled(new, -1.0, proximal))
            return (changes, towards), (opt_state, grown)

        return optax.GradientTransformation(init, update)

    def update(
        self, policy: Policy, params: Params, state: EWMAState, batch: PolicyBatch, key: Array
    ) -> tuple[Params, EWMAState, UpdateReport]:
        """All epochs; undoing an epoch also takes it out of the average."""

        def of_new(both: tuple[Params, Params], obs: PyTree) -> Any:
            return policy(both[0], obs)

        def loss(both: tuple[Params, Params], batch: PolicyBatch) -> Array:
            kept = jax.lax.stop_gradient(log_ratio(policy(both[1], batch.obs), batch))

            def losses(sample: Sample) -> Array:
                clipped = clipped_surrogate_loss(
                    sample.log_ratio - kept, sample.advantage, self.clip_eps
                )
                return importance_ratio(kept) * clipped

            return sample_loss(of_new, losses, self.entropy_coef)(both, batch)

        (params, proximal), (opt_state, mass), report = self.fit(
            loss,
            of_new,
            (params, state.proximal),
            (state.optimizer, state.mass),
            batch,
            key,
            self.learning_rate,
        )
        extra = {**report.extra, "proximal_mass": mass}
        return params, EWMAState(opt_state, proximal, mass), report._replace(extra=extra)


ppo_ewma = PPOEWMA
