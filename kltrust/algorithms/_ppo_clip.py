"""PPO with the clipped surrogate."""

from __future__ import annotations

from kltrust.checks import check, check_count
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PolicyUpdate, PyTree
from kltrust.updates.epochs import fit_by_minibatches
from kltrust.updates.minibatches import adam
from kltrust.updates.objectives import clipped_loss


def ppo_clip(
    *,
    learning_rate: Number = 3e-4,
    clip_eps: Number = 0.2,
    num_epochs: int = 10,
    num_minibatches: int = 32,
    max_kl: Number = float("inf"),
    entropy_coef: Number = 0.0,
    max_grad_norm: Number = 0.5,
) -> PolicyUpdate:
    """Epochs of Adam on the clipped surrogate, -min(r A, clip(r, 1 - eps, 1 + eps) A).

    Clipping removes the incentive to move a ratio further than eps from 1; it bounds neither the
    ratio nor the KL (Schulman et al. 2017, eq. 7; Engstrom et al. 2020).

    Args:
        learning_rate: Adam's (3e-4: the paper, MuJoCo).
        clip_eps: the half-width of the clipping interval (0.2: the paper).
        num_epochs: passes over the batch (10: the paper).
        num_minibatches: parts of each pass (32: the paper's 2048 / 64).
        max_kl: an epoch that ends at a mean KL(old || new) above it is undone and is the last;
            inf never stops.
        entropy_coef: weight of the mean entropy (nats).
        max_grad_norm: bound on the gradient's global norm (0.5: the authors' code); inf is none.

    Extra:
        - ``epochs_applied``: epochs that moved the parameters; an undone one is not counted.
        - ``kl_stopped``: 1 if an epoch left ``max_kl`` and was undone, else 0.

    Raises:
        ValueError: on a negative or zero setting that must not be; when traced, on a batch that
            does not divide into ``num_minibatches``.
    """
    check(
        learning_rate=(learning_rate, True),
        clip_eps=(clip_eps, False),
        max_kl=(max_kl, False),
        entropy_coef=(entropy_coef, True),
        max_grad_norm=(max_grad_norm, False),
    )
    check_count(num_epochs=num_epochs, num_minibatches=num_minibatches)
    optimizer = adam(learning_rate, max_grad_norm)

    def update(
        policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PyTree, dict[str, Array]]:
        return fit_by_minibatches(
            clipped_loss(policy, clip_eps, entropy_coef),
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

    return PolicyUpdate(optimizer.init, update)
