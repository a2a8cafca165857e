"""The decisions of searches, from made-up scores; and the specifications that are refused."""

import sys

import numpy as np
import pytest

from kltrust.experiments.config import spec
from kltrust.experiments.jobs.plan import Plan, make_plan
from kltrust.experiments.search import kinds, sampling
from kltrust.experiments.search.board import COPY, END, IDLE, PAUSE, STOP, Board, expected
from kltrust.experiments.search.halving import Halving
from kltrust.experiments.search.population import Population
from kltrust.experiments.search.racing import Racing

RANGE = {"rate": ("log_uniform", 1e-4, 1e-1)}


def search(rule, trials, whole, slots, score, *, seeds=1, **more):
    """Plays a whole search; ``score(trial, age, seed)`` -> the board, and all decisions."""
    board = Board.of(trials, whole, seeds, slots, **more)
    found = board.begin(board.free())
    for decision in found:
        board.apply(decision)
    while board.busy:
        scores = np.full((slots, seeds), np.inf)  # of idle slots: must not matter
        for slot, trial in board.occupied():
            scores[slot] = [score(trial, board.ages[trial] + 1, s) for s in range(seeds)]
        board.advance(scores)
        for decision in rule.decide(board) if board.arrived(rule) else ():
            board.apply(decision)
            found.append(decision)
    return board, found


def ends(decisions):
    return [d.trial for d in decisions if d.action == END]


def shuffled(trials, seed=0):
    return np.random.default_rng(seed).permutation(trials).astype(float)


@pytest.mark.parametrize("slots", [1, 4, 27])
def test_halving_trains_the_best_to_its_end_for_a_ninth_of_the_steps(slots):
    truth = shuffled(27)
    board, found = search(Halving(), 27, 27, slots, lambda t, age, s: truth[t] * age)
    assert ends(found) == [int(truth.argmax())]
    assert board.begun == 27
    # Rungs at 1, 3 and 9. Without waiting, some trials go on that would not have with all scores.
    assert 27 + 9 * 2 + 3 * 6 + 18 <= sum(board.ages) <= 0.15 * 27 * 27
    # What does not train any more was stopped, each for a reason.
    assert board.states.count(STOP) == 26
    assert all(d.reason for d in found)
    assert expected(Halving(), Board.of(27, 27, 1, slots))[1] <= 0.15 * 27 * 27


def test_halving_with_all_at_once_is_successive_halving():
    truth = shuffled(27)
    board, _ = search(Halving(), 27, 27, 27, lambda t, age, s: truth[t])
    order = np.argsort(-truth)
    reached = [board.ages[t] for t in order]
    assert reached == [27, 9, 9] + [3] * 6 + [1] * 18


def test_the_scores_decide():
    """The control: with the scores the other way round, the worst wins."""
    truth = shuffled(9)
    _, found = search(Halving(), 9, 9, 3, lambda t, age, s: -truth[t])
    assert ends(found) == [int(truth.argmin())]


def test_a_trial_that_is_late_to_shine_is_lost():
    """As halving must: what looks worst at the first rung does not come back."""
    _, found = search(Halving(), 9, 9, 9, lambda t, age, s: 100 if t == 4 and age > 1 else -t)
    assert ends(found) == [0]
    _, found = search(Halving(first=3), 9, 9, 9, lambda t, age, s: 100 * (t == 4 and age > 1) - t)
    assert 4 in ends(found)


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_few_trials_still_have_a_winner(trials):
    _, found = search(Halving(eta=4), trials, 10, 2, lambda t, age, s: t)
    assert ends(found) == [trials - 1]


def test_nan_ranks_last():
    _, found = search(Halving(), 4, 4, 4, lambda t, age, s: np.nan if t == 3 else t)
    assert ends(found) == [2]
    _, found = search(Halving(), 4, 4, 4, lambda t, age, s: np.nan)
    assert ends(found) == [0]


def test_beyond_the_last_rung_nothing_is_stopped():
    _, found = search(Halving(first=9), 5, 4, 2, lambda t, age, s: t)
    assert sorted(ends(found)) == list(range(5))
    assert {d.action for d in found} == {"begin", "end"}
    assert expected(Halving(first=9), Board.of(5, 4, 1, 2)) == (12, 20)


def noisy(gap):
    noise = np.random.default_rng(1).normal(size=(6, 5, 8))
    return lambda t, age, s: gap * (t == 3) + noise[t, age - 1, s]


def test_a_race_stops_what_is_clearly_worse_and_nothing_else():
    far, found = search(Racing(), 6, 5, 2, noisy(20), seeds=8)
    stopped = [d for d in found if d.action == STOP]
    assert 3 in ends(found)
    assert stopped
    assert all("clearly worse than trial 3" in d.reason for d in stopped)
    # Whoever came after the best stopped at its first look: the lanes are refilled in place.
    assert [far.ages[t] for t in (4, 5)] == [1, 1]
    _, found = search(Racing(), 6, 5, 2, noisy(0), seeds=8)  # the control: all alike
    assert sorted(ends(found)) == list(range(6))
    # A lower level, less power.
    assert Racing(level=0.05).enough(8, 5)
    assert not Racing(level=0.05).enough(3, 5)


def test_a_population_copies_the_best_over_the_worst_and_moves_their_settings():
    given = [{"rate": 10.0 ** -(1 + i / 4)} for i in range(8)]
    more = {"given": given, "ranges": RANGE}
    board, found = search(Population(share=0.25), 8, 4, 8, lambda t, age, s: -t, **more)
    copies = [d for d in found if d.action == COPY]
    assert {d.trial for d in copies} == {6, 7}
    assert {d.source for d in copies} <= {0, 1}
    assert sorted(ends(found)) == list(range(8))
    for decision in copies:
        source = given[decision.source]["rate"]
        assert source / 1.5 <= decision.values["rate"] <= min(source * 1.5, 0.1)
        assert decision.values["rate"] != source
    labels = [values["rate"] for values in board.values]
    assert len(set(labels)) == 8
    _, found = search(Population(), 8, 4, 8, lambda t, age, s: 1.0, **more)  # nobody is better
    assert not [d for d in found if d.action == COPY]


def test_moves_stay_in_the_range_and_depend_on_the_seed():
    ranges = {"a": ("uniform", -1.0, 2.0), **RANGE}
    board = Board.of(2, 2, 1, 2, ranges=ranges)
    values = {"a": 1.9, "rate": 1.1e-4}
    moved = [
        Population(factor=3.0).moved(values, board, np.random.default_rng(i)) for i in range(200)
    ]
    for name, (_, low, high) in ranges.items():
        found = [m[name] for m in moved]
        assert low <= min(found) < values[name] < max(found) <= high
        assert len(set(found)) == 200  # they do not gather at an end
    given = [{"a": 0.0, "rate": 1e-2}, {"a": 1.0, "rate": 1e-3}]
    one, same, other = (
        search(Population(seed=s), 2, 3, 2, lambda t, age, _: t, given=given, ranges=ranges)[0]
        for s in (1, 1, 2)
    )
    assert one.values == same.values != other.values


def test_recorded_decisions_rebuild_the_board():
    truth = shuffled(12)
    board, found = search(Halving(eta=2), 12, 8, 3, lambda t, age, s: truth[t])
    again = Board.of(12, 8, 1, 3)
    for decision in found:
        if decision.action == "begin" or decision.trial < again.begun:
            again.apply(decision)
    assert (again.states, again.slots) == (board.states, [IDLE] * 3)
    assert PAUSE in {d.action for d in found}
    with pytest.raises(ValueError, match="12 have begun"):
        again.apply(again.say(3, 0, "begin", ""))


# Proposals.


def test_a_sampler_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RuntimeError, match=r"tpe.*pip install 'kltrust\[search\]'"):
        sampling.check_sampler(Halving(sampler="tpe"))
    monkeypatch.setitem(sys.modules, "optuna", sys)
    monkeypatch.setattr(sampling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install torch"):
        sampling.check_sampler(Halving(sampler="gp"))
    sampling.check_sampler(Halving())
    sampling.check_sampler(Population())


def test_proposals_follow_from_scores_and_seed():
    pytest.importorskip("optuna")
    given = [{"rate": 10.0 ** -(1 + i / 6)} for i in range(18)]

    def board(sign=1):
        made = Board.of(18, 1, 1, 1, given=given, ranges=RANGE)
        for trial in range(12):
            made.apply(made.say(trial, 0, "begin", ""))
            made.advance(np.array([[sign * trial]]))
            made.apply(made.ended(0, trial))
        return made

    rule = Halving(sampler="tpe", startup=4)
    values, why = sampling.proposed(rule, board(), 12)
    assert "TPE from 12 scores" in why
    assert 1e-4 <= values["rate"] <= 1e-1
    assert sampling.proposed(rule, board(), 12)[0] == values
    assert sampling.proposed(rule, board(), 13)[0] != values
    # It learned: lower rates scored higher, and the other way round.
    many = [
        [sampling.proposed(rule, board(sign), t)[0]["rate"] for t in range(12, 18)]
        for sign in (1, -1)
    ]
    assert np.median(many[0]) < np.median(many[1])
    assert sampling.proposed(rule, board(), 3) == ({}, "")


# Specifications.

HEAD = """
[sweep]
name = "s"
seeds = 2
envs = "CartPole-v1"
algorithms = "vanilla_pg"
preset = "none"
[budget]
total_steps = 20_000
num_evals = 5
"""
RANDOM = """
[[experiments]]
random = { count = 6, learning_rate = { log_uniform = [1e-4, 1e-1] } }
"""
GRID = """
[[experiments]]
grid.learning_rate = [0.1, 0.2, 0.3]
"""


def planned(text):
    return make_plan(spec.parse(text), width=1)


def test_a_search_is_part_of_the_plan():
    plan = planned(HEAD + '[search]\nby = "halving"\nlanes = 2\nseed = 3' + RANDOM)
    assert plan.search == Halving(lanes=2, seed=3)
    assert Plan.from_config(plan.to_config()) == plan
    (group,) = plan.groups
    assert sorted(group.runs) == list(range(12))
    assert group.runs != tuple(range(12))  # the trials are in a random order, whole
    assert all(b == a + 1 and a % 2 == 0 for a, b in zip(group.runs[::2], group.runs[1::2]))  # noqa: B905
    assert len(plan.first_trained(group).runs) == 4
    everything = planned(HEAD + RANDOM)
    assert plan.steps(group) < everything.steps(everything.groups[0]) / 2
    assert "search" not in everything.to_config()
    assert Plan.from_config(plan.to_config()).setting(0).ranges == {
        "update.learning_rate": ("log_uniform", 1e-4, 1e-1)
    }


def test_every_kind_has_plain_data():
    for kind in kinds.KINDS.values():
        assert kinds.of_plain(kinds.plain(kind())) == kind()


@pytest.mark.parametrize(
    ("table", "experiments", "message"),
    [
        ("eta = 3", RANDOM, r"s:12: .*needs its kind: by = one of halving, racing, population"),
        ('by = "halfing"', RANDOM, r"s:13: .*did you mean halving"),
        ('by = "halving"\netta = 3', RANDOM, r"s:14: .*etta.*eta"),
        ('by = "halving"\neta = 1', RANDOM, r"s:14: .*eta must be at least 2"),
        ('by = "racing"', RANDOM, r"s:\d+: 2 seeds can never tell two settings apart"),
        ('by = "population"\nlanes = 3', RANDOM, "a population of 6 needs 6 lanes"),
        ('by = "population"', GRID, "a population moves settings within their ranges"),
        ('by = "halving"', "[[experiments]]\n", "nothing to choose from"),
        (
            'by = "halving"',
            "[[experiments]]\ngrid.learner.num_steps = [32, 64]",
            "Sizes, counts and names are compiled",
        ),
        (
            'by = "population"',
            "[[experiments]]\nrandom = { count = 4, gamma = { uniform = [0.4, 1.0000001] } }",
            "gamma",
        ),
        ('by = "population"\nsampler = "tpe"', RANDOM, "sampler"),
    ],
)
def test_bad_searches_are_refused(table, experiments, message):
    with pytest.raises(ValueError, match=message):
        make_plan(spec.parse(f"{HEAD}\n[search]\n{table}\n{experiments}", "s"), width=1)


def test_a_search_is_not_cut_into_shards():
    text = HEAD + '[search]\nby = "halving"' + RANDOM
    with pytest.raises(ValueError, match="can't be cut into shards"):
        make_plan(spec.parse(text), width=1, shard=(1, 2))


def test_sobol_draws_fill_the_ranges_evenly():
    def rates(draw):
        text = HEAD + RANDOM.replace("count = 6,", f"count = 16, {draw}")
        return [s.swept["update.learning_rate"] for s in spec.parse(text).settings]

    sobol = rates('draw = "sobol",')
    cells = np.floor((np.log10(sobol) + 4) / 3 * 16).astype(int)
    assert sorted(cells) == list(range(16))  # one in each sixteenth of the range
    assert sobol == rates('draw = "sobol",') != rates('draw = "sobol", seed = 1,')
    random = np.floor((np.log10(rates("")) + 4) / 3 * 16).astype(int)
    assert sorted(random) != list(range(16))
    with pytest.raises(ValueError, match="draw must be"):
        rates('draw = "halton",')
