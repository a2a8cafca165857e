"""Conjugate gradient and line search on pytrees, for any operator, loss and constraint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust import loops, tree
from kltrust.checks import check, require
from kltrust.types import Array, Number, Params, PyTree


def conjugate_gradient(
    matvec: Callable[[PyTree], PyTree],
    b: PyTree,
    num_iters: int,
    *,
    rtol: Number = 1e-6,
) -> tuple[PyTree, Array]:
    """Solves A x = b for a symmetric positive definite A, from x = 0.

    x_k minimises x'Ax / 2 - b'x over span(b, Ab, ..., A^(k-1) b), hence x_k'Ax_k = b'x_k.

    Stops before ``num_iters`` when |r| <= rtol |b|. It also stops, and keeps its x, at a direction
    whose curvature p'Ap is not positive, or so small that the step is not finite. Then A is not
    positive definite, or only rounding errors are left. b = 0 gives x = 0. Each iteration costs one
    product. It is a ``while_loop``, so no products are spent after convergence (under ``vmap`` the
    slowest lane decides how many run; the other lanes keep their values).

    Hestenes and Stiefel 1952, "Methods of conjugate gradients for solving linear systems".

    Args:
        matvec: ``v -> A v``, pytrees like b.
        b: a pytree of arrays.
        num_iters: static; the maximum number of iterations.
        rtol: relative to |b|, so that scaling b scales x and changes nothing else. The default
            is about ten float32 roundings; below it r is noise. 0 never stops early.

    Returns:
        x, like b, and |r| [], with r from the recursion r <- r - alpha A p, in the units of b.

    Raises:
        ValueError: if ``num_iters`` or a concrete ``rtol`` is negative.
    """
    if num_iters < 0:
        raise ValueError(f"num_iters must be 0 or more, got {num_iters}")
    check(rtol=(rtol, True))

    # The squares of very large or small entries leave the range of floats. So b is scaled by a
    # power of two, which changes no digit.
    unit = _magnitude(jax.lax.stop_gradient(b))
    b = tree.scale(1 / unit, b)
    b_norm = tree.norm(b)

    def unfinished(state: _CGState) -> Array:
        return state.going & (state.k < num_iters) & (jnp.sqrt(state.rr) > rtol * b_norm)

    def iterate(state: _CGState) -> _CGState:
        k, _, x, r, p, rr = state
        a_p = matvec(p)
        curvature = tree.dot(p, a_p)
        alpha = rr / curvature
        x_new, r_new = tree.add_scaled(x, alpha, p), tree.add_scaled(r, -alpha, a_p)
        rr_new = tree.dot(r_new, r_new)
        # A tiny curvature can make a step that is beyond the range of floats.
        known = tree.all_finite((curvature, tree.scale(unit, x_new), rr_new))
        going = (curvature > 0) & known
        p_new = tree.add_scaled(r_new, rr_new / rr, p)
        moved = _CGState(k + 1, going, x_new, r_new, p_new, rr_new)
        return tree.where(going, moved, state._replace(going=going))

    zero = jax.tree.map(jnp.zeros_like, b)
    start = _CGState(jnp.zeros((), jnp.int32), jnp.asarray(True), zero, b, b, tree.dot(b, b))
    end = loops.while_loop(unfinished, iterate, start)
    residual = jnp.sqrt(end.rr)
    return tree.scale(unit, end.x), (unit * residual).astype(residual.dtype)


def _magnitude(x: PyTree) -> Array:
    """The power of two above the largest entry; 1 where that is 0 or not finite: []."""
    leaves = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(x)]
    largest = functools.reduce(jnp.maximum, leaves, jnp.zeros((), jnp.float32))
    exponent = jnp.frexp(largest)[1]
    usable = (largest > 0) & jnp.isfinite(largest)
    # Clipped so that its inverse is a float, too.
    return jnp.ldexp(jnp.ones_like(largest), jnp.where(usable, jnp.clip(exponent, -120, 120), 0))


class _CGState(NamedTuple):
    k: Array
    going: Array
    x: PyTree
    r: PyTree
    p: PyTree
    rr: Array


def trust_region_scale(curvature: Array, max_kl: Number) -> tuple[Array, Array]:
    """The scale at which a step's quadratic model of the KL meets the bound: sqrt(2 max_kl / x'Hx).

    TRPO's H is F + damping I, and x solves H x = g (Schulman et al. 2015, appendix C). A zero
    gradient, with ``curvature`` x'Hx [] = 0, gets the scale 0 rather than 0/0. So does anything
    else that yields no finite step. ``max_kl`` is finite, in nats.

    Returns:
        The scale [], and whether there is a step: [] bool.

    Raises:
        ValueError: if a concrete ``max_kl`` is negative.
    """
    check(max_kl=(max_kl, True))
    scale = jnp.sqrt(2 * max_kl / jnp.where(curvature > 0, curvature, 1))
    valid = (curvature > 0) & jnp.isfinite(curvature) & jnp.isfinite(scale)
    return jnp.where(valid, scale, 0), valid


def boundary_scale(kl_at: Callable[[Array], Array], max_kl: Number, steps: int) -> Array:
    """The factor that brings a step's KL up to the bound, found in ``steps`` evaluations: [].

    The factor starts at 1 and doubles while ``kl_at(factor)`` [] is within ``max_kl``. From the
    first that is not, the interval is halved. The result is the largest factor found within the
    bound: 0 < kl_at <= max_kl. If none was, it is the smallest factor tried, where a line search
    can start. A NaN or infinite KL is not within. ``steps`` is static, at least 1.
    """

    def look(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, factor = state
        within = kl_at(factor) <= max_kl
        low, high = jnp.where(within, factor, low), jnp.where(within, high, factor)
        return low, high, jnp.where(jnp.isposinf(high), 2 * factor, 0.5 * (low + high))

    one = jnp.ones((), jnp.result_type(max_kl, float))
    low, high, _ = loops.fori_loop(0, steps, look, (0 * one, jnp.inf * one, one))
    return jnp.where(low > 0, low, high)


class LineSearchResult(NamedTuple):
    """The result of a line search.

    Attributes:
        params: the accepted candidate, or the initial parameters, bit for bit.
        accepted: [] bool.
        num_backtracks: [] int32; 0 if the full step was accepted, ``max_backtracks`` if none was.
        aux: that of the last candidate evaluated, accepted or rejected.
    """

    params: Params
    accepted: Array
    num_backtracks: Array
    aux: Any


def backtracking_line_search(
    evaluate: Callable[[Params], tuple[Array, Any]],
    params: Params,
    step: PyTree,
    *,
    shrink: Number = 0.8,
    max_backtracks: int = 10,
) -> LineSearchResult:
    """Takes the longest acceptable of params + shrink^k step, k = 0, 1, ..., max_backtracks.

    A candidate is accepted if ``evaluate`` says so and all floats in it and in its aux are finite.
    (A predicate such as ``~(kl > bound)`` would let NaN pass.) No candidate is evaluated after the
    accepted one (under ``vmap`` the slowest lane decides; the other lanes keep their values).
    Leaves of ``params`` that are not floats do not change.

    Other libraries try 10 candidates, each 0.8 times the last (sb3-contrib), or 15 of them
    (garage), or 10, each half the last (baselines).

    Args:
        evaluate: ``candidate -> (ok [] bool, aux)``, aux a pytree of arrays, such as the
            candidate's KL and surrogate.
        params: a pytree.
        step: like ``params``.
        shrink: in (0, 1).
        max_backtracks: static; at most one candidate more than this is tried.

    Raises:
        ValueError: if ``max_backtracks`` is negative or a concrete ``shrink`` not in (0, 1).
    """
    if max_backtracks < 0:
        raise ValueError(f"max_backtracks must be 0 or more, got {max_backtracks}")
    require(lambda x: (x > 0) & (x < 1), "in (0, 1)", shrink=shrink)

    def attempt(scale: Array) -> tuple[Params, Array, Any]:
        candidate = _moved(params, scale, step)
        ok, aux = evaluate(candidate)
        aux = jax.tree.map(jnp.asarray, aux)
        return candidate, ok & tree.all_finite((candidate, aux)), aux

    def unfinished(state: tuple) -> Array:
        k, _, _, accepted, _ = state
        return ~accepted & (k <= max_backtracks)

    def backtrack(state: tuple) -> tuple:
        k, scale, *_ = state
        return (k + 1, scale * shrink, *attempt(scale))

    # The first attempt always runs, so the placeholders in the initial state are never returned.
    scale = jnp.ones((), jnp.result_type(shrink, float))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(attempt, scale)[2])
    start = (jnp.zeros((), jnp.int32), scale, params, jnp.asarray(False), nothing)
    tried, _, candidate, accepted, aux = loops.while_loop(unfinished, backtrack, start)
    return LineSearchResult(tree.where(accepted, candidate, params), accepted, tried - 1, aux)


def _moved(params: Params, scale: Array, step: PyTree) -> Params:
    """The candidate params + scale * step, in the dtypes of params; only floats move."""

    def move(leaf: Any, change: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return (leaf + scale * change).astype(leaf.dtype)

    return jax.tree.map(move, params, step)
