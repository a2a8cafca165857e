"""Losses as pure functions: to be minimised, elementwise over any leading shape, unreduced.

``log_ratio`` is log new(a) - log old(a) at the actions a ~ old. Reduce with `weighted_mean`,
which leaves padding out. At log_ratio = 0 every surrogate has the gradient of the policy
gradient, -A grad log new(a). Gradients are taken of what the caller differentiates: advantages,
targets and old values are used as they come.

``surrogates`` has TRPO's and PPO's, ``drifts`` what else bounds a step, ``values`` the critic's.
"""

from kltrust.losses.drifts import (
    bounded_kl_loss,
    fisher_rao_loss,
    kl_clipped_loss,
    kl_rollback_loss,
    learned_drift_loss,
    log_surrogate_loss,
    rollback_loss,
    spo_loss,
)
from kltrust.losses.surrogates import (
    clipped_surrogate_loss,
    importance_ratio,
    kl_constraint,
    penalty_surrogate_loss,
    surrogate_loss,
)
from kltrust.losses.values import clipped_value_loss, entropy_loss, value_loss
from kltrust.tree import weighted_mean

__all__ = [
    "bounded_kl_loss",
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "entropy_loss",
    "fisher_rao_loss",
    "importance_ratio",
    "kl_clipped_loss",
    "kl_constraint",
    "kl_rollback_loss",
    "learned_drift_loss",
    "log_surrogate_loss",
    "penalty_surrogate_loss",
    "rollback_loss",
    "spo_loss",
    "surrogate_loss",
    "value_loss",
    "weighted_mean",
]
