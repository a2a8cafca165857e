"""The unconstrained policy gradient: the baseline without a trust region."""

from __future__ import annotations

from typing import Any

import jax
import optax

from kltrust import tree
from kltrust.algorithms._registry import algorithm
from kltrust.settings import INF, setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree
from kltrust.updates import MakeOptimizer, Optimizer, bounded, surrogate
from kltrust.updates.fields import ENTROPY_COEF, MAX_GRAD_NORM, OPTIMIZER


@algorithm("vanilla_pg")
class VanillaPG:
    """One plain gradient step on the whole batch: theta + learning_rate * g.

    g is the gradient at old of mean(r A) + entropy_coef * mean entropy. At r = 1 its first part is
    the policy gradient mean(A grad log pi(a|s)) of Sutton et al. (1999). Nothing bounds the KL of
    the step: it grows with learning_rate**2 g'Fg / 2.

    Extra:
        - ``grad_norm``: |g|, the gradient's global norm before ``max_grad_norm`` cuts it.
    """

    learning_rate: Number = setting(
        0.01,
        "Step size, in parameters.",
        at_least=0,
        schedules=True,
        anneal=1,
        usual="1e-3 to 1; depends on |g|",
    )
    optimizer: MakeOptimizer = setting(Optimizer("sgd"), **OPTIMIZER)
    entropy_coef: Number = setting(0.0, **ENTROPY_COEF)
    max_grad_norm: Number = setting(INF, **MAX_GRAD_NORM)

    def init(self, params: Params) -> PyTree:
        """The optimiser's state."""
        return self._optimizer().init(params)

    def update(
        self, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PyTree, dict[str, Array]]:
        """One step."""

        def loss(params: Params) -> Array:
            return -surrogate(policy, params, batch, self.entropy_coef)[0]

        gradient = jax.grad(loss)(params)
        step, state = self._optimizer().update(gradient, state, params)
        return optax.apply_updates(params, step), state, {"grad_norm": tree.norm(gradient)}

    def _optimizer(self) -> Any:
        return bounded(self.optimizer, self.learning_rate, self.max_grad_norm)


vanilla_pg = VanillaPG
