"""PPO with a penalty on the other KL, fixed or adaptive."""

from __future__ import annotations

from kltrust.algorithms._penalty import penalty_update
from kltrust.types import Number, PolicyUpdate
from kltrust.updates.objectives import reverse_kl


def ppo_reverse_kl(
    *,
    learning_rate: Number = 3e-4,
    target_kl: Number = 0.01,
    init_beta: Number = 1.0,
    adaptive: bool = True,
    num_epochs: int = 10,
    num_minibatches: int = 32,
    max_kl: Number = float("inf"),
    beta_tolerance: Number = 1.5,
    beta_increase: Number = 2.0,
    beta_decrease: Number = 0.5,
    min_beta: Number = 1e-4,
    max_beta: Number = 1e4,
    entropy_coef: Number = 0.0,
    max_grad_norm: Number = 0.5,
) -> PolicyUpdate:
    """Epochs of Adam on -r A + beta KL(new || old), the exact KL: `ppo_penalty`, turned round.

    The two agree to second order in the step. Further out this one holds every ratio between
    finite bounds (its optimum is old exp(A / beta) / Z, that of `ppo_penalty` is
    old beta / (nu - A)) and forbids actions that old did not take, rather than the loss of those
    that it took. What is *measured* is KL(old || new) here too, by beta's rule and by ``max_kl``:
    one set point means the same for both methods.

    The objective is that of `mdpo` with step_size = 1 / beta. There the caller sets the step size,
    by a schedule; here beta follows the KL. A fixed beta is a fixed step size.

    Args:
        learning_rate: Adam's.
        target_kl: set point of the mean KL(old || new) per iteration, nats; used if adaptive.
        init_beta: the penalty's weight at the start, and throughout if not adaptive; relative to
            the advantages' scale.
        adaptive: whether beta follows the KL, as in `ppo_penalty`. Static.
        num_epochs: passes over the batch.
        num_minibatches: parts of each pass.
        max_kl: an epoch that ends at a mean KL(old || new) above it is undone and is the last;
            inf never stops.
        beta_tolerance: factor around target_kl within which beta stays; at least 1.
        beta_increase: at least 1.
        beta_decrease: at most 1.
        min_beta: beta never falls below it.
        max_beta: beta never rises above it.
        entropy_coef: weight of the mean entropy (nats).
        max_grad_norm: bound on the gradient's global norm; inf is none.

    Extra:
        - ``epochs_applied``: epochs that moved the parameters; an undone one is not counted.
        - ``kl_stopped``: 1 if an epoch left ``max_kl`` and was undone, else 0.
        - ``beta``: the weight that this update was made with; the next one logs what became of it.

    Raises:
        ValueError: on a negative or zero setting that must not be; when traced, on a batch that
            does not divide into ``num_minibatches``.
    """
    return penalty_update(
        reverse_kl,
        learning_rate=learning_rate,
        target_kl=target_kl,
        init_beta=init_beta,
        adaptive=adaptive,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        max_kl=max_kl,
        beta_tolerance=beta_tolerance,
        beta_increase=beta_increase,
        beta_decrease=beta_decrease,
        min_beta=min_beta,
        max_beta=max_beta,
        entropy_coef=entropy_coef,
        max_grad_norm=max_grad_norm,
    )
