"""One entry of every row, by its index."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.types import Array


def choose(rows: Array, index: Array) -> Array:
    """``rows[..., index]`` of every row: its entry there, and -inf where the row has none.

    Entry by entry, over all rows at once: rows [*E, K], whose entries may be -inf, and the integers
    index [*E] give [*E]. Compilers for CPUs do not vectorise a gather, nor a product with one-hot
    vectors that are as short as there are actions.
    """
    entries = jnp.moveaxis(rows, -1, 0)
    places = jnp.arange(len(entries)).reshape(-1, *[1] * jnp.ndim(index))
    chosen = jnp.expand_dims(index, 0) == places
    # A sum, not the largest: the gradient of a chosen -inf would be shared by all that are tied.
    found = jnp.sum(jnp.where(chosen, entries, 0), axis=0)
    return jnp.where((index >= 0) & (index < len(entries)), found, -jnp.inf)
