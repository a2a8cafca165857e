"""Algorithms by name: the library's and yours, in one list."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

from kltrust.checks import calling_module, unknown
from kltrust.settings import settings
from kltrust.types import Params, Policy, PolicyBatch, PolicyUpdate, PyTree, UpdatePair
from kltrust.updates import moves_floats
from kltrust.values import ALGORITHMS

T = TypeVar("T")

_declared = ALGORITHMS
_ARGUMENTS = ("policy", "params", "state", "batch", "key")
"""The arguments of an update; a critic's update has its value function in the first place."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def algorithm(name: str) -> Callable[[type[T]], type[T]]:
    """Declares an algorithm: a class of settings with ``init`` and ``update``, known by a name.

    The command line, presets, specifications, sweeps, annealing and reports read everything they
    know about it from its fields, see `kltrust.settings.setting`::

        @kltrust.algorithm("sign_pg")
        class SignPG:
            learning_rate: float = kltrust.setting(1e-3, "Step of every parameter.", above=0)

            def init(self, params): ...
            def update(self, policy, params, state, batch, key): ...

    The command line uses the ``name``: letters, digits and underscores. The methods see only the
    float leaves of the parameters; other leaves are constants (`updates.moves_floats`).

    Returns:
        The decorator, which returns the declared class.

    Raises:
        ValueError: if the name is taken, or is no name.
        TypeError: if the class lacks ``init`` or ``update``, or a field has no default.
    """
    home = calling_module(__name__)

    def declare(cls: type[T]) -> type[T]:
        _check_name(name)
        lacking = [n for n in ("init", "update") if not callable(getattr(cls, n, None))]
        if lacking:
            raise TypeError(f"{cls.__name__} needs {' and '.join(lacking)}: see PolicyUpdate")
        made = moves_floats(settings(cls))
        made.name, made.registered_in = name, home  # type: ignore[attr-defined]
        _declared[name] = made
        return made

    return declare


def register_algorithm(name: str, declaration: Callable[..., PolicyUpdate]) -> type:
    """Makes an algorithm known by ``name`` to the command line and sweeps -> the declared class.

    Put the call into a module and pass that module to ``--import``. A class that `algorithm`
    decorates is registered already. The ``declaration`` is such a class, or a function of keyword
    settings that returns an algorithm. Every argument of a function needs a default, which may be
    a `setting`: a float is traced, everything else is static.

    Raises:
        ValueError: if the name is taken, or is no name.
        TypeError: if an argument has no default.
    """
    if isinstance(declaration, type):
        return algorithm(name)(declaration)

    def make(self: Any) -> PolicyUpdate:
        return as_update(declaration(**{n: getattr(self, n) for n in parameters}))

    def init(self: Any, params: Params) -> PyTree:
        return make(self).init(params)

    def update(
        self: Any, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Any
    ) -> Any:
        return make(self).update(policy, params, state, batch, key)

    parameters = inspect.signature(declaration).parameters
    body: dict[str, Any] = {n: p.default for n, p in parameters.items()}
    if bare := [n for n, default in body.items() if default is inspect.Parameter.empty]:
        raise TypeError(f"{name}: give a default to {', '.join(bare)}")
    body["__annotations__"] = dict.fromkeys(parameters, Any)
    body |= {"init": init, "update": update, "__doc__": inspect.getdoc(declaration) or name}
    body["__module__"] = declaration.__module__
    return algorithm(name)(type("".join(w.capitalize() for w in name.split("_")), (), body))


def find_algorithm(name: str) -> type:
    """The declared class for a ``name`` on the command line -> type.

    Raises:
        ValueError: on an unknown name; names the nearest known one.
    """
    if name not in _declared:
        raise ValueError(
            f"{unknown('algorithm', name, _declared)} (--import MODULE brings your own)"
        )
    return _declared[name]


def algorithm_names() -> tuple[str, ...]:
    """The names that `find_algorithm` knows -> a tuple of them."""
    return tuple(_declared)


def as_update(given: Any, what: str = "an algorithm") -> Any:
    """An algorithm, or another part of a learner, in either of its forms -> like ``given``.

    ``given`` is an object with ``init`` and ``update``, or a pair of these two functions; errors
    call it ``what``.

    Raises:
        TypeError: names the remedy, for example a forgotten pair of parentheses.
    """
    if isinstance(given, type) and hasattr(given, "update"):
        name = getattr(given, "name", given.__name__)
        raise TypeError(f"{name} is a class: call it, as in {name}(), to get {what}")
    if callable(getattr(given, "init", None)) and callable(getattr(given, "update", None)):
        _check_arguments(given, what)
        return given
    if isinstance(given, tuple) and len(given) == 2 and all(map(callable, given)):
        return UpdatePair(*given)
    if isinstance(given, str) and given in _declared:
        raise TypeError(f"{what} must be an object, got the name {given!r}: use {given}()")
    raise TypeError(
        f"{what} has two functions, init and update, got {given!r}: see PolicyUpdate and Critic "
        "in kltrust.types"
    )


def _check_arguments(given: Any, what: str) -> None:
    """Refuses an update that does not take the learner's arguments, if its signature is known."""
    try:
        inspect.signature(given.update).bind(*_ARGUMENTS)
    except TypeError as error:
        raise TypeError(
            f"update of {what} takes ({', '.join(_ARGUMENTS)}): {error} by its signature"
        ) from None
    except ValueError:  # a function in C has no signature
        return


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError(f"an algorithm's name is letters, digits and underscores, got {name!r}")
    if name in _declared:
        raise ValueError(f"an algorithm named {name!r} is registered already: choose another name")
