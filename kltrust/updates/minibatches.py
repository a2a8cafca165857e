"""Passes over a batch in random minibatches: the one loop of all first-order updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax

from kltrust import loops, tree
from kltrust.checks import check_minibatches
from kltrust.lowering import permutation
from kltrust.types import Array, PyTree, Sequences
from kltrust.updates.rows import as_rows, from_rows

Carry = TypeVar("Carry")


def minibatch_epoch(
    step: Callable[[Carry, PyTree], tuple[Carry, Any]],
    carry: Carry,
    data: PyTree,
    key: Array,
    num_minibatches: int,
    num_blocks: int = 1,
    together: int = 1,
) -> tuple[Carry, Any]:
    """One pass over the data: ``step(carry, minibatch) -> (carry, out)`` for each part of it.

    Args:
        step: is called with ``N / num_minibatches`` rows, or sequences, of the data.
        carry: its first value.
        data: a pytree of [N, ...]; distributions are pytrees too.
        key: gives the order of the rows. A single minibatch keeps the order of the batch.
        num_minibatches: parts of the pass.
        num_blocks: splits the rows into this many equal blocks, one after the other. Every
            minibatch takes the same number of rows from each, so that a device that holds whole
            blocks takes only its own rows.
        together: at most so many steps are compiled as one.

    Returns:
        (carry, outs stacked over minibatches).

    Raises:
        ValueError: if N does not divide.
    """
    rows = as_rows(data)
    size = tree.leading_size(rows)
    of = "sequences (num_envs)" if _has_sequences(data) else "rows (num_envs * num_steps)"
    check_minibatches(size, of, num_blocks, num_minibatches=num_minibatches)
    if num_minibatches == 1:
        carry, out = step(carry, data)
        return carry, jax.tree.map(lambda x: x[None], out)
    scan = partial(loops.scan, unroll=math.gcd(num_minibatches, together))
    if num_blocks == 1:
        order = permutation(key, size).reshape(num_minibatches, -1)
        return scan(lambda c, index: step(c, from_rows(tree.take_rows(rows, index))), carry, order)

    blocks = jax.tree.map(lambda x: x.reshape(num_blocks, size // num_blocks, *x.shape[1:]), rows)
    keys = jax.random.split(key, num_blocks)
    orders = jax.vmap(lambda k: permutation(k, size // num_blocks))(keys)
    orders = orders.reshape(num_blocks, num_minibatches, -1).swapaxes(0, 1)

    def of_blocks(carry: Carry, index: Array) -> tuple[Carry, Any]:
        # Block by block, so that no index can point into another device's rows.
        parts = jax.vmap(tree.take_rows)(blocks, index)
        taken = jax.tree.map(lambda x: x.reshape(index.size, *x.shape[2:]), parts)
        return step(carry, from_rows(taken))

    return scan(of_blocks, carry, orders)


def _has_sequences(data: PyTree) -> bool:
    def found(node: Any) -> bool:
        return isinstance(node, Sequences)

    return any(map(found, jax.tree.leaves(data, is_leaf=found)))
