"""How far apart two policies are at the same states, whatever actions were taken there.

Every quantity is summarised by a few scalars: weights count, padding does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust import lowering
from kltrust.audit._divergence import (
    bretagnolle_huber_bound,
    exact_total_variation,
    gaussian_kl_parts,
)
from kltrust.checks import check_count
from kltrust.divergences import kl_divergence, pinsker_bound
from kltrust.tree import map_stacked, weighted_mean
from kltrust.types import Array

QUANTILES = (0.5, 0.95, 0.99)


class Summary(NamedTuple):
    """The distribution of a quantity over a batch, in the quantity's units; scalars.

    Attributes:
        mean: sum(w x) / sum(w).
        quantiles: {"q50": ..., "q95": ...}: "q95" is the smallest x of the batch that at least
            95 % of the weight does not exceed. The value occurs in the batch: no interpolation.
        max: the largest x of positive weight.
    """

    mean: Array
    quantiles: dict[str, Array]
    max: Array


def summarise(x: Array, weight: Array | None, quantiles: Sequence[float] = QUANTILES) -> Summary:
    """Mean, quantiles and maximum over all entries of x [*E]; 0 if no weight is positive.

    ``weight`` is [*E] and non-negative, None for all ones; entries of weight 0 may hold anything.
    The ``quantiles`` are static, each in [0, 1].

    Raises:
        ValueError: on a quantile outside [0, 1].
    """
    top = largest(x, weight)
    values = lowering.quantiles(x, weight, quantiles, top)
    named = {f"q{100 * q:g}": value for q, value in zip(quantiles, values, strict=True)}
    return Summary(weighted_mean(x, weight), named, top)


def summarise_each(
    xs: Mapping[str, Array | None], weight: Array | None, quantiles: Sequence[float] = QUANTILES
) -> dict[str, Any]:
    """`summarise` of several quantities [*E] over the same entries; a missing one stays None."""
    return _of_each(lambda x: summarise(x, weight, quantiles), xs)


def means(xs: Mapping[str, Array | None], weight: Array | None) -> dict[str, Any]:
    """`weighted_mean` of several quantities [*E] over the same entries; None stays None."""
    return _of_each(lambda x: weighted_mean(x, weight), xs)


def _of_each(function: Callable[[Array], Any], xs: Mapping[str, Array | None]) -> dict[str, Any]:
    known = {name: x for name, x in xs.items() if x is not None}
    return dict(xs) | map_stacked(function, known)


def largest(x: Array, weight: Array | None) -> Array:
    """The largest entry of positive weight; 0 if there is none: []."""
    if weight is None:
        return jnp.max(x)
    kept = jnp.broadcast_to(weight > 0, x.shape)
    return jnp.where(jnp.any(kept), jnp.max(jnp.where(kept, x, -jnp.inf)), 0)


class StateAudit(NamedTuple):
    """Old and new compared at some states, without actions. `Summary` over states; KLs in nats.

    Attributes:
        kl: KL(old || new) per state, exact (`divergences.kl_divergence`).
        kl_reverse: KL(new || old) per state, exact.
        kl_from_mean: the part of ``kl.mean`` from the Gaussians' means, KL(mid || new), where mid
            has old's means and new's scales; None if the policy is not a diagonal Gaussian.
        kl_from_scale: the rest, KL(old || mid): the two add up to ``kl.mean``. None likewise.
        tv: total variation per state, in [0, 1]; None if it has no closed form
            (`exact_total_variation`).
        pinsker: sqrt(KL(old || new) / 2) per state, an upper bound on tv.
        bretagnolle_huber: sqrt(1 - exp(-KL(old || new))) per state, another upper bound on tv.
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

    Args:
        old: a distribution of batch shape [*E].
        new: another of the same kind and batch shape.
        weight: [*E]; None is all ones.
        quantiles: static, each in [0, 1].
        max_outcomes: static; a discrete policy with more joint outcomes gets no exact total
            variation.

    Raises:
        ValueError: on a quantile outside [0, 1].
        NotImplementedError: if no exact KL is known.
    """
    return StateAudit(**measure_states({}, {}, old, new, weight, quantiles, max_outcomes))


def measure_states(
    summarised: dict[str, Array],
    averaged: dict[str, Array],
    old: Any,
    new: Any,
    weight: Array | None,
    quantiles: Sequence[float],
    max_outcomes: int,
) -> dict[str, Any]:
    """The fields of `StateAudit`, together with summaries and means of other quantities [*E]."""
    check_count(max_outcomes=max_outcomes)
    kl = kl_divergence(old, new)
    tv = exact_total_variation(old, new, max_outcomes=max_outcomes)
    each = {"kl": kl, "kl_reverse": kl_divergence(new, old), "tv": tv, **summarised}
    found = summarise_each(each, weight, quantiles)
    bounds = {"pinsker": pinsker_bound, "bretagnolle_huber": bretagnolle_huber_bound}
    bounded = {name: bound(kl) for name, bound in bounds.items()}
    from_mean, from_scale = gaussian_kl_parts(old, new) or (None, None)
    gaussian = {"kl_from_mean": from_mean, "kl_from_scale": from_scale}
    found |= means({**bounded, **gaussian, **averaged}, weight)
    for name, bound in bounds.items():
        # The bound increases: its quantiles and maximum follow from those of the KL.
        found[name] = jax.tree.map(bound, found["kl"])._replace(mean=found[name])
    return found
