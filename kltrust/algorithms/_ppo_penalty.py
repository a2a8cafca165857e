"""PPO with a KL penalty, fixed or adaptive."""

from __future__ import annotations

from kltrust.algorithms._penalty import penalty_update
from kltrust.divergences import kl_divergence
from kltrust.types import Number, PolicyUpdate


def ppo_penalty(
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
    """Epochs of Adam on the penalty surrogate, -r A + beta KL(old || new), the exact KL.

    Adaptive: after the epochs, with d the mean KL over the whole batch,
    d > target_kl * beta_tolerance multiplies beta by beta_increase, d < target_kl / beta_tolerance
    by beta_decrease, for the next iteration (Schulman et al. 2017, section 4, with 1.5, 2, 1/2;
    RLlib takes 2, 1.5, 1/2). Without any advantage to follow the parameters still drift by about
    a learning rate: Adam turns the KL's vanishing gradient into steps of its own size.

    Args:
        learning_rate: Adam's (3e-4: the paper, MuJoCo).
        target_kl: set point of the mean KL(old || new) per iteration, nats; used if adaptive.
        init_beta: the penalty's weight at the start, and throughout if not adaptive. It is
            relative to the advantages' scale: the papers' 0.3 to 10 presume standardised ones.
        adaptive: whether beta follows the KL. Static.
        num_epochs: passes over the batch (10: the paper).
        num_minibatches: parts of each pass (32: the paper's 2048 / 64).
        max_kl: an epoch that ends at a mean KL above it is undone and is the last; inf never stops.
        beta_tolerance: factor around target_kl within which beta stays; at least 1.
        beta_increase: at least 1.
        beta_decrease: at most 1.
        min_beta: beta never falls below it (a beta of 0 could never rise again).
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
        kl_divergence,
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
