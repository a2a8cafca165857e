"""Runs a search in one compiled program: a lane whose trial leaves is given to another one.

The host keeps the last state of every trial that has begun. A chunk after which something is
decided ends with its scores on the host; then the lanes' states and settings are put together anew,
as on a resume. Other chunks are committed while the next one computes. A commit holds the chunk's
rows, the decisions after it, and the states as decided: so a resume decides nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from kltrust.experiments.engine import hosts, lanes
from kltrust.experiments.jobs import trials
from kltrust.experiments.jobs.events import Progress, Report, Stopped
from kltrust.experiments.jobs.lanes import Lanes, best_of, means_of, restore_states
from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.jobs.rows import evaluation_rows
from kltrust.experiments.search.board import BEGIN, COPY, RESUME, Decision, expected
from kltrust.experiments.store.record import Record
from kltrust.experiments.store.run import Run
from kltrust.types import PyTree


class _Stretch(NamedTuple):
    """A trial in its slot during a chunk: its first iteration, and how many there are."""

    slot: int
    trial: int
    first: int
    length: int


class SearchLanes(Lanes):
    """The lanes of a search: a slot for each trial that trains, with a lane for each seed."""

    def __init__(self, plan: Plan, group: Group):
        super().__init__(plan, plan.first_trained(group))
        self.search, self.original, self.whole = plan.search, plan, group
        self.num_seeds = len(plan.seeds)
        self.board = trials.board_of(plan, group)
        self.num_slots = len(self.board.slots)
        self.states: list[PyTree] = []
        """The last state of each trial that has begun, on the host, [seeds, ...]."""

    def advance(self, run: Run, progress: Progress) -> None:
        """Runs the search from the last commit to the end.

        Raises:
            Stopped: after a commit, if ``on_chunk`` called `Chunk.stop`.
        """
        program, clock, compiled = self.program, time.perf_counter(), 0.0
        state, rows = self._entered(run, progress)
        board, of = self.board, self.board.chunk + 1 + expected(self.search, self.board)[0]
        commit: Callable[[], Report] | None = None
        while board.busy:
            stretches = [self._stretch(*pair) for pair in board.occupied()]
            state, metrics, returns = self.launch(
                state, self._lengths(stretches), progress, board.chunk + 2, max(of, board.chunk + 2)
            )
            if commit is not None:  # while the devices compute
                progress.chunk(commit())
            metrics, returns = hosts.to_host(metrics), hosts.to_host(returns)[: self.number]
            kept = lanes.split_parts(lanes.to_host(state, self.number), self.num_slots)
            for stretch in stretches:
                self.states[stretch.trial] = kept[stretch.slot]
            plan, reached = self.plan, [self.states[t].iteration for t in range(board.begun)]
            scored = evaluation_rows(returns, range(self.number), self.seeds, 0, 0)["mean_return"]
            board.advance(scored.reshape(self.num_slots, self.num_seeds))
            if board.arrived(self.search):
                decisions = self._decide(lambda: self.search.decide(board))
                rows += trials.rows_of(board.chunk, decisions)
                again = self._carry_out(decisions, progress)
                state = state if again is None else again
            compiling = sum(program.compile_seconds.values()) - compiled
            seconds = {"compile": compiling, "run": time.perf_counter() - clock - compiling}
            clock, compiled = time.perf_counter(), compiled + compiling
            commit = partial(
                self._commit_search,
                run,
                board.chunk,
                list(self.states),
                trials.columns_of(rows) if rows else None,
                [
                    partial(
                        self.rows,
                        plan,
                        progress,
                        self._runs(group),
                        group[0].first,
                        *self._of(group, metrics, returns),
                        np.concatenate([reached[stretch.trial] for stretch in group]),
                    )
                    for group in _alike(stretches)
                ],
                seconds,
                of,
            )
            rows = []
        if commit is not None:
            progress.chunk(commit())
        run.finish(
            {
                "broken": {str(run): at for run, at in self._broken_trials(self.states).items()},
                "compilations": program.compilations,
                "memory": program.memory,
                "devices": program.mesh.size,
            }
        )

    def _entered(self, run: Run, progress: Progress) -> tuple[PyTree, list[dict[str, Any]]]:
        """The state to go on from, and decisions that are not yet committed."""
        if run.last_chunk >= 0:
            history = hosts.on_first(lambda: trials.history(Record(run.path)))
            history["chunk"] = run.last_chunk
            self.board = trials.replayed(self.original, self.whole, history)
            begun = self.board.begun
            restored = restore_states(run, self.experiment, number=begun * self.num_seeds)
            self.states = lanes.split_parts(restored, begun)
            self._take_settings()
            return self._gathered(), []
        decisions = self._decide(lambda: self.board.begin(self.board.free()))
        return self._carry_out(decisions, progress), trials.rows_of(-1, decisions)

    def _decide(self, decide: Callable[[], list[Decision]]) -> list[Decision]:
        """Decisions as the first host makes them; they are plain numbers and texts."""

        def plain() -> list[dict[str, Any]]:
            found = trials.decided(self.search, self.board, decide())
            return [d._asdict() for d in found]

        return [Decision(**row) for row in hosts.on_first(plain)]

    def _carry_out(self, decisions: Sequence[Decision], progress: Progress) -> PyTree | None:
        """Changes board, settings and states; returns the lanes' new state, None for the old."""
        before, board = list(self.states), self.board
        for decision in decisions:
            board.apply(decision)
            if decision.action == COPY:
                self.states[decision.trial] = before[decision.source]
        if not any(d.action in (BEGIN, RESUME, COPY) for d in decisions):
            return None
        self._take_settings()
        if begun := [d for d in decisions if d.action == BEGIN]:
            if "init" not in self.program.compilations:
                progress.compiling("init")
            state = self.program.init(self.settings, self.keys)
            fresh = lanes.split_parts(lanes.to_host(state, self.number), self.num_slots)
            self.states += [fresh[decision.slot] for decision in begun]
        return self._gathered()

    def _take_settings(self) -> None:
        """Gives the lanes the settings of their trials; an idle lane has those of the first."""
        self.plan = plan = trials.as_decided(self.original, {self.whole: self.board})
        of = [max(trial, 0) for trial in self.board.slots for _ in range(self.num_seeds)]
        self.set([plan.setting(self.whole.runs[t * self.num_seeds]).experiment for t in of])

    def _gathered(self) -> PyTree:
        """The state of all lanes, from those of their trials; an idle lane has any."""
        held = [self.states[max(trial, 0)] for trial in self.board.slots]
        return lanes.pad(lanes.join_parts(held), self.size)

    def _stretch(self, slot: int, trial: int) -> _Stretch:
        first = self.board.ages[trial] * self.program.chunk_length
        left = self.experiment.num_iterations - first
        return _Stretch(slot, trial, first, min(self.program.chunk_length, left))

    def _lengths(self, stretches: Sequence[_Stretch]) -> np.ndarray:
        """The iterations of each lane in the next chunk; none of idle ones."""
        lengths = np.zeros(self.size, np.int32)
        for slot, _, _, length in stretches:
            lengths[slot * self.num_seeds : (slot + 1) * self.num_seeds] = length
        return lengths

    def _runs(self, stretches: Sequence[_Stretch]) -> list[int]:
        seeds = range(self.num_seeds)
        return [self.whole.runs[p.trial * self.num_seeds + s] for p in stretches for s in seeds]

    def _of(
        self, stretches: Sequence[_Stretch], metrics: Any, returns: np.ndarray
    ) -> tuple[Any, np.ndarray]:
        """The metrics and returns of these stretches."""
        mine = [p.slot * self.num_seeds + s for p in stretches for s in range(self.num_seeds)]
        return jax.tree.map(lambda x: x[mine, : stretches[0].length], metrics), returns[mine]

    def _commit_search(
        self,
        run: Run,
        chunk: int,
        states: list[PyTree],
        decisions: dict[str, np.ndarray] | None,
        rows_of: list[Callable[[], Any]],
        seconds: dict[str, float],
        of: int,
    ) -> Report:
        shown = [rows() for rows in rows_of]
        rows, evaluation = (
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for parts in ([s.metrics for s in shown], [s.evaluation for s in shown])
        )
        state = lanes.join_parts(states)
        run.commit(chunk, rows, state, evaluation=evaluation, decisions=decisions, seconds=seconds)
        if any(s.stopping for s in shown):
            raise Stopped
        labels = [self.plan.setting(run).label for run in evaluation["run"]]
        means = means_of(labels, evaluation["run"], evaluation["mean_return"])
        iterations = self.experiment.num_iterations
        share = (chunk + 1) / max(of, chunk + 1)
        return Report(
            iterations=round(share * iterations),
            of=iterations,
            env_steps=int(evaluation["env_steps"].max()),
            steps_per_second=len(rows["run"]) * self.experiment.batch_size / seconds["run"],
            best=best_of(means),
            kl=float(np.mean(rows["kl"])),
            broken=self._broken_trials(states),
            compile_seconds=sum(self.program.compile_seconds.values()),
            fully_masked=int(np.sum(rows["fully_masked"])),
            scores=means,
        )

    def _broken_trials(self, states: Sequence[PyTree]) -> dict[int, int]:
        """The iteration of each run that did not get as far as its trial."""
        board, seeds = self.board, self.num_seeds
        found = {}
        for trial, state in enumerate(states):
            planned = board.ages[trial] * self.program.chunk_length
            for s, reached in enumerate(np.asarray(state.iteration)):
                if reached < min(planned, self.experiment.num_iterations):
                    found[self.whole.runs[trial * seeds + s]] = int(reached)
        return found


def _alike(stretches: Sequence[_Stretch]) -> list[list[_Stretch]]:
    """The stretches by age: those of one age are rows of one table."""
    found: dict[tuple[int, int], list[_Stretch]] = {}
    for stretch in stretches:
        found.setdefault((stretch.first, stretch.length), []).append(stretch)
    return list(found.values())
