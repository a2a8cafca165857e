"""How many seeds are enough: a group sequential test of every pair (Mathieu et al. 2023, AdaStop).

The test looks at seeds in groups. After group k, a pair's statistic T_k is the absolute difference
of its two sums of scores so far. If the two were alike, every exchange of scores between them
within a group would be equally likely. So T_k is compared with the T_k of random exchanges. K
groups are planned. Boundaries b_1, b_2, ... are chosen one after the other: by group k, at most a
share level k / K of all exchanges has exceeded one of them. So looking after each group does not
raise the error. With several pairs, the largest T_k is compared with the largest T_k of each
exchange. A pair that is told apart leaves, and the others are tested again without it, from the
first group on.

arXiv 2306.10882. The error of the whole family is at most ``level``: exactly so for two methods,
and in the limit of many seeds for more.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Verdict(NamedTuple):
    """The test's verdict on a pair.

    Attributes:
        pair: the two names.
        better: the name with the higher scores; None if the two were not told apart.
        seeds: the number of seeds of each after which they were told apart; else all.
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
    """Tells pairs apart after as few groups of seeds as possible.

    Args:
        scores: by name, [seeds] or [seeds, tasks], with seeds in the order of looking. Scores of
            several tasks are averaged: normalise them first.
        group: the number of seeds between two looks.
        planned: the number of seeds of each in the end, which must not depend on the scores; None
            if all are done.
        level: the largest chance that some pair that is alike is told apart.
        exchanges: how many are drawn, by a seeded generator; the scores as they are count as one.

    Returns:
        A verdict for each pair of names.

    Raises:
        ValueError: if there are fewer seeds than a group, or more seeds than planned.
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
    """A boundary for each look: by look k, at most a share step k of the exchanges exceeds one.

    Sizes are [looks, exchanges].
    """
    inside = np.ones(sizes.shape[1], bool)
    found = []
    for look, row in enumerate(sizes):
        exceeded = len(inside) - inside.sum()
        may = int(step * (look + 1) * len(inside) + 1e-9) - exceeded
        ranked = np.sort(row[inside])[::-1]
        # Sums in another order differ by rounding: equal sums must fall on the same side.
        found.append(float(ranked[min(may, len(ranked) - 1)]) * (1 + 1e-9))
        inside &= row <= found[-1]
    return found
