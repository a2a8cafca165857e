"""Successive halving without waiting (ASHA, Li et al. 2020, arXiv 1810.05934).

Rungs stand at 1, eta, eta^2, ... times ``first`` evaluations. A trial pauses at each. Whenever a
slot is free, it goes to a paused trial among the best 1 / eta of all that have reached its rung, at
the highest such rung; else to a new trial. Once no trial can come to a rung any more, at least one
of it goes on, so that one trial is always trained to its end. What then still pauses is stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from kltrust.experiments.search.board import (
    GO_ON,
    IDLE,
    PAUSE,
    RESUME,
    STOP,
    Board,
    Decision,
)
from kltrust.experiments.search.sampling import Sampling
from kltrust.settings import setting, settings


class _Standing(NamedTuple):
    """A trial's rank at its rung, of how many, and how many of them go on."""

    rank: int
    of: int
    quota: int

    def __str__(self) -> str:
        best = "the best goes" if self.quota == 1 else f"the best {self.quota} go"
        return f"number {self.rank} of {self.of}, {best if self.quota else 'none goes'} on"


@settings
class Halving(Sampling):
    """Successive halving."""

    name: ClassVar[str] = "halving"
    eta: int = setting(3, "At each rung one of this many goes on.", at_least=2, usual="3 or 4")
    first: int = setting(1, "Evaluations before the first rung.", at_least=1, usual="1")

    def rungs(self, whole: int) -> list[int]:
        """The evaluations at which trials pause -> ages below ``whole``, in order."""
        found, age = [], self.first
        while age < whole:
            found.append(age)
            age *= self.eta
        return found

    def due(self, age: int, whole: int) -> bool:
        """At a rung, or at the end -> whether; see `Rule.due` for ``age`` and ``whole``."""
        return age == whole or age in self.rungs(whole)

    def decide(self, board: Board) -> list[Decision]:
        """The ends, pauses and promotions, then new trials -> see `Rule.decide` and ``board``."""
        arrived = board.arrived(self)
        found = [board.ended(s, t) for s, t in arrived if board.ages[t] == board.whole]
        here = {t: s for s, t in arrived if board.ages[t] < board.whole}
        free = board.free(t for _, t in arrived)
        live = [t for pair in board.occupied() if pair not in arrived for t in pair[1:]]
        waiting = {t for t, state in enumerate(board.states) if state == PAUSE} | set(here)
        ranked = self._ranked(board)
        picked: dict[int, _Standing] = {}
        fresh = 0
        while len(picked) + fresh < len(free):
            ages = [board.ages[t] for t in (*live, *picked)] + [0] * fresh
            more = board.remaining > fresh
            chosen = self._next(board, ranked, waiting - set(picked), ages, more)
            if chosen is not None:
                picked[chosen[0]] = chosen[1]
            elif more:
                fresh += 1
            else:
                break
        for trial, slot in here.items():
            if trial not in picked:
                standing = self._standing(board, ranked, trial)
                told = str(standing)
                if standing.rank <= standing.quota:
                    told += "; it waits for a free lane"
                found.append(board.say(trial, slot, PAUSE, told))
        for trial, slot in here.items():
            if trial in picked:
                found.append(board.say(trial, slot, GO_ON, str(picked[trial])))
        slots = iter(s for s in free if s not in [here[t] for t in picked if t in here])
        for trial, standing in picked.items():
            if trial not in here:
                found.append(board.say(trial, next(slots), RESUME, str(standing)))
        found += board.begin(slots)
        if not live and not picked and not fresh:  # the search is over
            for trial in sorted(waiting):
                found.append(
                    board.say(trial, IDLE, STOP, str(self._standing(board, ranked, trial)))
                )
        return found

    def _next(
        self,
        board: Board,
        ranked: Mapping[int, list[int]],
        waiting: set[int],
        ages: Iterable[int],
        more: bool,
    ) -> tuple[int, _Standing] | None:
        """The paused trial to go on with, at the highest rung that has one.

        ``ages`` are those of the trials that train, and ``more`` says whether new ones may come.
        """
        found = None
        for rung, there in ranked.items():
            closed = not more and found is None and all(age >= rung for age in ages)
            quota = min(max(len(there) // self.eta, closed), len(there))
            for rank, trial in enumerate(there[:quota], 1):
                if trial in waiting and board.ages[trial] == rung:
                    found = trial, _Standing(rank, len(there), quota)
                    break
        return found

    def _ranked(self, board: Board) -> dict[int, list[int]]:
        """By rung, the trials that have reached it, the best first."""
        found = {}
        for rung in self.rungs(board.whole):
            there = [t for t in range(board.begun) if board.ages[t] >= rung]
            found[rung] = board.ranked(there, rung)
        return found

    def _standing(self, board: Board, ranked: Mapping[int, list[int]], trial: int) -> _Standing:
        there = ranked[board.ages[trial]]
        return _Standing(there.index(trial) + 1, len(there), len(there) // self.eta)
