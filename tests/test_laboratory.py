"""The laboratory finds what is in made-up updates, and runs at toy size."""

import json

import family
import hurt
import laboratory
import numpy as np
import pandas as pd
import pytest
from common import RESULTS, SPECS, load_spec
from recorded import laboratory as tables

import kltrust
from kltrust.environments import make
from kltrust.experiments.jobs import plan

RECORDED = json.loads((RESULTS / "memory.json").read_text())
PNG = b"\x89PNG\r\n\x1a\n"
SWEEP = """
learner = { num_envs = 2, num_steps = 16 }
critic = { num_epochs = 1, num_minibatches = 2 }
network = { hidden = [4] }
budget = { total_steps = 96, num_evals = 96, eval_episodes = 1 }
sweep = { name = "toy", seeds = 2, envs = "CartPole-v1", preset = "none" }
"""
EXPERIMENTS = {
    "laboratory_search": '{ algorithms = "trpo", grid.damping = [0.01, 1.0] }',
    "collapse": '{ algorithms = "vanilla_pg", update.learning_rate = 30.0 }, '
    '{ algorithms = "trpo" }',
}


def frame(**columns):
    size = max(len(c) for c in columns.values() if not isinstance(c, str))
    steps = {"env": ["E"] * size, "env_steps": np.arange(size) * 100, "iteration": np.arange(size)}
    return pd.DataFrame({**steps, **columns})


def test_leaving_the_region_is_counted_in_units_of_half_eps():
    updates = frame(
        **{
            "update.clip_eps": [0.2] * 4,
            "audit.update.tv.mean": [0.02, 0.04, 0.05, 0.11],
            "audit.update.tv.max": [0.09, 0.12, 0.2, 0.3],
        }
    )
    (row,) = laboratory.clip(updates)
    assert row["left_by_some_state"] == 0.75
    assert row["left_by_the_mean"] == 0.25
    np.testing.assert_allclose(row["largest_tv"][::2], [1.6, 3.0])
    np.testing.assert_allclose(row["mean_tv_along"], [0.2, 0.4, 0.5, 1.1])
    assert "| 75% | 25% |" in tables.laboratory_clip({"rows": [row]})[2]


def test_a_search_is_needed_where_the_full_step_is_refused():
    updates = frame(
        **{
            "learner.num_envs": [2] * 5,
            "learner.num_steps": [8] * 5,
            "update.damping": [0.1] * 5,
            "extra.zero_gradient": [False, False, False, False, True],
            "extra.accepted": [True, True, True, False, False],
            "extra.backtracks": [0, 0, 2, 10, 0],
            "extra.cg_residual": [1e-3] * 5,
            "extra.max_kl": [0.01] * 5,
            "kl": [0.008, 0.008, 0.009, 0.0, 0.0],
        }
    )
    (row,) = laboratory.search(updates)
    assert (row["updates"], row["batch"]) == (4, 16)  # without a gradient nothing is searched
    assert (row["needed"], row["given_up"], row["backtracks"]) == (0.5, 0.25, 3.0)
    assert row["region_used"] == 0.8
    assert tables.laboratory_search({"rows": [row]})[2] == "| E | 16 | 50% (0.80) |"


def test_the_models_are_compared_in_thirds_of_training():
    kl = np.array([2.0, 2.0, 3.0, 3.0, 4.0, 4.0])
    updates = frame(
        **{
            "algorithm": ["trpo"] * 6,
            "kl": kl,
            "audit.curvature.kl": kl,
            "audit.curvature.kl_quadratic": [1.0] * 6,
            "audit.curvature.kl_quadratic_damped": [4.0] * 5 + [0.0],  # nothing was predicted
            "audit.curvature.surrogate_gain": [1.0] * 6,
            "audit.curvature.surrogate_gain_linear": [2.0] * 6,
            "audit.curvature.largest_eigenvalue.value": [5.0] * 6,
        }
    )
    (row,) = laboratory.model(updates)
    found = row["realised over predicted"]
    assert [third[0] for third in found["kl"]["thirds"]] == [2, 3, 4]
    assert [third[0] for third in found["kl damped"]["thirds"]] == [0.5, 0.75, 1]
    assert [third[0] for third in found["gain"]["thirds"]] == [0.5] * 3
    assert "2.00 [2.00, 2.00], 3.00" in tables.laboratory_model({"rows": [row]})[2]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laboratory")
    for name, experiments in EXPERIMENTS.items():
        (folder / f"{name}.toml").write_text(f"{SWEEP}experiments = [{experiments}]\n")
    options = laboratory.Options(
        parts=("laboratory_search", "laboratory_hurt", "collapse"),
        specs=folder,
        draws=6,
        samples=(32,),
        out=folder,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hurt, "SIZES", {"vanilla_pg": ("learning_rate", (0.1, 30.0))})
        laboratory.main(options)
    return folder


def test_a_sweep_becomes_a_result_and_a_figure(toy):
    rows = json.loads((toy / "laboratory_search.json").read_text())["rows"]
    assert [(row["damping"], row["updates"]) for row in rows] == [(0.01, 6), (1.0, 6)]
    assert all(0 < row["region_used"] <= 1 for row in rows)
    assert (toy / "laboratory_search.png").read_bytes().startswith(PNG)


def test_updates_that_hurt(toy):
    result = json.loads((toy / "laboratory_hurt.json").read_text())
    assert len(result["rows"]) == 2 * 2 * 2  # starts, 32 samples and exact, sizes
    exact = [row for row in result["rows"] if row["samples"] == "exact"]
    sampled = [row for row in result["rows"] if row["samples"] != "exact"]
    # A small exact step follows the gradient of J; 32 steps of one trajectory need not.
    assert all(row["hurt"] == 0 for row in exact if row["learning_rate"] < 1)
    assert max(row["hurt"] for row in sampled) > 0
    assert len(tables.laboratory_hurt(result)) == 2 + 2 * 2
    assert (toy / "laboratory_hurt.png").read_bytes().startswith(PNG)


def test_the_family_without_noise():
    """One algorithm with a bound: what is recorded of it, as a table."""
    rows = family.of_one("trpl", 2, 2)
    for row in rows:
        assert row["lowered"] == 0
        assert 0 < row["way"] < 1
        assert 0 < row["kl_median"] < row["kl_max"]
        assert 0 < row["projected_max"] <= row["bound"] + 1e-3
    lines = tables.laboratory_family({"rows": rows})
    assert len(lines) == 2 + 2
    assert "of 0.03" in lines[2]
    assert set(family.SETTINGS) | set(kltrust.algorithms.algorithm_names()) >= set(family.BOUNDS)


def test_an_unbounded_step_goes_farther(toy):
    result = json.loads((toy / "collapse.json").read_text())
    assert (result["seeds"], result["learning_rate"]) == ([0, 1], 30.0)
    assert result["vanilla_pg"]["kl_max"] > result["trpo"]["kl_max"]
    assert len(result["trpo"]["peak_by_seed"]) == 2
    assert "within 5 updates" in tables.collapse(result)[0]
    assert (toy / "collapse.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("returns", "kl", "falls"),
    [
        ([20, 100, 100, 40, 40], [0, 1, 0, 0, 0], True),
        ([20, 100, 40, 40, 40], [0, 0, 1, 0, 0], True),  # shown by its own evaluation
        ([20, 100, 100, 60, 60], [0, 1, 0, 0, 0], False),  # not below half
        ([20, 100, 40, 100, 100], [0, 0, 0, 0, 1], False),  # nothing after the large update
        ([20, 100, 100, 100, 40], [1, 0, 0, 0, 0], False),  # outside of the window
    ],
)
def test_what_counts_as_a_fall(returns, kl, falls):
    options = laboratory.Options(window=3)
    large = np.array(kl) > options.large_kl
    assert laboratory.falls_after(np.array(returns, float), large, options) is falls


def test_every_figure_can_be_drawn():
    rows = [
        {
            "env": env,
            "algorithm": "trpo",
            "clip_eps": 0.2,
            "steps": [1, 2],
            "mean_tv_along": [0.1, 0.2],
            "largest_tv_along": [0.3, 0.4],
            "realised over predicted": {n: {"along": [1.0, 1.1]} for n in laboratory.MODELS},
        }
        for env in ("A", "B")
    ]
    for part in ("laboratory_clip", "laboratory_model"):
        figure = laboratory.PARTS[part][1]({"rows": rows}, None)
        assert [axes.get_title() for axes in figure.axes] == ["A", "B"]
        assert figure.legends[0].get_texts()


def test_the_specifications_are_valid_and_ask_for_what_is_read():
    laboratory.register()
    for part in set(laboratory.PARTS) - set(laboratory.EXACT):
        specification = load_spec(SPECS / f"{part}.toml")
        plan.check_spec(specification)
        audits = {setting.experiment.learner.audit for setting in specification.settings}
        assert audits == ({"full"} if part == "laboratory_model" else {"default"})
        if part == "memory":
            experiments = [setting.experiment for setting in specification.settings]
            assert {experiment.network.cell for experiment in experiments} == {"none", "gru"}
            assert {experiment.env for experiment in experiments} == set(laboratory.KNOWN)
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
    known = laboratory.bandit({"env_params.reward_prob": p})
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
