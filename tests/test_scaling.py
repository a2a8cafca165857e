"""The benchmark of sizes: that every job can be, and that one says what it took."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import scaling

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import program


@pytest.mark.parametrize("part", scaling.PARTS)
def test_every_job_can_be(part):
    options = scaling.Options(steps_per_round=10_000)
    for size in scaling.PARTS[part]:
        job = scaling.job(part, "trpo", size, options)
        experiment = {**job["experiment"], "budget": {"total_steps": 10_000_000}}  # as there
        program.check_values(Experiment.from_dict(experiment))
        assert job["num_devices"] <= max(job["runs"], 1)


def test_a_part_is_checked_first(tmp_path):
    with pytest.raises(SystemExit, match="no part hosts: take some of envs"):
        scaling.main(scaling.Options(parts=("hosts",), out=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_whole_of_it(tmp_path, compile_fast, monkeypatch):
    for name, value in compile_fast.items():
        monkeypatch.setenv(name, value)  # for its processes
    scaling.main(
        scaling.Options(
            parts=("devices", "envs"),
            algorithms=("trpo",),
            rounds=2,
            steps_per_round=512,
            largest=4,
            out=tmp_path,
        )
    )
    parts = scaling.recorded(tmp_path)
    (row,) = parts["envs"]["trpo"]
    assert row["size"] == 4
    assert len(row["microseconds per step"]) == 2
    assert 0.3 < row["estimated bytes"] / row["bytes"] < 3
    one, *more = parts["devices"]["trpo"]
    # Of sixteen runs, each device holds its part, and the work of one block.
    assert all(row["bytes"] < one["bytes"] for row in more)
    assert (tmp_path / "scaling.png").stat().st_size > 1000
