"""Checks of settings at the door: of values that are known, before anything is compiled."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np


def check(**settings: tuple[Any, bool]) -> None:
    """Refuses settings whose value is known and bad; a tracer's value is not known here.

    Args:
        **settings: name = (value, whether zero is allowed); none may be negative or NaN.

    Raises:
        ValueError: names the setting and what it may be.
    """
    for name, (value, zero_allowed) in settings.items():
        if isinstance(value, jax.core.Tracer):
            continue
        number = float(value)
        if math.isnan(number) or number < 0 or (number == 0 and not zero_allowed):
            bound = "at least 0" if zero_allowed else "greater than 0"
            raise ValueError(f"{name} must be {bound}, got {value}")


def check_range(**settings: tuple[Any, float, float]) -> None:
    """Refuses settings whose value is known and not a finite number in [low, high].

    Args:
        **settings: name = (value, low, high).

    Raises:
        ValueError: names the setting and what it may be.
    """
    for name, (value, low, high) in settings.items():
        if isinstance(value, jax.core.Tracer):
            continue
        number = float(value)
        if not (math.isfinite(number) and low <= number <= high):
            bound = f"at least {low}" if math.isinf(high) else f"between {low} and {high}"
            raise ValueError(f"{name} must be finite and {bound}, got {value}")


def check_count(**settings: int) -> None:
    """Refuses static counts that are not whole numbers of at least 1."""
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_order(**bounds: Any) -> None:
    """Refuses two known bounds, given as low = ..., high = ..., of which the first is larger."""
    (low_name, low), (high_name, high) = bounds.items()
    if any(isinstance(x, jax.core.Tracer) for x in (low, high)):
        return
    if np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low} and {high}")
