"""An optimiser around any update: it takes the update's change of the parameters as a gradient."""

from __future__ import annotations

import dataclasses

import optax

from kltrust import tree
from kltrust.types import (
    Array,
    Params,
    Policy,
    PolicyBatch,
    PolicyUpdate,
    PyTree,
    UpdateReport,
)
from kltrust.updates.leaves import moves_floats


@moves_floats
@dataclasses.dataclass(frozen=True)
class Outer:
    """An update with an optimiser around it, see `outer`; its state is (inner's, optimiser's).

    Attributes:
        inner: the update.
        optimizer: is given theta - theta_inner as a gradient.
    """

    inner: PolicyUpdate
    optimizer: optax.GradientTransformation

    def init(self, params: Params) -> PyTree:
        """The states of both."""
        return self.inner.init(params), self.optimizer.init(params)

    def update(
        self, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PyTree, UpdateReport | dict[str, Array]]:
        """The inner update, and a step of the optimiser by it."""
        proposed, within, report = self.inner.update(policy, params, state[0], batch, key)
        step = tree.add_scaled(params, -1.0, proposed)
        changes, around = self.optimizer.update(step, state[1], params)
        return optax.apply_updates(params, changes), (within, around), report


def outer(update: PolicyUpdate, optimizer: optax.GradientTransformation) -> Outer:
    """An ``update`` whose result is a proposal: the ``optimizer`` takes the step -> an update.

    With ``optax.sgd(sigma)`` the parameters become theta + sigma (theta_inner - theta). Sigma = 1
    is the update alone; a smaller sigma shortens the step, a larger one extrapolates it (Tan et al.
    2024, outer-PPO; sigma around 1.6 to 2 there, or a momentum of 0.1 to 0.3 with Nesterov's rule).
    Any transformation of optax will do. A bound that the update keeps holds for its proposal only:
    beyond sigma = 1 the actual step may exceed it, and the audit says by how much.

    The update's own state goes on as if its proposal had been taken, as in the paper.
    """
    return Outer(update, optimizer)
