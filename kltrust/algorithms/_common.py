"""What several algorithms share: objectives, the natural direction, epochs of minibatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kltrust import tree
from kltrust.audit import KL_PATH, KLPath, apart, log_ratio, mean_kl, recording_path
from kltrust.divergences import distribution_entropy
from kltrust.fisher import fisher_operator, fitting_chunks
from kltrust.losses import clipped_surrogate_loss, surrogate_loss
from kltrust.minibatch import minibatch_epoch
from kltrust.solvers import conjugate_gradient
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree


def surrogate(
    policy: Policy, params: Params, batch: PolicyBatch, entropy_coef: Number
) -> tuple[Array, Any]:
    """The objective to be maximised, mean r A + entropy_coef * mean entropy, and the new policy."""
    new = policy(params, batch.obs)
    loss = surrogate_loss(log_ratio(new, batch), known_advantage(batch))
    gain = -tree.weighted_mean(loss, batch.weight)
    return gain + entropy_coef * mean_entropy(new, batch.weight), new


def clipped_loss(
    policy: Policy, clip_eps: Number, entropy_coef: Number
) -> Callable[[Params, PolicyBatch], Array]:
    """``loss(params, batch)``: mean clipped surrogate - entropy_coef * mean entropy."""

    def loss(params: Params, batch: PolicyBatch) -> Array:
        new = policy(params, batch.obs)
        losses = clipped_surrogate_loss(log_ratio(new, batch), known_advantage(batch), clip_eps)
        return tree.weighted_mean(losses, batch.weight) - entropy_coef * mean_entropy(
            new, batch.weight
        )

    return loss


def known_advantage(batch: PolicyBatch) -> Array:
    """The advantages, 0 in rows of weight 0.

    A weight of 0 keeps a NaN there out of a mean, but not out of its gradient, which is 0 * NaN.
    """
    if batch.weight is None:
        return batch.advantage
    return jnp.where(batch.weight > 0, batch.advantage, 0)


def mean_entropy(distribution: Any, weight: Array | None) -> Array:
    """Mean over states of the entropy, nats: []."""
    return tree.weighted_mean(distribution_entropy(distribution), weight)


class NaturalDirection(NamedTuple):
    """x = (F + damping I)^-1 g.

    Attributes:
        direction: x, a pytree like the parameters.
        curvature: x'(F + damping I)x, [].
        residual: |g - (F + damping I)x| / |g|, [].
    """

    direction: Params
    curvature: Array
    residual: Array


def natural_direction(
    policy: Policy,
    params: Params,
    batch: PolicyBatch,
    gradient: Params,
    *,
    damping: Number,
    cg_iters: int,
    cg_rtol: Number,
    fisher_stride: int,
    fisher_chunks: int,
) -> NaturalDirection:
    """The damped natural gradient by conjugate gradient on Fisher-vector products.

    Args:
        policy: the policy.
        params: where F is taken.
        batch: its states are averaged over, every ``fisher_stride``-th of them.
        gradient: g, a pytree like ``params``.
        damping: added to F's diagonal.
        cg_iters: conjugate-gradient iterations at most.
        cg_rtol: the residual, relative to |g|, at which they end.
        fisher_stride: 1 takes all states; 10 is the 10 % of the data of Schulman et al. (2015).
        fisher_chunks: the product in so many parts; 0: `fitting_chunks`.
    """
    obs, weight = jax.tree.map(lambda x: x[::fisher_stride], (batch.obs, batch.weight))
    states = batch.advantage[::fisher_stride].size // batch.blocks.number
    chunks = fisher_chunks or fitting_chunks(tree.leading_size(obs), states)
    fisher = fisher_operator(policy, params, obs, weight=weight, num_chunks=chunks)

    def damped_fisher(v: Params) -> Params:
        return tree.add_scaled(fisher.product(v), damping, v)

    x, residual = conjugate_gradient(damped_fisher, gradient, cg_iters, rtol=cg_rtol)
    # Equal to g'x for conjugate gradients from 0; as a sum of squares it can't be negative.
    curvature = fisher.quadratic_form(x) + damping * tree.dot(x, x)
    size = tree.norm(gradient)
    return NaturalDirection(x, curvature, jnp.where(size > 0, residual / size, 0.0))


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
