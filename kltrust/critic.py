"""The critic: the same regression for every algorithm."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from kltrust.losses import clipped_value_loss
from kltrust.tree import at_once
from kltrust.types import Array, Number, Params, PyTree
from kltrust.updates.minibatches import minibatch_epoch


def fit_value(
    value: Callable[[Params, PyTree], Array],
    params: Params,
    opt_state: PyTree,
    data: tuple[PyTree, Array, Array],
    key: Array,
    *,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    num_minibatches: int,
    clip_eps: Number,
    num_blocks: int = 1,
) -> tuple[Params, PyTree]:
    """Regression of the critic on its targets; ``data`` is (obs, old value, target) of [N, ...]."""

    def step(carry: tuple[Params, PyTree], minibatch: tuple) -> tuple:
        params, opt_state = carry
        obs, old_value, target = minibatch

        def loss(params: Params) -> Array:
            return jnp.mean(clipped_value_loss(value(params, obs), old_value, target, clip_eps))

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def epoch(carry: tuple, key: Array) -> tuple:
        return minibatch_epoch(step, carry, data, key, num_minibatches, num_blocks)

    return jax.lax.scan(epoch, (params, opt_state), jax.random.split(key, num_epochs))[0]


def measure_critic(value: Array, target: Array) -> dict[str, Array]:
    """Fit of the critic to its targets; explained variance is 0 where the targets do not vary.

    What rounding leaves of equal targets is no variance: they are sums of advantages and values.
    """
    error = target - value
    variance = at_once(jnp.var, {"target": target, "error": error})
    ends = at_once(jnp.max, {"high": target, "low": -target, "value": jnp.abs(value)})
    # The variance itself is no sign of it, since the mean of equal numbers is rounded.
    size = jnp.maximum(jnp.maximum(ends["high"], ends["low"]), ends["value"])
    varies = ends["high"] + ends["low"] > 4 * jnp.finfo(target.dtype).eps * size
    unexplained = variance["error"] / jnp.where(varies, variance["target"], 1)
    return {
        "explained_variance": jnp.where(varies, 1 - unexplained, 0),
        "value_loss": 0.5 * jnp.mean(jnp.square(error)),
    }
