"""Checks of settings at the door: of values that are known, before anything is compiled."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def check(**settings: tuple[Any, bool]) -> None:
    """Refuses settings whose value is known and bad; a tracer's value is not known here.

    Args:
        **settings: name = (value, whether zero is allowed). No entry of a value may be negative
            or NaN; its shape is free.

    Raises:
        ValueError: names the setting and what it may be.
    """
    for name, (value, zero_allowed) in settings.items():
        if zero_allowed:
            require(lambda x: x >= 0, "at least 0", **{name: value})
        else:
            require(lambda x: x > 0, "greater than 0", **{name: value})


def require(good: Callable[[np.ndarray], Any], what: str, **values: Any) -> None:
    """Refuses values that are known and have an entry that is not ``good``.

    Args:
        good: elementwise, of float64.
        what: the values must be.
        **values: numbers or arrays of any shape by name; tracers pass.

    Raises:
        ValueError: names the setting, what it must be, and the first bad entry.
    """
    for name, value in values.items():
        if isinstance(value, jax.core.Tracer):
            continue
        entries = np.asarray(value, np.float64)
        bad = entries[~np.asarray(good(entries), bool)]
        if bad.size:
            got = f"{bad[0]} in an array of shape {entries.shape}" if entries.ndim else value
            raise ValueError(f"{name} must be {what}, got {got}")


def check_count(**settings: int) -> None:
    """Refuses static counts that are not whole numbers of at least 1; NumPy's integers are."""
    for name, value in settings.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_order(**bounds: Any) -> None:
    """Refuses two known bounds, given as low = ..., high = ..., of which the first is larger."""
    (low_name, low), (high_name, high) = bounds.items()
    if any(isinstance(x, jax.core.Tracer) for x in (low, high)):
        return
    if np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low} and {high}")
