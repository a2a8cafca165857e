"""Sweeps and trainings: one loop, lanes that keep to themselves, resume to the bit, refusals."""

import contextlib
import errno
import shutil
import signal
import tomllib
from types import SimpleNamespace

import jax
import known_envs
import numpy as np
import pandas as pd
import pytest
from toys import (
    CHUNK,
    HEAD,
    ITERATIONS,
    SEEDS,
    SPEC,
    WIDTH,
    Stop,
    assert_same,
    content,
    parts,
    python,
    states,
    tiny,
    toy_plan,
)

import kltrust
from kltrust import results
from kltrust.environments import register
from kltrust.experiments.engine import canary, memory
from kltrust.experiments.engine.program import Program
from kltrust.experiments.jobs import merge, run
from kltrust.experiments.jobs.events import Progress
from kltrust.experiments.jobs.folder import DamageWarning, NumericsWarning
from kltrust.experiments.jobs.lanes import Lanes
from kltrust.experiments.jobs.plan import Plan, plan_training
from kltrust.experiments.jobs.rows import NonFiniteError, check_finite
from kltrust.experiments.jobs.run import train
from kltrust.experiments.reading.trained import evaluate_runs, find_runs
from kltrust.experiments.store import checkpoint, versions
from kltrust.experiments.store.files import StorageError
from kltrust.experiments.store.record import Record, RunError
from kltrust.experiments.store.run import Run, files


def training_plan():
    return plan_training(tiny(), SEEDS, width=1)


@pytest.fixture(params=["sweep", "training"])
def job(request):
    """A plan, and its folder if nobody interrupted it."""
    planned = {"sweep": toy_plan, "training": training_plan}[request.param]()
    return planned, request.getfixturevalue(f"toy_{request.param}")


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "part"
    with pytest.raises(InterruptedError):
        run.start(training_plan(), path, progress=Stop(after=2))
    return path


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    """A copy of a training with two of its four chunks."""
    return shutil.copytree(interrupted_once, tmp_path / "part")


@contextlib.contextmanager
def nothing_compiles(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Program, "_call", lambda *_: pytest.fail("something was compiled"))
        yield


# What a job leaves.


def test_one_compilation_each_per_static_group(toy_sweep):
    planned = run.plan_of(toy_sweep)
    assert [len(group.runs) for group in planned.groups] == [4, 2]
    for group, part in zip(planned.groups, parts(toy_sweep), strict=True):
        assert part.summary["compilations"] == {"init": 1, "chunk": 1, "evaluate": 1}
        assert part.finished
        # The estimate is of the order of what the compiler says.
        estimate = memory.estimate_memory(
            planned.experiment(group), len(group.runs), group.width, group.chunk_length
        )
        assert 0.3 < estimate.total / part.summary["memory"]["chunk"] < 3


def test_tables_of_a_sweep(toy_sweep):
    loaded = results.load(toy_sweep.path)
    assert loaded.runs.run.tolist() == list(range(6))
    assert loaded.runs.seed.tolist() == [3, 5] * 3
    rates = [f"vanilla_pg learning_rate={rate}" for rate in (0.01, 0.3)]
    assert loaded.runs.label.tolist() == [x for x in (*rates, "falling") for _ in range(2)]
    assert loaded.runs["update.learning_rate"].tolist() == [0.01, 0.01, 0.3, 0.3, 0.01, 0.01]
    assert loaded.runs.iterations.tolist() == [3, 3, 3, 3, 2, 2]
    assert loaded.runs.broken.isna().all()
    metrics = loaded.metrics
    assert metrics.groupby("run").size().tolist() == [3, 3, 3, 3, 2, 2]
    batch = metrics.run.map(lambda number: 64 if number < 4 else 32)
    assert (metrics.env_steps == (metrics.iteration + 1) * batch).all()
    assert loaded.evaluations.groupby("run").size().tolist() == [3, 3, 3, 3, 2, 2]
    scores = loaded.select(env="CartPole-v1").scores()
    assert {k: v.shape for k, v in scores.items()} == dict.fromkeys(rates, (2, 1))
    assert scores[rates[1]][:, 0].tolist() == loaded.runs.score[2:4].tolist()


def test_a_training_is_a_sweep_of_one_setting(toy_training):
    planned = run.plan_of(toy_training)
    assert (planned.on_nonfinite, planned.keep_best) == ("raise", True)
    assert planned.settings[0].experiment == tiny()
    assert planned.seeds == SEEDS
    assert Plan.from_config(planned.to_config()) == planned
    loaded = results.load(toy_training.path)
    metrics, evaluations = loaded.metrics, loaded.evaluations
    assert len(metrics) == len(SEEDS) * ITERATIONS
    columns = {"seed", "iteration", "env_steps", "kl", "kl_reverse", "kl_max", "entropy"}
    columns |= {"surrogate_gain", "max_ratio", "clip_fraction", "explained_variance"}
    columns |= {"return_sum", "length_sum", "num_episodes", "extra.accepted", "extra.cg_residual"}
    assert columns <= set(metrics.columns)
    assert metrics.kl.max() <= 0.01 * (1 + 1e-5)
    assert sorted(set(evaluations.iteration)) == [1, 3, 5, 6]
    steps = [dict(zip(f.iteration, f.env_steps, strict=True)) for f in (metrics, evaluations)]
    assert steps[1].items() <= steps[0].items()  # one numbering
    (part,) = parts(toy_training)
    assert set(part.seconds) == {"compile", "run"}
    assert min(part.seconds.values()) > 0
    (state,) = states(toy_training)
    assert np.asarray(state.iteration).tolist() == [ITERATIONS] * len(SEEDS)


def test_the_best_checkpoint_is_kept_where_it_is_asked_for(toy_training, toy_sweep):
    (part,) = parts(toy_training)
    scores = part.evaluations().groupby("iteration").mean_return.mean()
    (best,) = states(toy_training, "best")
    assert np.asarray(best.iteration)[0] == scores.idxmax()
    assert part.best["score"] == pytest.approx(scores.max())
    assert [p.best for p in parts(toy_sweep)] == [None, None]


def test_common_random_numbers(toy_sweep):
    """A seed has the same initial policy, critic and start states under every setting."""
    metrics = results.load(toy_sweep.path).metrics
    first = metrics[metrics.iteration == 0].set_index("run")
    before_the_update = ["value_loss", "explained_variance", "return_sum", "length_sum"]
    for name in before_the_update:
        assert first[name][0] == first[name][2]
        assert first[name][1] == first[name][3]
    assert first.value_loss[0] != first.value_loss[1]
    # But the step is the setting's own.
    assert first.kl[0] != first.kl[2]


def test_a_lane_equals_the_setting_run_alone(toy_sweep, tmp_path):
    planned = run.plan_of(toy_sweep)
    sweeps = results.load(toy_sweep.path).metrics
    setting = planned.setting(2)
    alone = train(setting.experiment, [planned.seed(2)], tmp_path / "alone", width=WIDTH)
    lane = sweeps[sweeps.run == 2].drop(columns="run").reset_index(drop=True)
    metrics = results.load(alone.path).metrics.drop(columns=["run", "label"])
    pd.testing.assert_frame_equal(lane[metrics.columns], metrics, check_exact=True)


def test_which_settings_are_shared_is_decided_by_the_whole_sweep():
    """A shard whose lanes have one learning rate has it as each lane's own all the same."""
    for planned in (toy_plan(), toy_plan(shard=(1, 2))):
        settings = Lanes(planned, planned.groups[0]).settings
        shapes = {len(np.shape(x)) for x in jax.tree.leaves(settings.learner)}
        assert shapes == {0}
        assert np.shape(settings.update.learning_rate) == (len(planned.groups[0].runs),)


@pytest.mark.parametrize("which", ["latest", "best"])
def test_evaluation_is_reproducible(toy_training, which):
    one, same, other, sampled = (
        evaluate_runs(
            find_runs(toy_training), num_episodes=3, which=which, seed=seed, deterministic=mode
        )
        for seed, mode in ((0, True), (0, True), (1, True), (0, False))
    )
    assert one.shape == (len(SEEDS), 3)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, sampled)


# What ends early goes on, to the same bits.


def test_resume_after_an_exception(job, tmp_path):
    planned, finished = job
    with pytest.raises(InterruptedError):
        run.start(planned, tmp_path / "broken", progress=Stop(after=2))
    assert not Record(tmp_path / "broken").finished
    assert_same(run.resume(tmp_path / "broken"), finished)


def test_resume_before_the_first_chunk_starts_anew(job, tmp_path):
    class Impatient(Progress):
        def compiling(self, what):
            raise InterruptedError

    planned, finished = job
    with pytest.raises(InterruptedError):
        run.start(planned, tmp_path / "run", progress=Impatient())
    assert_same(run.resume(tmp_path / "run"), finished)


KILLED = """
import os, signal, sys
from kltrust.experiments import cli
from kltrust.experiments.cli import progress
left = 4
def chunk(self, report):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
progress.ConsoleProgress.chunk = chunk
cli.main(sys.argv[1:])
"""


def test_resume_after_a_kill_and_on_other_devices(toy_sweep, tmp_path, compile_fast):
    (tmp_path / "toy.toml").write_text(SPEC)
    path = tmp_path / "killed"
    arguments = ["sweep", str(tmp_path / "toy.toml"), "--width", str(WIDTH), "--out", str(path)]
    killed = python("-c", KILLED, *arguments, environment=compile_fast, devices=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "toy: 6 runs in 2 static groups" in killed.stdout
    record = Record(path)
    assert record.config == toy_sweep.config
    assert record.changes()["device_count"] == (2, 1)
    assert [part.finished for part in parts(record)] == [True, False]
    assert_same(run.resume(path), toy_sweep)


def test_a_finished_job_is_left_as_it_is(job, monkeypatch):
    _, finished = job
    before = content(finished.path)
    with nothing_compiles(monkeypatch):
        assert run.resume(finished.path).finished
    assert content(finished.path) == before


def test_a_full_disk_loses_nothing_that_was_committed(toy_sweep, tmp_path, monkeypatch):
    path, write, left = tmp_path / "full", files.write_atomic, [5]

    def fails(file, data):
        left[0] -= file.name == "commit.json"
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", fails)
        with pytest.raises(RunError, match=rf"disk is full.*--resume {path}$"):
            run.start(toy_plan(), path)
    assert len(results.load(path).metrics) == 4 * 2
    assert_same(run.resume(path), toy_sweep)


def test_a_shard_for_everyone_and_all_together(toy_sweep, tmp_path, monkeypatch):
    paths = [tmp_path / f"shard{i}" for i in (1, 2)]
    for i, path in enumerate(paths, start=1):
        run.start(toy_plan(shard=(i, 2)), path)
    # Of about as many steps each: the cut goes through the first group.
    assert [results.load(path).runs.run.tolist() for path in paths] == [[0, 1], [2, 3, 4, 5]]
    merged = merge.merge(reversed(paths), tmp_path / "all")
    assert_same(merged, toy_sweep)
    with pytest.raises(ValueError, match=r"lacking \[2\]"):
        merge.merge(paths[:1], tmp_path / "part")
    with pytest.raises(ValueError, match="given twice"):
        merge.merge([*paths, paths[0]], tmp_path / "part")
    with pytest.raises(ValueError, match="is no shard"):
        merge.merge([toy_sweep.path], tmp_path / "part")
    with pytest.raises(RunError, match="holds a run already"):
        merge.merge(paths, paths[0])
    assert not (tmp_path / "part").exists()
    # The same merge once more, as after a kill at the very end.
    before = content(merged.path)
    assert merge.merge(paths, merged.path).path == merged.path
    assert content(merged.path) == before
    # Killed at its first write, at the second of the next try, and so on.
    again = tmp_path / "again"
    write, left = files.write_atomic, [0]

    def killed(file, data):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt  # as after a kill, no error handler runs
        write(file, data)

    for number in range(20):
        left[0] = number
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(files, "write_atomic", killed)
            merge.merge(paths, again)
            break
        # Whole, or nothing that going on would train on from.
        groups = [Record(place.parent) for place in again.glob("groups/*/run.json")]
        assert all(group.finished or group.last_chunk < 0 for group in groups)
    assert number > 3
    assert_same(Record(again), toy_sweep)


def test_other_floats_and_options_of_jax_are_said(interrupted, monkeypatch):
    before = content(interrupted)
    with nothing_compiles(monkeypatch):
        with jax.enable_x64(True), pytest.raises(RunError, match="float32: unset JAX_ENABLE_X64"):
            run.resume(interrupted)
        for option, value in (
            ("default_matmul_precision", "highest"),
            ("default_prng_impl", "rbg"),
            ("threefry_partitionable", not jax.config.jax_threefry_partitionable),
            ("numpy_dtype_promotion", "strict"),
            ("disable_jit", True),
        ):
            name, was = f"jax_{option}", getattr(jax.config, f"jax_{option}")
            jax.config.update(name, value)
            try:  # a warning, which is an error here, before anything is computed
                with pytest.raises(NumericsWarning, match=option.removeprefix("default_m")):
                    run.resume(interrupted)
            finally:
                jax.config.update(name, was)
    assert content(interrupted) == before
    # A folder that knows nothing of an option does not complain of it.
    then, now = {"flags": {"a": 1}}, {"flags": {"a": 2, "b": 3}}
    assert versions.differences(then, now) == {"a": (1, 2)}
    assert versions.differences({}, now) == {}


# From Python.


def test_a_sweep_in_one_call(toy_sweep, tmp_path, monkeypatch):
    (tmp_path / "toy.toml").write_text(SPEC)
    path = tmp_path / "toy"
    with pytest.raises(InterruptedError):
        kltrust.sweep(tmp_path / "toy.toml", path, width=WIDTH, progress=Stop(after=2))
    # A dict says the same, with NumPy's numbers and tuples; what was begun goes on.
    document = tomllib.loads(SPEC)
    document["sweep"]["seeds"] = 3, 5
    document["learner"]["num_envs"] = np.int64(4)
    document["network"]["hidden"] = (8,)
    document["experiments"][0]["grid"]["learning_rate"] = np.array([0.01, 0.3])
    found = kltrust.sweep(document, path, width=WIDTH)
    expected = kltrust.load(toy_sweep.path)
    pd.testing.assert_frame_equal(found.metrics, expected.metrics, check_exact=True)
    with nothing_compiles(monkeypatch):
        assert kltrust.sweep(document, path).scores.__self__.tasks == expected.tasks
        document["sweep"]["seeds"] = [3, 6]
        with pytest.raises(RunError, match="holds a run already"):
            kltrust.sweep(document, path)
        document["sweep"]["sedes"] = 1
        with pytest.raises(ValueError, match=r"^toy: unknown key in sweep 'sedes'.*seeds"):
            kltrust.sweep(document, path)


# What can't be used is refused, and nothing is overwritten.


def test_two_jobs_in_one_folder(toy_sweep, tmp_path):
    copy = shutil.copytree(toy_sweep.path, tmp_path / "copy")
    with Run.open(copy), pytest.raises(RunError, match="another process is writing"):
        run.resume(copy)
    with pytest.raises(RunError, match="holds a run already"):
        run.start(toy_plan(), copy)
    with pytest.raises(RunError, match=rf"is a part of {copy}: name the whole folder"):
        run.resume(copy / "groups" / "000")
    with Run.create(tmp_path / "other", {"weights": 3}):
        pass
    with pytest.raises(RunError, match="holds no training and no sweep"):
        run.resume(tmp_path / "other")


def test_a_checkpoint_that_is_not_ours(interrupted, monkeypatch):
    (latest,) = sorted((interrupted / "groups/000/checkpoints").iterdir())[-1:]
    shutil.rmtree(latest)
    checkpoint.save(latest, {"weights": np.zeros(3)})
    before = content(interrupted)
    with nothing_compiles(monkeypatch):
        with pytest.raises(StorageError, match="checkpoints"):
            run.resume(interrupted)
        with pytest.warns(DamageWarning, match="of another checkpoint"):
            runs = find_runs(Record(interrupted))
        with pytest.raises(StorageError, match="checkpoints"):
            evaluate_runs(runs)
    assert content(interrupted) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "CartPol-v1"}, "did you mean 'CartPole-v1'"),
        ({"env_params": {"gravitas": 1.0}}, "no parameter 'gravitas'.*gravity"),
        ({"update": {"max_kl": float("nan")}}, "max_kl must be"),
        ({"critic": {"num_minibatches": 7}}, "num_minibatches=7 does not divide"),
        ({"learner": {"gamma": 1.5}}, "gamma must be"),
        ({"network": {"activation": "tan"}}, "activation 'tan': did you mean tanh"),
        ({"budget": {"total_steps": 63}}, "total_steps=63 is less than one iteration"),
        ({"budget": {"anneal": 2.0}}, "anneal must be"),
        ({"budget": {"num_evals": 0}}, "num_evals must be at least 1"),
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
            run.resume(interrupted)
    assert not (tmp_path / "run").exists()
    assert content(interrupted) == before


# Not a number.


@pytest.mark.parametrize(
    ("env", "after", "iteration", "what", "committed"),
    [
        # Step 41 of each environment is the ninth of iteration 2, the second chunk's first.
        (known_envs.nan_reward, 40, 2, r"\d+ NaN or infinite rewards", 0),
        (known_envs.nan_obs, 3, 0, r"\d+ NaN or infinite observations", -1),
    ],
)
def test_not_a_number_is_named(tmp_path, env, after, iteration, what, committed):
    register("broken", lambda: env(after)._replace(max_steps=5))
    message = rf"seed 3, iteration {iteration}: .*{what}.*stands"
    with pytest.raises(NonFiniteError, match=message):
        train(tiny("vanilla_pg", "broken"), SEEDS, tmp_path / "run")
    record = Record(tmp_path / "run")
    (part,) = parts(record)
    assert part.last_chunk == committed
    assert not record.finished
    if committed >= 0:
        metrics = part.metrics()
        assert len(metrics) == len(SEEDS) * CHUNK
        assert np.isfinite(metrics.kl).all()
        (state,) = states(record)
        assert np.asarray(state.iteration).tolist() == [CHUNK] * len(SEEDS)


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


def test_an_environment_without_end_cannot_be_evaluated(tmp_path):
    register("endless", known_envs.nan_reward)
    with pytest.raises(ValueError, match="no time limit"):
        train(tiny("vanilla_pg", "endless"), SEEDS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# A lane that breaks.


def poison(after):
    """A sweep of a lane whose rewards are NaN after so many steps, a setting that is traced."""
    register("poisoned", lambda after=1e9: known_envs.nan_reward(after)._replace(max_steps=5))
    text = HEAD.replace("CartPole-v1", "poisoned")
    return (
        f"{text}[[experiments]]\nlearner.num_steps = 16\ngrid.env_params.after = [1e9, {after}]\n"
    )


def test_a_broken_lane_is_frozen_and_harms_no_other(tmp_path):
    reports = []

    class Listen(Progress):
        def chunk(self, report):
            reports.append(report)

    # Of step 41 on each reward is NaN: in iteration 2, the third.
    text = poison(40.0).replace("total_steps = 192", "total_steps = 320")
    record = run.start(toy_plan(text), tmp_path / "broken", progress=Listen())
    assert record.summary["broken"] == {"2": 2, "3": 2}
    assert reports[-1].broken == {2: 2, 3: 2}
    assert reports[0].broken == {}
    loaded = results.load(record.path)
    assert loaded.runs.broken.fillna(-1).tolist() == [-1, -1, 2, 2]
    sizes = loaded.metrics.groupby("run").size()
    assert sizes.tolist() == [5, 5, 3, 3]
    bad = loaded.metrics[loaded.metrics.nonfinite_rewards > 0]
    assert sorted(zip(bad.run, bad.iteration, strict=True)) == [(2, 2), (3, 2)]
    (state,) = states(record)
    assert np.asarray(state.iteration).tolist() == [5, 5, 2, 2]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.policy_params))

    healthy = run.start(toy_plan(text.replace("40.0", "2e9")), tmp_path / "healthy")
    expected = results.load(healthy.path).metrics
    assert healthy.summary["broken"] == {}
    # Its neighbours do not notice, and it is itself until it breaks.
    for frame in (loaded.metrics, expected):
        frame.drop(frame[(frame.run >= 2) & (frame.iteration >= 2)].index, inplace=True)
        frame.reset_index(drop=True, inplace=True)
    found, expected = (f.drop(columns="label") for f in (loaded.metrics, expected))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)

    resumed = tmp_path / "resumed"
    with pytest.raises(InterruptedError):
        run.start(toy_plan(text), resumed, progress=Stop(2))
    assert_same(run.resume(resumed), record)
