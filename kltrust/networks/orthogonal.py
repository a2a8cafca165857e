"""Orthogonal initial weights, for one kernel, or for all of an agent in one draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust import loops
from kltrust.types import Array, PyTree

_NEWTON_SCHULZ_STEPS = 45


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """An initialiser: scale * Q, Q the orthogonal polar factor of a Gaussian matrix.

    A kernel [..., in, out] is treated as a matrix [prod(... in), out]. Its rows or its columns,
    whichever are fewer, are orthonormal. Q is uniformly (Haar) distributed, as it is with the usual
    QR decomposition (Saxe et al. 2013). It is computed by the Newton-Schulz iteration
    X <- X (3 I - X'X) / 2. A `vmap` over seeds would turn QR factorisations into batched ones, and
    several of those can deadlock in XLA's CPU backend on small machines.

    Returns:
        ``init(key, shape, dtype) -> kernel``, as flax takes it.
    """

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        x = jax.random.normal(key, _tall(shape), jnp.float32)
        return (scale * _as_kernel(_polar_factor(x), shape)).astype(dtype)

    return init


def orthogonal_kernels(key: Array, params: PyTree) -> PyTree:
    """The parameters with every kernel replaced by its gain times an `orthogonal` kernel.

    In ``params`` each kernel must be an array filled with its gain, as modules make it with a
    constant for ``kernel_init``. All Gaussians come from one draw, and kernels of one shape go
    through the iteration together. A separate initialiser for each kernel would take as long to
    compile as a third of a training.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    new = [leaf for _, leaf in leaves]
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (path, leaf) in enumerate(leaves):
        if path[-1] == jax.tree_util.DictKey("kernel"):
            groups.setdefault(_tall(leaf.shape), []).append(i)
    sizes = [len(group) * math.prod(shape) for shape, group in groups.items()]
    normal = jax.random.normal(key, (sum(sizes),), jnp.float32)
    parts = jnp.split(normal, np.cumsum(sizes)[:-1])
    for (shape, group), part in zip(groups.items(), parts, strict=True):
        factors = _polar_factor(part.reshape(len(group), *shape))
        for i, factor in zip(group, factors, strict=True):
            new[i] = new[i] * _as_kernel(factor, new[i].shape)
    return jax.tree.unflatten(structure, new)


def _tall(shape: Sequence[int]) -> tuple[int, int]:
    """A kernel's shape as a matrix, the longer side first."""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    return max(rows, columns), min(rows, columns)


def _as_kernel(x: Array, shape: Sequence[int]) -> Array:
    return (x if math.prod(shape[:-1]) >= shape[-1] else x.T).reshape(shape)


def _polar_factor(x: Array) -> Array:
    """The orthogonal polar factors of matrices [*E, m, n], m >= n: orthonormal columns."""
    # Every singular value must start in (0, sqrt 3); none exceeds the Frobenius norm.
    x = x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)

    def newton_schulz(_: int, x: Array) -> Array:
        gram = jnp.matmul(x.mT, x, precision=jax.lax.Precision.HIGHEST)
        return 1.5 * x - 0.5 * jnp.matmul(x, gram, precision=jax.lax.Precision.HIGHEST)

    return loops.fori_loop(0, _NEWTON_SCHULZ_STEPS, newton_schulz, x)


def gain(scale: float) -> Callable[..., Array]:
    """A constant initialiser: the gain that `orthogonal_kernels` multiplies a kernel by."""
    return jax.nn.initializers.constant(scale)
