"""The lanes of one static group: chunk by chunk, each committed while the next computes."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from kltrust.experiments.engine import hosts, lanes
from kltrust.experiments.engine.program import Program, lane_settings, to_host
from kltrust.experiments.jobs import training
from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.jobs.sweep_report import Progress, Report
from kltrust.experiments.store.run import Run, tables
from kltrust.types import PyTree


class Measured(NamedTuple):
    """What a group costs here, by trying.

    Attributes:
        compile_seconds: of all its functions.
        seconds: of all its training, by the time that one iteration takes; evaluations come on top.
        memory: bytes on one device, as the compiler counts them.
    """

    compile_seconds: float
    seconds: float
    memory: int


def measure(plan: Plan, group: Group) -> Measured:
    """Compiles a group and runs two iterations of it, of which the second is timed."""
    tried = Lanes(plan, group)
    program = tried.program
    state = program.init(tried.settings, tried.keys)
    state, _ = program.chunk(tried.settings, state, 1)
    begin = time.perf_counter()
    state, _ = program.chunk(tried.settings, state, 1)
    seconds = time.perf_counter() - begin
    jax.block_until_ready(program.evaluate(tried.settings, state, tried.eval_keys))
    return Measured(
        sum(program.compile_seconds.values()),
        seconds * tried.experiment.num_iterations,
        max(program.memory.values()),
    )


class Lanes:
    """The lanes of a group on their devices."""

    def __init__(self, plan: Plan, group: Group):
        self.plan, self.group = plan, group
        self.experiment = plan.experiment(group)
        self.number = len(group.runs)
        mesh = lanes.make_mesh(self.number, group.width)
        self.program = Program(self.experiment, mesh, group.width, group.chunk_length, freeze=True)
        self.size = self.program.padded_size(self.number)
        # By the seed alone: common random numbers for all settings and algorithms.
        seeds = np.asarray([plan.seed(run) for run in group.runs])
        experiments = [plan.setting(run).experiment for run in group.runs]
        own = (lane_settings(experiments), *training.lane_keys(seeds))
        self.settings, self.keys, self.eval_keys = self.program.put(lanes.pad(own, self.size))
        self.seeds = seeds

    def advance(self, run: Run, progress: Progress) -> None:
        """From the last commit to the end."""
        program = self.program
        clock, compiled = time.perf_counter(), 0.0
        if run.last_chunk < 0:
            progress.compiling("init")
            state = program.init(self.settings, self.keys)
        else:
            state = lanes.pad(training.restore_states(run, self.experiment), self.size)
        iteration = hosts.to_host(state.iteration)[: self.number]
        waiting: tuple[Any, ...] | None = None
        for chunk in range(run.last_chunk + 1, program.num_chunks):
            length = min(
                program.chunk_length,
                self.experiment.num_iterations - chunk * program.chunk_length,
            )
            if "chunk" not in program.compilations:
                progress.compiling("training and evaluation")
            state, metrics = program.start_chunk(self.settings, state, length)
            if "evaluate" not in program.compilations:
                # Compiling it while the chunk runs would hide the time that the chunk takes.
                jax.block_until_ready(metrics)
            returns = program.evaluate(self.settings, state, self.eval_keys)
            if waiting is not None:  # while the devices compute
                progress.chunk(self._commit(run, *waiting))
            metrics = jax.tree.map(lambda x: x[: self.number], to_host(metrics, length))
            returns = hosts.to_host(returns)
            kept = lanes.to_host(state, self.number)  # before the next chunk takes it
            iteration = kept.iteration
            compiling = sum(program.compile_seconds.values()) - compiled
            seconds = {"compile": compiling, "run": time.perf_counter() - clock - compiling}
            clock, compiled = time.perf_counter(), compiled + compiling
            waiting = chunk, length, kept, metrics, returns, iteration, seconds
        if waiting is not None:
            progress.chunk(self._commit(run, *waiting))
        run.finish(self._summary(iteration))

    def _commit(
        self,
        run: Run,
        chunk: int,
        length: int,
        kept: PyTree,
        metrics: Any,
        returns: np.ndarray,
        reached: np.ndarray,
        seconds: dict[str, float],
    ) -> Report:
        first = chunk * self.program.chunk_length
        batch = self.experiment.batch_size
        evaluation = training.evaluation_rows(returns, list(self.seeds), first + length, batch)
        evaluation = {"run": np.asarray(self.group.runs), **evaluation}
        rows = lane_rows(metrics, self.group.runs, self.seeds, first, reached, batch)
        run.commit(chunk, rows, kept, evaluation=evaluation, seconds=seconds)
        return Report(
            iterations=first + length,
            of=self.experiment.num_iterations,
            env_steps=(first + length) * batch * self.number,
            steps_per_second=length * batch * self.number / seconds["run"],
            best=self._best(evaluation["mean_return"]),
            broken=self._broken(reached, first + length),
            fully_masked=int(np.sum(rows["fully_masked"])),
        )

    def _best(self, scores: np.ndarray) -> tuple[str, float]:
        by_label: dict[str, list[float]] = {}
        for run, score in zip(self.group.runs, scores, strict=True):
            by_label.setdefault(self.plan.setting(run).label, []).append(float(score))
        means = {label: float(np.mean(values)) for label, values in by_label.items()}
        label = max(means, key=lambda name: -np.inf if np.isnan(means[name]) else means[name])
        return label, means[label]

    def _broken(self, reached: np.ndarray, planned: int) -> dict[int, int]:
        pairs = zip(self.group.runs, reached, strict=True)
        return {run: int(iteration) for run, iteration in pairs if iteration < planned}

    def _summary(self, reached: np.ndarray) -> dict[str, Any]:
        broken = self._broken(reached, self.experiment.num_iterations)
        return {
            "broken": {str(run): iteration for run, iteration in broken.items()},
            "compilations": self.program.compilations,
            "memory": self.program.memory,
            "devices": self.program.mesh.size,
        }


def lane_rows(
    metrics: Any,
    runs: tuple[int, ...],
    seeds: np.ndarray,
    first_iteration: int,
    reached: np.ndarray,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Metrics [L, n] as columns: a row per run and iteration, up to its first bad one if it has.

    Args:
        metrics: of lanes that freeze.
        runs: the lanes' numbers.
        seeds: the lanes' seeds.
        first_iteration: of the n.
        reached: the iteration that each lane's state has reached; a frozen one stays behind.
        batch_size: environment steps of an iteration.
    """
    rows = tables.to_rows(metrics, runs, first_iteration)
    length = len(rows["iteration"]) // len(runs)
    rows = {
        "run": rows.pop("seed"),
        "seed": np.repeat(np.asarray(seeds, np.int64), length),
        "env_steps": (rows["iteration"] + 1) * batch_size,
        **rows,
    }
    kept = rows["iteration"] <= np.repeat(reached, length)
    return {name: column[kept] for name, column in rows.items()}
