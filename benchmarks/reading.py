"""What reading a large folder costs: CPU seconds and memory of status, load and report.

    python benchmarks/reading.py
    python benchmarks/reading.py --runs 200 --folder runs/made

Writes a sweep of so many runs by the store's own writers, all the learner's columns in it, without
training anything: two algorithms on two environments, many settings of each. Where the folder is
there already it is read as it is. Each reading is a process of its own. Writes reading.json to
benchmarks/results/.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from common import RESULTS, options, rounded, versions, write

from kltrust.experiments.config import spec
from kltrust.experiments.engine.program import build
from kltrust.experiments.jobs import plan, run
from kltrust.experiments.jobs.rows import evaluation_rows, metric_rows
from kltrust.experiments.store.run import Run

ENVS = ("CartPole-v1", "Acrobot-v1")
READINGS = {
    "import": "import kltrust.experiments.cli, kltrust.experiments.reading.results, pandas",
    "status": "from kltrust.experiments import cli; cli.main(['status', {folder!r}])",
    "load": "import kltrust; kltrust.load({folder!r})",
    "load, one column": "import kltrust; kltrust.load({folder!r}).read('kl')",
    "load, all columns": "import kltrust; kltrust.load({folder!r}).metrics",
    "report": "from kltrust.experiments import cli; cli.main(['report', {folder!r}])",
}
PEAK = "import re, sys; sys.stderr.write(re.search('VmHWM.*', open('/proc/self/status').read())[0])"
"""Prints the peak memory of a process, for its program alone."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How large a folder, and where."""

    runs: int = 2000
    """A multiple of four times the seeds."""
    seeds: int = 10
    iterations: int = 50
    evaluations: int = 10
    folder: Path | None = None  # Default: one that is removed in the end
    rounds: int = 3
    readings: tuple[str, ...] = tuple(READINGS)
    out: Path = RESULTS


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch, "made")
        if not folder.exists():
            make(folder, options)
        of = {
            name: [read(name, folder) for _ in range(options.rounds)] for name in options.readings
        }
    rows = {}
    for name, found in of.items():
        seconds, megabytes = (rounded(values, 2) for values in zip(*found, strict=True))
        rows[name] = {"cpu seconds": seconds, "megabytes": megabytes}
        print(f"{name}: {min(seconds):.1f} CPU seconds, {max(megabytes):.0f} MB")
    size = {"runs": options.runs, "seeds": options.seeds, "iterations": options.iterations}
    write(options.out / "reading.json", {**size, "readings": rows, "versions": versions()})


def read(name: str, folder: Path) -> tuple[float, float]:
    """CPU seconds and peak megabytes of a process that reads."""
    program = f"{READINGS[name].format(folder=str(folder))}\n{PEAK}"
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    before = os.times()
    done = subprocess.run([sys.executable, "-c", program], check=True, **silent)
    after = os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])  # of children
    return seconds, int(done.stderr.split()[-2]) / 1024


def make(folder: Path, options: Options, pause: float = 0.0) -> None:
    """Makes a finished sweep: scores rise with the setting, all other columns are noise.

    After each commit it rests for ``pause`` seconds.
    """
    settings = options.runs // (2 * len(ENVS) * options.seeds)
    batch, values = 2048, [round(0.1 * 10 ** (i / settings), 6) for i in range(settings)]
    document = {
        "sweep": {"name": "made", "seeds": options.seeds, "envs": list(ENVS), "preset": "none"},
        "budget": {"total_steps": batch * options.iterations, "num_evals": options.evaluations},
        "experiments": [
            {"algorithms": "trpo", "grid": {"max_kl": values}},
            {"algorithms": "ppo_clip", "grid": {"clip_eps": values}},
        ],
    }
    planned = plan.make_plan(spec.from_dict(document), width=8)
    with Run.create(folder, planned.to_config()) as whole:
        for i, group in enumerate(planned.groups):
            config = run.group_config(whole, planned, group)
            with Run.create(run.group_path(folder, i), config) as part:
                write_group(part, planned, group, pause)
        whole.finish({"broken": {}})


def write_group(part: Run, planned: plan.Plan, group: plan.Group, pause: float = 0.0) -> None:
    experiment, runs = planned.experiment(group), group.runs
    learner = build(experiment).learner
    like = jax.eval_shape(lambda key: learner.step(learner.init(key))[1], jax.random.key(0))
    seeds = [planned.seed(r) for r in runs]
    generator = np.random.default_rng(0)

    def noise(leaf: jax.ShapeDtypeStruct, shape: tuple[int, int]) -> np.ndarray:
        if leaf.dtype.kind != "f":
            return np.zeros((*shape, *leaf.shape), leaf.dtype)
        return (0.01 * generator.random((*shape, *leaf.shape))).astype(leaf.dtype)

    for chunk, first in enumerate(range(0, experiment.num_iterations, group.chunk_length)):
        length = min(group.chunk_length, experiment.num_iterations - first)
        done, shape = first + length, (len(runs), length)
        metrics = jax.tree.map(lambda leaf, shape=shape: noise(leaf, shape), like)
        metrics = metrics._replace(num_episodes=np.full(shape, 7), return_sum=np.full(shape, 70.0))
        returns = np.array(runs)[:, None, None] + done * generator.random((len(runs), 2, 20))
        reached = np.full(len(runs), done)
        rows = metric_rows(metrics, runs, seeds, first, reached, experiment.batch_size)
        evaluation = evaluation_rows(returns, runs, seeds, done, experiment.batch_size)
        seconds = {"compile": 1.0, "run": 1.0}
        state = {"w": np.zeros(len(runs))}
        part.commit(chunk, rows, state, evaluation=evaluation, seconds=seconds)
        time.sleep(pause)
    part.finish({"broken": {}})


if __name__ == "__main__":
    main(options(Options, __doc__))
