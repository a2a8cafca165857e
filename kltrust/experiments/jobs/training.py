"""Training with a run folder: chunk by chunk, each evaluated, checked, shown and committed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import canary, hosts, lanes
from kltrust.experiments.engine.memory import choose_width
from kltrust.experiments.engine.program import Program, build, traced_settings, validate
from kltrust.experiments.engine.spread import SpreadProgram, with_blocks
from kltrust.experiments.store.record import Record, RunError
from kltrust.experiments.store.run import Run, tables
from kltrust.types import Array, PyTree


class NonFiniteError(RuntimeError):
    """A reward, an observation or a parameter became NaN or infinite; the message says when."""


class Progress(Protocol):
    """What is told about a training while it goes on."""

    def start(self, experiment: Experiment, seeds: Sequence[int], path: Path) -> None:
        """A training begins, or goes on."""

    def compiling(self, what: str) -> None:
        """The next report may take a while."""

    def chunk(self, report: Report) -> None:
        """A chunk was committed."""

    def end(self) -> None:
        """Nothing more will be reported, whatever the reason."""


class Report(NamedTuple):
    """How a training stands after a chunk; means over seeds.

    Attributes:
        iterations: done so far.
        of: planned.
        env_steps: of each run so far.
        evaluation: mean return acting by the mode.
        kl: mean KL(old || new) of the chunk's updates, nats.
        steps_per_second: environment steps of all runs together, training alone.
        fully_masked: observations of the chunk whose mask allowed no action, of all seeds.
    """

    iterations: int
    of: int
    env_steps: int
    evaluation: float
    kl: float
    steps_per_second: float
    fully_masked: int = 0


class Silent:
    """Tells nothing."""

    def start(self, experiment: Experiment, seeds: Sequence[int], path: Path) -> None:
        """Nothing."""

    def compiling(self, what: str) -> None:
        """Nothing."""

    def chunk(self, report: Report) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


def train(
    experiment: Experiment,
    seeds: Sequence[int],
    path: str | Path,
    *,
    width: int | None = None,
    spread: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Trains one run per seed in one program and keeps everything in the folder ``path``.

    Args:
        experiment: all settings.
        seeds: a run each.
        path: a folder that does not exist, or is empty.
        width: lanes per block, see `lanes`; part of what decides the bits. None chooses and
            records it.
        spread: one run, its environments over all devices; see `spread`.
        progress: is told what happens.

    Returns:
        The finished run.

    Raises:
        ValueError: if a setting is wrong; nothing was compiled or written.
        RuntimeError: if this jaxlib computes wrong numbers (see `canary`).
        StorageError: if the folder can't be used; nothing was overwritten.
        NonFiniteError: names seed and iteration; what was committed before stands.
    """
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"seeds must be different and at least one, got {list(seeds)}")
    if bad := [seed for seed in seeds if not 0 <= seed < 2**31]:
        raise ValueError(f"a seed must be at least 0 and below 2^31, got {bad[0]}")
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if spread and (len(seeds) > 1 or width):
        raise ValueError(
            "a run is spread alone: give it one seed and no width, or spread the runs instead"
        )
    experiment = with_blocks(experiment) if spread else experiment
    config = {
        "experiment": experiment.to_dict(),
        "seeds": list(seeds),
        "width": width,
        "spread": spread,
    }
    hosts.check_same("the training", config)
    length, devices = experiment.chunk_length, jax.devices()
    config["width"] = width or choose_width(experiment, len(seeds), length, devices)
    program = _prepare(config, experiment)
    config["chunk_length"] = program.chunk_length
    with hosts.shared(lambda: Run.create(path, config)) as run:
        return _advance(run, program, seeds, None, progress or Silent())


def resume(path: str | Path, *, progress: Progress | None = None) -> Record:
    """Goes on with an interrupted `train`; it ends with the bits of one that never stopped.

    Raises:
        StorageError: if there is no run, another process has it, or its checkpoint is damaged.
        NonFiniteError: as in `train`.
    """
    with hosts.shared(lambda: Run.open(path)) as run:
        if run.finished:
            return hosts.record_of(run)
        experiment, seeds = experiment_of(run), run.config["seeds"]
        program = _prepare(run.config, experiment)
        state = restore_states(run, experiment) if run.last_chunk >= 0 else None
        return _advance(run, program, seeds, state, progress or Silent())


def _prepare(config: dict[str, Any], experiment: Experiment) -> Program:
    """All checks, and then the program, which has compiled nothing yet."""
    validate(experiment)
    hosts.check_versions()
    canary.check()
    chunk_length = config.get("chunk_length")
    if config.get("spread"):
        return SpreadProgram(experiment, chunk_length)
    mesh = lanes.make_mesh(len(config["seeds"]), config["width"])
    return Program(experiment, mesh, config["width"], chunk_length)


def experiment_of(record: Record) -> Experiment:
    """The experiment of a run folder.

    Raises:
        RunError: if it is none of `train`'s.
    """
    if "experiment" not in record.config:
        raise RunError(f"{record.path} holds no training: it was not made by `kltrust train`")
    return Experiment.from_dict(record.config["experiment"])


def restore_states(record: Record, experiment: Experiment, which: Any = "latest") -> PyTree:
    """The learner states of all seeds [S, ...]."""
    learner = build(experiment).learner
    keys = jax.eval_shape(lane_keys, np.asarray(record.config["seeds"]))[0]
    return record.restore(jax.eval_shape(jax.vmap(learner.init), keys), which)


def lane_keys(seeds: np.ndarray) -> tuple[Array, Array]:
    """Keys for training and for evaluation, of each seed."""
    keys = jax.vmap(jax.random.key)(seeds)
    both = jax.vmap(jax.random.split)(keys)
    return both[:, 0], both[:, 1]


def _advance(
    run: Run, program: Program, seeds: Sequence[int], state: PyTree, progress: Progress
) -> Record:
    experiment, settings = program.experiment, traced_settings(program.experiment)
    size = program.padded_size(len(seeds))
    train_keys, eval_keys = lane_keys(np.asarray(seeds))
    eval_keys = lanes.pad(eval_keys, size)
    progress.start(experiment, seeds, run.path)
    clock = _Clock(program)
    try:
        if state is None:
            progress.compiling("init")
            state = program.init(settings, lanes.pad(train_keys, size))
        else:
            state = lanes.pad(state, size)
        _, init_compile = clock.lap()
        for chunk in range(run.last_chunk + 1, program.num_chunks):
            done = chunk * program.chunk_length
            length = min(program.chunk_length, experiment.num_iterations - done)
            if not program.compile_seconds.get("chunk"):
                progress.compiling("training and evaluation")
            clock.lap()
            state, metrics = program.chunk(settings, state, length)
            metrics = jax.tree.map(lambda x: x[: len(seeds)], metrics)
            train_seconds, train_compile = clock.lap()
            check_finite(metrics, seeds, done)
            returns = hosts.to_host(program.evaluate(settings, state, eval_keys))
            eval_seconds, eval_compile = clock.lap()
            rows = tables.to_rows(metrics, seeds, done)
            rows["env_steps"] = (rows["iteration"] + 1) * experiment.batch_size
            evaluation = evaluation_rows(returns, seeds, done + length, experiment.batch_size)
            score = float(np.mean(evaluation["mean_return"]))
            run.commit(
                chunk,
                rows,
                lanes.to_host(state, len(seeds)),
                evaluation=evaluation,
                score=score,
                seconds={
                    "compile": init_compile + train_compile + eval_compile,
                    "train": train_seconds,
                    "evaluate": eval_seconds,
                },
            )
            init_compile = 0.0
            steps = length * experiment.batch_size * len(seeds)
            progress.chunk(
                Report(
                    iterations=done + length,
                    of=experiment.num_iterations,
                    env_steps=(done + length) * experiment.batch_size,
                    evaluation=score,
                    kl=float(np.mean(metrics.kl)),
                    steps_per_second=steps / train_seconds,
                    fully_masked=int(np.sum(metrics.fully_masked)),
                )
            )
        run.finish(_summary(run) if hosts.is_first() else None)
    finally:
        progress.end()
    return hosts.record_of(run)


class _Clock:
    """Laps of wall time, the compilations among them told apart."""

    def __init__(self, program: Program):
        self._program = program
        self.lap()

    def lap(self) -> tuple[float, float]:
        """(seconds without compiling, seconds of compiling) since the last lap."""
        now, compiled = time.perf_counter(), sum(self._program.compile_seconds.values())
        since, before = getattr(self, "_last", (now, compiled))
        self._last = now, compiled
        return now - since - (compiled - before), compiled - before


def check_finite(metrics: Any, seeds: Sequence[int], first_iteration: int) -> None:
    """Raises `NonFiniteError` on the first NaN or infinity of a chunk, naming where it was."""
    causes = {
        "nonfinite_rewards": "the environment returned {} NaN or infinite rewards",
        "nonfinite_observations": "the environment returned {} NaN or infinite observations",
        "nonfinite_update": "the parameters became NaN or infinite",
    }
    counts = np.stack([np.asarray(getattr(metrics, name)) for name in causes])
    if not counts.any():
        return
    iteration = int(np.argmax(counts.any(axis=(0, 1))))
    lane = int(np.argmax(counts[:, :, iteration].any(axis=0)))
    cause = int(np.argmax(counts[:, lane, iteration] > 0))
    what = list(causes.values())[cause].format(int(counts[cause, lane, iteration]))
    remedy = (
        "take a smaller learning rate, a bound max_kl or a tighter gradient-norm bound"
        if cause == 2
        else "check the environment's parameters and its reward"
    )
    raise NonFiniteError(
        f"seed {seeds[lane]}, iteration {first_iteration + iteration}: {what}: {remedy}. "
        "The chunk was not saved; what was committed before it stands"
    )


def evaluation_rows(
    returns: np.ndarray, seeds: Sequence[int], iteration: int, batch: int
) -> dict[str, np.ndarray]:
    """Returns [lanes, 2, episodes], by the mode and sampled, as one row per seed; no padding."""
    mode, sampled = np.moveaxis(returns[: len(seeds)], 1, 0)
    return {
        "seed": np.asarray(seeds, np.int64),
        "iteration": np.full(len(seeds), iteration),
        "env_steps": np.full(len(seeds), iteration * batch),
        "mean_return": mode.mean(axis=1),
        "std_return": mode.std(axis=1),
        "sampled_mean_return": sampled.mean(axis=1),
        "num_episodes": np.full(len(seeds), mode.shape[1]),
    }


def _summary(run: Run) -> dict[str, Any]:
    evaluations, metrics = run.evaluations(), run.metrics()
    last = evaluations[evaluations.iteration == evaluations.iteration.max()]
    return {
        "final_mean_return": float(last.mean_return.mean()),
        "final_mean_return_by_seed": [float(x) for x in last.mean_return],
        "median_kl": float(metrics.kl.median()),
        "max_kl_of_an_update": float(metrics.kl.max()),
        "env_steps_per_run": int(metrics.env_steps.max()),
    }
