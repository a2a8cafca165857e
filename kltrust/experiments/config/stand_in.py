"""What stands for an algorithm whose code is not here: its settings can be read, it can't train."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any

from kltrust.algorithms import algorithm_names, find_algorithm
from kltrust.experiments.config.experiment import Experiment
from kltrust.settings import setting, settings
from kltrust.updates.optimizers import Optimizer
from kltrust.values import Setting, declared, number_from_plain

_KEPT = ("role", "needs", "anneal")
"""Of what is said of a setting, that which reports and findings read."""


def said_of(cls: type) -> dict[str, dict[str, Any]]:
    """What reports read of an algorithm's settings beside their values, as plain data."""
    bare = Setting()
    found = {}
    for field in dataclasses.fields(cls):
        said = {name: getattr(declared(field), name) for name in _KEPT}
        found[field.name] = {n: v for n, v in said.items() if v != getattr(bare, n)}
    return {name: said for name, said in found.items() if said}


def read(data: Mapping[str, Any], said: Mapping[str, Any] | None = None) -> Experiment:
    """An experiment of a run folder, whose algorithm may be one's own.

    Where that is not registered in this process, or takes other settings by now, a stand-in has its
    name and its settings, and what was ``said`` of them.

    Raises:
        ValueError: as `Experiment.from_dict`.
    """
    name = data["algorithm"]
    known = find_algorithm(name) if name in algorithm_names() else None
    if known is not None:
        try:
            return Experiment.from_dict(data)
        except ValueError as error:
            if said is None:  # an algorithm of the library
                raise
            why = f"{name!r} takes other settings than it did: {error}"
    else:
        why = (
            f"the algorithm {name!r} is not here: import the module that registers it first, by "
            "--import MODULE in a shell"
        )
    kinds = {key: _kind(value) for key, value in data["update"].items()}
    made = _made(name, json.dumps(kinds), json.dumps(said), why)
    return Experiment.from_dict(data, made)


def check_here(update: Any) -> None:
    """Refuses an ``update`` that only stands for an algorithm.

    Raises:
        ValueError: says why, and what to do.
    """
    if why := getattr(update, "stands_in", None):
        raise ValueError(why)


_KINDS: dict[str, Any] = {
    **{"bool": False, "int": 0, "float": 0.0, "tuple": (), "str": ""},
    "named": Optimizer("adam"),
    "other": None,
}
"""Values of the kinds that plain data tell."""


def _kind(plain: Any) -> str:
    value = number_from_plain(plain)
    if isinstance(value, dict) and "name" in value:
        return "named"
    name = "tuple" if isinstance(value, list) else type(value).__name__
    return name if name in _KINDS else "other"


@functools.cache
def _made(name: str, kinds: str, said: str, why: str) -> type:
    """One class for all settings of a plan, since JAX keeps what it is told of a class."""
    roles = json.loads(said) or {}
    any_value: dict[str, Any] = {"infinite": True, "at_most": math.inf}  # its code has checked it
    fields = {
        key: setting(_KINDS[kind], **any_value, **roles.get(key, {}))
        for key, kind in json.loads(kinds).items()
    }

    def refuse(self: Any, *arguments: Any, **keywords: Any) -> Any:
        check_here(self)

    body = {
        **fields,
        "__annotations__": dict.fromkeys(fields, Any),
        "__doc__": f"Stands for {name}, whose code is not here.",
        "__module__": __name__,
        "init": refuse,
        "update": refuse,
    }
    made: Any = settings(type(name, (), body))
    made.name = name
    made.stands_in = why
    return made
