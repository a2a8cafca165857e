"""The benchmark of memory: its specification, what it holds to be known, what it has recorded."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from kltrust.environments import _registry, make
from kltrust.experiments.config import spec
from kltrust.experiments.jobs import plan

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import memory  # noqa: E402

RECORDED = json.loads((ROOT / "benchmarks/results/memory.json").read_text())


def test_the_specification_is_one(monkeypatch):
    monkeypatch.setattr(_registry, "_factories", dict(_registry._factories))
    memory.register()
    sweep = spec.load(memory.Options().spec)
    plan.check_spec(sweep)
    cells = {s.experiment.network.cell for s in sweep.settings}
    assert cells == {"none", "gru"}
    assert {s.experiment.env for s in sweep.settings} == set(memory.KNOWN)
    assert make("CartPole-positions").observation_space.shape == (2,)


def test_what_the_bandit_can_pay():
    """Both strategies, played in NumPy: 20,000 episodes, a standard error of 0.05 or so."""
    p, pulls, episodes = 0.3, 100, 20_000
    random = np.random.default_rng(0)
    good = random.integers(2, size=episodes)
    returns = np.zeros((2, episodes))
    staying = random.integers(2, size=episodes)
    lead = np.zeros(episodes)  # of arm 1, in rewards less blanks
    for _ in range(pulls):
        leading = np.where(lead == 0, random.integers(2, size=episodes), lead > 0)
        for i, arm in enumerate((staying, leading)):
            paid = random.random(episodes) < np.where(arm == good, 1 - p, p)
            returns[i] += paid
            if i == 0:
                staying = np.where(paid, arm, 1 - arm)
            else:
                lead += np.where(paid == (arm == 1), 1, -1)
    known = memory.bandit({"env_params.reward_prob": p})
    for found, name in zip(returns, ("stay after a reward", "optimal"), strict=True):
        assert abs(found.mean() - known[name]) < 5 * found.std() / np.sqrt(episodes)
    assert known["random"] + 5 < known["stay after a reward"] < known["optimal"] - 5


@pytest.mark.parametrize("env", RECORDED)
def test_what_was_recorded(env):
    """Every seed: with a cell better than all without one, where memory is what it takes."""
    rows = RECORDED[env]["rows"]
    assert {row["algorithm"] for row in rows} == {"trpo", "ppo_clip"}
    for algorithm in ("trpo", "ppo_clip"):
        scores = {row["cell"]: row["scores"] for row in rows if row["algorithm"] == algorithm}
        if env != "UmbrellaChain-bsuite":
            assert min(scores["gru"]) > max(scores["none"])
    assert max(row["kl_max"] for row in rows if row["algorithm"] == "trpo") <= 0.01 * (1 + 1e-5)
