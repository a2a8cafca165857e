"""Mirror descent policy optimisation, on-policy."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.checks import check, check_count
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PolicyUpdate, PyTree
from kltrust.updates.epochs import fit_by_minibatches
from kltrust.updates.minibatches import adam
from kltrust.updates.objectives import penalised_loss, reverse_kl


def mdpo(
    *,
    step_size: Number = 1.0,
    learning_rate: Number = 3e-4,
    num_epochs: int = 10,
    num_minibatches: int = 1,
    max_kl: Number = float("inf"),
    entropy_coef: Number = 0.0,
    max_grad_norm: Number = 0.5,
) -> PolicyUpdate:
    """Some steps of Adam towards the mirror descent step, the exact KL as its proximity term.

    maximise  mean(r A) - mean KL(new || old) / step_size    (Tomar et al. 2020, on-policy)

    On the simplex the optimum is old exp(step_size A) / Z, `tabular.mirror_step`: the natural
    policy gradient of a tabular softmax, which a convergence theory is about. A network is moved
    towards it by a few gradient steps, and how near it comes is up to them.

    The step size is a setting and the KL what comes of it: about step_size^2 / 2 nats at the
    optimum for standardised advantages. Where the weight 1 / step_size is to follow the KL
    instead, that is `ppo_reverse_kl`. The authors anneal it linearly to 0 and keep the learning
    rate; pass a schedule, ``lambda fraction: mdpo(step_size=1 - fraction)``, or ``anneal = 1`` in
    an experiment.

    Args:
        step_size: of mirror descent, in 1 / advantage (1 at first: the authors).
        learning_rate: Adam's, of the steps within an iteration (3e-4: the authors).
        num_epochs: passes over the batch (10: the authors).
        num_minibatches: parts of each pass (1: the authors step on the whole batch).
        max_kl: an epoch that ends at a mean KL(old || new) above it is undone and is the last;
            inf never stops.
        entropy_coef: weight of the mean entropy (nats).
        max_grad_norm: bound on the gradient's global norm (0.5: the authors' code); inf is none.

    Extra:
        - ``epochs_applied``: epochs that moved the parameters; an undone one is not counted.
        - ``kl_stopped``: 1 if an epoch left ``max_kl`` and was undone, else 0.
        - ``step_size``: the one in force; a schedule may move it.

    Raises:
        ValueError: on a negative or zero setting that must not be; when traced, on a batch that
            does not divide into ``num_minibatches``.
    """
    check(
        step_size=(step_size, False),
        learning_rate=(learning_rate, True),
        max_kl=(max_kl, False),
        entropy_coef=(entropy_coef, True),
        max_grad_norm=(max_grad_norm, False),
    )
    check_count(num_epochs=num_epochs, num_minibatches=num_minibatches)
    optimizer = adam(learning_rate, max_grad_norm)

    def update(
        policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PyTree, dict[str, Array]]:
        params, state, extra = fit_by_minibatches(
            penalised_loss(policy, reverse_kl, 1 / step_size, entropy_coef),
            policy,
            params,
            state,
            batch,
            key,
            optimizer=optimizer,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            max_kl=max_kl,
        )
        in_force = jnp.asarray(step_size, batch.advantage.dtype)
        return params, state, {**extra, "step_size": in_force}

    return PolicyUpdate(optimizer.init, update)
