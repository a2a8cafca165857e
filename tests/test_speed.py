"""The speed benchmarks run, at toy size, and compare what is equal."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import phases  # noqa: E402
import readme_tables.speed  # noqa: E402
import speed  # noqa: E402
import textbook  # noqa: E402
import timing  # noqa: E402

pytestmark = pytest.mark.usefixtures("compile_fast")


def run(part, tmp_path, **changes):
    toy = {
        "rounds": 2,
        "num_envs": (2,),
        "seeds": 2,
        "rows": (64,),
        "steps_per_round": 512,
        "learning_seeds": 2,
        "learning_steps": 2560,
        "algorithms": ("trpo",),
    }
    speed.main(speed.Options(parts=(part,), out=tmp_path, **(toy | changes)))
    result = json.loads((tmp_path / f"speed_{part}.json").read_text())
    assert result["part"] == part
    assert result["versions"]["packages"]["jax"]
    return result


def test_a_ratio_is_the_median_of_the_rounds():
    assert timing.times([2.0, 4.0, 9.0], [1.0, 1.0, 3.0]) == [3.0, 2.5, 3.5, 2.0]


def test_rounds_are_taken_in_turns():
    order = []
    seconds = timing.in_turns({name: lambda n=name: order.append(n) for name in "ab"}, 3)
    assert order == list("ababab")
    assert [len(x) for x in seconds.values()] == [3, 3]


def test_an_unknown_part_is_named(tmp_path):
    with pytest.raises(SystemExit, match="no part lop: take some of loop, "):
        speed.main(speed.Options(parts=("lop",), out=tmp_path))
    with pytest.raises(SystemExit, match="no case CartPole: take some of CartPole-v1, 4 x 128, "):
        phases.main(phases.Options(cases=("CartPole",), out=tmp_path))


def test_the_loops(tmp_path):
    (case,) = run("loop", tmp_path)["cases"]
    assert {len(x) for x in case["milliseconds"].values()} == {2}
    assert case["times as fast"][0] > 0


def test_both_loops_learn(tmp_path):
    scores = run("learning", tmp_path)["scores"]
    for of in scores.values():
        # A random policy's episodes take some 22 steps; ten iterations teach little.
        assert np.all((np.asarray(of) > 8) & (np.asarray(of) < 300))


def test_both_solve_the_same_system(tmp_path):
    (case,) = run("fisher", tmp_path)["cases"]
    apart = case["solutions apart, relative"]
    assert apart.pop("hessian") == 0
    assert apart
    assert max(apart.values()) < 1e-4


def test_an_update_in_gradients(tmp_path):
    (case,) = run("update", tmp_path)["cases"]
    assert all(ratio[0] > 0 for ratio in case["takes times"].values())
    assert all(0 <= n <= 10 for n in case["backtracks"].values())


def test_the_phases(tmp_path, monkeypatch):
    cases = {"toy": textbook.Settings(num_envs=2, num_steps=8, hidden=(8,))}
    monkeypatch.setattr(phases, "CASES", cases)
    phases.main(phases.Options(cases=("toy",), rounds=2, calls=1, warm_up=1, out=tmp_path))
    result = json.loads((tmp_path / "phases.json").read_text())
    found = result["cases"]["toy"]
    assert {len(x) for x in found.values()} == {2}
    assert min(map(min, found.values())) > 0
    assert len(readme_tables.speed.phases(result)) == 2 + len(found)


def test_the_defaults(tmp_path):
    assert run("default", tmp_path)["trpo takes times"][0] > 0


@pytest.mark.slow
def test_start_and_sweep_in_processes_of_their_own(tmp_path, compile_fast, monkeypatch):
    for name, value in compile_fast.items():
        monkeypatch.setenv(name, value)
    result = run("start", tmp_path)
    # A full cache spares the compiler, not the tracing.
    assert result["warm cache milliseconds"]["trpo"][0] < result["compile milliseconds"]["trpo"][0]
    assert run("sweep", tmp_path)["cases"][0]["times as fast"][0] > 0
