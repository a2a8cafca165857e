"""JAX's loops and branches, made to work inside a `jax.shard_map` that checks varying axes.

Such a `jax.shard_map` tracks the mesh axes over which each array varies. A loop's carry must vary
over the same axes before and after a step, and both branches of a condition must agree. An initial
zero varies over no axis, but the result of a step on a device's rows varies over that device's
axis. The functions here mark the initial carry as varying over all axes that the step adds. Outside
of such a `jax.shard_map` they are JAX's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from kltrust.types import Array, PyTree


def scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    *,
    reverse: bool = False,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """`jax.lax.scan` of ``step(carry, x)`` from ``carry`` over ``xs`` or for ``length`` steps.

    ``unroll`` steps are compiled as one.

    Returns:
        (carry, outs); ``reverse`` goes through ``xs`` backwards.
    """

    def first(carry: PyTree) -> PyTree:
        return step(carry, jax.tree.map(lambda x: x[0], xs))[0]

    start = _settled(first, carry, xs)
    return jax.lax.scan(step, start, xs, length, reverse=reverse, unroll=unroll)


def while_loop(going: Callable[[Any], Array], step: Callable[[Any], Any], carry: PyTree) -> Any:
    """`jax.lax.while_loop`: ``carry`` <- ``step(carry)`` while ``going(carry)`` -> the carry."""
    return jax.lax.while_loop(going, step, _settled(step, carry))


def fori_loop(
    lower: int | Array, upper: int | Array, step: Callable[[Any, Any], Any], carry: PyTree
) -> Any:
    """`jax.lax.fori_loop` of ``step(i, carry)``, i from ``lower`` to ``upper`` - 1 -> ``carry``."""
    return jax.lax.fori_loop(lower, upper, step, _settled(lambda x: step(lower, x), carry))


def cond(
    choice: Array, if_true: Callable[..., Any], if_false: Callable[..., Any], *operands: Any
) -> Any:
    """`jax.lax.cond` on ``choice`` -> ``if_true(*operands)`` or ``if_false(*operands)``."""
    return jax.lax.cond(choice, *_agreeing([if_true, if_false], operands), *operands)


def platform_dependent(
    *operands: Any, default: Callable[..., Any], **branches: Callable[..., Any]
) -> Any:
    """`jax.lax.platform_dependent` -> the result of the platform's branch for ``operands``.

    ``branches`` are functions by platform name; ``default`` is for all other platforms.
    """
    ours = _agreeing([default, *branches.values()], operands)
    named = dict(zip(branches, ours[1:], strict=True))
    return jax.lax.platform_dependent(*operands, default=ours[0], **named)


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The ``function``, traced once for all branches that call it with the same shapes.

    JAX traces every branch of `platform_dependent`, even if it compiles only one. The function's
    operations are inlined: nothing is compiled separately.

    Returns:
        A function of the same arguments.
    """
    return jax.jit(function, inline=True)


def size(traced: Any) -> int:
    """The operations of a jaxpr ``traced``, those of its inner jaxprs included -> their number."""
    inner = getattr(traced, "jaxpr", traced)
    if not hasattr(inner, "eqns"):
        return sum(map(size, traced)) if isinstance(traced, tuple | list) else 0
    return sum(max(sum(map(size, x.params.values())), 1) for x in inner.eqns)


def match_varying(x: PyTree, *others: PyTree) -> PyTree:
    """``x``, every leaf varying over all axes that any leaf of ``x`` or ``others`` varies over.

    All parameters of a function must vary over the same axes: a gradient with respect to those that
    do not vary is summed over devices.
    """
    if not _checked():
        return x
    axes: frozenset[str] = frozenset().union(*map(_axes, jax.tree.leaves((x, others))))
    return jax.tree.map(lambda leaf: _over(axes, leaf), x)


def _agreeing(branches: list[Callable], operands: tuple) -> list[Callable]:
    """The branches, with results that vary over all axes that any branch's result varies over."""
    if not _checked():
        return branches
    made = [jax.eval_shape(branch, *operands) for branch in branches]

    def agreeing(branch: Callable) -> Callable:
        return lambda *operands: functools.reduce(_varying_as, made, branch(*operands))

    return [agreeing(branch) for branch in branches]


def _settled(step: Callable[[Any], Any], carry: PyTree, xs: PyTree = None) -> PyTree:
    """The carry, varying over all axes that the step makes it vary over."""
    if not (checked := _checked()):
        return carry
    # A carry that varies over all axes can't gain more. Otherwise the step is traced to see which
    # axes it adds. So it, and every loop in it, is traced twice.
    carry = match_varying(carry, xs)
    while any(_axes(leaf) != checked for leaf in jax.tree.leaves(carry)):
        before, carry = carry, _varying_as(carry, jax.eval_shape(step, carry))
        leaves = zip(*map(jax.tree.leaves, (before, carry)), strict=True)
        if all(_axes(old) == _axes(new) for old, new in leaves):
            break
    return carry


def _checked() -> frozenset[str]:
    """The axes of the surrounding `jax.shard_map`, if it checks what varies over them."""
    names = jax.sharding.get_abstract_mesh().manual_axes
    indices = jax.eval_shape(lambda: [jax.lax.axis_index(name) for name in names])
    return frozenset().union(*map(_axes, indices))


def _varying_as(x: PyTree, like: PyTree) -> PyTree:
    """``x``, varying also over the axes that ``like`` varies over."""
    structures: list[Any] = [jax.tree.structure(x), jax.tree.structure(like)]
    if structures[0] != structures[1]:
        return x  # JAX's error says how they differ

    return jax.tree.map(lambda leaf, other: _over(_axes(other), leaf), x, like)


def _over(axes: frozenset[str], leaf: Any) -> Any:
    missing = axes - _axes(leaf)
    return jax.lax.pcast(leaf, tuple(sorted(missing)), to="varying") if missing else leaf


def _axes(x: Any) -> frozenset[str]:
    """The mesh axes that x varies over; x is an array or its shape from `jax.eval_shape`."""
    shape = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    kind = getattr(shape, "manual_axis_type", None)
    return frozenset(getattr(kind, "varying", ()))
