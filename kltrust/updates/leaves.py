"""Which leaves of the parameters an update moves: the floats."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from kltrust.fisher import _is_float, _with_floats
from kltrust.types import Params, PyTree

T = TypeVar("T", bound=Any)


def moves_floats(cls: T) -> T:
    """Lets ``init`` and ``update`` of a class see only the float parameters -> the class.

    Parameters may have other leaves, such as counts or keys. These are constants: the policy or
    value function gets them, and the update returns them unchanged. `kltrust.algorithm` does this
    for every algorithm. ``cls`` has the two methods of `PolicyUpdate` or of `Critic`.
    """
    if init := cls.__dict__.get("init"):
        cls.init = functools.wraps(init)(lambda self, params: init(self, _floats(params)))
    if update := cls.__dict__.get("update"):

        @functools.wraps(update)
        def of_floats(
            self: Any, function: Callable, params: Params, state: PyTree, *rest: Any, **more: Any
        ) -> Any:
            if all(map(_is_float, jax.tree.leaves(params))):
                return update(self, function, params, state, *rest, **more)

            def of_all(floats: Params, obs: PyTree) -> Any:
                return function(_with_floats(params, jax.tree.leaves(floats)), obs)

            new, *others = update(self, of_all, _floats(params), state, *rest, **more)
            return _with_floats(params, jax.tree.leaves(new)), *others

        cls.update = of_floats
    return cls


def _floats(params: Params) -> Params:
    """The parameters with None, which is no leaf, in place of every leaf that is no float."""
    return jax.tree.map(lambda leaf: leaf if _is_float(leaf) else None, params)
