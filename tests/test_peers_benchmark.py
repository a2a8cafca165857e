"""The benchmark beside other libraries, with none of them installed: protocol, settings, tables."""

import ast
import json
from pathlib import Path

import numpy as np
import peers
import pytest
import speed
import timing
from common import HERE
from recorded import speed as tables
from workers import ours

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import program

WORKERS = """
import os
import time
from pathlib import Path

def sleeping(seconds):
    print("libraries print")
    def turn():
        print("all the while")
        time.sleep(seconds)
        return {"slept": seconds}
    return turn

def meeting(folder, number):
    # Returns when so many processes are in their round, which one after another never are.
    rounds = []
    def turn():
        rounds.append(0)
        there = Path(folder) / str(len(rounds))
        there.mkdir(exist_ok=True, parents=True)
        (there / str(os.getpid())).touch()
        while len(list(there.iterdir())) < number:
            time.sleep(0.01)
    return turn

def broken():
    raise ValueError("no such setting")
"""
SMALL = {
    "algorithm": "trpo",
    "env": "CartPole-v1",
    "learner": {"num_envs": 2, "num_steps": 16},
    "critic": {"num_epochs": 1, "num_minibatches": 1},
    "network": {"hidden": (4,)},
    "budget": {"total_steps": 128, "eval_episodes": 2},
}


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Workers that need neither JAX nor a library."""
    (tmp_path / "toys.py").write_text(WORKERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_processes_take_turns(toys):
    calls = {
        "once": timing.Call("toys:sleeping", {"seconds": 0.05}),
        "twice": timing.Call(
            "toys:meeting", {"folder": str(toys / "meeting"), "number": 2}, processes=2
        ),
    }
    seconds, answers = timing.processes_in_turns(calls, 2)
    assert answers["once"] == [{"slept": 0.05}] * 2
    assert [len(of) for of in seconds.values()] == [2, 2]
    assert min(seconds["once"]) >= 0.05
    assert [len(list((toys / "meeting" / i).iterdir())) for i in "12"] == [2, 2]


def test_a_worker_that_fails_is_named(toys, capfd):
    with pytest.raises(RuntimeError, match=r"toys:broken ended \(1\)"):
        timing.once(timing.Call("toys:broken", {}))
    assert "no such setting" in capfd.readouterr().err


def test_nobody_waits_for_ever(toys, monkeypatch):
    with timing.worker(timing.Call("toys:sleeping", {"seconds": 60})) as begin:
        monkeypatch.setattr(timing, "LIMIT", 0.1)
        with pytest.raises(RuntimeError, match="no answer within"):
            begin("go")()


def fits(call):
    """Whether a worker takes these settings: of peers' modules only the text can be read here."""
    module, name = call.function.split(":")
    text = (HERE / f"{module.replace('.', '/')}.py").read_text()
    (function,) = [
        n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name
    ]
    names = [argument.arg for argument in function.args.args]
    given = set(json.loads(json.dumps(dict(call.settings))))
    needed = set(names[: len(names) - len(function.args.defaults)])
    return needed <= given <= set(names)


@pytest.fixture
def asked(monkeypatch):
    """The calls that a benchmark makes, of which none is run."""
    calls = []

    def fake(those, rounds):
        calls.extend(those.values())
        return {name: [1.0] * rounds for name in those}, {}

    for module in (peers, speed):
        monkeypatch.setattr(module, "processes_in_turns", fake)
    return calls


def test_a_setting_too_many_does_not_fit():
    settings = {"num_envs": 1, "iterations": 1, "seeds": 1}
    assert fits(timing.Call("speed:textbook_seeds", settings))
    assert not fits(timing.Call("speed:textbook_seeds", settings | {"runs": 1}))
    assert not fits(timing.Call("speed:textbook_seeds", {"seeds": 1}))


def test_every_call_fits_its_worker(asked):
    pythons = dict.fromkeys(peers.REQUIREMENTS, "python")
    options = peers.Options(purejaxrl=Path("there"), solve_seeds=1)
    ppo, trpo = peers.ppo(options, pythons), peers.trpo(options, pythons)
    speed.sweep(speed.Options(), 1)
    speed.sweep_speed(speed.Options(), 1)
    called = {call.function for call in asked}
    assert {f"workers.others:{of}" for of in ("rejax_ppo", "purejaxrl_ppo", "sb3_trpo")} < called
    assert all(map(fits, asked))
    for call in asked:
        if call.function == "workers.ours:train":
            program.check_values(Experiment.from_dict(dict(call.settings["experiment"])))
    # All take a second a round: speeds are as the steps.
    assert ppo["cases"][2]["times as fast"]["kltrust"]["rejax"] == [1.0] * 4
    assert trpo["cases"][0]["times as fast"]["kltrust, 32 seeds"]["sb3-contrib"] == [32.0] * 4


def test_a_run_that_is_not_solved_never_counts_for_us(monkeypatch):
    calls = []

    def fake(call):
        calls.append(call)
        seeds = len(call.settings.get("seeds", [0]))
        unsolved = "num_envs" not in call.settings and seeds > 1
        seconds = 30.0 if "num_envs" in call.settings else 3.0
        return {"seconds": [seconds] * seeds, "solved": [not unsolved] * seeds}

    monkeypatch.setattr(peers, "once", fake)
    options = peers.Options(solve_seeds=2, seeds=4)
    found = peers.solve(options, {"sb3-contrib": "python"})["times as fast"]
    assert len(calls) == 8
    assert all(map(fits, calls))
    assert found["kltrust"]["sb3-contrib"] == [10.0] * 4
    assert found["kltrust, 4 seeds"]["sb3-contrib, one after another"] == [0.0] * 4


def compared(toys, **steps):
    calls = {
        "kltrust": timing.Call("toys:sleeping", {"seconds": 0.01}),
        "other": timing.Call("toys:sleeping", {"seconds": 0.3}),
    }
    contenders = {name: peers.Contender(call, steps[name]) for name, call in calls.items()}
    return peers.compare(contenders, 2, "toy")


def test_what_is_compared_is_the_time_of_a_step(toys):
    result = compared(toys, kltrust=100, other=100)
    assert result["times as fast"]["kltrust"]["other"][0] > 2
    result = compared(toys, kltrust=100, other=10_000)
    assert result["times as fast"]["kltrust"]["other"][0] < 1
    assert [len(of) for of in result["steps_per_second"].values()] == [2, 2]


def test_the_table():
    lone = {"env": "E-v0", "num_envs": 4, "num_steps": 128, "seeds": 1}
    lone["times as fast"] = {"kltrust": {"rejax": [1.5, 1.25, 2.0, 1.6]}}
    many = {
        "kltrust": {"sb3-contrib": [9.0] * 4, "sb3-contrib, a run per core": [7.0] * 4},
        "kltrust, 32 seeds": {"sb3-contrib, a run per core": [20.0] * 4},
    }
    runs = [{"seconds": [9.0], "steps": [4096], "solved": [True]}]
    parts = {
        "ppo": {"cases": [lone, {**lone, "seeds": 32}]},
        "trpo": {"num_steps": 2048, "cases": [{"num_envs": 8, "times as fast": many}]},
        "solve": {"target": 475.0, "times as fast": {}, "runs": {"kltrust": runs * 2}},
    }
    about = {
        "versions": {"packages": {"jax": "0.10.1"}, "cpu_count": 2, "device_kind": "cpu"},
        "peers": {"rejax": {"jax": "0.10.1", "gymnax": "0.0.9", "rejax": "0.1.3"}},
    }
    parts = {name: {**part, **about} for name, part in parts.items()}
    *lines, _, setting = tables.peers(parts)[2:]
    assert lines == [
        "| PPO-clip, E-v0, 4 x 128: `kltrust` | rejax | 1.50 (1.25 to 2.00) times as fast |",
        "| PPO-clip, E-v0, 4 x 128, 32 seeds: `kltrust` | rejax, one `vmap` "
        "| 1.50 (1.25 to 2.00) times as fast |",
        "| TRPO, 8 x 2048: `kltrust` | sb3-contrib | 9.00 (9.00 to 9.00) times as fast |",
        "| TRPO, 8 x 2048: `kltrust`, 32 seeds | sb3-contrib, a run per core "
        "| 20.00 (20.00 to 20.00) times as fast |",
    ]
    assert "rejax: gymnax 0.0.9, rejax 0.1.3." in setting
    assert "kltrust 9.0 s (2 of 2)" in setting


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ("pop",)}, "no pop; take some of peers_ppo"),
        ({"peers": ("sb3",)}, "no sb3; take some of rejax"),
        ({"purejaxrl": Path("nowhere")}, "nowhere is no checkout of purejaxrl"),
        ({"parts": ("peers_solve",)}, "unset JAX_COMPILATION_CACHE_DIR"),
    ],
)
def test_what_is_asked_for_is_checked_first(changes, message, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    with pytest.raises(SystemExit, match=message):
        peers.main(peers.Options(out=tmp_path / "out", envs=tmp_path / "envs", **changes))
    assert not list(tmp_path.iterdir())


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(peers.venv, "create", lambda path, **_: path.mkdir(exist_ok=True))
    monkeypatch.setattr(peers.subprocess, "run", lambda command, **_: commands.append(command))
    pythons = {peers.environment("rejax", tmp_path) for _ in range(2)}
    assert pythons == {commands[0][0]}
    assert len(commands) == 1
    assert commands[0][-1] == "rejax==0.1.3"
    monkeypatch.setitem(peers.REQUIREMENTS, "rejax", ("rejax==0.1.2",))
    peers.environment("rejax", tmp_path)
    assert len(commands) == 2


def test_the_peers_settings_are_ours():
    own = Experiment.from_dict(peers.same_as_sb3(peers.SB3_DEFAULTS, 8, fisher_stride=10))
    program.check_values(own)
    assert (own.batch_size, own.critic.num_minibatches) == (8 * 2048, 128)
    assert (own.update.cg_iters, own.update.damping, own.update.fisher_stride) == (15, 0.1, 10)
    assert own.critic.max_grad_norm == np.inf
    zoo = Experiment.from_dict(peers.same_as_sb3(peers.ZOO, peers.ZOO_ENVS))
    program.check_values(zoo)
    assert (zoo.batch_size, zoo.critic.num_minibatches, zoo.critic.num_epochs) == (
        1024,
        2,
        20,
    )
    assert (zoo.update.damping, zoo.learner.gae_lambda, zoo.update.max_kl) == (1e-3, 0.98, 0.01)


def test_solved_when_the_target_is_reached_twice_and_not_before(compile_fast):
    protocol = {"every": 64, "confirm": 2}
    run = ours.solve(SMALL, seeds=[3, 5], target=1.0, **protocol)()
    assert run["solved"] == [True, True]
    assert run["steps"] == [64, 64]
    run = ours.solve(SMALL, seeds=[3, 5], target=501.0, **protocol)()
    assert run["solved"] == [False, False]
    assert run["steps"] == [128, 128]
    assert min(run["seconds"]) > 0


@pytest.mark.slow
def test_the_whole_of_it_without_peers(tmp_path, compile_fast, monkeypatch):
    for name, value in compile_fast.items():
        monkeypatch.setenv(name, value)  # for its processes
    monkeypatch.setitem(peers.PARTS, "peers_ppo", (peers.ppo, ()))
    size = {"rounds": 2, "seeds": 2, "ppo_envs": (2,), "steps_per_round": 512}
    peers.main(peers.Options(("peers_ppo",), tmp_path, envs=tmp_path, **size))
    result = json.loads((tmp_path / "peers_ppo.json").read_text())
    assert [case["seeds"] for case in result["cases"]] == [1, 2, 1]
    assert all(min(case["steps_per_second"]["kltrust"]) > 0 for case in result["cases"])
    assert result["peers"] == {}


def test_a_round_that_is_timed_estimates_nothing(monkeypatch):
    asked = []
    estimate = ours.memory.estimate_memory
    monkeypatch.setattr(ours.memory, "estimate_memory", lambda *a: asked.append(a) or estimate(*a))
    monkeypatch.setattr(ours.jax.config, "update", lambda name, value: None)  # JAX has started
    turn = ours.scale(SMALL, runs=1, iterations=1, num_devices=1)
    assert len(asked) == 1
    told = turn()
    assert turn() == told
    assert told["bytes"] > 0
    assert len(asked) == 1
