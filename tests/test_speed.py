"""The benchmarks that time run, at toy size, and compare what is equal."""

import json

import numpy as np
import phases
import pytest
import scaling
import speed
import textbook
import timing
from recorded import speed as tables

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import program


@pytest.fixture
def processes(compile_fast, monkeypatch):
    for name, value in compile_fast.items():
        monkeypatch.setenv(name, value)


def run(part, tmp_path, **changes):
    toy = {"num_envs": (2,), "rows": (64,), "steps_per_round": 512, "learning_steps": 2560}
    toy |= dict.fromkeys(("rounds", "seeds", "runs", "learning_seeds"), 2)
    toy |= {"algorithms": ("trpo",), "compiled": ("trpo",), "levels": ("default",), **changes}
    speed.main(speed.Options(parts=(part,), out=tmp_path, **toy))
    result = json.loads((tmp_path / f"{part}.json").read_text())
    assert (result["part"], result["rounds"]) == (part, 2)
    assert result["versions"]["packages"]["jax"]
    return result


def test_a_ratio_is_the_median_of_the_rounds():
    assert timing.times([2.0, 4.0, 9.0], [1.0, 1.0, 3.0]) == [3.0, 2.5, 3.5, 2.0]


def test_rounds_are_taken_in_turns():
    order = []
    seconds = timing.in_turns({name: lambda n=name: order.append(n) for name in "ab"}, 3)
    assert order == list("ababab")
    assert [len(x) for x in seconds.values()] == [3, 3]


@pytest.mark.parametrize(
    ("benchmark", "asked", "message"),
    [
        (speed, {"parts": ("lop",)}, "--parts: no lop; take some of speed_loop, "),
        (speed, {"parts": ("phases",), "cases": ("x",)}, "no x; take some of CartPole-v1, 4 x 128"),
        (scaling, {"parts": ("hosts",)}, "no hosts; take some of scaling_envs"),
    ],
)
def test_what_is_unknown_is_named_first(benchmark, asked, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        benchmark.main(benchmark.Options(out=tmp_path / "new", **asked))
    assert not (tmp_path / "new").exists()


def test_the_loops(tmp_path):
    (case,) = run("speed_loop", tmp_path)["cases"]
    assert {len(x) for x in case["milliseconds"].values()} == {2}
    assert case["times as fast"][0] > 0


def test_both_loops_learn(tmp_path):
    scores = run("speed_learning", tmp_path)["scores"]
    for of in scores.values():
        # A random policy's episodes take some 22 steps; ten iterations teach little.
        assert np.all((np.asarray(of) > 8) & (np.asarray(of) < 300))


def test_both_solve_the_same_system(tmp_path):
    (case,) = run("speed_fisher", tmp_path)["cases"]
    apart = case["solutions apart, relative"]
    assert apart.pop("hessian") == 0
    assert apart
    assert max(apart.values()) < 1e-4


def test_an_update_in_gradients(tmp_path):
    (case,) = run("speed_update", tmp_path)["cases"]
    assert all(ratio[0] > 0 for ratio in case["takes times"].values())
    assert all(0 <= n <= 10 for n in case["backtracks"].values())


def test_the_phases(tmp_path, monkeypatch):
    cases = {"toy": textbook.Settings(num_envs=2, num_steps=8, hidden=(8,))}
    monkeypatch.setattr(phases, "CASES", cases)
    result = run("phases", tmp_path, calls=1, warm_up=1)
    found = result["cases"]["toy"]
    assert {len(x) for x in found.values()} == {2}
    assert min(map(min, found.values())) > 0
    assert len(tables.phases(result)) == 4 + len(found)


def test_the_defaults(tmp_path):
    assert run("speed_default", tmp_path)["trpo takes times"][0] > 0


def test_the_cost_of_the_audit_is_a_ratio_to_measuring_nothing(tmp_path):
    case = run("audit_cost", tmp_path, algorithms=("vanilla_pg",))["cases"]["vanilla_pg"]
    assert set(case["milliseconds"]) == {"nothing", "default"}
    median, low, high, _ = case["times"]["default"]
    assert 0 < low <= median <= high


@pytest.mark.slow
def test_parts_in_processes_of_their_own(tmp_path, processes):
    result = run("speed_start", tmp_path)
    # A full cache spares the compiler, not the tracing.
    assert result["warm cache milliseconds"]["trpo"][0] < result["compile milliseconds"]["trpo"][0]
    assert run("speed_sweep", tmp_path)["cases"][0]["times as fast"][0] > 0
    assert run("speed_evaluation", tmp_path)["algorithms"]["trpo"]["share"] > 0
    (case,) = run("sweep_speed", tmp_path)["cases"]
    assert set(case["steps_per_second"]) == set(speed.WAYS)
    assert all(len(speeds) == 2 for speeds in case["steps_per_second"].values())
    assert all(low <= median <= high for median, low, high in case["times as fast"].values())


@pytest.mark.parametrize("part", scaling.SIZES)
def test_every_job_can_be(part):
    options = scaling.Options(steps_per_round=10_000)
    for size in scaling.SIZES[part]:
        job = scaling.job(part, "trpo", size, options)
        experiment = {**job["experiment"], "budget": {"total_steps": 10_000_000}}  # as there
        program.check_values(Experiment.from_dict(experiment))
        assert job["num_devices"] <= max(job["runs"], 1)


@pytest.mark.slow
def test_sizes_are_compared(tmp_path, processes):
    those = {"parts": ("scaling_devices", "scaling_envs"), "algorithms": ("trpo",)}
    size = {"rounds": 2, "steps_per_round": 512, "largest": 4}
    scaling.main(scaling.Options(out=tmp_path, **those, **size))
    parts = scaling.recorded(tmp_path)
    (row,) = parts["envs"]["trpo"]
    assert row["size"] == 4
    assert len(row["microseconds per step"]) == 2
    assert 0.3 < row["estimated bytes"] / row["bytes"] < 3
    one, *more = parts["devices"]["trpo"]
    # Of sixteen runs, each device holds its part, and the work of one block.
    assert all(row["bytes"] < one["bytes"] for row in more)
    assert (tmp_path / "scaling.png").stat().st_size > 1000
