"""The laboratory finds what is in made-up updates, and runs at toy size."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import audit_cost  # noqa: E402
import laboratory  # noqa: E402
import readme_tables.laboratory  # noqa: E402

from kltrust.experiments.config import spec  # noqa: E402
from kltrust.experiments.jobs import plan  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"
TOY = """
[sweep]
name = "laboratory_search"
seeds = 1
envs = "CartPole-v1"
algorithms = "trpo"
preset = "none"
[learner]
num_envs = 2
num_steps = 16

[critic]
num_epochs = 1
num_minibatches = 2
[network]
hidden = [4]
[budget]
total_steps = 96
num_evals = 1
eval_episodes = 1
[[experiments]]
grid.damping = [0.01, 1.0]
"""


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
    (row,) = laboratory.clip(updates)["rows"]
    assert row["left_by_some_state"] == 0.75
    assert row["left_by_the_mean"] == 0.25
    np.testing.assert_allclose(row["largest_tv"][::2], [1.6, 3.0])
    np.testing.assert_allclose(row["mean_tv_along"], [0.2, 0.4, 0.5, 1.1])
    assert "| 75% | 25% |" in readme_tables.laboratory.clip({"rows": [row]})[2]


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
    (row,) = laboratory.search(updates)["rows"]
    assert (row["updates"], row["batch"]) == (4, 16)  # without a gradient nothing is searched
    assert (row["needed"], row["given_up"], row["backtracks"]) == (0.5, 0.25, 3.0)
    assert row["region_used"] == 0.8
    assert readme_tables.laboratory.search({"rows": [row]})[2] == "| E | 16 | 50% (0.80) |"


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
    (row,) = laboratory.model(updates)["rows"]
    found = row["realised over predicted"]
    assert [third[0] for third in found["kl"]["thirds"]] == [2, 3, 4]
    assert [third[0] for third in found["kl damped"]["thirds"]] == [0.5, 0.75, 1]
    assert [third[0] for third in found["gain"]["thirds"]] == [0.5] * 3
    assert "2.00 [2.00, 2.00], 3.00" in readme_tables.laboratory.model({"rows": [row]})[2]


@pytest.fixture(scope="module")
def toy(tmp_path_factory, compile_fast):
    folder = tmp_path_factory.mktemp("laboratory")
    (folder / "laboratory_search.toml").write_text(TOY)
    options = laboratory.Options(
        parts=("search", "hurt"), specs=folder, draws=6, samples=(32,), out=folder
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory, "SIZES", {"vanilla_pg": ("learning_rate", (0.1, 30.0))})
        laboratory.main(options)
    return folder


def test_a_sweep_becomes_a_result_and_a_figure(toy):
    rows = json.loads((toy / "laboratory_search.json").read_text())["rows"]
    assert [(row["damping"], row["updates"]) for row in rows] == [(0.01, 3), (1.0, 3)]
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
    assert len(readme_tables.laboratory.hurt(result)) == 2 + 2 * 2
    assert (toy / "laboratory_hurt.png").read_bytes().startswith(PNG)


def test_every_figure_can_be_drawn(tmp_path):
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
    for part in ("clip", "model"):
        figure = laboratory.FINDERS[part][1]({"rows": rows})
        assert [axes.get_title() for axes in figure.axes] == ["A", "B"]
        assert figure.legends[0].get_texts()


def test_parts_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="among clip, search, model, hurt, got 'other'"):
        laboratory.main(laboratory.Options(parts=("other",), out=tmp_path))


def test_the_specifications_are_valid_and_ask_for_what_is_read():
    for part in laboratory.SWEEPS:
        specification = spec.load(ROOT / "benchmarks" / "specs" / f"laboratory_{part}.toml")
        plan.check_spec(specification)
        audits = {setting.experiment.learner.audit for setting in specification.settings}
        assert audits == ({"full"} if part == "model" else {"default"})


def test_the_cost_is_a_ratio_to_measuring_nothing(tmp_path, compile_fast):
    options = audit_cost.Options(
        algorithms=("vanilla_pg",),
        levels=("default",),
        num_envs=8,
        num_steps=32,
        hidden=(4,),
        rounds=2,
        iterations=1,
        out=tmp_path,
    )
    audit_cost.main(options)
    case = json.loads((tmp_path / "audit_cost.json").read_text())["cases"]["vanilla_pg"]
    assert set(case["milliseconds"]) == {audit_cost.BARE, "default"}
    median, low, high = case["times"]["default"]
    assert 0 < low <= median <= high
