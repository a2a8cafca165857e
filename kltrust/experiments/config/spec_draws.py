"""The values that ``random`` draws from its ranges: a seeded generator, or a Sobol sequence."""

from __future__ import annotations

import warnings
import zlib
from typing import Any

import numpy as np


def draws(
    name: str, kind: str, bounds: list[Any], count: int, seed: int, points: np.ndarray | None
) -> list[Any]:
    """Values from a range: at random, or at ``points`` in [0, 1)."""
    # Each key seeds its own generator: another key does not change this one's draws.
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if kind == "choice":
        number = len(bounds)
        chosen = generator.integers(number, size=count) if points is None else points * number
        return [bounds[int(i)] for i in chosen]
    low, high = np.log(bounds) if kind == "log_uniform" else bounds
    drawn = generator.uniform(low, high, count) if points is None else low + points * (high - low)
    drawn = np.exp(drawn) if kind == "log_uniform" else drawn
    # Six digits, so that a label or a preset shows the exact value that was run.
    return [float(f"{x:.6g}") for x in drawn]


def sobol(dimensions: int, count: int, seed: int) -> np.ndarray:
    """A scrambled Sobol sequence [dimensions, count] in [0, 1)."""
    from scipy.stats import qmc  # takes half a second to import

    generator = np.random.default_rng([seed, zlib.crc32(b"sobol")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a count that is no power of two
        return qmc.Sobol(dimensions, seed=generator).random(count).T
