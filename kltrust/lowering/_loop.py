"""A loop that records many scalars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.lowering._words import as_words, from_words, is_word
from kltrust.types import Array

Carry = TypeVar("Carry")


def recording_loop(
    step: Callable[[Carry], tuple[Carry, Any]], carry: Carry, most: int, length: Array
) -> tuple[Carry, Any]:
    """``length`` rounds of ``step(carry) -> (carry, out)``, with outputs padded to ``most``.

    ``length`` [] may be traced. The results are the same to the bit on all platforms. On a GPU or
    TPU, which would write each output with a separate kernel, scalars are put side by side.

    Returns:
        (the last carry, the outputs [most, ...], 0 from ``length`` on).
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(step, carry)[1])
    zeros = [jnp.zeros((most, *leaf.shape), leaf.dtype) for leaf in leaves]
    scalars = [i for i, leaf in enumerate(leaves) if leaf.shape == () and is_word(leaf)]
    words = jnp.zeros((most, len(scalars)), jnp.uint32)

    def one(i: Array, state: tuple[Carry, list[Array], Array]) -> tuple:
        carry, out = step(state[0])

        def as_leaves(rows: list[Array], words: Array, made: list[Array]) -> tuple:
            return [row.at[i].set(x) for row, x in zip(rows, made, strict=True)], words

        def with_joined_scalars(rows: list[Array], words: Array, made: list[Array]) -> tuple:
            if scalars:
                words = words.at[i].set(jnp.stack([as_words(made[j]) for j in scalars]))
            written = as_leaves(rows, words, made)[0]
            return [
                x if j in scalars else y for j, (x, y) in enumerate(zip(rows, written, strict=True))
            ], words

        # Each platform leaves one of the two forms as it is. The compiler then drops that one.
        made = jax.tree.leaves(out)
        recorded = loops.platform_dependent(
            *state[1:], made, cpu=as_leaves, default=with_joined_scalars
        )
        return carry, *recorded

    def unpacked(rows: list[Array], words: Array) -> list[Array]:
        # Sets no bit. XLA merges kernels that read the result of another kernel, not of a loop.
        words = words | jnp.where(length < 0, 1, 0).astype(jnp.uint32)
        found = dict(enumerate(rows))
        for place, j in enumerate(scalars):
            found[j] = from_words(words[:, place], leaves[j].dtype)
        return [found[j] for j in range(len(leaves))]

    carry, *recorded = loops.fori_loop(0, length, one, (carry, zeros, words))
    rows = loops.platform_dependent(*recorded, cpu=lambda rows, words: rows, default=unpacked)
    return carry, jax.tree.unflatten(structure, rows)
