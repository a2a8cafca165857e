"""The trials of a search in a plan: their order, their board, and the settings they really have.

A trial is a setting with all seeds of the plan. A group's runs are its trials one after the other,
in a random order, so trial t has the runs from t times the number of seeds on. A group's folder
holds its decisions and scores, from which `replayed` rebuilds the board.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.engine.program import check_values
from kltrust.experiments.search.board import BEGIN, PAUSE, STOP, Board, Decision
from kltrust.experiments.search.population import Population
from kltrust.experiments.search.sampling import GIVEN, check_sampler, proposed

if TYPE_CHECKING:
    from kltrust.experiments.jobs.plan import Group, Plan

COLUMNS = ("chunk", "trial", "slot", "action", "evaluations", "score", "source", "values", "reason")
"""The columns of the table of decisions; ``chunk`` is -1 for those before the first chunk."""


def slots_of(search: Any, trials: int) -> int:
    """How many trials train at once."""
    default = trials if isinstance(search, Population) else -(-trials // 4)
    return min(search.lanes or default, trials)


def shuffled(search: Any, runs: Sequence[int], seeds: int) -> list[int]:
    """The runs of a group, with its trials in a random order."""
    trials = np.random.default_rng(search.seed).permutation(len(runs) // seeds)
    return [runs[t * seeds + s] for t in trials for s in range(seeds)]


def board_of(plan: Plan, group: Group) -> Board:
    """The board of a group before anything has begun."""
    seeds = len(plan.seeds)
    trials = [plan.setting(run) for run in group.runs[::seeds]]
    whole = -(-plan.experiment(group).num_iterations // group.chunk_length)
    slots = len(plan.first_trained(group).runs) // seeds
    given = [{name: float(s.swept[name]) for name in s.ranges} for s in trials]
    return Board.of(len(trials), whole, seeds, slots, given=given, ranges=trials[0].ranges)


def check_search(plan: Plan, shard: Any, error: Callable[[str, str], ValueError]) -> None:
    """Refuses a search that can't be; ``error(key, message)`` names the key's line.

    Raises:
        ValueError: names the remedy.
        RuntimeError: if a package is missing.
    """
    search, seeds = plan.search, len(plan.seeds)
    if shard is not None:
        raise error(
            "by",
            "a search decides by the scores of all its trials, so it can't be cut into shards: "
            "give it more devices, or several hosts that run as one",
        )
    check_sampler(search)
    for group in plan.groups:
        experiment, board = plan.experiment(group), board_of(plan, group)
        where = f"{experiment.algorithm} on {experiment.env}"
        trials = len(board.scores)
        if trials < 2:
            raise error(
                "by",
                f"the search has one setting of {where}, and nothing to choose from: sweep numbers "
                "such as learning rates. Sizes, counts and names are compiled, and each makes a "
                "search of its own",
            )
        if not search.enough(seeds, board.whole):
            raise error(
                "level",
                f"{seeds} seeds can never tell two settings apart at this level with "
                f"{board.whole} evaluations: take more seeds, a higher level, or fewer looks "
                "(first, every)",
            )
        if isinstance(search, Population) and search.lanes not in (0, trials):
            raise error("lanes", f"a population of {trials} needs {trials} lanes: leave lanes out")
        if isinstance(search, Population) or search.sampler != GIVEN:
            _check_ranges(plan, group, error)


def _check_ranges(plan: Plan, group: Group, error: Callable[[str, str], ValueError]) -> None:
    """Refuses settings that can't be moved, and ranges with values that an algorithm refuses."""
    key = "by" if isinstance(plan.search, Population) else "sampler"
    what = "a population moves" if key == "by" else "a sampler proposes"
    settings = [plan.setting(run) for run in group.runs[:: len(plan.seeds)]]
    first = settings[0]
    for setting in settings:
        if set(setting.swept) != set(setting.ranges) or setting.ranges != first.ranges:
            raise error(
                key,
                f"{what} settings within their ranges: give {first.method} on "
                f"{first.experiment.env} one random = {{ count, ... }} with uniform or log_uniform "
                "ranges, and no grid, zip or choice",
            )
    for name, (_, *ends) in first.ranges.items():
        for end in ends:
            try:
                check_values(first.having({name: end}).experiment)
            except ValueError as wrong:
                raise error(key, f"the range of {name} reaches {end:g}: {wrong}") from wrong


def decided(search: Any, board: Board, decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions, with proposed settings for the trials that begin; the board stays."""
    board, found = copy.deepcopy(board), []
    for decision in decisions:
        if decision.action == BEGIN:
            values, why = proposed(search, board, decision.trial)
            reason = f"{decision.reason}, {why}" if why else decision.reason
            decision = decision._replace(values=values, reason=reason)
        board.apply(decision)
        found.append(decision)
    return found


def rows_of(chunk: int, decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """Decisions as rows of their table."""
    return [
        {"chunk": chunk, **d._asdict(), "values": json.dumps(dict(d.values))} for d in decisions
    ]


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Rows as columns."""
    kinds = {"action": str, "values": str, "reason": str, "score": np.float64}
    return {
        name: np.asarray([row[name] for row in rows], kinds.get(name, np.int64)) for name in COLUMNS
    }


def history(part: Any) -> dict[str, Any]:
    """The decisions and scores in a group's folder, as plain data."""
    decisions, table = part.decisions(), part.evaluations()
    scores: dict[str, list[float]] = {}
    if len(table):
        for run, rows in table.groupby("run", sort=False):
            scores[str(run)] = rows.sort_values("iteration").mean_return.astype(float).tolist()
    return {"decisions": decisions.to_dict("records"), "scores": scores}


def replayed(plan: Plan, group: Group, history: Mapping[str, Any]) -> Board:
    """The board of a group after the decisions and scores in its `history`."""
    board, seeds = board_of(plan, group), len(plan.seeds)
    for row in history["decisions"]:
        while board.chunk < row["chunk"]:
            _advance(board, group, history["scores"], seeds)
        values = json.loads(row["values"])
        board.apply(Decision(**{k: row[k] for k in COLUMNS[1:]} | {"values": values}))
    while board.busy and board.chunk < history.get("chunk", board.chunk):
        _advance(board, group, history["scores"], seeds)
    return board


def _advance(board: Board, group: Group, scores: Mapping[str, Sequence[float]], seeds: int) -> None:
    found = np.full((len(board.slots), seeds), np.nan)
    for slot, trial in board.occupied():
        runs = group.runs[trial * seeds : (trial + 1) * seeds]
        found[slot] = [scores[str(run)][board.ages[trial]] for run in runs]
    board.advance(found)


def board_in(plan: Plan, group: Group, part: Any) -> Board:
    """The board of a group, from its folder; before its first commit, as it will begin."""
    if part is None or part.last_chunk < 0:
        board = board_of(plan, group)
        for decision in board.begin(board.free()):
            board.apply(decision)
        return board
    return replayed(plan, group, {**history(part), "chunk": part.last_chunk})


def as_decided(plan: Plan, boards: Mapping[Group, Board]) -> Plan:
    """The plan with the settings that trials really have, and of each group only what has begun.

    Groups without a board are left out.
    """
    settings, groups, seeds = list(plan.settings), {}, len(plan.seeds)
    for group, board in boards.items():
        for trial, values in enumerate(board.values):
            if values != board.given[trial]:
                index = group.runs[trial * seeds] // seeds
                settings[index] = settings[index].having(values)
        groups[group._replace(runs=group.runs[: board.begun * seeds])] = board
    return replace(plan, settings=tuple(settings), groups=tuple(groups), boards=groups)


def iterations_of(plan: Plan, group: Group) -> list[int]:
    """The iterations that each run of a group has done, from `as_decided`."""
    board = plan.boards[group]
    planned = plan.experiment(group).num_iterations
    done = [min(age * group.chunk_length, planned) for age in board.ages]
    return [n for n in done for _ in plan.seeds]


def stopped_runs(plan: Plan, group: Group) -> dict[int, int]:
    """The runs that do not train and have not ended, each with its iterations, see `as_decided`."""
    board, done = plan.boards[group], iterations_of(plan, group)
    return {
        run: count
        for i, (run, count) in enumerate(zip(group.runs, done, strict=True))
        if board.states[i // len(plan.seeds)] in (PAUSE, STOP)
    }
