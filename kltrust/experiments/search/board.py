"""The board of a search: which trials there are, how far each is, and where each trains.

A trial is a setting with all its seeds. A slot is the place of one trial among the lanes of a
compiled program: one lane for each seed. After every chunk, each trial that has a slot is
evaluated. So its age is the number of its evaluations. A rule looks at the board and returns
decisions. `Board.apply` is the only way to change who is where, so that recorded decisions rebuild
the board.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

IDLE = -1
"""In place of a trial: nobody."""
BEGIN, RESUME, GO_ON, COPY = "begin", "resume", "go on", "copy"
PAUSE, STOP, END = "pause", "stop", "end"
LEAVING = (PAUSE, STOP, END)
"""The actions after which a trial has no slot."""


class Decision(NamedTuple):
    """What happens to a trial after a chunk, and why.

    Attributes:
        trial: its number.
        slot: where it is, or was until now.
        action: "begin", "resume" (a paused trial), "go on", "copy" (take the weights of another
            trial), "pause" (it may resume), "stop", "end" (it spent its budget).
        evaluations: the trial's age.
        score: its mean return over seeds at its last evaluation; NaN before the first.
        source: the trial whose weights it takes, or `IDLE`.
        values: the settings that it takes, by dotted name; empty for those of the plan.
        reason: a sentence.
    """

    trial: int
    slot: int
    action: str
    evaluations: int = 0
    score: float = np.nan
    source: int = IDLE
    values: Mapping[str, float] = {}
    reason: str = ""


class Rule(Protocol):
    """How a search decides."""

    def due(self, age: int, whole: int) -> bool:
        """Whether a trial of this age, of at most ``whole`` evaluations, awaits a decision."""

    def decide(self, board: Board) -> list[Decision]:
        """The decisions on all that await one, in the order in which they apply."""


@dataclasses.dataclass(eq=False)
class Board:
    """All trials of a search.

    Attributes:
        scores: [trials, whole, seeds] the mean returns; NaN where there is none yet.
        slots: the trial in each slot, or `IDLE`.
        ages: the evaluations of each trial.
        states: of each trial that has begun: the last action that changed its place.
        values: the settings of each trial that has begun, by dotted name.
        given: the settings of all trials in the plan, likewise.
        ranges: (kind, low, high) by dotted name, from which settings are proposed.
        chunk: the last computed chunk; -1 before the first.
    """

    scores: np.ndarray
    slots: list[int]
    ages: list[int] = dataclasses.field(default_factory=list)
    states: list[str] = dataclasses.field(default_factory=list)
    values: list[dict[str, float]] = dataclasses.field(default_factory=list)
    given: Sequence[Mapping[str, float]] = ()
    ranges: Mapping[str, tuple[str, float, float]] = dataclasses.field(default_factory=dict)
    chunk: int = -1

    @staticmethod
    def of(trials: int, whole: int, seeds: int, slots: int, **more: Any) -> Board:
        """A board on which nothing has begun."""
        return Board(np.full((trials, whole, seeds), np.nan), [IDLE] * slots, **more)

    @property
    def whole(self) -> int:
        """The evaluations of a trial that goes to its end."""
        return self.scores.shape[1]

    @property
    def begun(self) -> int:
        """The trials that have begun: those below this number."""
        return len(self.ages)

    @property
    def remaining(self) -> int:
        """The trials that have not begun."""
        return len(self.scores) - self.begun

    @property
    def busy(self) -> bool:
        """Whether any slot holds a trial."""
        return any(trial != IDLE for trial in self.slots)

    def occupied(self) -> Iterator[tuple[int, int]]:
        """The slots that hold a trial, each with its trial."""
        return ((slot, trial) for slot, trial in enumerate(self.slots) if trial != IDLE)

    def arrived(self, rule: Rule) -> list[tuple[int, int]]:
        """The slots and trials that await a decision."""
        return [(s, t) for s, t in self.occupied() if rule.due(self.ages[t], self.whole)]

    def free(self, leaving: Iterable[int] = ()) -> list[int]:
        """The idle slots, and those of trials that are ``leaving``, in order."""
        gone = {IDLE, *leaving}
        return [slot for slot, trial in enumerate(self.slots) if trial in gone]

    def mean(self, trial: int, age: int | None = None) -> float:
        """A trial's mean score over seeds at an evaluation, counted from 1; None is its last."""
        age = self.ages[trial] if age is None else age
        return float(np.mean(self.scores[trial, age - 1])) if age else np.nan

    def ranked(self, trials: Iterable[int], age: int) -> list[int]:
        """Trials from the best to the worst at an evaluation; without a finite score they are last.

        Among equals the lower number is first.
        """
        numbers = np.fromiter(trials, np.int64)
        means = self.scores[numbers, age - 1].mean(axis=1)
        worst_last = np.where(np.isfinite(means), -means, np.inf)
        return numbers[np.lexsort([numbers, worst_last])].tolist()

    def say(self, trial: int, slot: int, action: str, reason: str, **more: Any) -> Decision:
        """A decision on a trial as it stands."""
        age = self.ages[trial] if trial < self.begun else 0
        score = self.mean(trial) if age else np.nan
        return Decision(trial, slot, action, age, score, reason=reason, **more)

    def ended(self, slot: int, trial: int) -> Decision:
        """The decision that a trial spent its budget."""
        return self.say(trial, slot, END, f"all {self.whole} evaluations are done")

    def begin(self, slots: Iterable[int]) -> list[Decision]:
        """Begins the next trials in these slots, as long as there are any."""
        some = range(self.begun, len(self.scores))
        why = "the next of {} settings"
        return [
            self.say(trial, slot, BEGIN, why.format(len(self.scores)))
            for slot, trial in zip(slots, some, strict=False)
        ]

    def advance(self, scores: np.ndarray) -> None:
        """Notes that a chunk was computed: ``scores`` [slots, seeds], ignored for idle ones."""
        for slot, trial in self.occupied():
            self.scores[trial, self.ages[trial]] = scores[slot]
            self.ages[trial] += 1
        self.chunk += 1

    def apply(self, decision: Decision) -> None:
        """Carries out a decision."""
        trial, slot, action = decision[:3]
        if action == BEGIN:
            if trial != self.begun:
                raise ValueError(f"trial {trial} can't begin: {self.begun} have begun")
            self.ages.append(0)
            self.states.append(BEGIN)
            self.values.append(dict(self.given[trial]) if self.given else {})
        if action in (BEGIN, RESUME):
            self.slots[slot] = trial
        elif action in LEAVING and slot != IDLE:
            self.slots[slot] = IDLE
        if decision.values:
            self.values[trial] = dict(decision.values)
        if action not in (GO_ON, COPY):
            self.states[trial] = action


def expected(rule: Rule, board: Board) -> tuple[int, int]:
    """How long a search is from here, by a trial of its rule with made-up scores.

    Returns:
        The chunks, and the evaluations of all trials together, as if every trial was as good as
        the one before it. A race then stops nothing, so it takes at most as long.
    """
    board = copy.deepcopy(board)
    board.scores[np.isnan(board.scores)] = 0.0
    chunks = evaluations = 0
    if board.begun == 0:
        for decision in board.begin(board.free()):
            board.apply(decision)
    while board.busy:
        chunks += 1
        evaluations += sum(1 for _ in board.occupied())
        board.advance(np.zeros((len(board.slots), board.scores.shape[2])))
        for decision in rule.decide(board) if board.arrived(rule) else ():
            board.apply(decision)
    return chunks, evaluations
