"""The parts that a learner is given: environment, algorithm, critic, or schedules of these."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from kltrust.algorithms import as_update
from kltrust.types import Array, Number

Schedule = Callable[[Array], Any]
"""A part as a function of the fraction of planned iterations done, in [0, 1]: an environment, an
algorithm or a critic.

The fraction is 1 only in a run that goes on beyond its plan."""


def resolver(
    given: Any,
    planned_iterations: Number | None,
    what: str,
    check: Callable[[Any, str], Any] = as_update,
) -> tuple[Any, Callable[[Array], Any]]:
    """For a part or a schedule of parts: (the part at the start, fraction -> part).

    ``check(part, what)`` returns a part that a learner can use, or raises.
    """
    # A declared class is no schedule: `as_update` tells the user to call it.
    is_schedule = callable(given) and not isinstance(given, type) and not hasattr(given, "update")
    if not is_schedule:
        part = check(given, what)
        return part, lambda fraction: part
    name = getattr(given, "__name__", repr(given))
    if not _takes_one(given):
        raise TypeError(
            f"{name} is no schedule, which takes the fraction of the iterations that is done: if "
            f"it makes {what}, call it"
        )
    if planned_iterations is None:
        raise ValueError(
            "a schedule needs planned_iterations: the number of iterations to run. (As a function, "
            f"{name} is taken for one: if it makes {what}, call it.)"
        )
    return check(given(0.0), what), lambda fraction: check(given(fraction), what)


def _takes_one(function: Callable) -> bool:
    """Whether a function can be called with one argument; true if its signature is unknown."""
    try:
        inspect.signature(function).bind(0.0)
    except TypeError:
        return False
    except ValueError:  # a function in C has no signature
        return True
    return True
