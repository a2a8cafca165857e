"""Mirror descent policy optimisation, on-policy."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.algorithms._registry import algorithm
from kltrust.settings import setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree, UpdateReport
from kltrust.updates import MinibatchEpochs, penalised_loss, reverse_kl
from kltrust.updates.fields import LEARNING_RATE, NUM_MINIBATCHES


@algorithm("mdpo")
class MDPO(MinibatchEpochs):
    """Some optimiser steps towards the mirror descent step, the exact KL as its proximity term.

    maximise  mean(r A) - mean KL(new || old) / step_size    (Tomar et al. 2020, on-policy)

    On the simplex the optimum is old exp(step_size A) / Z, `tabular.mirror_step`: the natural
    policy gradient of a tabular softmax, which a convergence theory is about. A few gradient steps
    move a network towards it; how near it comes is up to them.

    The step size is a setting, and the KL is what comes of it: about step_size^2 / 2 nats at the
    optimum for standardised advantages. Where the weight 1 / step_size is to follow the KL
    instead, use `ppo_reverse_kl`. The authors anneal the step size linearly to 0 and keep the
    learning rate; pass a schedule, ``lambda fraction: mdpo(step_size=1 - fraction)``, or
    ``anneal = 1`` in an experiment.

    Extra:
        - ``step_size``: the one in force; a schedule may move it.
    """

    step_size: Number = setting(
        1.0,
        "Of mirror descent, in 1 / advantage; anneal shrinks it, and keeps the learning rate.",
        above=0,
        anneal=1,
        usual="0.1 to 1; 1 at first, annealed to 0 (Tomar et al. 2020)",
    )
    learning_rate: Number = setting(3e-4, **LEARNING_RATE)
    num_minibatches: int = setting(1, **NUM_MINIBATCHES)

    def init(self, params: Params) -> PyTree:
        """The optimiser's state."""
        return self.make_optimizer(self.learning_rate).init(params)

    def update(
        self, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PyTree, UpdateReport]:
        """All epochs."""
        loss = penalised_loss(policy, reverse_kl, 1 / self.step_size, self.entropy_coef)
        params, state, report = self.fit(
            loss, policy, params, state, batch, key, self.learning_rate
        )
        in_force = jnp.asarray(self.step_size, batch.advantage.dtype)
        return params, state, report._replace(extra={**report.extra, "step_size": in_force})


mdpo = MDPO
