"""Sweeps: one compilation per static group, lanes that keep to themselves, resume to the bit."""

import io
import os
import shutil
import signal
import subprocess
import sys

import jax
import known_envs
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from kltrust import results
from kltrust.environments import _registry, register
from kltrust.experiments import cli
from kltrust.experiments.cli import sweep_progress
from kltrust.experiments.config import spec
from kltrust.experiments.engine import memory
from kltrust.experiments.jobs import merge, plan, sweep, sweep_report, training
from kltrust.experiments.store.record import Record, RunError
from kltrust.experiments.store.run import Run, files

# Two static groups: four and two runs of three iterations, in chunks of two and one.
SPEC = """
[sweep]
name = "toy"
seeds = [3, 5]
envs = "CartPole-v1"
algorithms = "vanilla_pg"
preset = "none"

[learner]
num_envs = 4

[critic]
num_epochs = 1
num_minibatches = 2

[network]
hidden = [8]

[budget]
total_steps = 192
num_evals = 2
eval_episodes = 2

[[experiments]]
learner.num_steps = 16
grid.learning_rate = [0.01, 0.3]

[[experiments]]
label = "short"
learner.num_steps = 8
budget.total_steps = 64
"""
WIDTH = 2


pytestmark = pytest.mark.usefixtures("compile_fast")


def toy_plan(text=SPEC, **keywords):
    return plan.make_plan(spec.parse(text), **{"width": WIDTH, **keywords})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep that nobody interrupted."""
    return sweep.start(toy_plan(), tmp_path_factory.mktemp("sweeps") / "whole")


class Stop(sweep_report.Silent):
    """Interrupts a sweep after so many commits."""

    def __init__(self, after):
        self.left = after

    def chunk(self, report):
        self.left -= 1
        if not self.left:
            raise InterruptedError


def assert_same_results(one, other):
    one, other = results.load(one), results.load(other)
    for frame in ("metrics", "evaluations"):
        pd.testing.assert_frame_equal(getattr(one, frame), getattr(other, frame), check_exact=True)
    pd.testing.assert_frame_equal(
        one.runs.drop(columns="sweep"), other.runs.drop(columns="sweep"), check_exact=True
    )


def states(record):
    planned = sweep.plan_of(record)
    return [
        training.restore_states(part, planned.experiment(group))
        for group, part in sweep.group_records(record.path, planned)
    ]


def assert_same_states(one, other):
    for x, y in zip(*map(jax.tree.leaves, (states(one), states(other))), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


# One program for many settings.


def test_one_compilation_each_per_static_group(finished):
    planned = sweep.plan_of(finished)
    parts = list(sweep.group_records(finished.path, planned))
    assert [len(group.runs) for group, _ in parts] == [4, 2]
    for group, part in parts:
        assert part.summary["compilations"] == {"init": 1, "chunk": 1, "evaluate": 1}
        assert part.finished
        # The estimate is of the order of what the compiler says.
        estimate = memory.estimate_memory(
            planned.experiment(group), len(group.runs), group.width, group.chunk_length
        )
        assert 0.3 < estimate.total / part.summary["memory"]["chunk"] < 3


def test_tables(finished):
    loaded = results.load(finished.path)
    assert loaded.runs.run.tolist() == list(range(6))
    assert loaded.runs.seed.tolist() == [3, 5] * 3
    assert loaded.runs.label.tolist() == [
        *["vanilla_pg learning_rate=0.01"] * 2,
        *["vanilla_pg learning_rate=0.3"] * 2,
        *["short"] * 2,
    ]
    assert loaded.runs["update.learning_rate"].tolist() == [0.01, 0.01, 0.3, 0.3, 0.01, 0.01]
    assert loaded.runs.iterations.tolist() == [3, 3, 3, 3, 2, 2]
    assert loaded.runs.broken.isna().all()
    metrics = loaded.metrics
    assert metrics.groupby("run").size().tolist() == [3, 3, 3, 3, 2, 2]
    assert (
        metrics.env_steps
        == (metrics.iteration + 1) * metrics.run.map(lambda r: 64 if r < 4 else 32)
    ).all()
    assert loaded.evaluations.groupby("run").size().tolist() == [3, 3, 3, 3, 2, 2]
    scores = loaded.scores()
    assert {k: v.shape for k, v in scores.items()} == dict.fromkeys(loaded.runs.label, (2, 1))
    assert scores["short"][:, 0].tolist() == loaded.runs.score[4:].tolist()


def test_common_random_numbers(finished):
    """A seed has the same initial policy, critic and start states under every setting."""
    metrics = results.load(finished.path).metrics
    first = metrics[metrics.iteration == 0].set_index("run")
    before_the_update = ["value_loss", "explained_variance", "return_sum", "length_sum"]
    for name in before_the_update:
        assert first[name][0] == first[name][2]
        assert first[name][1] == first[name][3]
    assert first.value_loss[0] != first.value_loss[1]
    # But the step is the setting's own.
    assert first.kl[0] != first.kl[2]


def test_a_lane_equals_the_setting_run_alone(finished, tmp_path):
    planned = sweep.plan_of(finished)
    sweeps = results.load(finished.path).metrics
    alone = training.train(
        planned.setting(2).experiment, [planned.seed(2)], tmp_path / "alone", width=WIDTH
    )
    lane = sweeps[sweeps.run == 2].drop(columns="run").reset_index(drop=True)
    pd.testing.assert_frame_equal(lane[alone.metrics().columns], alone.metrics(), check_exact=True)


# What ends early goes on.


def test_resume_after_an_exception_equals_an_uninterrupted_sweep(finished, tmp_path):
    path = tmp_path / "broken"
    with pytest.raises(InterruptedError):
        sweep.start(toy_plan(), path, progress=Stop(after=2))
    assert not Record(path).finished
    resumed = sweep.resume(path)
    assert resumed.finished
    assert_same_results(path, finished.path)
    assert_same_states(resumed, finished)


KILLED = """
import os, signal, sys
from kltrust.experiments import cli
from kltrust.experiments.cli import sweep_progress
progress = sweep_progress.SweepProgress
left = 4
def chunk(self, report):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
progress.chunk = chunk
cli.main(sys.argv[1:])
"""


def test_resume_after_a_kill_equals_an_uninterrupted_sweep(finished, tmp_path, compile_fast):
    (tmp_path / "toy.toml").write_text(SPEC)
    path = tmp_path / "killed"
    arguments = ["sweep", str(tmp_path / "toy.toml"), "--width", str(WIDTH), "--out", str(path)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        env={**os.environ, **compile_fast, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "toy: 6 runs in 2 static groups" in killed.stdout
    record = Record(path)
    assert record.config == finished.config
    assert [p.finished for _, p in sweep.group_records(path, sweep.plan_of(record))] == [
        True,
        False,
    ]
    assert_same_results(sweep.resume(path).path, finished.path)


def test_a_finished_sweep_is_left_as_it_is(finished, monkeypatch):
    monkeypatch.setattr(sweep, "_run_group", lambda *_: pytest.fail("something was run"))
    assert sweep.resume(finished.path).finished


def test_two_sweeps_in_one_folder(finished, tmp_path):
    copy = shutil.copytree(finished.path, tmp_path / "copy")
    with Run.open(copy), pytest.raises(RunError, match="another process is writing"):
        sweep.resume(copy)
    with pytest.raises(RunError, match="holds another run"):
        sweep.start(toy_plan(), copy)
    with pytest.raises(RunError, match="holds no sweep"):
        sweep.resume(next(iter((copy / "groups").iterdir())))


def test_a_full_disk_loses_nothing_that_was_committed(finished, tmp_path, monkeypatch):
    path, write, left = tmp_path / "full", files.write_atomic, [2]

    def fails(file, data):
        left[0] -= file.name == "commit.json"
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", fails)
        with pytest.raises(RunError, match=rf"disk is full.*--resume {path}$"):
            sweep.start(toy_plan(), path)
    assert len(results.load(path).metrics) == 4 * 2
    assert_same_results(sweep.resume(path).path, finished.path)


def test_a_shard_for_everyone_and_all_together(finished, tmp_path):
    paths = [tmp_path / f"shard{i}" for i in (1, 2)]
    for i, path in enumerate(paths, start=1):
        sweep.start(toy_plan(shard=(i, 2)), path)
    # Of about as many steps each: the cut goes through the first group.
    assert [results.load(path).runs.run.tolist() for path in paths] == [[0, 1], [2, 3, 4, 5]]
    merged = merge.merge(reversed(paths), tmp_path / "all")
    assert_same_results(merged.path, finished.path)
    assert_same_states(merged, finished)
    with pytest.raises(ValueError, match=r"lacking \[2\]"):
        merge.merge(paths[:1], tmp_path / "part")
    with pytest.raises(ValueError, match="given twice"):
        merge.merge([*paths, paths[0]], tmp_path / "part")
    with pytest.raises(ValueError, match="is no shard"):
        merge.merge([finished.path], tmp_path / "part")
    with pytest.raises(RunError, match="holds another run"):
        merge.merge(paths, paths[0])
    assert not (tmp_path / "part").exists()


# A lane that breaks.


@pytest.fixture
def poisoned():
    """Rewards are NaN after so many steps, a setting that is traced: a lane's own."""

    def make(after: float = 1e9):
        return known_envs.nan_reward(after)._replace(max_steps=5)

    register("poisoned", make)
    yield
    del _registry._factories["poisoned"]


def poison(after):
    text = SPEC[: SPEC.index("[[experiments]]")].replace("CartPole-v1", "poisoned")
    return (
        f"{text}[[experiments]]\nlearner.num_steps = 16\ngrid.env_params.after = [1e9, {after}]\n"
    )


def test_a_broken_lane_is_frozen_and_harms_no_other(poisoned, tmp_path):
    reports = []

    class Listen(sweep_report.Silent):
        def chunk(self, report):
            reports.append(report)

    # Of step 41 on each reward is NaN: in iteration 2, the third.
    text = poison(40.0).replace("total_steps = 192", "total_steps = 320")
    record = sweep.start(toy_plan(text), tmp_path / "broken", progress=Listen())
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

    healthy = sweep.start(toy_plan(text.replace("40.0", "2e9")), tmp_path / "healthy")
    expected = results.load(healthy.path).metrics
    assert healthy.summary["broken"] == {}
    # Its neighbours do not notice, and it is itself until it breaks.
    for frame in (loaded.metrics, expected):
        frame.drop(frame[(frame.run >= 2) & (frame.iteration >= 2)].index, inplace=True)
        frame.reset_index(drop=True, inplace=True)
    pd.testing.assert_frame_equal(loaded.metrics, expected, check_exact=True)

    resumed = tmp_path / "resumed"
    with pytest.raises(InterruptedError):
        sweep.start(toy_plan(text), resumed, progress=Stop(2))
    assert_same_results(sweep.resume(resumed).path, record.path)


# As seen from a terminal.


def said(capsys, *arguments):
    status = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_status_of_a_sweep(finished, tmp_path, capsys):
    path = tmp_path / "part"
    with pytest.raises(InterruptedError):
        sweep.start(toy_plan(), path, progress=Stop(2))
    status, out, _ = said(capsys, "status", path)
    assert status == 0
    assert "toy: not finished" in out
    assert "2/3" in out
    assert "0/2" in out
    status, out, _ = said(capsys, "status", finished.path)
    assert "toy: finished" in out
    assert out.count("done") == 2


def test_a_dry_run_does_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(SPEC)
    status, out, _ = said(capsys, "sweep", "toy.toml", "--dry-run", "--shard", "1/2")
    assert status == 0
    assert "toy, shard 1 of 2" in out
    assert "MiB" in out
    assert "--measure tries" in out
    status, out, _ = said(capsys, "sweep", "toy.toml", "--dry-run", "--measure", "--width", "2")
    assert status == 0
    assert "by one iteration of each group" in " ".join(out.split())
    assert os.listdir(tmp_path) == ["toy.toml"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sweep", "which specification"),
        ("sweep absent.toml", "can't read the specification absent.toml"),
        ("sweep toy.toml --shard 3", "--shard takes I/N"),
        ("sweep toy.toml --shard 3/2", "1 <= i <= n"),
        ("sweep toy.toml --resume absent", "leave the others out"),
        ("sweep --resume absent", "no run folder"),
        ("status absent", "no run folder"),
        ("merge absent --out all", "no run folder"),
    ],
)
def test_errors_of_the_commands(line, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(SPEC)
    status, _, err = said(capsys, *line.split())
    assert status == 1
    assert message in err


def test_lines_where_there_is_no_terminal(capsys):
    shown = sweep_progress.SweepProgress()
    planned = toy_plan()
    shown.start(planned, None)
    shown.group(1, 0)
    shown.compiling("init")
    shown.chunk(sweep_report.Report(2, 3, 128, 1234.5, ("a [label]", 7.25), {5: 1}, 9))
    shown.end()
    compiling, warning, line = capsys.readouterr().out.splitlines()
    assert compiling == "vanilla_pg CartPole-v1 x 2: compiling init ..."
    assert "warning: 9 observations of this chunk allow no action by their mask" in warning
    assert (
        line
        == "vanilla_pg CartPole-v1 x 2:      2/3   1,234 steps/s   best a [label] 7.2   1 broken"
    )


def test_a_bar_per_group_on_a_terminal():
    out = io.StringIO()
    shown = sweep_progress.SweepProgress(Console(file=out, force_terminal=True, width=160))
    shown.start(toy_plan(), None)
    shown.group(0, 1)
    shown.compiling("init")
    shown.group(1, 0)
    shown.chunk(sweep_report.Report(2, 2, 128, 1234.5, ("a [label]", 7.25), {}))
    shown.end()
    shown.end()
    text = out.getvalue()
    for part in (
        "vanilla_pg CartPole-v1 x 4",
        "1/3",
        "compiling init",
        "2/2",
        "best a [label] 7.2",
    ):
        assert part in text


def test_an_interrupt_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    (tmp_path / "toy.toml").write_text(SPEC)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "_run_group", interrupt)
    status, _, err = said(capsys, "sweep", tmp_path / "toy.toml", "--out", tmp_path / "out")
    assert status == 130
    assert f"`kltrust sweep --resume {tmp_path / 'out'}` goes on" in err
