"""Scans with few kernels: of short elementwise steps, and of steps with many small outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.lowering._words import as_words, from_words, is_word
from kltrust.types import Array, PyTree

Carry = TypeVar("Carry")
_TOGETHER = 16  # steps; more save hardly any kernels, and take longer to compile
_STEPS, _OPERATIONS = 8, 2000  # of steps that record: at most so many, and operations in them
_AHEAD = 4  # times the bytes of the outputs
_NARROW = 128  # numbers per row; wider rows are worth a separate kernel


def scan(
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    carry: Carry,
    xs: PyTree,
    *,
    reverse: bool = False,
) -> tuple[Carry, Any]:
    """`jax.lax.scan` of a ``step`` of a few elementwise operations, from ``carry`` along ``xs``.

    The results are the same to the bit. On a GPU or TPU, where each step would need separate
    kernels, many steps share one. ``reverse`` goes from the last entry of xs [T, ...] to the first.

    Returns:
        (the last carry, the outputs of the steps [T, ...]).
    """
    steps = partial(loops.scan, step, reverse=reverse)

    def together(carry: Carry, xs: PyTree) -> tuple[Carry, Any]:
        # The barrier hides that the outputs are concatenated. Otherwise a later sum is compiled
        # piece by piece, with a kernel for each.
        return jax.lax.optimization_barrier(steps(carry, xs, unroll=_TOGETHER))

    return loops.platform_dependent(carry, xs, cpu=steps, default=together)


def recording_scan(
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    carry: Carry,
    xs: PyTree,
    num_rows: int,
    ahead: Callable[[Any], Any] | None = None,
) -> tuple[Carry, Any]:
    """`jax.lax.scan` of a ``step`` that outputs many small arrays [num_rows, ...].

    ``carry`` and ``xs`` are as in `scan`, and the results are the same to the bit. On a GPU a step
    would write each output with a separate kernel. So narrow outputs are put side by side, and
    taken apart after the last step. On a TPU, which stores arrays as tiles, this takes more kernels
    than it saves. On both, several steps are compiled as one if they are small: they share the
    writing of outputs and the hashing of keys.

    ``ahead(xs)`` computes for all steps at once what a step would compute of x alone; the step
    takes its entries in place of those of ``xs``. It is left out on a CPU, for large steps, and if
    its result has several times as many bytes as the outputs.

    Returns:
        (the last carry, the outputs [T, num_rows, ...]).
    """
    step = loops.traced_once(step)
    traced, (_, outs) = jax.make_jaxpr(step, return_shape=True)(
        carry, jax.tree.map(lambda x: x[0], xs)
    )
    number = min(_STEPS, max(_OPERATIONS // max(loops.size(traced), 1), 1))
    leaves, structure = jax.tree.flatten(outs)
    length = jax.tree.leaves(xs)[0].shape[0]
    # Not for large steps: they would be traced once more, and gain little.
    if number == 1 or ahead is None or _too_large(ahead, xs, length, outs):
        ahead = _unchanged
    narrow = [i for i, leaf in enumerate(leaves) if _is_narrow(leaf, num_rows)]

    def in_parts(carry: Carry, xs: PyTree) -> tuple[Carry, Any]:
        return loops.scan(step, carry, xs)

    def together(carry: Carry, xs: PyTree) -> tuple[Carry, Any]:
        return loops.scan(step, carry, ahead(xs), unroll=number)

    def side_by_side(carry: Carry, xs: PyTree) -> tuple[Carry, Any]:
        def packed(carry: Carry, x: PyTree) -> tuple[Carry, tuple[Array, list[Array]]]:
            carry, out = step(carry, x)
            made = jax.tree.leaves(out)
            # Rows last, so they stay spread over devices and adjacent in memory.
            words = [as_words(made[i]).reshape(num_rows, -1).T for i in narrow]
            return carry, (
                jnp.concatenate(words),
                [x for i, x in enumerate(made) if i not in narrow],
            )

        carry, (words, wide) = loops.scan(packed, carry, ahead(xs), unroll=number)
        found, rest, begin = [], iter(wide), 0
        for i, leaf in enumerate(leaves):
            if i not in narrow:
                found.append(next(rest))
                continue
            end = begin + math.prod(leaf.shape) // num_rows
            part = words[:, begin:end].swapaxes(1, 2).reshape(-1, *leaf.shape)
            found.append(from_words(part, leaf.dtype))
            begin = end
        return carry, jax.tree.unflatten(structure, found)

    gpu = together if len(narrow) < 2 else side_by_side
    return loops.platform_dependent(carry, xs, cpu=in_parts, tpu=together, default=gpu)


def _unchanged(x: PyTree) -> PyTree:
    return x


def _too_large(ahead: Callable[[Any], Any], xs: PyTree, length: int, outs: PyTree) -> bool:
    return _bytes(jax.eval_shape(ahead, xs)) > _AHEAD * length * _bytes(outs)


def _bytes(x: PyTree) -> int:
    return sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves(x))


def _is_narrow(leaf: Any, num_rows: int) -> bool:
    """Whether an array [num_rows, ...] has few numbers per row, each of 32 bits or a bool."""
    rows = leaf.shape[:1] == (num_rows,)
    return is_word(leaf) and rows and 0 < math.prod(leaf.shape) <= num_rows * _NARROW
