"""The parts that a learner is given: algorithms and critics, as they are or as schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from kltrust.settings import with_role
from kltrust.types import Array, Critic, Number, PolicyUpdate

Schedule = Callable[[Array], Any]
"""A setting as a function of the fraction of the planned iterations that is done, in [0, 1].

It is 1 only in a run that goes on beyond its plan."""


def resolver(
    given: Any, planned_iterations: Number | None, as_part: Callable[[Any], Any]
) -> tuple[Any, Callable[[Array], Any]]:
    """A part, or a schedule of parts: (the part at the start or None, part of a fraction)."""
    # A declared class is no schedule: `as_part` says that it wants to be called.
    is_schedule = callable(given) and not isinstance(given, type) and not hasattr(given, "update")
    if not is_schedule:
        part = as_part(given)
        return part, lambda fraction: part
    name = getattr(given, "__name__", repr(given))
    if not _takes_one(given):
        raise TypeError(
            f"{name} is no schedule, which takes the fraction of the iterations that is done: if "
            "it makes the algorithm or the critic, call it"
        )
    if planned_iterations is None:
        raise ValueError(
            "a schedule needs planned_iterations: the number of iterations to run. (As a function, "
            f"{name} is taken for one: if it makes the algorithm or the critic, call it.)"
        )
    return as_part(given(0.0)), lambda fraction: as_part(given(fraction))


def _takes_one(function: Callable) -> bool:
    """Whether a function can be called with one argument, as far as is known."""
    try:
        inspect.signature(function).bind(0.0)
    except TypeError:
        return False
    except ValueError:  # of a function in C that has no signature
        return True
    return True


def as_critic(given: Any) -> Critic:
    """A critic, or an error that names the remedy."""
    if isinstance(given, type):
        raise TypeError(f"{given.__name__} is a class: call it, as in {given.__name__}()")
    if callable(getattr(given, "init", None)) and callable(getattr(given, "update", None)):
        return given
    raise TypeError(f"a critic has two functions, init and update, got {given!r}: see Critic")


def damping_of(algorithm: PolicyUpdate) -> Number:
    """The algorithm's own damping of the Fisher matrix; 0.1 if it has none."""
    names = with_role(algorithm, "fisher damping")
    return getattr(algorithm, names[0]) if names else 0.1
