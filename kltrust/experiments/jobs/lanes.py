"""Runs the lanes of one static group, chunk by chunk; each is committed while the next computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import hosts, lanes, spread
from kltrust.experiments.engine.program import Program, build, traced_settings
from kltrust.experiments.jobs.events import Chunk, Progress, Report, Stopped, with_columns
from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.jobs.rows import check_finite, evaluation_rows, metric_rows
from kltrust.experiments.search.board import BEGIN
from kltrust.experiments.store.record import Record
from kltrust.experiments.store.run import Run
from kltrust.types import PyTree


class Measured(NamedTuple):
    """The measured cost of a group on this machine; its training seconds exclude evaluations.

    Memory is in bytes on one device, as the compiler counts them.
    """

    compile_seconds: float
    seconds: float
    memory: int


class Shown(NamedTuple):
    """The rows of some runs, and whether ``on_chunk`` asked to stop."""

    metrics: dict[str, np.ndarray]
    evaluation: dict[str, np.ndarray]
    stopping: bool


def measure(plan: Plan, group: Group) -> Measured:
    """Compiles a group, runs two iterations of it and times the second."""
    tried = Lanes(plan, plan.first_trained(group))
    program = tried.program
    state = program.init(tried.settings, tried.keys)
    state, _ = jax.block_until_ready(program.chunk(tried.settings, state, 1))
    begin = time.perf_counter()
    state, _ = jax.block_until_ready(program.chunk(tried.settings, state, 1))
    seconds = time.perf_counter() - begin
    jax.block_until_ready(program.evaluate(tried.settings, state, tried.eval_keys))
    return Measured(
        sum(program.compile_seconds.values()),
        seconds * plan.steps(group) / (tried.number * tried.experiment.batch_size),
        max(program.memory.values()),
    )


def restore_states(
    part: Record,
    experiment: Experiment,
    which: Literal["latest", "best"] = "latest",
    number: int | None = None,
) -> PyTree:
    """The learner states of the runs of a group [L, ...], from its folder.

    These are all its runs, or of a search the ``number`` that have begun; None takes it from the
    folder.
    """
    learner = build(experiment).learner
    seeds = part.config["seeds"]
    if number is None and len(decisions := part.decisions()):
        number = int((decisions.action == BEGIN).sum()) * len(set(seeds))
    keys = jax.eval_shape(lanes.keys_of, np.asarray(seeds[:number]))[0]
    return part.restore(jax.eval_shape(jax.vmap(learner.init), keys), which)


class Lanes:
    """The lanes of a group on their devices."""

    def __init__(self, plan: Plan, group: Group):
        self.plan, self.group = plan, group
        # One program for constants and schedules: constants become schedules of one value.
        self._scheduled = plan.scheduled(group)
        self.experiment = plan.experiment(group).scheduling(self._scheduled)
        self.number = len(group.runs)
        freeze = plan.on_nonfinite == "freeze"
        kind: type[Program]
        if group.spread:
            mesh = spread.make_mesh(self.experiment.learner.minibatch_blocks)
            kind, self.size = spread.SpreadProgram, self.number
        else:
            mesh = lanes.make_mesh(self.number, group.width)
            kind, self.size = Program, lanes.padded_size(self.number, group.width, mesh)
        self.program = kind(self.experiment, mesh, group.width, group.chunk_length, freeze=freeze)
        # Keys depend on the seed alone: common random numbers for all settings and algorithms.
        self.seeds = [plan.seed(run) for run in group.runs]
        keys = lanes.pad(lanes.keys_of(np.asarray(self.seeds)), self.size)
        self.keys, self.eval_keys = self.program.put(keys)
        # Decided from all settings of the static group, so that every shard decides alike.
        self._among = [self._traced(experiment) for experiment in plan.alike(group)]
        self.set([plan.setting(run).experiment for run in group.runs])

    def set(self, experiments: Sequence[Experiment]) -> None:
        """Gives each lane the settings of its experiment."""
        given = [self._traced(experiment) for experiment in experiments]
        settings = lanes.split_shared(given, self._among, self.size)
        self.settings = jax.tree.map(lambda x: self.program.put(x) if np.ndim(x) else x, settings)

    def _traced(self, experiment: Experiment) -> Experiment:
        return traced_settings(experiment.scheduling(self._scheduled))

    def advance(self, run: Run, progress: Progress) -> None:
        """Runs the lanes from the last commit to the end.

        Raises:
            NonFiniteError: if the plan says so; the chunk is not committed.
            Stopped: after a commit, if ``on_chunk`` called `Chunk.stop`.
        """
        program = self.program
        clock, compiled = time.perf_counter(), 0.0
        if run.last_chunk < 0:
            progress.compiling("init")
            state = program.init(self.settings, self.keys)
        else:
            state = lanes.pad(restore_states(run, self.experiment), self.size)
        reached = hosts.to_host(state.iteration)[: self.number]
        commit: Callable[[], Report] | None = None  # commits the last computed chunk
        for index in range(run.last_chunk + 1, program.num_chunks):
            first = index * program.chunk_length
            length = min(program.chunk_length, self.experiment.num_iterations - first)
            state, metrics, returns = self.launch(
                state, length, progress, index + 1, program.num_chunks
            )
            if commit is not None:  # while the devices compute
                progress.chunk(commit())
            metrics = hosts.to_host(metrics)
            metrics = jax.tree.map(lambda x, n=length: x[: self.number, :n], metrics)
            returns = hosts.to_host(returns)
            kept = lanes.to_host(state, self.number)  # before the next chunk takes it
            reached = kept.iteration
            compiling = sum(program.compile_seconds.values()) - compiled
            seconds = {"compile": compiling, "run": time.perf_counter() - clock - compiling}
            clock, compiled = time.perf_counter(), compiled + compiling
            if self.plan.on_nonfinite == "raise":
                check_finite(metrics, self.seeds, first)
            rows_of = partial(self.rows, self.plan, progress)
            commit = partial(
                self._commit, run, index, length, kept, metrics, returns, seconds, rows_of
            )
        if commit is not None:
            progress.chunk(commit())
        broken = self._broken(reached, self.experiment.num_iterations)
        run.finish(
            {
                "broken": {str(run): iteration for run, iteration in broken.items()},
                "compilations": program.compilations,
                "memory": program.memory,
                "devices": program.mesh.size,
            }
        )

    def launch(
        self, state: PyTree, length: Any, progress: Progress, chunk: int, of: int
    ) -> tuple[PyTree, Any, Any]:
        """The next state, metrics and returns, on the devices; they may still be computing them."""
        program = self.program
        if "chunk" not in program.compilations:
            progress.compiling("training")
        state, metrics = program.chunk(self.settings, state, length)
        progress.computing(chunk, of)
        if "evaluate" in program.compilations:
            return state, metrics, program.evaluate(self.settings, state, self.eval_keys)
        # Waits for the chunk: compiling while it runs would hide the chunk's time.
        jax.block_until_ready(metrics)
        progress.compiling("evaluation")
        returns = program.evaluate(self.settings, state, self.eval_keys)
        progress.computing(chunk, of)
        return state, metrics, returns

    def _commit(
        self,
        run: Run,
        chunk: int,
        length: int,
        state: PyTree,
        metrics: Any,
        returns: np.ndarray,
        seconds: dict[str, float],
        rows_of: Callable[..., Shown],
    ) -> Report:
        """Commits a chunk that is on the host: metrics [L, length], returns [L, 2, E]."""
        first, runs = chunk * self.program.chunk_length, self.group.runs
        rows, evaluation, stopping = rows_of(runs, first, metrics, returns, state.iteration)
        done, scores = first + length, evaluation["mean_return"]
        score = float(np.mean(scores)) if self.plan.keep_best else None
        run.commit(chunk, rows, state, evaluation=evaluation, score=score, seconds=seconds)
        if stopping:
            raise Stopped
        means = means_of([self.plan.setting(run).label for run in runs], runs, scores)
        return Report(
            iterations=done,
            of=self.experiment.num_iterations,
            env_steps=done * self.experiment.batch_size,
            steps_per_second=length * self.experiment.batch_size * self.number / seconds["run"],
            best=best_of(means),
            kl=float(np.mean(metrics.kl)),
            broken=self._broken(state.iteration, done),
            compile_seconds=sum(self.program.compile_seconds.values()),
            fully_masked=int(np.sum(rows["fully_masked"])),
            scores=means,
        )

    def rows(
        self,
        plan: Plan,
        progress: Progress,
        runs: Sequence[int],
        first: int,
        metrics: Any,
        returns: np.ndarray,
        reached: np.ndarray,
    ) -> Shown:
        """Runs of one age on the host, as rows, after ``on_chunk`` has seen and extended them.

        Metrics are [L, n], from iteration ``first`` on, returns [L, 2, E]; ``reached`` is the
        iteration of each lane's state.
        """
        seeds, batch = [plan.seed(run) for run in runs], self.experiment.batch_size
        done = first + np.shape(metrics.kl)[1]
        labels = [plan.setting(run).label for run in runs]
        names = self.experiment.env, self.experiment.algorithm
        shown = Chunk(*names, labels, seeds, first, done * batch, metrics, returns[: len(runs)])
        if progress.on_chunk is not None:
            shown.metrics = with_columns(shown, progress.on_chunk(shown))
        rows = metric_rows(shown.metrics, runs, seeds, first, reached, batch)
        return Shown(rows, evaluation_rows(returns, runs, seeds, done, batch), shown.stopping)

    def _broken(self, reached: np.ndarray, planned: int) -> dict[int, int]:
        pairs = zip(self.group.runs, reached, strict=True)
        return {run: int(iteration) for run, iteration in pairs if iteration < planned}


def means_of(labels: Sequence[str], runs: Any, scores: np.ndarray) -> dict[str, float]:
    """The mean of scores [runs] by label, in the order of the ``runs`` [runs], their numbers."""
    by_label: dict[str, list[float]] = {}
    for i in np.argsort(runs, kind="stable"):
        by_label.setdefault(labels[i], []).append(float(scores[i]))
    return {label: float(np.mean(values)) for label, values in by_label.items()}


def best_of(means: Mapping[str, float]) -> tuple[str, float]:
    """The label with the highest mean, and that mean; the first among equals."""
    label = max(means, key=lambda name: -np.inf if np.isnan(means[name]) else means[name])
    return label, means[label]
