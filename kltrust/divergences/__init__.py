"""Divergences between distributions: exact, in nats, and safe to differentiate.

``arrays`` compares arrays of probabilities or logits, ``distributions`` compares distrax
distributions, and ``samples`` estimates the KL divergence from samples. All public names are
offered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kltrust.divergences.arrays import (
    categorical_kl,
    categorical_kl_from_logits,
    cross_entropy,
    entropy,
    jensen_shannon,
    masked_logits,
    pinsker_bound,
    renyi,
    total_variation,
)
from kltrust.divergences.samples import (
    control_variate_coefficient,
    kl_control_variate,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_reverse_k1,
    kl_reverse_k3,
    ratio_weighted,
)
from kltrust.lazy import offered

if TYPE_CHECKING:
    from kltrust.divergences.distributions import (
        distribution_entropy,
        distribution_log_prob,
        kl_divergence,
        quadrature_kl,
        wasserstein2,
    )

__all__ = [
    "categorical_kl",
    "categorical_kl_from_logits",
    "control_variate_coefficient",
    "cross_entropy",
    "distribution_entropy",
    "distribution_log_prob",
    "entropy",
    "jensen_shannon",
    "kl_control_variate",
    "kl_divergence",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_reverse_k1",
    "kl_reverse_k3",
    "masked_logits",
    "pinsker_bound",
    "quadrature_kl",
    "ratio_weighted",
    "renyi",
    "total_variation",
    "wasserstein2",
]

__getattr__ = offered(__name__, "distributions", __all__)
