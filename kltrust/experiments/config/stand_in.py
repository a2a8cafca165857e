"""A stand-in for an algorithm whose code is missing: it has readable settings but can't train."""

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
"""The parts of a setting's description that reports and findings read."""


def description_of(cls: type) -> dict[str, dict[str, Any]]:
    """What reports need to know of an algorithm's settings besides their values, as plain data."""
    bare = Setting()
    found = {}
    for field in dataclasses.fields(cls):
        said = {name: getattr(declared(field), name) for name in _KEPT}
        found[field.name] = {n: v for n, v in said.items() if v != getattr(bare, n)}
    return {name: said for name, said in found.items() if said}


def read(data: Mapping[str, Any], described: Mapping[str, Any] | None = None) -> Experiment:
    """Reads an experiment from a run folder; its algorithm may be yours.

    If the algorithm is not registered in this process, or its settings have changed since, a
    stand-in takes its place. It has the algorithm's name, its settings and what is ``described`` of
    them.

    Raises:
        ValueError: as `Experiment.from_dict`.
    """
    name = data["algorithm"]
    known = find_algorithm(name) if name in algorithm_names() else None
    if known is not None:
        try:
            return Experiment.from_dict(data)
        except ValueError as error:
            if described is None:  # an algorithm of the library
                raise
            why = f"{name!r} takes other settings than it did: {error}"
    else:
        why = (
            f"the algorithm {name!r} is not here: import the module that registers it first, by "
            "--import MODULE in a shell"
        )
    kinds = {key: _kind(value) for key, value in data["update"].items()}
    made = _made(name, json.dumps(kinds), json.dumps(described), why)
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
"""A value of each kind that plain data can name."""


def _kind(plain: Any) -> str:
    value = number_from_plain(plain)
    if isinstance(value, dict) and "name" in value:
        return "named"
    name = "tuple" if isinstance(value, list) else type(value).__name__
    return name if name in _KINDS else "other"


@functools.cache
def _made(name: str, kinds: str, described: str, why: str) -> type:
    """The stand-in's class: one for all settings of a plan, since JAX keeps registered classes."""
    roles = json.loads(described) or {}
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
