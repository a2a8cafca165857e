"""Mirror descent policy optimisation, on-policy."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.algorithms._registry import algorithm
from kltrust.losses import penalty_surrogate_loss
from kltrust.settings import setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch
from kltrust.updates import FirstOrder, Sample, reverse_kl
from kltrust.updates.fields import LEARNING_RATE, NUM_MINIBATCHES


@algorithm("mdpo")
class MDPO(FirstOrder):
    """A few optimiser steps towards the mirror descent step, with the exact KL as proximity term.

    maximise  mean(r A) - mean KL(new || old) / step_size    (Tomar et al. 2020, on-policy)

    On the simplex the optimum is old exp(step_size A) / Z, `tabular.mirror_step`: the natural
    policy gradient step of a tabular softmax, for which there is a convergence theory. A few
    gradient steps move a network towards it; how near it comes depends on them.

    The step size is a setting, and the KL follows from it: about step_size^2 / 2 nats at the
    optimum for standardised advantages. To let the weight 1 / step_size follow the KL instead, use
    `ppo_reverse_kl`. The authors anneal the step size linearly to 0 and keep the learning rate. To
    do so, pass a schedule, ``lambda fraction: mdpo(step_size=1 - fraction)``, or ``anneal = 1`` in
    an experiment.

    Extra:
        - ``step_size``: the one in force; a schedule may change it.
    """

    step_size: Number = setting(
        1.0,
        "Step size of mirror descent, in 1 / advantage. anneal shrinks it and keeps "
        "the learning rate.",
        above=0,
        role="drift",
        anneal=1,
        usual="0.1 to 1; 1 at first, annealed to 0 (Tomar et al. 2020)",
    )
    learning_rate: Number = setting(3e-4, **LEARNING_RATE)
    num_minibatches: int = setting(1, **NUM_MINIBATCHES)

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The surrogate less KL(new || old) divided by the step size."""
        distance = reverse_kl(sample.old, sample.new)
        return penalty_surrogate_loss(
            sample.log_ratio, sample.advantage, distance, 1 / self.step_size
        )

    def extra(self, policy: Policy, params: Params, batch: PolicyBatch) -> dict[str, Array]:
        """The step size."""
        return {"step_size": jnp.asarray(self.step_size, batch.advantage.dtype)}


mdpo = MDPO
