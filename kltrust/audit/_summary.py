"""A quantity of every state, or sample, in a few scalars: weights count, padding does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
    """Mean, quantiles and maximum over all entries of x; 0 if no weight is positive.

    Args:
        x: [*E]; entries of weight 0 may hold anything.
        weight: [*E] non-negative, or None for all ones.
        quantiles: static, each in [0, 1].

    Raises:
        ValueError: on a quantile outside [0, 1].
    """
    top = largest(x, weight)
    values = weighted_quantiles(x, weight, quantiles, top)
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


def weighted_quantiles(
    x: Array, weight: Array | None, quantiles: Sequence[float], top: Array
) -> tuple[Array, ...]:
    """The inverse of the weighted distribution function, at each of ``quantiles``: scalars.

    ``top`` is the largest entry of positive weight, which none exceeds.

    By bisection over the bits of a float, from the sign down, which on a CPU takes a quarter of
    the time that XLA needs to sort; exact all the same, as it ends at a value that occurs.
    """
    for q in quantiles:
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile must be between 0 and 1, got {q}: 0.95, not 95")
    if not quantiles:
        return ()
    order = _ordered_bits(x.ravel())
    known: Array | bool = True
    mass_below: Callable[[Array], Array] = partial(_count_below, order)
    if weight is None:
        # 0.95 * 20 may come to a little more than 19: that is still the 19th value.
        ranks = [max(math.ceil(q * x.size * (1 - 1e-12)), 1) for q in quantiles]
        target = jnp.array(ranks, jnp.int32)
    else:
        mass = jnp.broadcast_to(weight, x.shape).astype(x.dtype).ravel()
        slack = 1 - 8 * jnp.finfo(x.dtype).eps
        target = jnp.array(quantiles, x.dtype) * (slack * jnp.sum(mass))
        target = jnp.maximum(target, jnp.finfo(x.dtype).tiny)
        known = jnp.any(mass > 0)
        mass_below = partial(_mass_below, order, mass)
    num_bits = jnp.iinfo(order.dtype).bits
    one = jnp.ones((), order.dtype)

    def refine(step: Array, found: Array) -> Array:
        """Sets the next bit where less than the target lies below the value that it makes."""
        bit = one << (num_bits - 1 - step).astype(order.dtype)
        return jnp.where(mass_below(found | bit) < target, found | bit, found)

    found = jax.lax.fori_loop(0, num_bits, refine, jnp.zeros(len(quantiles), order.dtype))
    # Sums of weights are rounded: never beyond the largest value.
    values = _from_ordered_bits(jnp.minimum(found, _ordered_bits(top)), x.dtype)
    return tuple(jnp.where(known, values, 0))


def _count_below(order: Array, bounds: Array) -> Array:
    """How many entries of ``order`` [N] lie below each of ``bounds`` [K]: int32."""
    # In bytes first, of which a processor adds the most at once; none can pass 128. What pads is
    # below nothing.
    above_all = order.dtype.type(jnp.iinfo(order.dtype).max)
    padded = jnp.pad(order, (0, -len(order) % 128), constant_values=above_all)
    below = padded.reshape(1, -1, 128) < bounds[:, None, None]
    return jnp.sum(jnp.sum(below, axis=-1, dtype=jnp.uint8), axis=-1, dtype=jnp.int32)


def _mass_below(order: Array, mass: Array, bounds: Array) -> Array:
    """The mass [N] of the entries of ``order`` [N] that lie below each of ``bounds`` [K]."""
    return jnp.sum((order[None] < bounds[:, None]) * mass[None], axis=-1)


def _ordered_bits(x: Array) -> Array:
    """Unsigned integers in the order of the floats x, any NaN above all others."""
    unsigned = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(jnp.where(jnp.isnan(x), jnp.nan, x), unsigned)
    sign = jnp.ones((), unsigned) << (jnp.iinfo(unsigned).bits - 1)
    return jnp.where(bits & sign, ~bits, bits | sign)


def _from_ordered_bits(order: Array, dtype: Any) -> Array:
    """The floats that `_ordered_bits` made ``order`` of."""
    sign = jnp.ones((), order.dtype) << (jnp.iinfo(order.dtype).bits - 1)
    return jax.lax.bitcast_convert_type(jnp.where(order & sign, order ^ sign, ~order), dtype)


def largest(x: Array, weight: Array | None) -> Array:
    """The largest entry of positive weight; 0 if there is none: []."""
    if weight is None:
        return jnp.max(x)
    kept = jnp.broadcast_to(weight > 0, x.shape)
    return jnp.where(jnp.any(kept), jnp.max(jnp.where(kept, x, -jnp.inf)), 0)


def smallest(x: Array, weight: Array | None) -> Array:
    """The smallest entry of positive weight; 0 if there is none: []."""
    return -largest(-x, weight)
