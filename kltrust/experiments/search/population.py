"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846).

All settings train at once. Every few evaluations each of the worst takes over one of the best: its
whole state, and its settings moved a little at random. So a setting changes along a training, and
what remains is a policy and a schedule, not a constant. Seed s of a member takes over seed s of the
other; a member's score is its mean over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from kltrust.experiments.search.board import COPY, Board, Decision
from kltrust.experiments.search.sampling import Search, rounded
from kltrust.settings import setting, settings


@settings
class Population(Search):
    """Population-based training."""

    name: ClassVar[str] = "population"
    every: int = setting(1, "Evaluations between two exchanges.", at_least=1, usual="1 to 5")
    share: float = setting(
        0.25,
        "This share of the population, the worst, takes over members of the best such share.",
        above=0,
        at_most=0.5,
        usual="0.2 or 0.25",
    )
    factor: float = setting(
        1.5,
        "A log-uniform setting is multiplied by at most this or divided by it; a uniform one moves "
        "by at most (factor - 1) / 2 of its range.",
        above=1,
        at_most=100,
        usual="1.2 to 2",
    )

    def due(self, age: int, whole: int) -> bool:
        """At an exchange, or at the end -> whether; see `Rule.due` for ``age`` and ``whole``."""
        return age == whole or age % self.every == 0

    def decide(self, board: Board) -> list[Decision]:
        """The copies, or the ends -> see `Rule.decide` and ``board``."""
        arrived = board.arrived(self)
        age = board.ages[arrived[0][1]]
        if age == board.whole:
            return [board.ended(slot, trial) for slot, trial in arrived]
        slots = {trial: slot for slot, trial in arrived}
        ranked = board.ranked(slots, age)
        number = min(max(1, int(self.share * len(ranked))), len(ranked) // 2)
        generator = np.random.default_rng([self.seed, board.chunk])
        taken = [dict(values) for values in board.values]
        found = []
        for rank, trial in enumerate(ranked[len(ranked) - number :], len(ranked) - number + 1):
            source = ranked[int(generator.integers(number))]
            theirs, mine = board.mean(source, age), board.mean(trial, age)
            if theirs <= mine or not np.isfinite(theirs):
                continue
            while (values := self.moved(board.values[source], board, generator)) in taken:
                pass  # equal members would learn the same, and no table could tell them apart
            taken.append(values)
            why = f"number {rank} of {len(ranked)}: takes over trial {source}, {theirs:.4g}"
            found.append(board.say(trial, slots[trial], COPY, why, source=source, values=values))
        return found

    def moved(
        self, values: Mapping[str, float], board: Board, generator: np.random.Generator
    ) -> dict[str, float]:
        """Settings near ``values``, within the ranges of ``board``, by ``generator`` -> by name."""
        found = {}
        for name, (kind, low, high) in board.ranges.items():
            step = generator.uniform(-1, 1)
            if kind == "log_uniform":
                ends = np.log(low), np.log(high)
                place = np.log(values[name]) + step * np.log(self.factor)
                found[name] = rounded(float(np.exp(_within(place, *ends))), low, high)
            else:
                place = values[name] + step * (self.factor - 1) / 2 * (high - low)
                found[name] = rounded(_within(place, low, high), low, high)
        return found


def _within(x: float, low: float, high: float) -> float:
    """Reflected at the ends of the range, so that members do not gather there."""
    span = high - low
    place = (x - low) % (2 * span)
    return low + min(place, 2 * span - place)
