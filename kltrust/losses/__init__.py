"""Losses to minimise, as pure functions: elementwise over any leading shape, not reduced.

``log_ratio`` is log new(a) - log old(a) at the actions a ~ old. Reduce with `weighted_mean`,
which leaves padding out. At log_ratio = 0 the gradient of every surrogate is that of the policy
gradient, -A grad log new(a). The losses stop no gradients: advantages, targets and old values are
used as given.

``surrogates`` has the losses of TRPO and PPO, ``drifts`` other losses that bound a step, and
``values`` the critic's.
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
