"""Reductions over a last axis that is as short as the number of actions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.types import Array

_FEW = 8


def log_softmax(x: Array) -> Array:
    """`jax.nn.log_softmax` along the last axis of ``x`` [*E, K]: [*E, K].

    On a GPU a reduction is a kernel of its own. If K is small, it is computed there column by
    column, elementwise, so that it joins the kernels around it. On a TPU columns save nothing.
    """
    plain = jax.nn.log_softmax

    def by_columns(x: Array) -> Array:
        columns = jnp.unstack(x, axis=-1)
        top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, columns))
        total = functools.reduce(jnp.add, [jnp.exp(column - top) for column in columns])
        return (x - top[..., None]) - jnp.log(total)[..., None]

    if not 0 < x.shape[-1] <= _FEW:
        return plain(x)
    return loops.platform_dependent(x, cpu=plain, tpu=plain, default=by_columns)


def argmax(x: Array) -> Array:
    """`jax.numpy.argmax` along the last axis of ``x`` [*E, K], as in `log_softmax`: [*E]."""

    def plain(x: Array) -> Array:
        return jnp.argmax(x, axis=-1)

    def by_columns(x: Array) -> Array:
        first, *others = jnp.unstack(x, axis=-1)
        best, place = first, jnp.zeros(first.shape, jax.eval_shape(plain, x).dtype)
        for i, column in enumerate(others, 1):
            # Like jnp.argmax, the first NaN counts as the largest.
            better = (column > best) | (jnp.isnan(column) & ~jnp.isnan(best))
            best, place = jnp.where(better, column, best), jnp.where(better, i, place)
        return place

    if not 0 < x.shape[-1] <= _FEW:
        return plain(x)
    return loops.platform_dependent(x, cpu=plain, tpu=plain, default=by_columns)
