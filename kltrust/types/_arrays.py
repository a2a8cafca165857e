"""Short names for arrays, pytrees and numbers."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
"""An array, or a tracer of one."""
PyTree: TypeAlias = Any
"""Arrays in nested tuples, dicts and any other container that JAX can flatten."""
Params: TypeAlias = Any
"""Parameters: a pytree of arrays. Its float leaves are trained. All others are constants: no update
moves them, and no gradient is taken with respect to them."""
Number: TypeAlias = float | int | jax.Array
"""A setting. It may be a tracer, so that one compilation serves every value of it."""
