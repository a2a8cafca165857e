"""A race: a trial stops once a sequential test says that another is clearly better.

At each evaluation, a trial is compared with all trials that have got as far, at that evaluation, by
`sequential_test` over their seeds. A trial of n looks has the level divided by n at each. So the
chance that it stops although it is like the others is at most the level. A trial that stops makes
room for the next.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from kltrust.experiments.search.board import STOP, Board, Decision
from kltrust.experiments.search.sampling import Sampling
from kltrust.experiments.search.sequential import sequential_test
from kltrust.settings import setting, settings

EXCHANGES = 4000


@settings
class Racing(Sampling):
    """Racing by a sequential test."""

    name: ClassVar[str] = "racing"
    level: float = setting(
        0.05, "The largest chance that a trial stops that is no worse.", above=0, below=1
    )
    first: int = setting(1, "Evaluations before the first look.", at_least=1, usual="1 or 2")
    every: int = setting(1, "Evaluations between two looks.", at_least=1, usual="1 or 2")

    def looks(self, whole: int) -> list[int]:
        """The evaluations at which a trial is tested -> ages below ``whole``."""
        return list(range(self.first, whole, self.every))

    def enough(self, seeds: int, whole: int) -> bool:
        """Whether ``seeds`` seeds can tell anything apart -> at ``whole`` evaluations' looks."""
        # The two assignments that are the most extreme, of all that there are.
        return self._at_each(whole) * math.comb(2 * seeds, seeds) >= 2

    def due(self, age: int, whole: int) -> bool:
        """At a look, or at the end -> whether; see `Rule.due` for ``age`` and ``whole``."""
        return age == whole or age in self.looks(whole)

    def decide(self, board: Board) -> list[Decision]:
        """The ends and stops, then new trials -> see `Rule.decide` and ``board``."""
        arrived = board.arrived(self)
        found = [board.ended(s, t) for s, t in arrived if board.ages[t] == board.whole]
        here = [(s, t) for s, t in arrived if board.ages[t] < board.whole]
        for age in sorted({board.ages[t] for _, t in here}):
            better = self._better(board, age)
            found += [
                board.say(t, s, STOP, self._why(board, t, better[t], age))
                for s, t in here
                if board.ages[t] == age and t in better
            ]
        return found + board.begin(board.free(d.trial for d in found))

    def _at_each(self, whole: int) -> float:
        return self.level / max(len(self.looks(whole)), 1)

    def _better(self, board: Board, age: int) -> dict[int, int]:
        """For each trial that is clearly worse at an evaluation, the best that is better."""
        there = [t for t in range(board.begun) if board.ages[t] >= age]
        scores = board.scores[there, age - 1]
        seeds = scores.shape[1]
        if len(there) < 2:
            return {}
        finite = np.isfinite(scores)
        worst = scores[finite].min(initial=0.0)
        scores = np.where(finite, scores, worst)
        verdicts = sequential_test(
            {str(t): row for t, row in zip(there, scores, strict=True)},
            group=seeds,
            level=self._at_each(board.whole),
            exchanges=EXCHANGES,
        )
        found: dict[int, list[int]] = {}
        for pair, winner, _ in verdicts:
            if winner is not None:
                loser = int(pair[0] if winner == pair[1] else pair[1])
                found.setdefault(loser, []).append(int(winner))
        return {loser: board.ranked(winners, age)[0] for loser, winners in found.items()}

    def _why(self, board: Board, trial: int, better: int, age: int) -> str:
        means = board.mean(trial, age), board.mean(better, age)
        return (
            f"clearly worse than trial {better} at evaluation {age}: "
            f"{means[0]:.4g} against {means[1]:.4g}, level {self._at_each(board.whole):.2g}"
        )
