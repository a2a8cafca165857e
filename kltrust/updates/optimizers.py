"""Optimisers as values: optax's, by name, with settings that may be traced."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import optax

from kltrust.checks import as_float, check_names, unknown
from kltrust.types import Number
from kltrust.values import number_from_plain, to_plain

MakeOptimizer: TypeAlias = Callable[[Number], optax.GradientTransformation]
"""An optimiser as a function of its learning rate, which may be traced: ``optax.sgd``, say."""


class Optimizer:
    """An optimiser of optax as a function of its learning rate.

    ``Optimizer("adamw", weight_decay=1e-4)(3e-4)`` is ``optax.adamw(3e-4, weight_decay=1e-4)``.
    The float settings are leaves of a pytree: they may be traced and swept. Settings that you do
    not give keep optax's defaults.

    Attributes:
        name: of a function in optax whose first argument is ``learning_rate``; a dotted name, as in
            ``contrib.muon``, is looked up in optax's submodules.
        settings: its keyword arguments.
    """

    def __init__(self, name: str, /, **settings: Any) -> None:
        """Looks the optimiser up.

        Raises:
            ValueError: if optax has no such optimiser, or it has no such setting.
        """
        parameters = inspect.signature(_function(name)).parameters
        check_names(f"setting of optax.{name}", settings, [*parameters][1:])
        _check_given(name, settings, [*parameters.values()][1:])
        self.name = name
        self.settings = {
            key: as_float(value) if _is_rate(value, parameters[key].default) else value
            for key, value in sorted(settings.items())
        }
        # Decided here, by the given values: JAX later replaces them by tracers and placeholders.
        self._traced = tuple(k for k, v in self.settings.items() if not isinstance(v, _STATIC))

    def __call__(self, learning_rate: Number) -> optax.GradientTransformation:
        """The optimiser at a learning rate, which may be traced."""
        return _function(self.name)(learning_rate, **self.settings)

    @property
    def is_elementwise(self) -> bool:
        """Whether it is known to ignore how entries are grouped into leaves, see `Elementwise`."""
        return self.name in _ELEMENTWISE and "mask" not in self.settings

    @staticmethod
    def of(value: Any, where: str = "optimizer") -> MakeOptimizer:
        """An optimiser from any of its forms.

        Args:
            value: an `Optimizer`, a function of the learning rate, a name, a text such as
                ``"adamw(weight_decay=0.1)"``, or a table with a ``name``.
            where: the setting's name in errors.

        Raises:
            ValueError: if it is none of these.
        """
        if isinstance(value, Optimizer | _Custom):
            return value
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            others = {k: number_from_plain(v) for k, v in value.items() if k != "name"}
            return Optimizer(value["name"], **others)
        if isinstance(value, str):
            name, given = _parsed(value, where)
            return Optimizer(name, **given)
        if callable(value):
            name = getattr(value, "__name__", "")
            return Optimizer(name) if getattr(optax, name, None) is value else _Custom(value)
        raise ValueError(
            f"{where} must be the name of an optimiser of optax, as in 'adamw' or "
            f"'adamw(weight_decay=0.1)', or a function of the learning rate; got {value!r}"
        )

    def to_plain(self) -> dict[str, Any]:
        """A table that `of` reads -> dict."""
        return {"name": self.name, **to_plain(self.settings)}

    def __repr__(self) -> str:
        """Like ``adam(eps=1e-05)``; `of` reads it."""
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.settings.items())})"

    def __eq__(self, other: object) -> bool:
        """Whether name and settings are equal."""
        if not isinstance(other, Optimizer):
            return NotImplemented
        return (self.name, self.settings) == (other.name, other.settings)

    def __hash__(self) -> int:
        return hash((self.name, *self.settings.items()))


def _flatten(self: Optimizer) -> tuple[list[Any], tuple]:
    static = tuple((k, v) for k, v in self.settings.items() if k not in self._traced)
    keyed = [(jax.tree_util.GetAttrKey(k), self.settings[k]) for k in self._traced]
    return keyed, (self.name, self._traced, static)


def _unflatten(aux: tuple, leaves: Any) -> Optimizer:
    self = object.__new__(Optimizer)
    self.name, self._traced, static = aux
    self.settings = dict(sorted([*zip(self._traced, leaves, strict=True), *static]))
    return self


jax.tree_util.register_pytree_with_keys(Optimizer, _flatten, _unflatten)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Custom:
    """A user's function: static, since nothing in it can be traced from outside."""

    function: MakeOptimizer

    def __call__(self, learning_rate: Number) -> optax.GradientTransformation:
        return self.function(learning_rate)

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


_STATIC = (str, bool, int, type(None))


def _check_given(name: str, given: Mapping[str, Any], parameters: Iterable[Any]) -> None:
    """Refuses early what optax would refuse later: a missing argument, a text for a number."""
    for parameter in parameters:
        key, default = parameter.name, parameter.default
        varying = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if key not in given and default is parameter.empty and not varying:
            raise ValueError(f"optax.{name} needs {key}: as in '{name}({key}=...)'")
        if isinstance(given.get(key), str) and type(default) in (int, float):
            raise ValueError(f"{key} of optax.{name} must be a number, got {given[key]!r}")


def _is_rate(value: Any, default: Any) -> bool:
    """Whether an integer stands for a float."""
    return type(value) is int and not isinstance(default, int)


def _function(name: str) -> Callable[..., optax.GradientTransformation]:
    found: Any = optax
    for part in name.split("."):
        found = getattr(found, part, None)
    if not _is_optimizer(found):
        known = [n for n in dir(optax) if n[0] != "_" and _is_optimizer(getattr(optax, n))]
        raise ValueError(unknown("optimiser of optax", name, known))
    return found


def _is_optimizer(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    return next(iter(inspect.signature(value).parameters), "") == "learning_rate"


def _parsed(text: str, where: str) -> tuple[str, dict[str, Any]]:
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            return ast.unparse(call), {}
        if call.args:
            raise ValueError("its settings have names")
        return ast.unparse(call.func), {
            k.arg or "": ast.literal_eval(k.value) for k in call.keywords
        }
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{where} must read like 'adamw' or 'adamw(weight_decay=0.1)', got {text!r} ({error})"
        ) from error


ADAM = Optimizer("adam", eps=1e-5)
"""The default of all algorithms: eps as in the PPO authors' own code, where optax has 1e-8."""


_ELEMENTWISE = {
    *("adabelief", "adagrad", "adam", "adamax", "adamaxw", "adamw", "amsgrad", "lion"),
    *("radam", "rmsprop", "sgd", "yogi"),
}


class Elementwise(optax.GradientTransformationExtraArgs):
    """A transformation of optax that ignores how the gradient's entries are grouped into leaves.

    The change of a parameter depends only on its value, its gradient, their past and the norm of
    all entries. Leaves concatenated into one vector then move as they would one by one.
    """


def bounded(
    optimizer: MakeOptimizer, learning_rate: Number, max_grad_norm: Number
) -> optax.GradientTransformation:
    """An ``optimizer`` after clipping by the gradient's global norm -> a transformation of optax.

    The ``learning_rate`` [] and the bound ``max_grad_norm`` [], inf for none, may be traced. The
    transformation is `Elementwise` if the optimiser is one of optax's that are known to be.
    """
    chain = optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer(learning_rate))

    def update(*args: Any, **more: Any) -> Any:
        # optax's Adam promotes types, which the caller may have forbidden.
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(*args, **more)

    elementwise = isinstance(optimizer, Optimizer) and optimizer.is_elementwise
    kind = Elementwise if elementwise else optax.GradientTransformationExtraArgs
    return kind(chain.init, update)
