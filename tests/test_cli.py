"""The command line as a person meets it: help, one training of one's own, errors, interrupts."""

import gc
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from toys import assert_same, parts, python

import kltrust
from kltrust.algorithms import algorithm_names
from kltrust.experiments.cli import interrupts, launch, main, progress, typed
from kltrust.experiments.jobs.run import plan_of
from kltrust.experiments.store.record import Record
from kltrust.experiments.store.run import Run

MINE = """
import jax.numpy as jnp
import numpy as np
import kltrust
from kltrust import environments
from kltrust import register_algorithm
from kltrust.types import Box, Discrete

def reset(key):
    position = jnp.zeros((1,))
    return position, position

def transition(key, position, action, goal):
    position = position + 2 * action - 1
    arrived = position[0] >= goal
    return position, position, arrived, arrived, False

def walk(goal=3.0, max_steps=20):
    line = Box(np.full(1, -np.inf), np.full(1, np.inf), (1,))
    def step(key, position, action):
        return transition(key, position, action, goal)
    return environments.from_functions(reset, step, line, Discrete(2), max_steps=max_steps)

def plain(*, step_size: float = 0.05, twice: bool = False):
    "A step of plain gradient ascent."
    return kltrust.vanilla_pg(learning_rate=step_size)

environments.register("walk", walk)
register_algorithm("plain", plain)
"""

PRESET = """
[update]
step_size = 0.125
[learner]
num_envs = 4
num_steps = 16

[critic]
num_epochs = 1
num_minibatches = 2
[network]
hidden = [8]
[budget]
total_steps = 256
num_evals = 2
eval_episodes = 2
"""

LONG = """
train vanilla_pg CartPole-v1 --preset none --num-envs 4 --num-steps 16 --critic.num-epochs 1
--critic.num-minibatches 2 --hidden 8 --eval-episodes 2 --total-steps 6400000 --num-evals 50000
--out long
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a module of one's own and a preset, as where a person works."""
    place = tmp_path_factory.mktemp("work")
    (place / "mine_of_test_cli.py").write_text(MINE)
    (place / "quick.toml").write_text(PRESET)
    before, path = Path.cwd(), list(sys.path)
    os.chdir(place)
    yield place
    os.chdir(before)
    sys.path[:] = path
    sys.modules.pop("mine_of_test_cli", None)


TWO_SEEDS = ["--seeds", "2", "--seed", "5", "--env-params", "goal=2.0"]
OWN = ["--import", "mine_of_test_cli", "train", "plain", "walk", "--preset", "quick.toml"]


@pytest.fixture(scope="module")
def trained(place):
    """(folder, what was printed) of one's own algorithm in one's own environment."""
    out, sys.stdout = sys.stdout, io.StringIO()
    try:
        assert main([*OWN, *TWO_SEEDS, "--out", "own"]) == 0
        return place / "own", sys.stdout.getvalue()
    finally:
        sys.stdout = out


def test_help_imports_nothing_heavy():
    """Settings are declared where algorithms are, which need jax; the other commands do without."""
    script = """
import sys
from kltrust.experiments.cli import main
def heavy(*lines):
    for line in lines:
        try:
            assert main(line.split()) == 0, line
        except SystemExit as stop:
            assert not stop.code, line
    return {"jax", "distrax", "flax", "gymnax", "pandas", "matplotlib"} & set(sys.modules)
assert not heavy("", "--help", "evaluate --help", "envs --help", "doctor --help", "--version")
train = heavy("train --help", "train --resume x --help", "train trpo CartPole-v1 --help")
assert train == {"jax"}, train
"""
    process = python("-c", script)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    for word in ("kltrust train ALGORITHM ENV", "--episodes INT", "--max-kl FLOAT", "0.2.0"):
        assert word in process.stdout


def test_help_shows_the_values_of_the_preset(said, place):
    status, out, _ = said("train", "trpo", "CartPole-v1", "--preset", "none", "--help")
    assert status == 0
    assert "(default: 0.01)" in out
    assert "(default: runs/trpo-CartPole-v1-seed0)" in " ".join(out.split())
    # Switches take no value.
    assert "--quiet " in out
    assert "--normalize-rewards, --no-normalize-rewards" in out
    assert "{True,False}" not in out
    (place / "kl.toml").write_text("[update]\nmax_kl = 0.0375\n")
    _, out, _ = said("train", "trpo", "CartPole-v1", "--preset", "kl.toml", "--help")
    assert "(default: 0.0375)" in out
    assert "Values in brackets come from kl.toml." in out


def test_help_lists_what_is_usual_and_help_all_everything(said, place):
    short, whole = (said("train", "trpo", "CartPole-v1", f)[1] for f in ("--help", "--help-all"))
    for usual in ("--max-kl", "--num-envs", "--total-steps", "--seeds", "Example: kltrust train"):
        assert usual in short
        assert usual in whole
    for rare in ("--cg-rtol", "--minibatch-blocks", "--coordinator", "--spread-envs"):
        assert rare not in short
        assert rare in whole
    assert "--help-all lists all options" in short
    assert "--help-all lists" not in whole
    # What is hidden can be given: 0 blocks are refused, not unknown.
    status, _, err = said("train", "trpo", "CartPole-v1", "--minibatch-blocks", 0)
    assert status == 1
    assert "minibatch_blocks must be at least 1" in err
    for command in ("sweep", "evaluate", "play", "status", "merge", "report", "export", "judge"):
        _, out, _ = said(command, "--help")
        assert f"Example: kltrust {command} " in " ".join(out.split()), command
    assert "--help-all" not in said("status", "--help")[1]


def test_no_arguments_and_half_of_them(said):
    status, out, _ = said()
    assert status == 0
    assert "kltrust doctor" in out
    status, out, _ = said("train")
    assert status == 2
    assert all(name in out for name in algorithm_names())


def test_ones_own_algorithm_and_environment(trained):
    folder, printed = trained
    record = Record(folder)
    planned = plan_of(record)
    experiment = planned.settings[0].experiment
    assert planned.seeds == (5, 6)
    assert (experiment.algorithm, experiment.env) == ("plain", "walk")
    assert experiment.update.step_size == 0.125
    assert experiment.env_params == {"goal": 2.0}
    assert experiment.network.hidden == (8,)
    assert set(kltrust.load(folder).metrics.seed) == {5, 6}
    assert (folder / "learning_curve.png").stat().st_size > 10_000
    # Printed into a file: whole lines, no control characters.
    assert "plain on walk, 2 seeds, 4 iterations of 64 steps each" in printed
    assert "\x1b" not in printed
    assert "\r" not in printed
    assert [line.split()[0] for line in printed.splitlines() if "steps/s" in line] == ["2/4", "4/4"]
    for name in ("final return", "KL of an update", "seconds", "run folder", "picture"):
        assert name in printed
    assert str(folder / "learning_curve.png") in printed
    assert "kltrust evaluate own" in printed


def test_evaluate(trained, said):
    status, out, _ = said("evaluate", "own", "--episodes", 3, "--best")
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["seed 5", "seed 6", "over 2 seeds"]
    assert said("evaluate", "own", "--episodes", 3, "--best") == (0, out, "")
    _, _, err = said("evaluate", "own", "--episodes", 0)
    assert err.endswith("--episodes must be at least 1, got 0")
    for command in ("evaluate", "play"):
        for flag, number in (("episodes", 10**12), ("seed", 2**31), ("seed", -1)):
            status, _, err = said(command, "own", f"--{flag}", number)
            assert status == 1
            assert f"error: --{flag} must be at " in err


def test_resume_of_a_finished_run(trained, said):
    status, out, _ = said("train", "--resume", "own", "--quiet")
    assert status == 0
    assert "is finished already" in out
    assert "final return" in out


def test_interrupted_and_resumed(place, trained, said, monkeypatch):
    def interrupt(self, report):
        raise KeyboardInterrupt

    arguments = (*OWN[2:], *TWO_SEEDS, "--out", "broken")
    with monkeypatch.context() as patch:
        patch.setattr(progress.ConsoleProgress, "chunk", interrupt)
        status, _, err = said(*arguments)
    assert status == 130
    assert err == "kltrust: interrupted; `kltrust train --resume broken` goes on"
    assert parts(Record("broken"))[0].last_chunk == 0
    status, out, _ = said("train", "--resume", "broken", "--quiet")
    assert status == 0
    assert "steps/s" not in out
    assert_same(Record("broken"), Record("own"))


def test_interrupt_from_the_keyboard(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "kltrust.experiments.cli", *LONG.split()],
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if "steps/s" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err == "kltrust: interrupted; `kltrust train --resume long` goes on\n"
    assert parts(Record(tmp_path / "long"))[0].last_chunk >= 0


def test_an_interrupt_that_python_drops_is_sent_again():
    dropped = []

    def interrupt(phase, info):
        if not dropped:
            dropped.append(phase)
            raise KeyboardInterrupt

    def collect_and_go_on():
        with interrupts.handled():
            gc.collect()
            dropped.append("went on")
            time.sleep(30)

    gc.callbacks.append(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            collect_and_go_on()
    finally:
        gc.callbacks.remove(interrupt)
    assert dropped == ["start", "went on"]


def test_an_interrupt_that_has_to_wait_is_answered(monkeypatch, capsys):
    monkeypatch.setattr(interrupts, "PATIENCE", 0.05)
    before = signal.signal(signal.SIGINT, lambda *_: time.sleep(0.5))  # a compiler, say
    try:
        with interrupts.handled():
            signal.raise_signal(signal.SIGINT)
            assert "interrupted; it ends after" in capsys.readouterr().err
    finally:
        signal.signal(signal.SIGINT, before)


def test_envs(said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    status, out, _ = said("envs")
    assert status == 0
    # Names are there to be copied: never cut, however narrow the terminal.
    assert "MountainCarContinuous-v0 " in out
    assert "…" not in out
    status, out, _ = said("envs", "CartPole-v1")
    assert status == 0
    assert "gravity = 9.8" in out
    assert "Discrete(2)" in out
    status, _, err = said("envs", "Cartpol")
    assert status == 1
    assert "did you mean 'CartPole-v1'" in err


def test_doctor(said):
    status, out, _ = said("doctor")
    assert status == 0
    assert "canary" in out


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("trian", 1, "unknown command 'trian': did you mean train?"),
        ("train trop CartPole-v1", 1, "unknown algorithm 'trop': did you mean trpo or"),
        ("train ppo_ CartPole-v1 --max-kll 1", 1, "did you mean ppo?"),
        ("train TRPO CartPole-v1", 1, "did you mean trpo?"),
        ("train trpo Hopper-v4", 1, "did you mean 'brax/hopper'"),
        ("train trpo HalfCheetah", 1, "did you mean 'brax/halfcheetah'?"),
        ("train trpo breakout", 1, "did you mean 'Breakout-MinAtar'?"),
        ("train trpo CartPole-v1 --hidden 64,a", 2, "'a' is not a whole number"),
        ("train trpo CartPole-v1 --total-steps 1.5", 2, "'1.5' is not a whole number"),
        ("train trpo --seeds 2", 1, "name an environment"),
        ("train --seeds 2 trpo CartPole-v1", 1, "the algorithm and the environment come first"),
        ("train trpo Cartpole-v1", 1, "did you mean 'CartPole-v1'"),
        ("train trpo CartPole-v1 --max-kll 3", 2, "--max-kl FLOAT"),
        ("train trpo CartPole-v1 --max-kl much", 2, "could not convert string to float: 'much'"),
        ("train trpo CartPole-v1 --max-kl -1", 1, "max_kl must be finite and greater than 0"),
        ("train trpo CartPole-v1 --seeds 0", 1, "--seeds must be at least 1"),
        ("train trpo CartPole-v1 --seed -3", 1, "--seed must be at least 0"),
        ("train trpo CartPole-v1 --env-params gravity", 1, "takes NAME=VALUE, got 'gravity'"),
        ("train trpo CartPole-v1 --env-params gravit=1", 1, "has no parameter 'gravit'"),
        ("train trpo CartPole-v1 --preset absent.toml", 1, "can't read the preset absent.toml"),
        ("train trpo CartPole-v1 --preset tunned", 1, "did you mean tuned? Known are tuned, accel"),
        ("train trpo CartPole-v1 --preset qick.toml", 1, "did you mean quick.toml?"),
        (
            "train trpo CartPole-v1 --preset 7",
            1,
            "no such file. Known are tuned, accelerator, none",
        ),
        (
            "sweep qiuck.toml",
            1,
            "the specification qiuck.toml: there is no such file: did you mean",
        ),
        ("sweep ./qiuck", 1, "did you mean quick.toml?"),
        ("train trpo CartPole-v1 --total-steps 10", 1, "total_steps=10 is less than one iteration"),
        ("train --resume absent", 1, "there is no run folder"),
        ("train --resume absent --max-kl 1", 1, "leave out --max-kl 1"),
        ("train --resume", 2, "Missing value for argument '--resume'"),
        ("evaluate", 2, "Missing from kltrust evaluate"),
        ("evaluate absent", 1, "there is no run folder"),
        ("evaluate .", 1, "holds no run"),
        ("doctor now", 1, "it is `kltrust doctor`"),
        ("envs CartPole-v1 Pendulum-v1", 1, "it is `kltrust envs [ENV]`"),
        ("--import absent_module train", 1, "can't import 'absent_module'"),
        ("train trpo CartPole-v1 --import", 1, "--import takes a module's name"),
    ],
)
def test_errors_name_the_remedy(line, status, message, said, place):
    before = sorted(place.iterdir())
    found, _, err = said(*line.split())
    assert found == status
    assert message in err
    if status == 1:
        assert err.startswith("kltrust: error: ")
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "number"), [("100_000", 100_000), ("1e5", 100_000), ("-3", -3), ("9" * 17, 10**17 - 1)]
)
def test_whole_numbers_as_people_type_them(text, number):
    assert typed.whole(text) == number


def test_a_second_run_has_a_folder_of_its_own(tmp_path, capsys):
    assert launch.free(tmp_path / "run") == tmp_path / "run"
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir()
    assert launch.free(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "run.json").touch()
    assert launch.free(tmp_path / "run") == tmp_path / "run-2"
    (tmp_path / "run-2" / "run.json").touch()
    capsys.readouterr()
    assert launch.free(tmp_path / "run") == tmp_path / "run-3"
    assert "run is there already: this run is in" in capsys.readouterr().err


def test_lists_and_switches_as_people_type_them():
    assert typed.wholes(["64,64"]) == typed.wholes(["64", "64"]) == typed.wholes(["(64,", "64)"])
    found = typed.switches(["--on", "true", "--on=False", "--as", "true", "--on", "no"], {"on"})
    assert found == ["--on", "--no-on", "--as", "true", "--on", "no"]


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("KLTRUST_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown command"):
        main(["trian"])


def test_a_run_folder_of_something_else(said, tmp_path):
    with Run.create(tmp_path, {"sweep": "of something"}):
        pass
    for command in (["evaluate", tmp_path], ["train", "--resume", tmp_path], ["status", tmp_path]):
        status, _, err = said(*command)
        assert status == 1
        assert "holds no training" in err


def test_runs_use_all_cores_where_jax_has_not_started():
    # Here it has: the devices are what they are, and nothing fails.
    from kltrust.experiments.engine.devices import use_all_cores

    jax.devices()
    use_all_cores(64)
