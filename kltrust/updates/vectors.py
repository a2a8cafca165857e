"""Parameters, gradients and the optimiser's state as vectors, where kernels are what costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from kltrust import loops
from kltrust.types import Array, Params, PyTree
from kltrust.updates.optimizers import Elementwise

Descent: TypeAlias = tuple[Params, PyTree]
"""Parameters and the optimiser's state, both as trees or both as vectors."""
Convert: TypeAlias = Callable[[PyTree], PyTree]


def in_vectors(
    descend: Callable[[Descent, Convert, Convert], tuple[Descent, Any]],
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: PyTree,
) -> tuple[Descent, Any]:
    """``descend((params, opt_state), tree_of, vector_of)``: what it returns, as trees.

    On a GPU or TPU it is given vectors, all leaves strung together: a step of the optimiser is then
    a few kernels and not a few for every leaf. There tree_of makes the parameters' tree of their
    vector, and vector_of makes a vector of a gradient. On a CPU, and for an ``optimizer`` that is
    not `Elementwise` and so may look at the tree, both leave what they are given as it is.

    Returns:
        ((params, opt_state), whatever else ``descend`` returns).
    """

    def as_trees(params: Params, opt_state: PyTree) -> tuple[Descent, Any]:
        return descend((params, opt_state), lambda x: x, lambda x: x)

    leaves = jax.tree.leaves(params)
    one_dtype = len({leaf.dtype for leaf in leaves}) == 1
    if not isinstance(optimizer, Elementwise) or len(leaves) < 2 or not one_dtype:
        return as_trees(params, opt_state)

    def is_like(x: PyTree) -> bool:
        return _shapes(x) == _shapes(params)

    def as_vectors(params: Params, opt_state: PyTree) -> tuple[Descent, Any]:
        packed = jax.tree.map(lambda x: _strung(x) if is_like(x) else x, opt_state, is_leaf=is_like)
        start = _strung(params), packed
        (vector, packed), rest = descend(start, lambda x: _cut(x, params), _strung)
        unpacked = jax.tree.map(
            lambda x, vector: _cut(vector, x) if is_like(x) else vector,
            opt_state,
            packed,
            is_leaf=is_like,
        )
        return (_cut(vector, params), unpacked), rest

    return loops.platform_dependent(params, opt_state, cpu=as_trees, default=as_vectors)


def _shapes(x: PyTree) -> tuple:
    return jax.tree.structure(x), [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]


def _strung(x: PyTree) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(x)])


def _cut(vector: Array, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    parts, begin = [], 0
    for leaf in leaves:
        end = begin + math.prod(leaf.shape)
        parts.append(vector[begin:end].reshape(leaf.shape))
        begin = end
    return jax.tree.unflatten(structure, parts)
