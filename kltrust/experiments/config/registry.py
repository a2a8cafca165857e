"""Algorithms by name: the library's and one's own."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

from kltrust import algorithms
from kltrust.experiments.config import settings
from kltrust.types import PolicyUpdate

_factories: dict[str, Callable[..., PolicyUpdate]] = {
    name: getattr(algorithms, name) for name in algorithms.__all__
}


def factory_of(name: str) -> Callable[..., PolicyUpdate]:
    """The factory of an algorithm.

    Raises:
        ValueError: on an unknown name, with the nearest that is known.
    """
    if name not in _factories:
        raise ValueError(settings.unknown("algorithm", name, list(_factories)))
    return _factories[name]


def register_algorithm(name: str, factory: Callable[..., PolicyUpdate]) -> None:
    """Makes an algorithm of one's own known to the command line and to sweeps.

    Its settings are the factory's keyword arguments, every one with a default: a float is traced,
    anything else (int, bool, str, tuple) is static. Put the call into a module and name that
    module with ``--import``.

    Args:
        name: as on the command line.
        factory: keywords only, returns a `PolicyUpdate`.

    Raises:
        ValueError: if the name is taken or an argument has no default.
    """
    if name in _factories:
        raise ValueError(f"an algorithm named {name!r} is registered already: choose another name")
    parameters = inspect.signature(factory).parameters
    bare = [p.name for p in parameters.values() if p.default is inspect.Parameter.empty]
    if bare:
        raise ValueError(f"{name}: give a default to {', '.join(bare)}; it is the preset's")
    fields = [(p.name, type(p.default), p.default) for p in parameters.values()]
    _factories[name] = factory
    settings.register_settings(
        name,
        dataclasses.make_dataclass(
            "".join(part.capitalize() for part in name.split("_")),
            [(n, t, dataclasses.field(default=d)) for n, t, d in fields],
            frozen=True,
            namespace={"__doc__": inspect.getdoc(factory) or name},
        ),
    )
