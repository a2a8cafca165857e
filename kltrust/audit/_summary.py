"""A quantity of every state, or sample, in a few scalars: weights count, padding does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust import lowering
from kltrust.tree import at_once, weighted_mean
from kltrust.types import Array

QUANTILES = (0.5, 0.95, 0.99)


class Summary(NamedTuple):
    """The distribution of a quantity over a batch, in the quantity's units; scalars.

    Attributes:
        mean: sum(w x) / sum(w).
        quantiles: {"q50": ..., "q95": ...}: "q95" is the smallest x of the batch that at least
            95 % of the weight does not exceed. A value that occurs: nothing is interpolated.
        max: the largest x of positive weight.
    """

    mean: Array
    quantiles: dict[str, Array]
    max: Array


def summarise(x: Array, weight: Array | None, quantiles: Sequence[float] = QUANTILES) -> Summary:
    """Mean, quantiles and maximum over all entries of x [*E]; 0 if no weight is positive.

    Entries of ``weight`` 0 may hold anything; it is [*E] and non-negative, None for all ones. The
    ``quantiles`` are static, each in [0, 1].

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
    """`summarise` of quantities [*E] of the same entries; None, what there is not, stays None."""
    known = {name: x for name, x in xs.items() if x is not None}
    return dict(xs) | at_once(lambda x: summarise(x, weight, quantiles), known)


def means(xs: dict[str, Array], weight: Array | None) -> dict[str, Array]:
    """`weighted_mean` of quantities [*E] of the same entries."""
    return at_once(lambda x: weighted_mean(x, weight), xs)


def summarise_bound(bound: Callable[[Array], Array], mean: Array, summary: Summary) -> Summary:
    """The summary of bound(x), an increasing function, from its mean and the summary of x."""
    return Summary(mean, *jax.tree.map(bound, tuple(summary[1:])))


def largest(x: Array, weight: Array | None) -> Array:
    """The largest entry of positive weight; 0 if there is none: []."""
    if weight is None:
        return jnp.max(x)
    kept = jnp.broadcast_to(weight > 0, x.shape)
    return jnp.where(jnp.any(kept), jnp.max(jnp.where(kept, x, -jnp.inf)), 0)


def smallest(x: Array, weight: Array | None) -> Array:
    """The smallest entry of positive weight; 0 if there is none: []."""
    return -largest(-x, weight)
