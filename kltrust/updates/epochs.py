"""Epochs of minibatch steps, with a gate that undoes an epoch that leaves the trust region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import optax

from kltrust import loops, lowering, tree
from kltrust.settings import INF, setting, settings
from kltrust.types import Array, KLPath, Number, Params, Policy, PolicyBatch, PyTree, UpdateReport
from kltrust.updates.fields import (
    ENTROPY_COEF,
    MAX_GRAD_NORM,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    OPTIMIZER,
    STOP_KL,
)
from kltrust.updates.minibatches import minibatch_epoch
from kltrust.updates.objectives import mean_change, mean_kl
from kltrust.updates.optimizers import ADAM, MakeOptimizer, bounded
from kltrust.updates.vectors import Descent, Form, in_vectors

Loss: TypeAlias = Callable[[Params, PolicyBatch], Array]
"""``loss(params, batch) -> []``: a mean over the rows of the batch, by their weights."""
Gate: TypeAlias = Callable[[Params, PolicyBatch], Array]
"""``gate(params, batch) -> [] bool``: whether parameters may stay, after an epoch."""


def kl_gate(policy: Policy, max_kl: Number) -> Gate:
    """The gate that lets parameters stay while the mean KL(old || new) is at most ``max_kl``.

    The bound on the KL of ``policy`` is in nats; at inf no KL is computed.
    """

    def gate(params: Params, batch: PolicyBatch) -> Array:
        dtype = batch.advantage.dtype
        unbounded = jnp.isposinf(max_kl)
        kl = loops.cond(
            lowering.cpu_shortcut(unbounded),
            lambda: jnp.zeros((), dtype),
            lambda: mean_kl(policy, params, batch).astype(dtype),
        )
        return unbounded | (kl <= max_kl)

    return gate


def change_gate(policy: Policy, max_change: Number) -> Gate:
    """The gate that lets parameters stay while the mean of abs(r - 1) is at most ``max_change``.

    The ratios r are those of ``policy`` at the actions of the batch. At inf only a NaN is refused.
    """

    def gate(params: Params, batch: PolicyBatch) -> Array:
        return mean_change(policy, params, batch) <= max_change

    return gate


def minibatch_epochs(
    loss: Loss,
    policy: Policy,
    params: Params,
    opt_state: PyTree,
    batch: PolicyBatch,
    key: Array,
    *,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    num_minibatches: int,
    gate: Gate | None = None,
    undo: bool = True,
) -> tuple[Params, PyTree, UpdateReport]:
    """Minimises a loss by epochs of minibatch steps, and undoes an epoch that the gate refuses.

    The gate looks at the parameters after every epoch. If it refuses them, the epoch is undone,
    parameters and optimiser state, and no further epoch is run.

    Args:
        loss: of the parameters and a minibatch.
        policy: for the KL path, if the batch asks for it.
        params: where to start.
        opt_state: the optimiser's.
        batch: all rows.
        key: gives the minibatches.
        optimizer: its steps are applied to the parameters.
        num_epochs: passes over the batch.
        num_minibatches: parts of each pass.
        gate: see `Gate`; None lets everything stay.
        undo: whether an epoch that the gate refuses is undone; if not, it stays and is the last.

    Returns:
        (params, opt_state, report), with ``epochs_applied`` and ``kl_stopped`` in the report.
    """
    dtype, recording = batch.advantage.dtype, batch.wanted.path

    def measured(params: Params, batch: PolicyBatch) -> Array | None:
        return (
            mean_kl(policy, *tree.fusion_barrier((params, batch))).astype(dtype)
            if recording
            else None
        )

    none = tree.not_measured()
    unknown = jnp.full(num_minibatches, none, dtype), jnp.full((), none, dtype)
    gradient_of = loops.traced_once(jax.grad(loss))

    def descend(start: Descent, form: Form) -> tuple[Descent, Any]:
        tree_of, vector_of, together = form

        def step(carry: Descent, minibatch: PolicyBatch) -> tuple:
            params, opt_state = carry
            gradient = vector_of(gradient_of(tree_of(params), minibatch))
            if batch.weight is not None and minibatch.weight is not None:
                # The loss is a mean by the minibatch's own weights. Scaled by its share of the
                # batch's weight, an epoch's gradients average to that of the whole batch.
                mean_weight = jnp.maximum(jnp.mean(batch.weight), jnp.finfo(dtype).tiny)
                gradient = tree.scale(jnp.mean(minibatch.weight) / mean_weight, gradient)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            kl = measured(tree_of(params), minibatch)
            return (optax.apply_updates(params, updates), opt_state), kl

        def epoch(carry: tuple, key: Array) -> tuple:
            def advance(carry: tuple) -> tuple:
                current, applied, stopped = carry
                proposal, along = minibatch_epoch(
                    step, current, batch, key, num_minibatches, batch.blocks.number, together
                )
                proposed = tree_of(proposal[0])
                stays = jnp.asarray(True) if gate is None else gate(proposed, batch)
                kept = stays if undo else jnp.asarray(True)
                # Without the shortcut, this is computed after the last epoch, too.
                kept, stopping = kept & ~stopped, stopped | ~stays
                moved = tree.where(kept, proposal, current)
                path = along, measured(proposed, batch)
                path = tree.where(stopped, unknown, path) if recording else path
                return (moved, applied + kept.astype(jnp.int32), stopping), path

            def stay(carry: tuple) -> tuple:
                return carry, unknown if recording else (None, None)

            return loops.cond(lowering.cpu_shortcut(carry[-1]), stay, advance, carry)

        first = (start, jnp.int32(0), jnp.asarray(False))
        (end, *reported), path = loops.scan(epoch, first, jax.random.split(key, num_epochs))
        return end, (*reported, path)

    moved, (applied, stopped, path) = in_vectors(descend, optimizer, params, opt_state)
    extra = {"epochs_applied": applied, "kl_stopped": stopped}
    walked = KLPath(path[0].ravel(), path[1]) if recording else None
    return *moved, UpdateReport(extra, walked)


@settings
class MinibatchEpochs:
    """The settings of `minibatch_epochs`, for algorithms to inherit.

    Extra:
        - ``epochs_applied``: epochs that moved the parameters; an undone one is not counted.
        - ``kl_stopped``: 1 if an epoch left ``max_kl`` and was undone, else 0.
    """

    optimizer: MakeOptimizer = setting(ADAM, **OPTIMIZER)
    num_epochs: int = setting(10, **NUM_EPOCHS)
    num_minibatches: int = setting(32, **NUM_MINIBATCHES)
    max_kl: Number = setting(INF, **STOP_KL)
    entropy_coef: Number = setting(0.0, **ENTROPY_COEF)
    max_grad_norm: Number = setting(0.5, **MAX_GRAD_NORM)

    undo: ClassVar[bool] = True

    def gate(self, policy: Policy) -> Gate:
        """Which parameters of a ``policy`` may stay: those within ``max_kl``."""
        return kl_gate(policy, self.max_kl)

    def make_optimizer(self, learning_rate: Number) -> optax.GradientTransformation:
        """`bounded` with these settings, at a ``learning_rate`` -> a transformation of optax."""
        return bounded(self.optimizer, learning_rate, self.max_grad_norm)

    def fit(
        self,
        loss: Loss,
        policy: Policy,
        params: Params,
        opt_state: PyTree,
        batch: PolicyBatch,
        key: Array,
        learning_rate: Number,
    ) -> tuple[Params, PyTree, UpdateReport]:
        """`minibatch_epochs` with these settings -> (params, opt_state, report).

        Arguments as in `minibatch_epochs`; the ``learning_rate`` [] may be traced.
        """
        return minibatch_epochs(
            loss,
            policy,
            params,
            opt_state,
            batch,
            key,
            optimizer=self.make_optimizer(learning_rate),
            num_epochs=self.num_epochs,
            num_minibatches=self.num_minibatches,
            gate=self.gate(policy),
            undo=self.undo,
        )
