"""The critic: by default the same regression for every algorithm; you can replace it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from kltrust import loops
from kltrust.losses import clipped_value_loss
from kltrust.settings import INF, setting, settings
from kltrust.tree import map_stacked
from kltrust.types import Array, CriticBatch, Number, Params, PyTree
from kltrust.updates import ADAM, MakeOptimizer, bounded, minibatch_epoch, moves_floats
from kltrust.updates.fields import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    OPTIMIZER,
)
from kltrust.updates.vectors import Descent, Form, in_vectors


@moves_floats
@settings
class ValueRegression:
    """Epochs of minibatch steps on half the squared error to the TD(lambda) targets.

    A critic of your own is any object with the same ``init`` and ``update``, see `Critic`.
    """

    name = "value_regression"

    learning_rate: Number = setting(1e-3, anneal=1, **LEARNING_RATE)
    optimizer: MakeOptimizer = setting(ADAM, **OPTIMIZER)
    num_epochs: int = setting(10, **NUM_EPOCHS)
    num_minibatches: int = setting(32, **NUM_MINIBATCHES)
    clip_eps: Number = setting(
        INF,
        "Distance from the old value beyond which the loss has no gradient.",
        above=0,
        infinite=True,
        role="value clip",
        usual="inf; 0.2 in the PPO authors' code",
    )
    max_grad_norm: Number = setting(0.5, **MAX_GRAD_NORM)

    def init(self, params: Params) -> PyTree:
        """The optimiser's state."""
        return self._optimizer().init(params)

    def update(
        self,
        value: Callable[[Params, PyTree], Array],
        params: Params,
        state: PyTree,
        batch: CriticBatch,
        key: Array,
    ) -> tuple[Params, PyTree]:
        """All epochs."""
        optimizer = self._optimizer()

        def loss(params: Params, minibatch: CriticBatch) -> Array:
            now = value(params, minibatch.obs)
            return jnp.mean(
                clipped_value_loss(now, minibatch.value, minibatch.target, self.clip_eps)
            )

        gradient_of = loops.traced_once(jax.grad(loss))

        def descend(start: Descent, form: Form) -> tuple[Descent, None]:
            tree_of, vector_of, together = form
            counts = self.num_minibatches, batch.blocks.number, together

            def step(carry: Descent, minibatch: CriticBatch) -> tuple[Descent, None]:
                params, opt_state = carry
                gradient = vector_of(gradient_of(tree_of(params), minibatch))
                updates, opt_state = optimizer.update(gradient, opt_state, params)
                return (optax.apply_updates(params, updates), opt_state), None

            def epoch(carry: Descent, key: Array) -> tuple[Descent, None]:
                return minibatch_epoch(step, carry, batch, key, *counts)[0], None

            return loops.scan(epoch, start, jax.random.split(key, self.num_epochs))

        return in_vectors(descend, optimizer, params, state)[0]

    def _optimizer(self) -> optax.GradientTransformation:
        return bounded(self.optimizer, self.learning_rate, self.max_grad_norm)


value_regression = ValueRegression
"""The default critic of `make_learner`; change it by ``critic=value_regression(num_epochs=5)``."""


def measure_critic(value: Array, target: Array) -> dict[str, Array]:
    """Fit of the critic to its targets; explained variance is 0 if the targets do not vary.

    Rounding differences between equal targets do not count as variance: targets are sums of
    advantages and values. ``value`` [*E] is the critic's output, ``target`` [*E] its target.

    Returns:
        ``explained_variance`` and ``value_loss``, each [].
    """
    error = target - value
    variance = map_stacked(jnp.var, {"target": target, "error": error})
    ends = map_stacked(jnp.max, {"high": target, "low": -target, "value": jnp.abs(value)})
    # The variance can't tell, since the mean of equal numbers is rounded.
    size = jnp.maximum(jnp.maximum(ends["high"], ends["low"]), ends["value"])
    varies = ends["high"] + ends["low"] > 4 * jnp.finfo(target.dtype).eps * size
    unexplained = variance["error"] / jnp.where(varies, variance["target"], 1)
    return {
        "explained_variance": jnp.where(varies, 1 - unexplained, 0),
        "value_loss": 0.5 * jnp.mean(jnp.square(error)),
    }
