"""The kind and bounds of a setting, declared at its field; conversion to and from plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from kltrust.checks import as_float, require, unknown

_T = TypeVar("_T")
SETTING = "setting"
INF = math.inf
"""The value that switches an option off."""
ALGORITHMS: dict[str, type] = {}
"""The declared algorithms by name: a misplaced setting may be one of theirs."""
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Setting:
    """The declaration of a setting at its field.

    Attributes:
        meaning: one sentence.
        above, at_least, below, at_most: bounds of a number, or of every entry of a tuple. Without
            ``at_most`` a whole number is at most 2^31 - 1, since JAX counts in 32 bits.
        infinite: whether infinity is allowed; it switches the setting off.
        choices: the names that a text may take; None allows all.
        functions: whether a function is allowed in place of a text.
        schedules: whether a schedule of optax is allowed in place of a number, see `RateSchedule`.
        usual: the usual range and its source.
        role: the setting's purpose, for other parts of the library. "bound" is on the mean KL of
            an update, nats; "state bound" on the largest KL of a state. "set point" is that of the
            mean KL, "clip" the half-width of the interval of ratios. "floor" and "ceiling" are
            those of the setting that a controller moves. "drift" is the coefficient of the term
            that holds a step back. "value clip" is that of the critic's loss. "gradient bound" is
            on the gradient's norm. "minibatches" must divide the batch. "fisher damping" is added
            to the Fisher matrix.
        needs: the name of a switch in the same class; the setting has no effect unless it is on.
        common: whether ``kltrust train ... --help`` lists the setting; ``--help-all`` lists all.
            Of an algorithm of your own, both list all.
        anneal: in an annealed run the setting is multiplied by this power of the remaining
            fraction; 0 leaves it alone.
    """

    meaning: str = ""
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    infinite: bool = False
    choices: tuple[str, ...] | None = None
    functions: bool = False
    schedules: bool = False
    usual: str = ""
    role: str = ""
    needs: str = ""
    common: bool = False
    anneal: int = 0

    def check(self, name: str, value: Any) -> None:
        """Refuses a number, or an array of any shape, that is out of bounds.

        Raises:
            ValueError: gives the setting's ``name``, the ``value`` and the bounds.
        """
        possible: dict[str, tuple[Any, Any]] = {
            "greater than": (np.greater, self.above),
            "at least": (np.greater_equal, self.at_least),
            "less than": (np.less, self.below),
            "at most": (np.less_equal, self.at_most),
        }
        bounds = {phrase: pair for phrase, pair in possible.items() if pair[1] is not None}
        phrases = [
            f"{phrase} {bound if isinstance(bound, int) else format(bound, 'g')}"
            for phrase, (_, bound) in bounds.items()
        ]
        if not (self.infinite or isinstance(value, int)):
            phrases.insert(0, "finite")

        def good(x: np.ndarray) -> np.ndarray:
            # Numbers beyond float32's range would become infinite.
            fine = ~np.isnan(x) & (self.infinite | (np.abs(x) <= np.finfo(np.float32).max))
            return fine & np.all([compare(x, b) for compare, b in bounds.values()], axis=0)

        require(good, " and ".join(phrases) or "a number", **{name: value})
        if self.at_most is None and isinstance(value, int):
            require(lambda x: x < 2**31, "less than 2^31", **{name: value})
        if self.role in ("bound", "set point"):
            # Nats: in float32 a smaller mean KL can't be told from 0.
            require(lambda x: x >= 1e-12, "at least 1e-12", **{name: value})


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class RateSchedule:
    """A learning rate that depends on the number of the optimiser's steps so far, as in optax.

    The rate of step c, counted from 0, is ``factor * schedule(c)``. A step is one minibatch. The
    steps of an epoch that is undone are not counted. The function is static; the factor may be
    traced.
    """

    schedule: Callable[[Any], Any]
    factor: Any = 1.0

    def __call__(self, count: Any) -> Any:
        """The rate [] of the step ``count`` []."""
        rate = self.schedule(count)
        return rate if isinstance(self.factor, float) and self.factor == 1 else rate * self.factor

    def __mul__(self, factor: Any) -> RateSchedule:
        """The schedule times a ``factor`` []."""
        return RateSchedule(self.schedule, self.factor * factor)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        """The function's name; for optax's schedules the name of the function that made them."""
        name = getattr(self.schedule, "__qualname__", repr(self.schedule))
        return name.removesuffix(".<locals>.schedule")

    def tree_flatten(self) -> tuple[tuple[Any], Any]:
        """The factor is a leaf."""
        return (self.factor,), self.schedule

    @classmethod
    def tree_unflatten(cls, schedule: Any, leaves: Any) -> RateSchedule:
        """The inverse."""
        return cls(schedule, *leaves)


def declared(field: dataclasses.Field) -> Setting:
    """The declaration of a setting at its field."""
    return field.metadata.get(SETTING, Setting())


def is_traced(field: dataclasses.Field) -> bool:
    """Whether a setting is a number that JAX may trace."""
    return type(field.default) is float


def is_nested(field: dataclasses.Field) -> bool:
    """Whether a setting has settings itself, as an optimiser has."""
    return hasattr(type(field.default), "of")


def as_kind(field: dataclasses.Field, value: Any, name: str) -> Any:
    """A value converted to the setting's kind, and checked if known; ``name`` is for errors.

    Raises:
        ValueError: on a value of another kind, or out of bounds.
    """
    said, kind = declared(field), type(field.default)
    if kind is float:
        if isinstance(value, jax.core.Tracer | RateSchedule):
            return value
        if said.schedules and callable(value) and not hasattr(value, "dtype"):
            return RateSchedule(value)
        value = _number(value, name)
        said.check(name, value)
    elif kind is int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1e5, as people write large counts
        if not _is_whole(value):
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
            hint = f": write ({value},)" if _is_whole(value) else ""
            raise ValueError(f"{name} must be a list or a tuple, got {value!r}{hint}")
        if not all(map(_is_whole, value)):
            raise ValueError(f"{name} must hold whole numbers, got {value!r}")
        value = tuple(map(int, value))
        for entry in value:
            said.check(f"every entry of {name}", entry)
    elif is_nested(field):
        value = kind.of(value, name)  # type: ignore[attr-defined]
    elif kind is str:
        # jax.nn.relu, say, for "relu".
        if callable(value) and getattr(value, "__name__", None) in (said.choices or ()):
            value = value.__name__
        if isinstance(value, str) and value not in (said.choices or [value]):
            raise ValueError(unknown(name, value, said.choices or ()))
        if not isinstance(value, str) and not (said.functions and callable(value)):
            kinds = "a text or a function" if said.functions else "a text"
            raise ValueError(f"{name} must be {kinds}, got {value!r}")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _number(value: Any, name: str) -> Any:
    if _is_whole(value):
        return as_float(value)
    if isinstance(value, np.ndarray | jax.Array):
        if value.dtype.kind not in "fiuV":
            raise ValueError(f"{name} must be a number, got an array of {value.dtype}")
    elif callable(value):
        raise ValueError(
            f"{name} must be a number, got a function: a learning rate may be a schedule of optax, "
            "and make_learner takes a schedule of the whole algorithm"
        )
    elif not isinstance(value, float | np.number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return value


def to_plain(value: Any) -> Any:
    """Settings as nested plain data that JSON can hold; infinities become ``"inf"``.

    Raises:
        ValueError: on a value that no file can hold, such as your function.
    """
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if isinstance(value, RateSchedule):
        raise ValueError(
            f"the schedule {value!r} is a function, which no file can hold: in a training or a "
            "sweep with a run folder take a number and budget.anneal, or register an algorithm of "
            "your own that makes the schedule"
        )
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
    """The number, if `to_plain` wrote an infinity or NaN as a text; other values unchanged."""
    return float(value) if isinstance(value, str) and value in ("inf", "-inf", "nan") else value


def from_plain(cls: type[_T], data: Mapping[str, Any], *, where: str) -> _T:
    """An object of a class of settings from plain data.

    Raises:
        ValueError: on an unknown name or a value of another kind; names ``where`` and the setting.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for name, value in data.items():
        if name not in fields:
            raise ValueError(unknown_setting(f"setting in [{where}]", name, fields))
        value = number_from_plain(value) if is_traced(fields[name]) else value
        values[name] = as_kind(fields[name], value, f"{where}.{name}")
    return cls(**values)


def owners_of(name: str) -> list[str]:
    """The algorithms that declare a setting of this name, sorted."""
    kinds = sorted(ALGORITHMS.items())
    return [own for own, cls in kinds if name in (f.name for f in dataclasses.fields(cls))]


def unknown_setting(what: str, name: str, known: Iterable[str]) -> str:
    """The error message for an unknown setting: the algorithms that have it, and near names."""
    owners = owners_of(name)
    rest = len(owners) - _NAMED
    of = ", ".join(owners[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return unknown(what, name, known, f", a setting of {of}" if owners else "")
