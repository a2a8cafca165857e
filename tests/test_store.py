"""A run folder survives what happens to run folders: kills, full disks, second processes."""

import errno
import json
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from toys import content, output, python

from kltrust.experiments.store.run import Record, Run, RunError, checkpoint, files, tables, versions

SEEDS = (3, 5)
PER_CHUNK = 4
CONFIG = {"algorithm": "trpo", "max_kl": float("inf"), "hidden": (64, 64), "lr": np.float32(0.5)}


def state_after(chunk):
    return {"w": jnp.full((2, 3), float(chunk)), "key": jax.random.key(chunk)}


def rows_of(chunk):
    kl = chunk + np.arange(len(SEEDS) * PER_CHUNK, dtype=np.float32).reshape(len(SEEDS), -1) / 100
    metrics = {"kl": kl, "extra": {"accepted": kl > 1}, "num_episodes": kl.astype(np.int32)}
    return tables.to_rows(metrics, SEEDS, chunk * PER_CHUNK)


def commit(run, chunk, **more):
    run.commit(chunk, rows_of(chunk), state_after(chunk), **more)


def expected_metrics(last_chunk):
    return pd.concat([pd.DataFrame(rows_of(c)) for c in range(last_chunk + 1)], ignore_index=True)


def assert_holds(path, last_chunk):
    """The folder is that of a run which ended after this chunk, with no trace of anything later."""
    record = Record(path)
    assert record.last_chunk == last_chunk
    if last_chunk >= 0:
        pd.testing.assert_frame_equal(record.metrics(), expected_metrics(last_chunk))
        restored = record.restore(state_after(0))
        assert np.all(restored["w"] == last_chunk)
        assert restored["key"] == jax.random.key(last_chunk)


def test_a_run_from_beginning_to_end(tmp_path):
    path = tmp_path / "runs" / "first"
    with Run.create(path, CONFIG) as run:
        assert run.last_chunk == -1
        assert run.metrics().empty
        with pytest.raises(RunError, match="no checkpoint yet"):
            run.restore(state_after(0))
        for chunk in range(3):
            commit(run, chunk, seconds={"compile": 2.0 * (chunk == 0), "run": 0.5})
            assert_holds(path, chunk)
        run.finish({"mean_return": 500.0})
    record = Record(path)
    assert record.config == {**CONFIG, "hidden": [64, 64], "lr": 0.5}
    assert record.versions == versions.snapshot()
    assert record.changes() == {}
    assert record.seconds == {"compile": 2.0, "run": 1.5}
    assert record.finished
    assert record.summary == {"mean_return": 500.0}
    assert_holds(path, 2)
    kept = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    assert kept == ["checkpoints", "commit.json", "metrics.parquet", "run.json"]
    pd.testing.assert_frame_equal(pd.read_parquet(path / "metrics.parquet"), expected_metrics(2))


def test_rows_are_plain_scalars_one_per_seed_and_iteration():
    frame = pd.DataFrame(rows_of(1))
    assert list(frame.columns) == ["seed", "iteration", "extra.accepted", "kl", "num_episodes"]
    assert not frame.duplicated(["seed", "iteration"]).any()
    assert frame["iteration"].tolist() == [4, 5, 6, 7, 4, 5, 6, 7]
    assert frame["seed"].tolist() == [3] * 4 + [5] * 4
    assert [dtype.kind for dtype in frame.dtypes] == ["i", "i", "b", "f", "i"]


def test_nan_and_infinity_are_kept_in_metrics_and_configuration(tmp_path):
    column = np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)
    with Run.create(tmp_path / "r", {"max_kl": float("inf"), "nan": float("nan")}) as run:
        run.commit(0, {"kl": column}, state_after(0))
        run.finish()
    assert Record(tmp_path / "r").metrics()["kl"].to_numpy().tobytes() == column.tobytes()
    config = Record(tmp_path / "r").config
    assert config["max_kl"] == float("inf")
    assert np.isnan(config["nan"])


def test_the_best_state_is_kept_beside_the_latest(tmp_path):
    with Run.create(tmp_path / "r", {}) as run:
        assert run.best is None
        commit(run, 0)
        assert np.all(run.restore(state_after(0), "best")["w"] == 0)  # without a score, the latest
        for chunk, score in enumerate([7.0, float("nan"), None, 7.0, 3.0], start=1):
            commit(run, chunk, score=score)
        assert run.best == {"chunk": 1, "score": 7.0}
        assert np.all(run.restore(state_after(0), "best")["w"] == 1)
        assert np.all(run.restore(state_after(0))["w"] == 5)
        assert len(list((tmp_path / "r" / "checkpoints").iterdir())) == 2
        with pytest.raises(ValueError, match="'latest' or 'best'"):
            run.restore(state_after(0), "worst")


def test_evaluations_are_a_table_of_their_own(tmp_path):
    with Run.create(tmp_path / "r", {}) as run:
        commit(run, 0)
        assert run.evaluations().empty
        commit(run, 1, evaluation={"seed": [3, 5], "return": [1.0, 2.0]})
        commit(run, 2, evaluation={"seed": [3, 5], "return": [3.0, 4.0]})
        for _ in ("parts", "finished"):
            assert run.evaluations()["return"].tolist() == [1.0, 2.0, 3.0, 4.0]
            run.finish()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"kl": np.zeros((2, 2, 2))}, "or \\[n, K\\]"),
        ({"kl": np.zeros((2, 2))}, "columns of metrics changed"),
        ({"kl": np.zeros(2), "x": np.zeros(3)}, "of one length"),
        ({"other": np.zeros(2)}, "columns of metrics changed"),
        ({"kl": np.zeros(2, np.int32)}, "columns of metrics changed"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, rows, message):
    with Run.create(tmp_path / "r", {}) as run:
        run.commit(0, {"kl": np.zeros(2)}, state_after(0))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=message):
            run.commit(1, rows, state_after(1))
        assert sorted(tmp_path.rglob("*")) == before
        run.commit(1, {"kl": np.ones(2)}, state_after(1))


def test_chunks_are_committed_in_order_until_the_end(tmp_path):
    with Run.create(tmp_path / "r", {}) as run:
        with pytest.raises(ValueError, match="chunk 1 can't follow chunk -1"):
            commit(run, 1)
        commit(run, 0)
        with pytest.raises(ValueError, match="chunk 0 can't follow chunk 0"):
            commit(run, 0)
        run.finish({"first": 1})
        run.finish({"second": 2})
        assert run.summary == {"first": 1}
        with pytest.raises(RunError, match="finished: start another"):
            commit(run, 1)
    with pytest.raises(RunError, match="closed: open it again"):
        commit(run, 1)


def test_a_folder_with_another_run_is_refused_and_untouched(tmp_path):
    with Run.create(tmp_path / "r", {"name": "first"}) as run:
        commit(run, 0)
    (tmp_path / "thesis.tex").write_text("precious")
    before = content(tmp_path)
    with pytest.raises(RunError, match=r"holds a run already: --resume \S+ goes on with it"):
        Run.create(tmp_path / "r", {"name": "second"})
    with pytest.raises(RunError, match=r"not empty \(it holds r"):
        Run.create(tmp_path, {})
    assert content(tmp_path) == before


def test_what_is_no_run_is_not_opened(tmp_path):
    for look in (Run.open, Record):
        with pytest.raises(RunError, match=r"no run folder .*: check the path"):
            look(tmp_path / "nowhere")
        with pytest.raises(RunError, match=r"holds no run \(it has no run.json\)"):
            look(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "another program 1"}')
    with pytest.raises(files.StorageError, match="'another program 1'"):
        Record(tmp_path)
    (tmp_path / "run.json").write_text('{"form')
    with pytest.raises(files.StorageError, match=r"damaged .*backup"):
        Record(tmp_path)


def test_a_configuration_without_a_place_in_json_is_refused_early(tmp_path):
    with pytest.raises(TypeError, match="can't be written as JSON"):
        Run.create(tmp_path / "r", {"policy": object()})
    assert not list(tmp_path.iterdir())


def test_the_lock_is_between_writers_and_ends_with_its_owner(tmp_path):
    path = tmp_path / "r"
    code = f"from kltrust.experiments.store.run import Run; Run.open({str(path)!r})"
    with Run.create(path, {}) as run:
        commit(run, 0)
        assert "another process is writing" in python("-c", code).stderr
        assert_holds(path, 0)  # a reader needs no lock
    output("-c", code)
    with Run.open(path) as run:
        commit(run, 1)
    assert_holds(path, 1)


def test_a_failed_start_releases_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_atomic", failing(errno.ENOSPC))
    with pytest.raises(files.StorageError, match="the disk is full"):
        Run.create(tmp_path / "r", {})
    monkeypatch.undo()
    Run.create(tmp_path / "r", {}).close()


def test_a_reader_follows_a_writer_that_replaces_what_it_looks_at(tmp_path):
    with Run.create(tmp_path / "r", {}) as run:
        commit(run, 0)
        record = Record(tmp_path / "r")
        commit(run, 1)  # removes the checkpoint that the record knows of
        assert np.all(record.restore(state_after(0))["w"] == 1)
        run.finish()  # removes the parts
        pd.testing.assert_frame_equal(record.metrics(), expected_metrics(1))


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


OPERATIONS = ("fsync", "replace", "rename", "mkdir")


class Killed(BaseException):
    """Not an Exception: as after a kill, no error handler runs."""


def interrupt_at(monkeypatch, count, error):
    """Lets the process live for ``count`` file operations; returns the number seen so far."""
    seen = [0]

    def wrap(operation):
        def counted(*arguments, **keywords):
            seen[0] += 1
            if seen[0] > count:
                raise error
            return operation(*arguments, **keywords)

        return counted

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    return seen


@pytest.fixture(scope="module")
def two_chunks(tmp_path_factory):
    """A run of two chunks, the first of them the best: to be copied, and broken."""
    path = tmp_path_factory.mktemp("template") / "r"
    with Run.create(path, {}) as run:
        commit(run, 0, score=9.0)
        commit(run, 1, score=1.0)
    return path


def stopped_anywhere(act, template, tmp_path, monkeypatch, error):
    """An action on a copy for every moment at which it can stop: (path, whether it was done)."""
    for count in range(200):
        path = shutil.copytree(template, tmp_path / str(count))
        run = Run.open(path)
        with monkeypatch.context() as patch:
            seen = interrupt_at(patch, count, error)
            try:
                act(run)
                done = True
            except (Killed, RunError):
                done = False
        run.close()
        yield path, done
        if done and seen[0] <= count:
            assert count > 5
            return
    pytest.fail("these are too many operations to try")


def third_chunk(run):
    commit(run, 2)


def test_a_kill_at_any_moment_leaves_a_run_to_go_on_with(two_chunks, tmp_path, monkeypatch):
    ends = set()
    for path, _ in stopped_anywhere(third_chunk, two_chunks, tmp_path, monkeypatch, Killed()):
        last = Record(path).last_chunk
        ends.add(last)
        assert_holds(path, last)
        with Run.open(path) as run:
            assert_holds(path, last)
            assert np.all(run.restore(state_after(0), "best")["w"] == 0)
            leftovers = [p for p in path.rglob("*") if files.is_debris(p)]
            assert not leftovers
            assert len(list((path / "checkpoints").iterdir())) == 2
            commit(run, last + 1)
            run.finish()
        assert_holds(path, last + 1)
    assert ends == {1, 2}


def test_a_disk_full_at_any_moment_loses_nothing_committed(two_chunks, tmp_path, monkeypatch):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for path, done in stopped_anywhere(third_chunk, two_chunks, tmp_path, monkeypatch, error):
        assert_holds(path, 2 if done else 1)
        left = {p.name for p in path.rglob("*") if files.is_debris(p) or p.stem == "000002"}
        assert left == ({"000002", "000002.parquet"} if done else set())


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "a folder that can be written to"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_the_disk_s_errors_are_explained_and_the_run_goes_on(tmp_path, monkeypatch, number, remedy):
    with Run.create(tmp_path / "r", {}) as run:
        commit(run, 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing(number))
            with pytest.raises(RunError, match=remedy) as caught:
                commit(run, 1)
        assert f"--resume {tmp_path / 'r'}" in str(caught.value)
        assert_holds(tmp_path / "r", 0)
        commit(run, 1)
        assert_holds(tmp_path / "r", 1)


def test_a_commit_interrupted_in_a_notebook_can_be_made_again(tmp_path, monkeypatch):
    """The same object, with the interrupted commit's checkpoint already in its place."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with Run.create(tmp_path / "r", {}) as run:
        commit(run, 0)
        with monkeypatch.context() as patch:
            patch.setattr(run, "_mark", interrupted)
            with pytest.raises(KeyboardInterrupt):
                commit(run, 1)
        assert (tmp_path / "r" / "checkpoints" / "000001").exists()
        commit(run, 1)
        assert_holds(tmp_path / "r", 1)


def test_a_kill_at_any_moment_of_finishing(two_chunks, tmp_path, monkeypatch):
    def finish(run):
        run.finish({"done": True})

    for path, _ in stopped_anywhere(finish, two_chunks, tmp_path, monkeypatch, Killed()):
        assert_holds(path, 1)
        with Run.open(path) as run:
            finish(run)
        assert_holds(path, 1)
        assert not (path / "metrics").exists()
        assert Record(path).summary == {"done": True}


def test_a_marker_that_names_what_is_not_there_yet_would_be_caught(two_chunks, tmp_path):
    """The control: had the marker been replaced before the rest was written, these tests fail."""
    path = shutil.copytree(two_chunks, tmp_path / "r")
    marker = json.loads((path / "commit.json").read_text())
    marker["chunk"], marker["parts"]["metrics"] = 2, [0, 1, 2]
    (path / "commit.json").write_text(json.dumps(marker))
    with pytest.raises(files.DamagedError, match=r"commit.json is damaged"):
        Record(path)
    (path / "commit.json").write_bytes(files.to_json(files.sealed(marker)))
    with pytest.raises(files.StorageError, match=r"000002.parquet is missing"):
        assert_holds(path, 2)
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
        Record(path).restore(state_after(0))
    # What is there and damaged is named.
    part = two_chunks / "metrics" / "000001.parquet"
    path = shutil.copytree(two_chunks, tmp_path / "damaged")
    for bad in (part.read_bytes()[:100], b""):
        (path / "metrics" / "000001.parquet").write_bytes(bad)
        with pytest.raises(files.StorageError, match=r"000001.parquet is damaged"):
            Record(path).metrics()


def test_changed_versions_are_seen_on_resuming(tmp_path, monkeypatch):
    with Run.create(tmp_path / "r", {}):
        pass
    monkeypatch.setenv("XLA_FLAGS", "--xla_new_flag=1")
    changed = Record(tmp_path / "r").changes()
    assert changed["XLA_FLAGS"][1] == "--xla_new_flag=1"


def test_a_snapshot_is_plain_complete_and_without_paths(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/someone/dump --xla_flag=2")
    snapshot = versions.snapshot()
    assert json.loads(files.to_json(snapshot)) == snapshot
    assert snapshot["XLA_FLAGS"] == "--xla_dump_to=<path> --xla_flag=2"
    assert snapshot["packages"]["jax"] == jax.__version__
    assert snapshot["device_count"] == jax.device_count()
    assert set(versions.PACKAGES) <= set(snapshot["packages"])
    text = json.dumps(snapshot)
    assert os.uname().nodename not in text
    assert "someone" not in text


def test_a_commit_is_recorded_only_in_a_checkout(tmp_path):
    assert versions._checkout(tmp_path) == (None, None)

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    commit_id, dirty = versions._checkout(tmp_path)
    assert len(commit_id) == 40
    assert dirty is False
    # Results and their tables are no code.
    for name in ("benchmarks/results/wide.json", "docs/results/atlas.md", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert versions._checkout(tmp_path) == (commit_id, False)
    git("add", ".")
    git("commit", "-m", "second")
    (tmp_path / "README.md").write_text("changed")
    assert versions.uncommitted(tmp_path) == []
    for name in ("kltrust.py", "benchmarks/results.py"):
        (tmp_path / name).touch()
        assert versions._checkout(tmp_path)[1]
        assert versions.uncommitted(tmp_path) == [name]
        (tmp_path / name).unlink()
