"""Training with a run folder: one compilation, resume to the bit, refusals before anything."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import known_envs
import numpy as np
import pandas as pd
import pytest

from kltrust.environments import _registry, register
from kltrust.experiments.config.experiment import ALGORITHMS, INF, Experiment
from kltrust.experiments.engine import canary, lanes
from kltrust.experiments.engine.program import Program, build, traced_settings
from kltrust.experiments.jobs import training
from kltrust.experiments.jobs.training import NonFiniteError, Silent, check_finite, resume, train
from kltrust.experiments.reading.evaluation import evaluate_runs
from kltrust.experiments.reading.trained import find_runs
from kltrust.experiments.store import checkpoint
from kltrust.experiments.store.files import StorageError
from kltrust.experiments.store.record import Record, RunError

SEEDS = (3, 4)
ITERATIONS, CHUNK = 7, 2
PASSES = {"ppo_clip", "ppo_penalty", "ppo_reverse_kl", "ppo_adaptive_lr", "mdpo"}


def tiny(algorithm="trpo", env="CartPole-v1", **sections):
    given = {
        "update": {"num_epochs": 1, "num_minibatches": 2} if algorithm in PASSES else {},
        "learner": {"num_envs": 4, "num_steps": 16, "value_epochs": 1, "value_minibatches": 2},
        "network": {"hidden": [8]},
        "budget": {"total_steps": ITERATIONS * 64, "num_evals": 3, "eval_episodes": 2},
    }
    given = {k: {**given.get(k, {}), **sections.get(k, {})} for k in {**given, **sections}}
    return Experiment.from_dict({"algorithm": algorithm, "env": env, **given})


pytestmark = pytest.mark.usefixtures("compile_fast")


class Stop(Silent):
    """Interrupts a training after so many chunks."""

    def __init__(self, after):
        self.left = after

    def chunk(self, report):
        self.left -= 1
        if not self.left:
            raise InterruptedError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nobody interrupted."""
    return train(tiny(), SEEDS, tmp_path_factory.mktemp("runs") / "whole", width=1)


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "part"
    with pytest.raises(InterruptedError):
        train(tiny(), SEEDS, path, width=1, progress=Stop(after=2))
    return path


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    """A copy of a run with two of its four chunks."""
    return shutil.copytree(interrupted_once, tmp_path / "part")


def states(record, which="latest"):
    return training.restore_states(record, training.experiment_of(record), which)


def assert_same_bits(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_same_run(one, other):
    pd.testing.assert_frame_equal(one.metrics(), other.metrics(), check_exact=True)
    pd.testing.assert_frame_equal(one.evaluations(), other.evaluations(), check_exact=True)
    assert_same_bits(states(one), states(other))
    assert one.summary == other.summary


def content(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@contextlib.contextmanager
def nothing_compiles(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Program, "_call", lambda *_: pytest.fail("something was compiled"))
        yield


@contextlib.contextmanager
def counting_compilations():
    counted = []

    def listen(event, _, **__):
        counted.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: sum("backend_compile" in event for event in counted)
    jax.monitoring.unregister_event_duration_listener(listen)


# Settings are arguments.


def with_other_floats(experiment):
    """Every float setting another one that is allowed."""

    def other(name, value):
        if name in ("gamma", "gae_lambda", "beta_decrease", "shrink"):
            return value * 0.9
        return 0.25 if value in (0.0, INF) else value * 1.25

    def section(settings):
        floats = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
        changed = {k: other(k, v) for k, v in floats.items() if type(v) is float}
        return dataclasses.replace(settings, **changed)

    return dataclasses.replace(
        experiment,
        **{name: section(getattr(experiment, name)) for name in ("update", "learner", "network")},
        budget=section(experiment.budget),
        env_params={k: 1.25 * v for k, v in experiment.env_params.items()},
    )


def float_settings(experiment):
    plain = experiment.to_dict()
    for section in ("update", "learner", "network", "budget", "env_params"):
        for name, value in plain[section].items():
            if isinstance(value, float) or value == "inf":
                yield section, name


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_every_float_setting_is_traced_and_nothing_else(algorithm):
    one = tiny(algorithm, "Pendulum-v1", env_params={"g": 9.0})
    other = with_other_floats(one)
    mine, its = traced_settings(one), traced_settings(other)
    expected = set(float_settings(one))
    assert {(section, name) for section in mine for name in mine[section]} == expected
    assert ("env_params", "g") in expected
    assert all(mine[section][name] != its[section][name] for section, name in expected)
    types = {(type(value), value.dtype) for values in mine.values() for value in values.values()}
    assert types == {(np.float32, np.dtype("float32"))}

    # The other floats are closed over nowhere: the very same program comes out.
    assert lowered(one, mine) == lowered(other, mine)


def lowered(experiment, settings):
    """The text of the program that one iteration is, with the settings as its arguments."""

    def step(settings, key):
        learner = build(experiment, settings).learner
        return learner.step(learner.init(key))

    return jax.jit(step).lower(settings, jax.random.key(0)).as_text()


@pytest.mark.parametrize(
    ("algorithm", "reported", "whole", "power"),
    [("mdpo", "step_size", 1.0, 1), ("trpo", "max_kl", 0.01, 2)],
)
def test_annealing_is_linear_in_the_step(algorithm, reported, whole, power):
    one = tiny(algorithm, budget={"anneal": 0.5})

    def two_steps(key):
        learner = build(one).learner
        state, first = learner.step(learner.init(key))
        return [m.extra[reported] for m in (first, learner.step(state)[1])]

    expected = [whole, whole * (1 - 0.5 / ITERATIONS) ** power]
    np.testing.assert_allclose(jax.jit(two_steps)(jax.random.key(0)), expected, rtol=1e-6)


def test_what_is_closed_over_is_another_program():
    """The controls of the test above: a static setting, and a float that is not an argument."""
    one = tiny("vanilla_pg")
    given = traced_settings(one)
    two = dataclasses.replace(one, learner=dataclasses.replace(one.learner, num_steps=18))
    assert lowered(one, given) != lowered(two, given)
    faster = dataclasses.replace(one, update=dataclasses.replace(one.update, learning_rate=0.5))
    assert lowered(one, given) == lowered(faster, given)
    del given["update"]["learning_rate"]
    assert lowered(one, given) != lowered(faster, given)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_one_compilation_each_whatever_the_settings(algorithm, env):
    experiment = tiny(algorithm, env)
    program = Program(experiment, lanes.make_mesh(len(SEEDS), 2), 2)
    assert (program.num_chunks, program.chunk_length) == (4, CHUNK)
    keys, eval_keys = training.lane_keys(np.asarray(SEEDS))

    def run(settings):
        state = program.init(settings, keys)
        state, first = program.chunk(settings, state, CHUNK)
        state, last = program.chunk(settings, state, 1)
        assert first.kl.shape == (len(SEEDS), CHUNK)
        assert last.kl.shape == (len(SEEDS), 1)
        assert np.asarray(state.iteration).tolist() == [CHUNK + 1] * len(SEEDS)
        return first.kl, program.evaluate(settings, state, eval_keys)

    kl, returns = run(traced_settings(experiment))
    with counting_compilations() as compilations:
        other_kl, _ = run(traced_settings(with_other_floats(experiment)))
        assert compilations() == 0
        again, returns_again = run(traced_settings(experiment))
    assert program.compilations == {"init": 1, "chunk": 1, "evaluate": 1}
    assert not np.array_equal(kl, other_kl)
    # The same key, the same bits.
    assert np.array_equal(kl, again)
    assert_same_bits(returns, returns_again)


def test_the_counter_of_compilations_counts():
    with counting_compilations() as compilations:
        jax.jit(lambda x: x * 17.25)(np.float32(1))
        assert compilations() >= 1


# What a run leaves.


def test_tables_of_a_run(finished):
    metrics, evaluations = finished.metrics(), finished.evaluations()
    assert finished.finished
    assert len(metrics) == len(SEEDS) * ITERATIONS
    columns = {"seed", "iteration", "env_steps", "kl", "kl_reverse", "kl_max", "entropy"}
    columns |= {"surrogate_gain", "max_ratio", "clip_fraction", "explained_variance"}
    columns |= {"return_sum", "length_sum", "num_episodes", "extra.accepted", "extra.cg_residual"}
    assert columns <= set(metrics.columns)
    assert sorted(set(metrics.seed)) == sorted(SEEDS)
    assert set(metrics.iteration) == set(range(ITERATIONS))
    assert (metrics.env_steps == (metrics.iteration + 1) * 64).all()
    assert metrics.kl.max() <= 0.01 * (1 + 1e-5)
    assert sorted(set(evaluations.iteration)) == [2, 4, 6, 7]
    assert set(finished.seconds) == {"compile", "train", "evaluate"}
    assert finished.config["width"] == 1
    assert finished.config["seeds"] == list(SEEDS)
    summary = finished.summary
    last = evaluations[evaluations.iteration == ITERATIONS].mean_return
    assert summary["final_mean_return_by_seed"] == last.tolist()
    assert np.asarray(states(finished).iteration).tolist() == [ITERATIONS] * len(SEEDS)


def test_a_finished_run_is_left_as_it_is(finished, monkeypatch):
    before = content(finished.path)
    with nothing_compiles(monkeypatch):
        assert resume(finished.path).finished
    assert content(finished.path) == before


@pytest.mark.parametrize("which", ["latest", "best"])
def test_evaluation_is_reproducible(finished, which):
    one, same, other, sampled = (
        evaluate_runs(
            find_runs(finished), num_episodes=3, which=which, seed=seed, deterministic=mode
        )
        for seed, mode in ((0, True), (0, True), (1, True), (0, False))
    )
    assert one.shape == (len(SEEDS), 3)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, sampled)


def test_best_is_the_best_scored_checkpoint(finished):
    scores = finished.evaluations().groupby("iteration").mean_return.mean()
    assert np.asarray(states(finished, "best").iteration)[0] == scores.idxmax()
    assert finished.best["score"] == pytest.approx(scores.max())


# Resume ends with the same bits.


def test_resume_after_an_exception_equals_an_uninterrupted_run(finished, interrupted):
    assert Record(interrupted).last_chunk == 1
    assert_same_run(resume(interrupted), finished)


def test_resume_before_the_first_chunk_starts_anew(finished, tmp_path):
    class Impatient(Silent):
        def compiling(self, what):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(tiny(), SEEDS, tmp_path / "run", width=1, progress=Impatient())
    assert_same_run(resume(tmp_path / "run"), finished)


KILLED = """
import os, signal, sys
from kltrust.experiments import cli
from kltrust.experiments.cli import progress
progress.ConsoleProgress.chunk = lambda self, report: os.kill(os.getpid(), signal.SIGKILL)
cli.main(sys.argv[1:])
"""


def in_a_process(arguments, environment, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )


def test_resume_after_a_kill_and_on_other_devices(finished, tmp_path, compile_fast):
    path = tmp_path / "killed"
    arguments = (
        "train trpo CartPole-v1 --preset none --num-envs 4 --num-steps 16 --value-epochs 1 "
        "--value-minibatches 2 --hidden 8 --total-steps 448 --num-evals 3 --eval-episodes 2 "
        f"--seed 3 --seeds 2 --width 1 --out {path}"
    )
    killed = in_a_process(["-c", KILLED, *arguments.split()], compile_fast, devices=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    record = Record(path)
    assert record.last_chunk == 0
    assert not record.finished
    assert record.config == finished.config
    assert record.changes()["device_count"] == (2, 1)
    assert_same_run(resume(path), finished)


def test_evaluation_in_a_fresh_process(finished, compile_fast):
    command = ["-m", "kltrust.experiments.cli", "evaluate", str(finished.path)]
    shown = in_a_process([*command, "--episodes", "4", "--seed", "2"], compile_fast)
    assert shown.returncode == 0, shown.stderr
    for seed, row in zip(
        SEEDS, evaluate_runs(find_runs(finished), num_episodes=4, seed=2), strict=True
    ):
        line = f"seed {seed}: mean {row.mean():.2f}, std {row.std():.2f}, min {row.min():.2f}"
        assert line in shown.stdout


# What can't be used is refused, and nothing is overwritten.


def damage(folder, kind):
    (latest,) = sorted((folder / "checkpoints").iterdir())[-1:]
    if kind == "foreign":
        shutil.rmtree(latest)
        checkpoint.save(latest, {"weights": np.zeros(3)})
    elif kind == "no checkpoint at all":
        shutil.rmtree(latest)
    else:
        file = max((p for p in latest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize("kind", ["foreign", "truncated", "no checkpoint at all"])
def test_a_checkpoint_that_is_not_ours(interrupted, kind, monkeypatch):
    damage(interrupted, kind)
    before = content(interrupted)
    with nothing_compiles(monkeypatch):
        with pytest.raises(StorageError, match="checkpoints"):
            resume(interrupted)
        with pytest.raises(StorageError, match="checkpoints"):
            evaluate_runs(find_runs(Record(interrupted)))
    assert content(interrupted) == before


def test_a_folder_that_holds_something(interrupted, tmp_path, monkeypatch):
    before = content(interrupted)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with nothing_compiles(monkeypatch):
        with pytest.raises(RunError, match=r"holds another run.*--resume"):
            train(tiny(), SEEDS, interrupted)
        with pytest.raises(RunError, match=r"not empty.*thesis\.tex"):
            train(tiny(), SEEDS, other)
        with pytest.raises(RunError, match="holds no run"):
            resume(other)
        with pytest.raises(RunError, match="no run folder"):
            resume(tmp_path / "absent")
    assert content(interrupted) == before
    assert [p.name for p in other.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "CartPol-v1"}, "did you mean 'CartPole-v1'"),
        ({"env_params": {"gravitas": 1.0}}, "no parameter 'gravitas'.*gravity"),
        ({"update": {"max_kl": -0.01}}, "max_kl must be"),
        ({"update": {"max_kl": float("nan")}}, "max_kl must be"),
        ({"update": {"damping": -0.1}}, "damping must be"),
        ({"algorithm": "ppo_clip", "update": {"clip_eps": -0.2}}, "clip_eps must be"),
        ({"algorithm": "ppo_clip", "update": {"num_minibatches": 7}}, "num_minibatches=7"),
        ({"learner": {"value_minibatches": 7}}, "value_minibatches=7 does not divide"),
        ({"learner": {"num_envs": 0}}, "num_envs must be"),
        ({"learner": {"gamma": 1.5}}, "gamma must be"),
        ({"learner": {"value_learning_rate": -1.0}}, "value_learning_rate must be"),
        ({"network": {"activation": "tan"}}, "activation 'tan' is unknown"),
        ({"budget": {"total_steps": 63}}, "total_steps=63 does not pay"),
        ({"budget": {"anneal": 2.0}}, "anneal must be"),
        ({"budget": {"num_evals": 0}}, "num_evals and eval_episodes"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_settings_are_refused_before_anything_is_done(change, message, tmp_path, monkeypatch):
    with nothing_compiles(monkeypatch), pytest.raises(ValueError, match=message):
        train(tiny(**change), SEEDS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("seeds", "keywords", "message"),
    [
        ((), {}, "at least one"),
        ((1, 1), {}, "different"),
        ((-1,), {}, "a seed must be"),
        ((2**31,), {}, "a seed must be"),
        ((1,), {"width": 0}, "width must be"),
    ],
)
def test_bad_seeds_and_widths(seeds, keywords, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tiny(), seeds, tmp_path / "run", **keywords)
    assert not (tmp_path / "run").exists()


def test_a_jaxlib_that_computes_wrong_numbers(tmp_path, interrupted, monkeypatch):
    def wrong(function, **_):
        compiled = jax.jit(function)
        return lambda *arguments: compiled(*arguments) + 1.0

    with pytest.raises(RuntimeError, match="computes wrong numbers") as refusal:
        canary.check(wrong)

    def refuse():
        raise refusal.value

    monkeypatch.setattr(canary, "check", refuse)
    before = content(interrupted)
    with nothing_compiles(monkeypatch):
        with pytest.raises(RuntimeError, match="computes wrong numbers"):
            train(tiny(), SEEDS, tmp_path / "run")
        with pytest.raises(RuntimeError, match="computes wrong numbers"):
            resume(interrupted)
    assert not (tmp_path / "run").exists()
    assert content(interrupted) == before


# Not a number.


@pytest.fixture
def registered():
    names = []

    def add(name, factory):
        register(name, factory)
        names.append(name)

    yield add
    for name in names:
        del _registry._factories[name]


@pytest.mark.parametrize(
    ("env", "after", "iteration", "what", "committed"),
    [
        # Step 41 of each environment is the ninth of iteration 2, the second chunk's first.
        (known_envs.nan_reward, 40, 2, r"\d+ NaN or infinite rewards", 0),
        (known_envs.nan_obs, 3, 0, r"\d+ NaN or infinite observations", -1),
    ],
)
def test_not_a_number_is_named(registered, tmp_path, env, after, iteration, what, committed):
    registered("broken", lambda: env(after)._replace(max_steps=5))
    message = rf"seed 3, iteration {iteration}: .*{what}.*stands"
    with pytest.raises(NonFiniteError, match=message):
        train(tiny("vanilla_pg", "broken"), SEEDS, tmp_path / "run")
    record = Record(tmp_path / "run")
    assert record.last_chunk == committed
    assert not record.finished
    if committed >= 0:
        metrics = record.metrics()
        assert len(metrics) == len(SEEDS) * CHUNK
        assert np.isfinite(metrics.kl).all()
        assert np.asarray(states(record).iteration).tolist() == [CHUNK] * len(SEEDS)


def test_the_first_bad_iteration_of_any_seed_is_named():
    def metrics(**bad):
        names = ("nonfinite_rewards", "nonfinite_observations", "nonfinite_update")
        counts = {name: np.zeros((3, 4), int) for name in names}
        for name, (lane, iteration, count) in bad.items():
            counts[name][lane, iteration] = count
        return SimpleNamespace(**counts)

    check_finite(metrics(), [7, 8, 9], 0)
    late, early = (0, 3, 5), (2, 1, 1)
    with pytest.raises(NonFiniteError, match="seed 9, iteration 11: the parameters became"):
        check_finite(metrics(nonfinite_rewards=late, nonfinite_update=early), [7, 8, 9], 10)
    with pytest.raises(NonFiniteError, match=r"seed 7, iteration 13: .* 5 NaN or infinite rewards"):
        check_finite(metrics(nonfinite_rewards=late), [7, 8, 9], 10)
    # A cause comes before its effect.
    both = metrics(nonfinite_rewards=(2, 1, 1), nonfinite_update=(2, 1, 1))
    with pytest.raises(NonFiniteError, match="rewards"):
        check_finite(both, [7, 8, 9], 10)


def test_an_environment_without_end_cannot_be_evaluated(registered, tmp_path):
    registered("endless", known_envs.nan_reward)
    with pytest.raises(ValueError, match="no time limit"):
        train(tiny("vanilla_pg", "endless"), SEEDS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_resolved_configuration_is_in_the_folder(finished):
    config = json.loads((finished.path / "run.json").read_text())["config"]
    assert Experiment.from_dict(config["experiment"]) == tiny()
