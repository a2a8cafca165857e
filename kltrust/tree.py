"""Algebra on pytrees of arrays, and the weighted mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.types import Array, Number, PyTree

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_float32(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """``function`` computed in at least float32, with its result in the dtype of its arguments.

    Sixteen bits are enough to store numbers. They are too few for sums over a vocabulary, a batch
    or a sequence, and for the small difference of two log-probabilities.

    Args:
        function: takes arrays and pytrees of arrays (a distribution, say). 16-bit arrays are
            widened before the call. Pytrees are passed unchanged, but count for the dtype.

    Returns:
        A function of the same arguments.
    """

    @functools.wraps(function)
    def wide(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given = [x for x in jax.tree.leaves((args, kwargs)) if is_float(x)]
        dtype = jnp.result_type(*given) if given else jnp.dtype(jnp.float32)
        args, kwargs = map(widen, args), {k: widen(x) for k, x in kwargs.items()}  # type: ignore[assignment]
        result = function(*args, **kwargs)
        if jnp.finfo(dtype).bits >= 32:
            return result
        return jax.tree.map(lambda x: x.astype(dtype) if is_float(x) else x, result)

    return wide


def in_full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """``function`` with matrix products in full float32, whatever the default precision is.

    Used for everything that decides whether a step is taken, and for everything called exact. By
    default GPUs and TPUs round the factors to 10 or 7 bits, which is good enough for a gradient or
    an action. But the error of that rounding, 1e-4 nats in bfloat16, exceeds the KL of a small
    step.

    Args:
        function: takes any arguments. Derivatives of its products have the same precision.

    Returns:
        A function of the same arguments.
    """

    @functools.wraps(function)
    def exact(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return exact


def wide_dtype(x: PyTree) -> Any:
    """The common dtype of the float leaves of ``x`` -> float32 or wider."""
    return jnp.result_type(jnp.float32, *(leaf for leaf in jax.tree.leaves(x) if is_float(leaf)))


def widen(x: Any) -> Any:
    """A 16-bit float array ``x`` in float32 -> an array; anything else unchanged."""
    return x.astype(jnp.float32) if is_float(x) and jnp.finfo(x.dtype).bits < 32 else x


def is_float(x: Any) -> bool:
    """Whether ``x`` is an array of real floats -> bool."""
    is_array = isinstance(x, jax.Array | np.ndarray | np.generic)  # a distribution has a dtype, too
    return is_array and jnp.issubdtype(x.dtype, jnp.floating)


def floats(*arrays: Any) -> tuple[Array, ...]:
    """The arrays in their common inexact dtype -> a tuple of them."""
    dtype = jnp.result_type(*arrays, float)
    return tuple(jnp.asarray(x, dtype) for x in arrays)


def add_scaled(x: PyTree, scale: Number, y: PyTree) -> PyTree:
    """``x + scale * y``: a pytree like ``x``, in its dtypes."""
    return jax.tree.map(lambda a, b: (a + scale * b).astype(a.dtype), x, y)


def scale(factor: Number, x: PyTree) -> PyTree:
    """``factor * x``: a pytree like ``x``, in its dtypes."""
    return jax.tree.map(lambda a: (factor * a).astype(a.dtype), x)


def dot(x: PyTree, y: PyTree) -> Array:
    """The inner product of two pytrees ``x`` and ``y`` of one structure: [], float32 at least.

    It is summed at the highest matmul precision, since solvers divide by it.
    """

    def product(a: Array, b: Array) -> Array:
        wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
        return jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide)

    products = jax.tree.map(product, x, y)
    # No strongly typed zero to start from: with x64 on it would promote float32 sums.
    return functools.reduce(jnp.add, jax.tree.leaves(products) or [jnp.zeros(())])


def norm(x: PyTree) -> Array:
    """The Euclidean norm over all leaves of ``x`` together: []."""
    return jnp.sqrt(dot(x, x))


def where(condition: Array, x: PyTree, y: PyTree) -> PyTree:
    """``x`` where ``condition`` [*E] holds, else ``y``: an exact selection, like ``y``.

    The leaves of y are [*E, ...]. Those of x are too, or broadcast to that shape.
    """

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(jnp.expand_dims(condition, range(jnp.ndim(condition), jnp.ndim(b))), a, b)

    return jax.tree.map(choose, x, y)


def all_finite(x: PyTree) -> Array:
    """Whether every entry of every inexact leaf of ``x`` is finite: [] bool."""
    floats = [
        leaf.ravel() for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    # One reduction, for the reason given in `map_stacked`. (If the booleans were concatenated,
    # XLA would reduce leaf by leaf again.)
    return jnp.all(jnp.isfinite(jnp.concatenate(floats))) if floats else jnp.asarray(True)


def map_stacked(function: Callable[[Array], PyTree], xs: dict[str, Array]) -> dict[str, Any]:
    """``{name: function(x)}`` for arrays x of one shape, in one computation -> dict.

    Use it for reductions to scalars that are only reported. A compiler makes four kernels of each,
    and compile time grows with the number of kernels. ``xs`` must not be empty. ``function``
    returns a pytree of arrays, which are cast to the dtype of x.
    """
    results = jax.vmap(function)(jnp.stack(list(xs.values())))
    return {
        name: jax.tree.map(lambda leaf, i=i, x=x: leaf[i].astype(x.dtype), results)
        for i, (name, x) in enumerate(xs.items())
    }


def weighted_mean(x: Array, weight: Array | None = None) -> Array:
    """sum(w x) / sum(w) over all entries of ``x`` [*E]: [].

    The ``weight`` [*E] (or a shape that broadcasts to it) is non-negative; None for all ones. For
    the value, entries of weight 0 may hold anything, NaN included. For the gradient they may not:
    if the derivative of such an entry is NaN, 0 times it is NaN too. Pad with finite numbers.
    """
    (x,) = floats(x)
    if weight is None:
        return jnp.mean(x)
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # a float16 sum may overflow
    weight = jnp.broadcast_to(weight, x.shape).astype(dtype)
    total = jnp.sum(jnp.where(weight > 0, weight * x, 0))
    # If all weights are zero, 0 rather than NaN: an empty batch asks for no change.
    return (total / jnp.maximum(jnp.sum(weight), jnp.finfo(dtype).tiny)).astype(x.dtype)


def weighted(weight: Number, x: Array) -> Array:
    """``weight * x`` [*E], and exactly 0 where the weight is 0, even if x is infinite there.

    The weight is [] or has the shape of x.
    """
    return jnp.where(weight == 0, 0, weight * x)


def safe_divide(x: Array, y: Array) -> Array:
    """The quotient ``x / y`` for ``y`` >= 0, and 0 where y = 0: [*E]."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)


def not_measured() -> float:
    """The placeholder for a measurement that was not made: NaN.

    Under ``jax_debug_nans``, which treats every NaN as an error, it is infinity.
    """
    return math.inf if jax.config.values["jax_debug_nans"] else math.nan


def weighted_quantile(x: Array, level: Number, weight: Array | None = None) -> Array:
    """The weighted quantile of ``x`` [*E]: []. 0 if no weight is positive.

    It is the smallest entry such that entries up to it hold at least a share ``level`` of the
    weight. The level [] is in (0, 1] and may be traced; 1 gives the largest entry. Entries of
    ``weight`` [*E] 0 are left out; None is for all ones. (`lowering.quantiles`, for static levels,
    takes less time on a CPU.)
    """
    weight = jnp.ones_like(x) if weight is None else weight.astype(x.dtype)
    weight, x = weight.ravel(), jnp.where(weight > 0, x, -jnp.inf).ravel()
    order = jnp.argsort(x)
    mass, ranked = jnp.cumsum(weight[order]), x[order]
    # Rounding may leave a sum of shares a little below the level.
    reached = mass >= level * (1 - 8 * jnp.finfo(x.dtype).eps * x.size) * mass[-1]
    first = jnp.argmax(reached & (ranked > -jnp.inf))
    found = jnp.where(jnp.asarray(level) >= 1, ranked[-1], ranked[first])
    return jnp.where(mass[-1] > 0, found, 0)


def leading_size(x: PyTree) -> int:
    """The size of the leading axis, which all leaves of ``x`` must share.

    Raises:
        ValueError: if there is no leaf, or the leaves disagree.
    """
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"leaves must share one leading axis, got sizes {sorted(map(str, sizes))} (a "
            "distribution's, too: broadcast what does not depend on the state)"
        )
    return jax.tree.leaves(x)[0].shape[0]


def take_rows(x: PyTree, index: Any) -> PyTree:
    """Rows ``index`` of every leaf, like ``x``; indexing a distrax distribution can't be traced."""
    return jax.tree.map(lambda leaf: leaf[index], x)


def fusion_barrier(x: PyTree) -> PyTree:
    """The same numbers as ``x``, kept apart so that measuring them changes no other result.

    Otherwise the compiler may fuse a measurement with the computation that it observes, and round
    both differently.
    """
    return jax.lax.optimization_barrier(x)


def describe(x: Any) -> str:
    """The value of ``x`` if it is a known scalar, else dtype and shape: ``float32[2, 10]``."""
    if not isinstance(x, jax.core.Tracer) and getattr(x, "shape", None) == ():
        try:
            return f"{np.asarray(x).item():.4g}"
        except (RuntimeError, TypeError, ValueError):  # deleted, or no number
            pass
    return f"{getattr(x, 'dtype', type(x).__name__)}{list(getattr(x, 'shape', ()))}"


def size(tree: PyTree) -> int:
    """The total number of entries in the arrays of a pytree ``tree``."""
    return sum(math.prod(getattr(x, "shape", ())) for x in jax.tree.leaves(tree))
