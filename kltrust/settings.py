"""Settings, each declared once: default, meaning, bounds, usual range and role stand at its field.

A class of settings becomes a frozen dataclass that is a JAX pytree::

    @settings
    class Step:
        size: Number = setting(0.1, "Length of a step.", above=0, usual="0.01 to 1", anneal=1)
        rounds: int = setting(3, "Steps of an update.", at_least=1)

A setting whose default is a float is a leaf: it may be traced, vmapped over and swept without
another compilation. Every other setting is static. Values that are known are checked when the
object is made; tracers pass.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

from kltrust.checks import require

__all__ = ["INF", "Setting", "annealed", "setting", "settings", "with_role"]

_T = TypeVar("_T")
INF = math.inf
"""An option that is off."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is said of a setting at its field.

    Attributes:
        meaning: one sentence.
        above, at_least, below, at_most: bounds of a number, or of every entry of a tuple.
        infinite: whether infinity is allowed; it switches the setting off.
        choices: the names that a text may take; None allows all.
        functions: whether a function may stand where a text does.
        usual: the usual range, and whose it is.
        role: what others may know of it: "bound" (on the mean KL of an update, nats), "set point"
            (of it), "clip" (half-width of the interval of ratios), "fisher damping",
            "minibatches" (must divide the batch).
        needs: the name of a switch of the same class without which the setting has no effect.
        anneal: the power of the remaining fraction that an annealed run multiplies it by; 0 leaves
            it alone.
    """

    meaning: str = ""
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    infinite: bool = False
    choices: tuple[str, ...] | None = None
    functions: bool = False
    usual: str = ""
    role: str = ""
    needs: str = ""
    anneal: int = 0

    def check(self, name: str, value: Any) -> None:
        """Refuses numbers out of bounds.

        Args:
            name: what an error calls the setting.
            value: a number, or an array of any shape.

        Raises:
            ValueError: names the setting and what it may be.
        """
        bounds = [
            (phrase, compare, bound)
            for phrase, compare, bound in (
                ("greater than", np.greater, self.above),
                ("at least", np.greater_equal, self.at_least),
                ("less than", np.less, self.below),
                ("at most", np.less_equal, self.at_most),
            )
            if bound is not None
        ]
        phrases = [f"{phrase} {bound:g}" for phrase, _, bound in bounds]
        if not (self.infinite or isinstance(value, int)):
            phrases.insert(0, "finite")

        def good(x: np.ndarray) -> np.ndarray:
            fine = ~np.isnan(x) & (self.infinite | np.isfinite(x))
            return fine & np.all([compare(x, bound) for _, compare, bound in bounds], axis=0)

        require(good, " and ".join(phrases) or "a number", **{name: value})


def setting(default: Any, meaning: str = "", **declared: Any) -> Any:
    """A field of a class of `settings`.

    Args:
        default: its type is the setting's kind. A float is traced, everything else is static.
        meaning: one sentence.
        **declared: the other attributes of `Setting`.

    Returns:
        The field, to be assigned in a class of `settings`.
    """
    return dataclasses.field(default=default, metadata={_SETTING: Setting(meaning, **declared)})


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[_T]) -> type[_T]:
    """Makes a class of settings a frozen, keyword-only dataclass that is a pytree.

    Every field needs a default. A method ``check(self)``, if there is one, is called after the
    values have been checked one by one, for conditions on several of them.

    Args:
        cls: its annotated attributes are the settings.

    Returns:
        The dataclass.

    Raises:
        TypeError: if a field has no default, or the class is one of settings already.
    """
    if "__dataclass_fields__" in vars(cls):
        raise TypeError(f"{cls.__name__} is declared already: inherit from it")
    given: Any = cls
    for name, method in (("__post_init__", _check_fields), ("__repr__", _repr)):
        if name not in vars(given):
            setattr(given, name, method)
    given.__eq__, given.__hash__ = _equal, _hash
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)(given)
    # What a class declares itself comes before what it inherits, in help and in print.
    known = made.__dataclass_fields__
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
        return [getattr(self, name) for name in leaves], tuple(getattr(self, n) for n in static)

    def flatten_with_keys(self: Any) -> tuple[list[Any], tuple]:
        children, aux = flatten(self)
        return [(jax.tree_util.GetAttrKey(n), c) for n, c in zip(leaves, children)], aux  # noqa: B905

    def unflatten(aux: tuple, children: Iterable[Any]) -> Any:
        # Unchecked: JAX puts tracers, shapes and placeholders where numbers were.
        self = object.__new__(made)
        for name, value in [*zip(leaves, children), *zip(static, aux)]:  # noqa: B905
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


_SETTING = "setting"


def declared(field: dataclasses.Field) -> Setting:
    """What is said of a setting at its field."""
    return field.metadata.get(_SETTING, Setting())


def is_traced(field: dataclasses.Field) -> bool:
    """Whether a setting is a number that JAX may trace."""
    return type(field.default) is float


def is_nested(field: dataclasses.Field) -> bool:
    """Whether a setting has settings of its own, as an optimiser has."""
    return hasattr(type(field.default), "of")


def with_role(owner: Any, role: str) -> list[str]:
    """The names of an object's settings that have a role and take effect.

    Args:
        owner: of a class of `settings`, or the class; anything else has none.
        role: see `Setting`.

    Returns:
        In the order of the fields.
    """
    if not dataclasses.is_dataclass(owner):
        return []
    said = {f.name: declared(f) for f in dataclasses.fields(owner)}
    return [
        n for n, s in said.items() if s.role == role and (not s.needs or getattr(owner, s.needs))
    ]


def annealed(owner: Any, left: Any) -> Any:
    """The object with every setting that is annealed multiplied by a power of ``left``.

    Args:
        owner: of a class of settings; anything else stays as it is.
        left: the fraction of each step that is left, in [0, 1]; it may be traced.

    Returns:
        An object like ``owner``.
    """
    if not dataclasses.is_dataclass(owner):
        return owner
    powers = {f.name: declared(f).anneal for f in dataclasses.fields(owner)}
    changed = {name: getattr(owner, name) * left**power for name, power in powers.items() if power}
    whole: Any = owner
    return dataclasses.replace(whole, **changed) if changed else owner


# --- values ---------------------------------------------------------------------------------------


def _check_fields(self: Any) -> None:
    for field in dataclasses.fields(self):
        value = as_kind(field, getattr(self, field.name), field.name)
        object.__setattr__(self, field.name, value)
    if hasattr(self, "check"):
        self.check()


def as_kind(field: dataclasses.Field, value: Any, name: str) -> Any:
    """A value as the setting's kind, checked where it is known.

    Args:
        field: of a class of settings.
        value: what was given.
        name: what an error calls the setting.

    Raises:
        ValueError: on a value of another kind, or out of bounds.
    """
    said, kind = declared(field), type(field.default)
    if isinstance(value, jax.core.Tracer) and is_traced(field):
        return value
    if is_traced(field):
        value = _number(value, name)
        said.check(name, value)
    elif kind is int:
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            low = said.at_least if said.at_least is not None else 0
            raise ValueError(f"{name} must be a whole number of at least {low:g}, got {value!r}")
        value = int(value)
        said.check(name, value)
    elif kind is bool:
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {value!r}")
        value = bool(value)
    elif kind is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a list or a tuple, got {value!r}")
        value = tuple(value)
        if not all(isinstance(x, int | np.integer) and not isinstance(x, bool) for x in value):
            raise ValueError(f"{name} must hold whole numbers, got {value!r}")
        value = tuple(map(int, value))
        for entry in value:
            said.check(f"every entry of {name}", entry)
    elif is_nested(field):
        value = kind.of(value, name)  # type: ignore[attr-defined]
    elif kind is str:
        if said.choices and isinstance(value, str) and value not in said.choices:
            raise ValueError(unknown(name, value, said.choices))
        if not isinstance(value, str) and not (said.functions and callable(value)):
            kinds = "a text or a function" if said.functions else "a text"
            raise ValueError(f"{name} must be {kinds}, got {value!r}")
    return value


def _number(value: Any, name: str) -> Any:
    if isinstance(value, str | bool | np.bool_) or not isinstance(
        value, int | float | np.number | np.ndarray | jax.Array
    ):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if isinstance(value, np.ndarray | jax.Array) and value.dtype.kind not in "fiuV":
        raise ValueError(f"{name} must be a number, got an array of {value.dtype}")
    return float(value) if isinstance(value, int | np.integer) else value


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known, with the nearest that is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {what} {name!r}: {hint}known are {', '.join(known)}"


def check_names(cls: type, names: Iterable[str], what: str = "setting") -> None:
    """Refuses names that are no settings of a class.

    Raises:
        ValueError: names the nearest that is.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    for name in names:
        if name not in known:
            raise ValueError(unknown(what, name, known))


def signature_with(function: Callable, cls: type) -> Any:
    """The signature of a function whose ``**settings`` are those of a class, for `help`."""
    own = inspect.signature(function)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    names = [p.name for p in kept]
    more = [p for p in inspect.signature(cls).parameters.values() if p.name not in names]
    return own.replace(parameters=[*kept, *more])


# --- plain data -----------------------------------------------------------------------------------


def to_plain(value: Any) -> Any:
    """Settings as nested plain data that JSON can hold; infinities become ``"inf"``.

    Raises:
        ValueError: on a value that no file can hold, such as a function of one's own.
    """
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic) or (isinstance(value, jax.Array) and value.ndim == 0):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{value!r} can't be written to a file: use a name or a number instead")


def number_from_plain(value: Any) -> Any:
    """A number that `to_plain` may have written as a text."""
    return float(value) if isinstance(value, str) and value in ("inf", "-inf", "nan") else value


def from_plain(cls: type[_T], data: Mapping[str, Any], *, where: str) -> _T:
    """An object of a class of settings from plain data.

    Raises:
        ValueError: on an unknown name or a value of another kind; names ``where`` and the setting.
    """
    check_names(cls, data, f"setting in [{where}]")
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in data:
            value = data[field.name]
            value = number_from_plain(value) if is_traced(field) else value
            values[field.name] = as_kind(field, value, f"{where}.{field.name}")
    return cls(**values)


# --- what is printed and compared -----------------------------------------------------------------


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
    names = [f.name for f in dataclasses.fields(self)]
    return all(_same(getattr(self, n), getattr(other, n)) for n in names)


def _same(x: Any, y: Any) -> bool:
    if any(isinstance(v, np.ndarray | jax.Array) for v in (x, y)):
        return np.array_equal(np.asarray(x), np.asarray(y))
    return bool(x == y)


def _hash(self: Any) -> int:
    def hashable(value: Any) -> Any:
        if isinstance(value, np.ndarray | jax.Array):
            return tuple(np.asarray(value, float).ravel()) if value.ndim else float(value)
        return value

    return hash((type(self), *(hashable(getattr(self, f.name)) for f in dataclasses.fields(self))))
