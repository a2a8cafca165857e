"""Random permutations without sorting."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kltrust import loops
from kltrust.types import Array

_ROUNDS = 6


def permutation(key: Array, size: int) -> Array:
    """A pseudo-random permutation of 0 .. size - 1, without sorting: [size] int32.

    It is a Feistel network on the smallest 2**k >= size, with a multiplicative hash as its round
    function; such a network is a bijection whatever the hash. Indices that land beyond ``size`` are
    permuted again until they fall inside (Black and Rogaway 2002). `jax.random.permutation` sorts,
    which on a CPU costs as much as the gradients of a small network.
    """
    if size <= 1:
        return jnp.zeros(size, jnp.int32)
    bits = max((size - 1).bit_length(), 2)
    low_bits = bits // 2
    # NumPy scalars, which unlike JAX's add no operations to trace and lower.
    low_mask = np.uint32((1 << low_bits) - 1)
    high_mask = np.uint32((1 << (bits - low_bits)) - 1)
    round_keys = jax.random.bits(key, (2 * _ROUNDS,), jnp.uint32)

    def permute(x: Array) -> Array:
        low, high = x & low_mask, x >> low_bits
        for i in range(_ROUNDS):
            low = low ^ (_mix(high, round_keys[2 * i]) & low_mask)
            high = high ^ (_mix(low, round_keys[2 * i + 1]) & high_mask)
        return (high << low_bits) | low

    order = permute(jnp.arange(size, dtype=jnp.uint32))
    if size < 1 << bits:
        outside = lambda x: x >= size  # noqa: E731
        order = loops.while_loop(
            lambda x: jnp.any(outside(x)), lambda x: jnp.where(outside(x), permute(x), x), order
        )
    return order.astype(jnp.int32)


def _mix(x: Array, round_key: Array) -> Array:
    x = (x ^ round_key) * np.uint32(0x9E3779B1)  # 2**32 over the golden ratio, made odd
    x = (x ^ (x >> 15)) * np.uint32(0x85EBCA77)
    return x ^ (x >> 13)
