"""Checks of settings at the door: of values that are known, before anything is compiled."""

from __future__ import annotations

import math
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
            require(name, value, lambda x: x >= 0, "at least 0")
        else:
            require(name, value, lambda x: x > 0, "greater than 0")


def check_range(**settings: tuple[Any, float, float]) -> None:
    """Refuses settings whose value is known and not finite and in [low, high].

    Args:
        **settings: name = (value, low, high). Every entry of a value must be in the range.

    Raises:
        ValueError: names the setting and what it may be.
    """
    for name, (value, low, high) in settings.items():
        bound = f"at least {low}" if math.isinf(high) else f"between {low} and {high}"
        within = lambda x, low=low, high=high: np.isfinite(x) & (low <= x) & (x <= high)  # noqa: E731
        require(name, value, within, f"finite and {bound}")


def require(name: str, value: Any, good: Callable[[np.ndarray], Any], what: str) -> None:
    """Refuses a value that is known and has an entry that is not ``good``.

    Args:
        name: of the setting.
        value: a number or an array of any shape, or a tracer, which passes.
        good: elementwise, of float64.
        what: the value must be.

    Raises:
        ValueError: names the setting, what it must be, and the first bad entry.
    """
    if isinstance(value, jax.core.Tracer):
        return
    entries = np.asarray(value, np.float64)
    bad = entries[~np.asarray(good(entries))]
    if bad.size:
        got = f"{bad[0]} in an array of shape {entries.shape}" if entries.ndim else value
        raise ValueError(f"{name} must be {what}, got {got}")


def check_count(**settings: int) -> None:
    """Refuses static counts that are not whole numbers of at least 1; NumPy's integers are."""
    for name, value in settings.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
