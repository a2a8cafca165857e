"""Settings, each declared once at its field: default, meaning, bounds, usual range and role.

A class of settings becomes a frozen dataclass that is a JAX pytree::

    @settings
    class Step:
        size: Number = setting(0.1, "Length of a step.", above=0, usual="0.01 to 1", anneal=1)
        rounds: int = setting(3, "Steps of an update.", at_least=1)

A setting whose default is a float is a leaf: it may be traced, vmapped over and swept without
another compilation. Every other setting is static. Known values are checked when the object is
made; tracers pass.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

from kltrust.checks import check_names
from kltrust.values import (
    INF,
    SETTING,
    Setting,
    as_kind,
    declared,
    is_nested,
    is_traced,
    unknown_setting,
)

__all__ = ["INF", "Setting", "annealed", "setting", "settings", "with_role"]

_T = TypeVar("_T")


def setting(default: Any, meaning: str = "", **declared: Any) -> Any:
    """Declares one setting in a class of `settings` -> the field to assign.

    The type of the ``default`` is the setting's kind: a float is traced, everything else is static.
    The ``meaning`` is one sentence; ``declared`` are the other attributes of `Setting`.
    """
    return dataclasses.field(default=default, metadata={SETTING: Setting(meaning, **declared)})


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[_T]) -> type[_T]:
    """Makes ``cls`` a class of settings -> a frozen, keyword-only dataclass that is a pytree.

    Its annotated attributes are the settings; each needs a default. For conditions on several of
    them, define a method ``check(self)``: it is called after each value has been checked.

    Raises:
        TypeError: if a field has no default, or the class is already one of settings.
    """
    if "__dataclass_fields__" in vars(cls):
        raise TypeError(f"{cls.__name__} is declared already: inherit from it")
    given: Any = cls
    for name, method in (("__post_init__", _check_fields), ("__repr__", _repr)):
        if name not in vars(given):
            setattr(given, name, method)
    given.__eq__, given.__hash__ = _equal, lambda self: hash(_compared(self))
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)(given)
    by_name = made.__init__

    @functools.wraps(by_name)
    def init(self: Any, *values: Any, **given: Any) -> None:
        called = getattr(made, "name", made.__name__)
        names = list(made.__dataclass_fields__)
        if values:
            example = f"{called}({names[0]}={values[0]!r})" if names else f"{called}()"
            raise TypeError(f"{called} takes its settings by name, as in {example}")
        for name in given:
            if name not in names:
                raise TypeError(unknown_setting(f"setting of {called}", name, names))
        by_name(self, **given)

    made.__init__ = init
    # In help and in print, a class's fields come before those that it inherits.
    known = {field.name: field for field in dataclasses.fields(made)}  # no ClassVar
    own = [name for name in vars(cls).get("__annotations__", {}) if name in known]
    made.__dataclass_fields__ = {name: known[name] for name in [*own, *known]}
    fields = dataclasses.fields(made)
    for field in fields:
        if field.default is dataclasses.MISSING:
            raise TypeError(f"{cls.__name__}.{field.name} needs a default")
    leaves = [f.name for f in fields if is_traced(f) or is_nested(f)]
    static = [f.name for f in fields if f.name not in leaves]
    if meanings := [f"    {f.name}: {declared(f).meaning}" for f in fields if declared(f).meaning]:
        made.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Args:", *meanings])

    def flatten(self: Any) -> tuple[list[Any], tuple]:
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in leaves]
        return keyed, tuple(getattr(self, name) for name in static)

    def unflatten(aux: tuple, children: Iterable[Any]) -> Any:
        # Unchecked: JAX puts tracers, shapes and placeholders where numbers were.
        self = object.__new__(made)
        for name, value in [*zip(leaves, children), *zip(static, aux)]:  # noqa: B905
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(made, flatten, unflatten)
    return made


def with_role(owner: Any, role: str) -> list[str]:
    """The names of the settings with a given ``role`` that take effect -> in their order.

    The ``owner`` is an object of a class of `settings`, or the class; anything else has none.
    """
    if not dataclasses.is_dataclass(owner):
        return []
    said = {f.name: declared(f) for f in dataclasses.fields(owner)}
    return [
        n for n, s in said.items() if s.role == role and (not s.needs or getattr(owner, s.needs))
    ]


def annealed(owner: Any, left: Any) -> Any:
    """An object like ``owner``, with annealed settings multiplied by a power of ``left``.

    ``left`` is the remaining fraction, in [0, 1]; it may be traced. Objects of other classes
    come back unchanged.
    """
    if not dataclasses.is_dataclass(owner):
        return owner
    powers = {f.name: declared(f).anneal for f in dataclasses.fields(owner)}
    changed = {name: getattr(owner, name) * left**power for name, power in powers.items() if power}
    whole: Any = owner
    return dataclasses.replace(whole, **changed) if changed else owner


def changed(owner: _T, changes: Mapping[str, Any], what: str) -> _T:
    """The settings object with some values changed; ``what`` is an error's word for a setting."""
    whole: Any = owner
    check_names(what, changes, [f.name for f in dataclasses.fields(whole)])
    return dataclasses.replace(whole, **changes)


def signature_with(function: Callable, cls: type) -> Any:
    """A function's signature for `help`, with the settings of a class in place of ``**changes``."""
    own = inspect.signature(function)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    names = [p.name for p in kept]
    more = [p for p in inspect.signature(cls).parameters.values() if p.name not in names]
    return own.replace(parameters=[*kept, *more])


def _check_fields(self: Any) -> None:
    for field in dataclasses.fields(self):
        value = as_kind(field, getattr(self, field.name), field.name)
        object.__setattr__(self, field.name, value)
    if hasattr(self, "check"):
        self.check()


def _repr(self: Any) -> str:
    pairs = (f"{f.name}={_shown(getattr(self, f.name))}" for f in dataclasses.fields(self))
    return f"{getattr(self, 'name', type(self).__name__)}({', '.join(pairs)})"


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer):
        value = np.asarray(value)
        return f"{value.item():g}" if value.ndim == 0 else np.array2string(value, threshold=6)
    return getattr(value, "__name__", repr(value))


def _equal(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    return _compared(self) == _compared(other)


def _compared(self: Any) -> tuple:
    """The key for comparing two objects: the class and all values, arrays by their entries."""

    def entries(value: Any) -> Any:
        if isinstance(value, np.ndarray | jax.Array):
            return (value.shape, *np.ravel(value).tolist()) if value.ndim else value.item()
        return value

    return type(self), *(entries(getattr(self, f.name)) for f in dataclasses.fields(self))
