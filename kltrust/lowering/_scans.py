"""A few sums along time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from kltrust import loops
from kltrust.types import PyTree

Carry = TypeVar("Carry")
_TOGETHER = 16  # steps; more make hardly fewer kernels, and take longer to compile


def scan(
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    carry: Carry,
    xs: PyTree,
    *,
    reverse: bool = False,
) -> tuple[Carry, Any]:
    """`jax.lax.scan` of a ``step`` that is a few elementwise operations, from ``carry`` along xs.

    With its results, to the bit. On a GPU or TPU each step would be kernels of its own: there many
    go into one. ``reverse`` goes from the last entry of xs [T, ...] to the first.

    Returns:
        (the last carry, what the steps returned, [T, ...]).
    """
    steps = partial(loops.scan, step, reverse=reverse)
    together = partial(steps, unroll=_TOGETHER)
    return loops.platform_dependent(carry, xs, cpu=steps, default=together)
