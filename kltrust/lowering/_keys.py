"""Random keys for all steps of a loop, computed before it."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.types import Array


def split_rows(key: Array, num_rows: int, *widths: int) -> tuple[Array, ...]:
    """``jax.random.split(key, [num_rows, sum(widths)])``, cut into these widths along each row.

    On a GPU or TPU each part is hashed on its own. Rows may then be spread over devices: a cut
    through one array of them all would have to be sent. ``key`` is typed.

    Returns:
        For each of ``widths``, [num_rows, width]: the same keys on all platforms.
    """
    width = sum(widths)
    begins = (0, *itertools.accumulate(widths))

    def cut(key: Array) -> tuple[Array, ...]:
        # In one row: the compiler unrolls short rows, which costs it some half a second.
        keys = jax.random.split(key, num_rows * width).reshape(num_rows, width)
        return tuple(keys[:, a:b] for a, b in itertools.pairwise(begins))

    def in_parts(key: Array) -> tuple[Array, ...]:
        def part(begin: int, width_of: int) -> Array:
            places = jnp.arange(num_rows * width_of, dtype=jnp.uint32)
            row, column = places // width_of, places % width_of
            numbers = row * width + (column + begin)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
            return keys.reshape(num_rows, width_of)

        return tuple(map(part, begins, widths))

    # Key number i of a split is the key with i folded in, for the default generator.
    threefry = jax.random.key_impl(key) == "threefry2x32"
    if not (threefry and jax.config.values["jax_threefry_partitionable"]):
        return cut(key)
    return loops.platform_dependent(key, cpu=cut, default=in_parts)
