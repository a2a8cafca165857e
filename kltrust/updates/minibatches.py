"""Passes over a batch in random minibatches: the one loop of all first-order updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kltrust import tree
from kltrust.types import Array, PyTree, Sequences

Carry = TypeVar("Carry")

_ROUNDS = 6


def random_order(key: Array, size: int) -> Array:
    """A pseudo-random permutation of 0 .. size - 1, without sorting: [size] int32.

    A Feistel network on the smallest 2**k >= size, its round function a multiplicative hash, is a
    bijection whatever the hash; indices that land beyond ``size`` walk on until they fall inside
    (Black and Rogaway 2002). `jax.random.permutation` sorts, which on a CPU costs as much as the
    gradients of a small network.
    """
    if size <= 1:
        return jnp.zeros(size, jnp.int32)
    bits = max((size - 1).bit_length(), 2)
    low_bits = bits // 2
    # Of NumPy, which unlike numbers of JAX are no operations to trace and to lower.
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
        order = jax.lax.while_loop(
            lambda x: jnp.any(outside(x)), lambda x: jnp.where(outside(x), permute(x), x), order
        )
    return order.astype(jnp.int32)


def _mix(x: Array, round_key: Array) -> Array:
    x = (x ^ round_key) * np.uint32(0x9E3779B1)  # 2**32 over the golden ratio, made odd
    x = (x ^ (x >> 15)) * np.uint32(0x85EBCA77)
    return x ^ (x >> 13)


def minibatch_epoch(
    step: Callable[[Carry, PyTree], tuple[Carry, Any]],
    carry: Carry,
    data: PyTree,
    key: Array,
    num_minibatches: int,
    num_blocks: int = 1,
) -> tuple[Carry, Any]:
    """One pass over the data: ``step(carry, minibatch) -> (carry, out)`` for each part of it.

    Args:
        step: called with ``N / num_minibatches`` rows of ``data``, or sequences.
        carry: parameters, optimiser state, ...
        data: a pytree of [N, ...]; distributions are pytrees too.
        key: gives the order.
        num_minibatches: 1 passes the whole batch in its own order.
        num_blocks: splits the rows into this many equal blocks, one after the other. Every
            minibatch takes the same number of rows from each, so that a device that holds whole
            blocks takes its own rows alone.

    Returns:
        (carry, outs stacked over minibatches).

    Raises:
        ValueError: if N does not divide.
    """
    size = tree.leading_size(data)
    if size % num_blocks:
        raise ValueError(f"a batch of {size} rows does not fall into {num_blocks} equal blocks")
    if num_minibatches < 1 or size // num_blocks % num_minibatches:
        size //= num_blocks
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        nearest = sorted(sorted(divisors, key=lambda d: abs(d - num_minibatches))[:2])
        what, per = ("a batch", "") if num_blocks == 1 else ("a block", f" / {num_blocks}")
        units = "sequences (num_envs" if _has_sequences(data) else "rows (num_envs * num_steps"
        raise ValueError(
            f"{what} of {size} {units}{per}) does not divide into "
            f"{num_minibatches} minibatches: choose num_minibatches among the divisors of {size}, "
            f"{' or '.join(map(str, nearest))}, say"
        )
    if num_minibatches == 1:
        carry, out = step(carry, data)
        return carry, jax.tree.map(lambda x: x[None], out)
    if num_blocks == 1:
        order = random_order(key, size).reshape(num_minibatches, -1)
        return jax.lax.scan(lambda c, index: step(c, tree.take(data, index)), carry, order)

    blocks = jax.tree.map(lambda x: x.reshape(num_blocks, -1, *x.shape[1:]), data)
    keys = jax.random.split(key, num_blocks)
    orders = jax.vmap(lambda k: random_order(k, size // num_blocks))(keys)
    orders = orders.reshape(num_blocks, num_minibatches, -1).swapaxes(0, 1)

    def of_blocks(carry: Carry, index: Array) -> tuple[Carry, Any]:
        # Block by block, so that no index can point into another device's rows.
        parts = jax.vmap(tree.take)(blocks, index)
        return step(carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts))

    return jax.lax.scan(of_blocks, carry, orders)


def _has_sequences(data: PyTree) -> bool:
    def found(node: Any) -> bool:
        return isinstance(node, Sequences)

    return any(map(found, jax.tree.leaves(data, is_leaf=found)))
