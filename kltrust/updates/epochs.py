"""Epochs of minibatch steps, with a gate that undoes the epoch that leaves the trust region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kltrust import tree
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree
from kltrust.updates.minibatches import minibatch_epoch
from kltrust.updates.objectives import mean_kl
from kltrust.updates.path import KL_PATH, KLPath, apart, recording_path


def fit_by_minibatches(
    loss: Callable[[Params, PolicyBatch], Array],
    policy: Policy,
    params: Params,
    opt_state: PyTree,
    batch: PolicyBatch,
    key: Array,
    *,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    num_minibatches: int,
    max_kl: Number,
) -> tuple[Params, PyTree, dict[str, Array]]:
    """Minimises a loss by epochs of minibatch steps, undoing the epoch that leaves the region.

    After an epoch whose mean KL(old || new) over the whole batch exceeds ``max_kl``, that epoch
    is undone, parameters and optimiser state, and no further one is run. ``max_kl = inf`` never
    stops and computes no KL.

    Returns:
        (params, opt_state, {"epochs_applied", "kl_stopped"}), and the `KLPath` where it is asked
        for (`audit.recording_path`).
    """
    dtype, recording = batch.advantage.dtype, recording_path.value

    def measured(params: Params, batch: PolicyBatch) -> Array | None:
        return mean_kl(policy, *apart((params, batch))).astype(dtype) if recording else None

    def step(carry: tuple[Params, PyTree], minibatch: PolicyBatch) -> tuple:
        params, opt_state = carry
        gradient = jax.grad(loss)(params, minibatch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        kl = measured(params, minibatch)
        return (optax.apply_updates(params, updates), opt_state), kl

    def epoch(carry: tuple, key: Array) -> tuple:
        def advance(carry: tuple) -> tuple:
            current, applied, _ = carry
            proposal, along = minibatch_epoch(
                step, current, batch, key, num_minibatches, batch.blocks.number
            )
            kl = jax.lax.cond(
                jnp.isposinf(max_kl),
                lambda: jnp.zeros((), dtype),
                lambda: mean_kl(policy, proposal[0], batch).astype(dtype),
            )
            inside = kl <= max_kl
            after = tree.where(inside, proposal, current), applied + inside, ~inside
            return after, (along, measured(proposal[0], batch))

        def stay(carry: tuple) -> tuple:
            unknown = jnp.full(num_minibatches + 1, jnp.nan, dtype)
            return carry, (unknown[1:], unknown[0]) if recording else (None, None)

        return jax.lax.cond(carry[-1], stay, advance, carry)

    path: Any
    start = ((params, opt_state), jnp.int32(0), jnp.asarray(False))
    keys = jax.random.split(key, num_epochs)
    ((params, opt_state), applied, stopped), path = jax.lax.scan(epoch, start, keys)
    extra: dict[str, Any] = {"epochs_applied": applied, "kl_stopped": stopped}
    if recording:
        extra[KL_PATH] = KLPath(path[0].ravel(), path[1])
    return params, opt_state, extra
