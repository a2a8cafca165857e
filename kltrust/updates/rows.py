"""Batches as arrays whose rows can be taken."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax.tree_util import Partial

from kltrust.divergences.distributions import _is_distribution
from kltrust.lazy import distrax
from kltrust.types import PyTree

# A multivariate normal also keeps its batch shape, and a number that does not depend on the state.
_FIELDS = {
    "MultivariateNormalDiag": ("loc", "scale_diag"),
    "MultivariateNormalTri": ("loc", "scale_tri"),
    "MultivariateNormalFullCovariance": ("loc", "covariance_matrix"),
    "MultivariateNormalDiagPlusLowRank": ("loc", "scale_diag", "scale_u_matrix", "scale_v_matrix"),
}


def as_rows(data: PyTree) -> PyTree:
    """The ``data`` with every leaf [N, ...]: distributions with other leaves are split.

    These are the multivariate normals, and Independent and Joint of them. `from_rows` puts them
    together again, from the rows that were taken.
    """
    return jax.tree.map(_split, data, is_leaf=_is_distribution)


def from_rows(rows: PyTree) -> PyTree:
    """Undoes `as_rows`, for any number of ``rows`` -> a pytree like the one that `as_rows` took."""

    def together(node: Any) -> Any:
        return node.func(*map(from_rows, node.args)) if isinstance(node, Partial) else node

    return jax.tree.map(together, rows, is_leaf=lambda node: isinstance(node, Partial))


def _split(x: Any) -> Any:
    kind, name = type(x), type(x).__name__
    if name in _FIELDS and kind is getattr(distrax, name):
        make = partial(kind, is_lower=x.is_lower) if name == "MultivariateNormalTri" else kind
        return Partial(make, *(getattr(x, field) for field in _FIELDS[name]))
    if kind is distrax.Independent:
        inner = _split(x.distribution)
        make = partial(kind, reinterpreted_batch_ndims=x.reinterpreted_batch_ndims)
        return Partial(make, inner) if isinstance(inner, Partial) else x
    if kind is distrax.Joint:
        parts = as_rows(x.distributions)
        leaves = jax.tree.leaves(parts, is_leaf=lambda node: isinstance(node, Partial))
        return Partial(kind, parts) if any(isinstance(leaf, Partial) for leaf in leaves) else x
    return x
