"""Timing in turns: whatever else the machine does meets all that is compared alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def in_turns(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of every function; each must wait for its own results.

    What compiles, or fills a cache, is to be done before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def times(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """How many times as much: median and quartiles of the rounds' ratios, then that of the best."""
    ratios = np.divide(of, to)
    spread = np.quantile(ratios, (0.5, 0.25, 0.75))
    return [round(float(x), 4) for x in (*spread, min(of) / min(to))]


def milliseconds(seconds: Mapping[str, Sequence[float]], per: int = 1) -> dict[str, list[float]]:
    """To record: every round's."""
    return {name: [round(1e3 * s / per, 4) for s in rounds] for name, rounds in seconds.items()}


def shown(ratio: Sequence[float]) -> str:
    """As in ``1.71 times (1.65 to 1.78; best of each 1.70)``."""
    median, low, high, best = ratio
    return f"{median:.2f} times ({low:.2f} to {high:.2f}; best of each {best:.2f})"
