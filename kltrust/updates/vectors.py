"""Parameters, gradients and the optimiser's state as vectors, where each kernel costs time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from kltrust import loops
from kltrust.types import Array, Params, PyTree
from kltrust.updates.optimizers import Elementwise

Descent: TypeAlias = tuple[Params, PyTree]
"""Parameters and the optimiser's state, both as trees or both as vectors."""
Convert: TypeAlias = Callable[[PyTree], PyTree]
_TOGETHER = 4  # minibatches


class Form(NamedTuple):
    """The form in which `in_vectors` gives the parameters.

    Attributes:
        tree_of: turns the parameters into their tree.
        vector_of: turns a gradient into the parameters' form.
        together: at most so many minibatches are worth being compiled as one.
    """

    tree_of: Convert
    vector_of: Convert
    together: int


def in_vectors(
    descend: Callable[[Descent, Form], tuple[Descent, Any]],
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: PyTree,
) -> tuple[Descent, Any]:
    """Runs ``descend((params, opt_state), form)`` and returns its results as trees.

    On a GPU or TPU ``descend`` gets vectors, all leaves concatenated: a step of the optimiser is
    then a few kernels, not a few for every leaf. On a CPU, and for an ``optimizer`` that is not
    `Elementwise` and so may look at the tree, it gets trees. The `Form` tells them apart.

    Returns:
        ((params, opt_state), whatever else ``descend`` returns).
    """

    def as_trees(params: Params, opt_state: PyTree) -> tuple[Descent, Any]:
        return descend((params, opt_state), Form(lambda x: x, lambda x: x, 1))

    if not isinstance(optimizer, Elementwise) or not is_uniform(params):
        return as_trees(params, opt_state)

    def is_like(x: PyTree) -> bool:
        return _shapes(x) == _shapes(params)

    def as_vectors(params: Params, opt_state: PyTree) -> tuple[Descent, Any]:
        packed = jax.tree.map(
            lambda x: as_vector(x) if is_like(x) else x, opt_state, is_leaf=is_like
        )
        start = as_vector(params), packed
        form = Form(lambda x: as_tree(x, params), as_vector, _TOGETHER)
        (vector, packed), rest = descend(start, form)
        unpacked = jax.tree.map(
            lambda x, vector: as_tree(vector, x) if is_like(x) else vector,
            opt_state,
            packed,
            is_leaf=is_like,
        )
        return (as_tree(vector, params), unpacked), rest

    return loops.platform_dependent(params, opt_state, cpu=as_trees, default=as_vectors)


def _shapes(x: PyTree) -> tuple:
    return jax.tree.structure(x), [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]


def is_uniform(x: PyTree) -> bool:
    """Whether ``x`` is several leaves of one dtype, which a vector can hold."""
    leaves = jax.tree.leaves(x)
    return len(leaves) > 1 and len({leaf.dtype for leaf in leaves}) == 1


def as_vector(x: PyTree) -> Array:
    """All entries of the leaves of ``x``, one leaf after the other: [P]."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(x)])


def as_tree(vector: Array, like: PyTree) -> PyTree:
    """Undoes `as_vector`: the ``vector`` [P] as a pytree with the shapes of ``like``."""
    leaves, structure = jax.tree.flatten(like)
    parts, begin = [], 0
    for leaf in leaves:
        end = begin + math.prod(leaf.shape)
        parts.append(vector[begin:end].reshape(leaf.shape))
        begin = end
    return jax.tree.unflatten(structure, parts)
