"""Selects one entry of every row by its index."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.types import Array


def choose(rows: Array, index: Array) -> Array:
    """The entry of every row at its index, or -inf if the index is out of range: [*E].

    ``rows`` is [*E, K] and may hold -inf; ``index`` is [*E], integers. It runs through the K
    entries, over all rows at once. Compilers for CPUs vectorise neither a gather nor a product with
    one-hot vectors as short as the number of actions.
    """
    entries = jnp.moveaxis(rows, -1, 0)
    places = jnp.arange(len(entries)).reshape(-1, *[1] * jnp.ndim(index))
    chosen = jnp.expand_dims(index, 0) == places
    # A sum, not a maximum: a maximum would share the gradient of a chosen -inf among all ties.
    found = jnp.sum(jnp.where(chosen, entries, 0), axis=0)
    return jnp.where((index >= 0) & (index < len(entries)), found, -jnp.inf)
