"""Two policies at the same states: how far apart they are, whatever was done there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kltrust.audit._divergence import (
    bretagnolle_huber_bound,
    exact_total_variation,
    gaussian_kl_parts,
)
from kltrust.audit._summary import QUANTILES, Summary, means, summarise_bound, summarise_each
from kltrust.checks import check_count
from kltrust.divergences import kl_divergence, pinsker_bound
from kltrust.types import Array


class StateAudit(NamedTuple):
    """Old and new at some states; no action is looked at. `Summary` over states; KLs in nats.

    Attributes:
        kl: KL(old || new) per state, exact (`divergences.kl_divergence`).
        kl_reverse: KL(new || old) per state, exact.
        kl_from_mean: the part of ``kl.mean`` that the Gaussians' means make, KL(mid || new), mid
            with old's means and new's scales; None if the policy is not a diagonal Gaussian.
        kl_from_scale: the rest, KL(old || mid): the two add up to ``kl.mean``. None likewise.
        tv: total variation per state, in [0, 1]; None where it has no closed form
            (`exact_total_variation`).
        pinsker: sqrt(KL(old || new) / 2) per state, an upper bound of tv.
        bretagnolle_huber: sqrt(1 - exp(-KL(old || new))) per state, another.
    """

    kl: Summary
    kl_reverse: Summary
    kl_from_mean: Array | None
    kl_from_scale: Array | None
    tv: Summary | None
    pinsker: Summary
    bretagnolle_huber: Summary


def audit_states(
    old: Any,
    new: Any,
    weight: Array | None = None,
    *,
    quantiles: Sequence[float] = QUANTILES,
    max_outcomes: int = 1024,
) -> StateAudit:
    """Measures two distributions of one batch shape against each other, state by state.

    ``old`` and ``new`` are of one kind and batch shape [*E], which ``weight`` has too; None is all
    ones. The ``quantiles`` are static, each in [0, 1], and so is max_outcomes: up to how many
    joint outcomes of a discrete policy are listed for the exact total variation.

    Raises:
        ValueError: on a quantile outside [0, 1].
        NotImplementedError: if no exact KL is known.
    """
    return audit_states_and({}, {}, old, new, weight, quantiles, max_outcomes)[0]


def audit_states_and(
    summarised: dict[str, Array],
    averaged: dict[str, Array],
    old: Any,
    new: Any,
    weight: Array | None,
    quantiles: Sequence[float],
    max_outcomes: int,
) -> tuple[StateAudit, dict[str, Any]]:
    """`audit_states`, and the summaries and means of other quantities [*E], computed with it."""
    check_count(max_outcomes=max_outcomes)
    kl = kl_divergence(old, new)
    tv = exact_total_variation(old, new, max_outcomes=max_outcomes)
    each = {"kl": kl, "kl_reverse": kl_divergence(new, old), "tv": tv, **summarised}
    found = summarise_each(each, weight, quantiles)
    bounds = {"pinsker": pinsker_bound(kl), "huber": bretagnolle_huber_bound(kl)}
    parts = gaussian_kl_parts(old, new)
    gaussian = {} if parts is None else {"from_mean": parts[0], "from_scale": parts[1]}
    mean = means({**bounds, **gaussian, **averaged}, weight)
    audit = StateAudit(
        kl=found["kl"],
        kl_reverse=found["kl_reverse"],
        kl_from_mean=mean.get("from_mean"),
        kl_from_scale=mean.get("from_scale"),
        tv=found["tv"],
        pinsker=summarise_bound(pinsker_bound, mean["pinsker"], found["kl"]),
        bretagnolle_huber=summarise_bound(bretagnolle_huber_bound, mean["huber"], found["kl"]),
    )
    others = {name: found[name] for name in summarised}
    return audit, others | {name: mean[name] for name in averaged}
