"""Exports: what a dashboard gets is what the tables hold."""

import itertools
import json
import shutil
import struct
import sys
import time

import numpy as np
import pytest
import toys

import kltrust
from kltrust.experiments import cli
from kltrust.experiments.config import spec
from kltrust.experiments.jobs import plan
from kltrust.experiments.reading import export
from kltrust.experiments.store import activity

SPEC = (
    toys.HEAD.replace('"toy"', '"made"').replace("[3, 5]", "[4, 2]").replace("= 192", "= 128")
    + '[[experiments]]\nalgorithms = "trpo"\nlearner.num_steps = 8\ngrid.max_kl = [0.01, 0.02]\n'
)
CHUNK, RUNS = 2, 4
STEPS = 4 * 8


def metrics_of(group, first):
    """KL tells the run and the iteration; in every second one episodes end."""
    kl = np.asarray(group.runs)[:, None] * 10.0 + first + np.arange(CHUNK)
    kl = kl.astype(np.float32)
    episodes = np.broadcast_to(np.asarray([0, 2]), kl.shape).astype(np.int32)
    return {
        "kl": np.where(kl == 11, np.nan, kl),
        "return_sum": kl * episodes,
        "length_sum": 3 * episodes,
        "num_episodes": episodes,
        "nonfinite_update": np.zeros_like(episodes),
        "extra": {"accepted": episodes > 0},
    }


def write(path):
    planned = plan.make_plan(spec.parse(SPEC), width=2)
    return toys.write(path, planned, metrics_of, lambda run, done: 10 * run + done - 0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sweeps") / "made")


def test_history_is_what_the_tables_hold(made):
    runs = list(export.exported(kltrust.results.load(made)))
    assert [r.name for r in runs] == [
        f"made/trpo max_kl={kl}/CartPole-v1/seed{seed}" for kl in (0.01, 0.02) for seed in (4, 2)
    ]
    first, second, third, _ = runs
    assert (first.config["update.max_kl"], third.config["update.max_kl"]) == (0.01, 0.02)
    assert list(first.history) == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    assert first.history[3 * STEPS]["train/kl"] == 2
    assert "evaluation/mean_return" not in first.history[STEPS]
    assert first.history[2 * STEPS]["evaluation/mean_return"] == 1.5
    assert first.summary["score"] == 3.5
    # Episodes ended in every second iteration only; a NaN is left out, not exported as one.
    assert "train/episode_return" not in first.history[STEPS]
    assert first.history[2 * STEPS]["train/episode_return"] == 1
    assert first.history[2 * STEPS]["train/episode_length"] == 3
    assert "train/kl" in second.history[STEPS]
    assert "train/kl" not in second.history[2 * STEPS]


def test_a_run_in_two_folders_is_two_runs(made):
    runs = list(export.exported(kltrust.results.load(made, made)))
    assert len({r.name for r in runs}) == len(runs) == 2 * RUNS


def read_events(folder):
    """(tag, step) to value, from TensorBoard's files: records of length, checksum, event."""
    from tensorboardX.proto import event_pb2

    (file,) = folder.glob("events*")
    data, found = file.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
    return found


def test_tensorboard_files_hold_the_same_numbers(made, tmp_path, capsys):
    assert cli.main(["export", str(made), "--tensorboard", str(tmp_path / "tb")]) == 0
    assert "4 runs" in capsys.readouterr().out
    (folder,) = tmp_path.glob("tb/made/trpo_max_kl=0.02/CartPole-v1/seed2")
    found = read_events(folder)
    run = list(export.exported(kltrust.results.load(made)))[-1]
    for step, tags in run.history.items():
        for tag, value in tags.items():
            assert found.pop((tag, step)) == pytest.approx(value, rel=1e-6)
    assert [tag for tag, _ in found] == ["settings/text_summary"]


def test_a_second_export_does_not_mix_with_the_first(made, tmp_path, capsys):
    arguments = ["export", str(made), "--tensorboard", str(tmp_path)]
    assert cli.main(arguments) == 0
    before = {p: p.stat().st_size for p in tmp_path.rglob("*")}
    assert cli.main(arguments) == 1
    assert "is there already" in capsys.readouterr().err
    assert {p: p.stat().st_size for p in tmp_path.rglob("*")} == before


def test_an_export_follows_a_growing_run(made, tmp_path, capsys, monkeypatch):
    """Rows come once each, as they are committed; a run that nobody works on ends it."""
    planned = plan.make_plan(spec.parse(SPEC), width=2)
    growing, chunks = tmp_path / "runs" / "made", iter([2])
    toys.write(growing, planned, metrics_of, lambda run, done: 10 * run + done - 0.5, chunks=1)
    alive = activity.read(growing)._replace(alive=True)
    assert not alive.doing

    def grow(seconds):
        shutil.rmtree(growing)
        toys.write(
            growing,
            planned,
            metrics_of,
            lambda run, done: 10 * run + done - 0.5,
            chunks=next(chunks),
        )

    with monkeypatch.context() as patched:
        patched.setattr(activity, "read", lambda path: alive._replace(seen=next(looks)))
        looks = itertools.count()
        patched.setattr(export.time, "sleep", grow)
        out = tmp_path / "tb"
        assert cli.main(["export", str(growing), "--tensorboard", str(out), "--follow"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("8 new rows of 4 runs") == 2
    assert "4 runs: tensorboard" in printed
    (folder,) = out.glob("made/trpo_max_kl=0.02/CartPole-v1/seed2")
    expected = list(export.exported(kltrust.results.load(made)))[-1].history
    found = read_events(folder)
    found.pop(("settings/text_summary", 0))
    assert found == pytest.approx(
        {(tag, step): value for step, of in expected.items() for tag, value in of.items()}
    )

    other = tmp_path / "stopped"
    toys.write(other, planned, metrics_of, lambda run, done: 0.0, chunks=1)
    assert cli.main(["export", str(other), "--tensorboard", str(out), "--follow"]) == 0
    assert "no process works on it any more" in capsys.readouterr().out


def wandb_records(data):
    """The records of a W&B file: LevelDB's log format, blocks of 32 KiB after 7 bytes of header."""
    whole, at, block = b"", 7, 1 << 15
    while at + 7 <= len(data):
        if block - at % block < 7:  # too short for a header: zeros
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):  # the rest is still being written
            return
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part of several
            yield whole
            whole = b""


def read_wandb(folder, patience=60):
    """The name, settings and history of an offline run that has finished.

    W&B's own process may write the end of the file some seconds after ``finish`` returns.
    """
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    for _ in range(10 * patience):
        found = [wandb_internal_pb2.Record.FromString(x) for x in wandb_records(file.read_bytes())]
        if any(record.HasField("exit") for record in found):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"W&B has not finished {file.name} within {patience} seconds")
    history, config, name = {}, {}, None
    for record in found:
        if record.HasField("history"):
            items = record.history.item
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            history[row["_step"]] = row
        if record.HasField("run"):
            name = record.run.display_name
            config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
    return name, config, history


def test_wandb_offline_runs_hold_the_same_numbers(made, tmp_path, capsys, monkeypatch):
    # As a person would call it: in a folder of theirs, which W&B keeps its files in.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
    assert cli.main(["export", str(made), "--wandb", "mine"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("wandb sync ") == RUNS
    folders = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert len(folders) == RUNS
    assert all(str(folder) in printed for folder in folders)
    found = {name: (config, history) for name, config, history in map(read_wandb, folders)}
    for run in export.exported(kltrust.results.load(made)):
        config, history = found[run.name]
        assert config["update.max_kl"] == run.config["update.max_kl"]
        assert list(history) == list(run.history)
        for step, tags in run.history.items():
            logged = {k: v for k, v in history[step].items() if not k.startswith("_")}
            assert logged == pytest.approx(tags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say where to export to"),
        (["--online", "--tensorboard", "x"], "--online goes with --wandb"),
    ],
)
def test_an_export_to_nowhere_says_what_is_missing(made, capsys, arguments, message):
    assert cli.main(["export", str(made), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_extra_is_named(made, tmp_path, capsys, monkeypatch, flag, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["export", str(made), f"--{flag}", str(tmp_path / "x")]) == 1
    assert f"pip install 'kltrust[{flag}]'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_nothing_to_export_is_an_error(tmp_path, capsys):
    begun = toys.write(tmp_path / "begun", toys.toy_plan(), None, None, groups=0)
    assert cli.main(["export", str(begun), "--tensorboard", str(tmp_path / "x")]) == 1
    assert "nothing to export yet" in capsys.readouterr().err


def test_an_unwritable_folder_is_an_error(made, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["export", str(made), "--tensorboard", str(tmp_path / "file" / "tb")]) == 1
    assert "can't write to" in capsys.readouterr().err
