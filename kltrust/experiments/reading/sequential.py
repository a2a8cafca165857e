"""How many seeds are enough: a group sequential test of every pair (Mathieu et al. 2023, AdaStop).

Seeds are looked at in groups. After group k, a pair's statistic is the absolute difference of its
sums of scores so far, T_k. Were the two alike, any exchange of scores within a group of the pair
would have been as likely: T_k of such exchanges is what T_k is compared with. Boundaries b_1, b_2,
... are chosen one after the other, so that of all exchanges at most a share level k / K has
exceeded one of them by group k, of K that are planned. So looking after each group costs nothing.
Of several pairs, the largest T_k is compared with the largest of exchanges; a pair that is told
apart leaves, and the others are tested again by themselves, from the first group on.

arXiv 2306.10882. The error of the whole family is at most ``level``: exactly so for two, and in the
limit of many seeds for more.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Verdict(NamedTuple):
    """What the test says of a pair.

    Attributes:
        pair: the two names.
        better: that of the higher scores; None if the two were not told apart.
        seeds: of each, after which that was said; all, if they were not told apart.
    """

    pair: tuple[str, str]
    better: str | None
    seeds: int


def sequential_test(
    scores: Mapping[str, np.ndarray],
    *,
    group: int = 5,
    planned: int | None = None,
    level: float = 0.05,
    exchanges: int = 10_000,
) -> list[Verdict]:
    """Tells pairs apart after as few groups of seeds as it takes.

    Args:
        scores: by name, [seeds] or [seeds, tasks], which count by their mean over tasks: normalise
            these first. Seeds in the order in which they are looked at.
        group: seeds between two looks.
        planned: seeds of each when all are done, which must not depend on the scores; None if they
            are.
        level: at most this is the chance that a pair that is alike is told apart.
        exchanges: drawn at random, by a seeded generator; the scores as they are count as one.

    Returns:
        A verdict for each pair of names.

    Raises:
        ValueError: if there are fewer seeds than a group, or fewer are planned than are there.
    """
    means = {name: np.reshape(x, (len(x), -1)).mean(axis=1) for name, x in scores.items()}
    seeds = min(map(len, means.values()), default=0)
    looks, most = seeds // group, (planned or seeds) // group
    if not 0 < looks <= most:
        raise ValueError(
            f"a sequential test takes a group of {group} seeds at least and no more than are "
            f"planned; there are {seeds} of each, planned are {planned or seeds}"
        )
    pairs = list(itertools.combinations(means, 2))
    differences = _differences(means, pairs, group, looks, exchanges)
    sizes = np.abs(differences)
    found = {pair: Verdict(pair, None, looks * group) for pair in pairs}
    open_pairs = list(range(len(pairs)))
    for look in range(looks):
        while open_pairs:
            largest = sizes[: look + 1, :, open_pairs].max(axis=2)
            if largest[look, 0] <= _boundaries(largest, level / most)[look]:
                break
            told = max(open_pairs, key=lambda i: sizes[look, 0, i])
            first, second = pair = pairs[told]
            better = first if differences[look, 0, told] > 0 else second
            found[pair] = Verdict(pair, better, (look + 1) * group)
            open_pairs.remove(told)
    return list(found.values())


def _differences(
    means: Mapping[str, np.ndarray],
    pairs: list[tuple[str, str]],
    group: int,
    looks: int,
    exchanges: int,
) -> np.ndarray:
    """Sums of the first minus sums of the second [looks, exchanges, pairs]; exchange 0 is none."""
    generator = np.random.default_rng(0)
    parts = []
    for look in range(looks):
        of = slice(look * group, (look + 1) * group)
        both = np.array([np.concatenate([means[x][of], means[y][of]]) for x, y in pairs])
        order = generator.random((exchanges, 2 * group)).argsort(axis=1)
        order[0] = np.arange(2 * group)
        first = both[:, order[:, :group]].sum(axis=2)
        parts.append((2 * first - both.sum(axis=1, keepdims=True)).T)
    return np.cumsum(parts, axis=0)


def _boundaries(sizes: np.ndarray, step: float) -> list[float]:
    """One for each look: of sizes [looks, exchanges], at most a share step k exceeds by look k."""
    inside = np.ones(sizes.shape[1], bool)
    found = []
    for look, row in enumerate(sizes):
        exceeded = len(inside) - inside.sum()
        may = int(step * (look + 1) * len(inside) + 1e-9) - exceeded
        ranked = np.sort(row[inside])[::-1]
        # Sums in another order differ by rounding: equal ones must stay on one side.
        found.append(float(ranked[min(may, len(ranked) - 1)]) * (1 + 1e-9))
        inside &= row <= found[-1]
    return found
