"""Numbers of 32 bits and flags as words, which one array holds side by side."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kltrust.types import Array


def is_word(leaf: Any) -> bool:
    """Whether the numbers of an array, or of its shape, fit into words."""
    return jnp.issubdtype(leaf.dtype, jnp.bool_) or (
        jnp.issubdtype(leaf.dtype, jnp.number) and leaf.dtype.itemsize == 4
    )


def as_words(x: Array) -> Array:
    """The bits of an array ``x`` of words: uint32, of its shape."""
    if jnp.issubdtype(x.dtype, jnp.bool_):
        return x.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def from_words(x: Array, dtype: Any) -> Array:
    """Undoes `as_words` for an array of this ``dtype``: of the shape of ``x``."""
    return x != 0 if jnp.issubdtype(dtype, jnp.bool_) else jax.lax.bitcast_convert_type(x, dtype)
