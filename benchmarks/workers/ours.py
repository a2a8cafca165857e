"""kltrust's processes: rounds of training, and trainings until they solve their task.

A training's settings are always a dictionary, and ``runs`` is its number of seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import devices, lanes, memory
from kltrust.experiments.engine.program import Program, build, traced_settings
from kltrust.learner import evaluate

WAYS = ("one after another", "one vmap", "sweep")


def train(
    experiment: dict[str, Any], runs: int, iterations: int, way: str = "sweep"
) -> Callable[[], None]:
    """A round: ``iterations`` more of every run, by the program that `kltrust` compiles.

    There may be any number of rounds: the budget in the settings is ignored. The last way is the
    library's, with a host device per core.
    """
    if way == "sweep":
        devices.use_all_cores(runs)
    return ready(experiment, runs, iterations, way)[1]


def scale(
    experiment: dict[str, Any], runs: int, iterations: int, num_devices: int
) -> Callable[[], dict[str, Any]]:
    """A round like `train`'s sweep on ``num_devices`` host devices; reports its chunk's memory."""
    jax.config.update("jax_num_cpu_devices", num_devices)
    program, turn = ready(experiment, runs, iterations, "sweep")
    of = program.experiment, runs, program.width, iterations, num_devices
    # Not in the round, which is timed: the estimate traces the program.
    told = {
        "bytes": program.memory["chunk"],
        "estimated bytes": memory.estimate_memory(*of).total,
        "compile seconds": round(program.compile_seconds["chunk"], 2),
    }

    def timed() -> dict[str, Any]:
        turn()
        return told

    return timed


def ready(
    experiment: dict[str, Any], runs: int, iterations: int, way: str = "sweep"
) -> tuple[Program, Callable[[], None]]:
    """The compiled program of ``runs`` that have done one iteration, and a round of more."""
    batch = Experiment.from_dict(experiment).batch_size
    budget = {**experiment.get("budget", {}), "total_steps": 1000 * iterations * batch}
    made = Experiment.from_dict({**experiment, "budget": budget})
    together, width = {
        "one after another": (1, 1),
        "one vmap": (runs, runs),
        "sweep": (runs, memory.choose_width(made, runs, iterations, jax.devices())),
    }[way]
    program = Program(made, lanes.make_mesh(together, width), width, iterations)
    settings = traced_settings(made)
    keys, _ = lanes.keys_of(np.arange(runs))
    size = lanes.padded_size(together, width, program.mesh)
    states = [
        program.init(settings, lanes.pad(keys[i : i + together], size))
        for i in range(0, runs, together)
    ]

    def turn(length: int = iterations) -> None:
        for i, state in enumerate(states):
            states[i], metrics = program.chunk(settings, state, length)
        jax.block_until_ready((states, metrics))

    turn(1)
    return program, turn


def evaluating(experiment: dict[str, Any]) -> Callable[[], dict[str, list[float]]]:
    """A round: a training that reports the seconds of every part but the first, which compiles."""
    made = Experiment.from_dict(experiment)
    program = Program(made, lanes.make_mesh(1, 1), 1)
    settings = traced_settings(made)
    train_key, eval_key = lanes.keys_of(np.arange(1))

    def turn() -> dict[str, list[float]]:
        state = program.init(settings, train_key)
        found = []
        for _ in range(program.num_chunks):
            begin = time.perf_counter()
            going_on = program.chunk(settings, state, program.chunk_length)
            state, _ = jax.block_until_ready(going_on)
            middle = time.perf_counter()
            jax.block_until_ready(program.evaluate(settings, state, eval_key))
            found.append((middle - begin, time.perf_counter() - middle))
        trained, evaluated = zip(*found[1:], strict=True)
        return {"training": trained, "evaluation": evaluated}

    return turn


def solve(
    experiment: dict[str, Any], seeds: Sequence[int], every: int, target: float, confirm: int
) -> Callable[[], dict[str, Any]]:
    """A round: runs from nothing, compilation included, until all are solved or the budget ends.

    Args:
        experiment: the settings, with the number of episodes per evaluation.
        seeds: the seeds of the runs.
        every: environment steps between two evaluations, approximately.
        target: a run is solved at an evaluation whose mean return, acting by the mode, reaches it,
            if the mean return of ``confirm`` further evaluations also does.
        confirm: see ``target``.
    """
    devices.use_all_cores(len(seeds))
    made = Experiment.from_dict(experiment)
    length = max(1, every // made.batch_size)
    parts = build(made)  # which imports the environment's library

    def turn() -> dict[str, Any]:
        begin = time.perf_counter()
        width = memory.choose_width(made, len(seeds), length, jax.devices())
        program = Program(made, lanes.make_mesh(len(seeds), width), width, length)
        settings = traced_settings(made)
        size = lanes.padded_size(len(seeds), width, program.mesh)

        def keys(which: int) -> tuple[Any, Any]:
            of_seeds = lanes.keys_of(np.asarray(seeds) + which * 100_000)
            return tuple(lanes.pad(of, size) for of in of_seeds)  # type: ignore[return-value]

        def by_mode(_: None, lane: tuple) -> jax.Array:
            state, key, wanted = lane
            most = jnp.where(wanted, parts.env.max_steps, 0)
            of = state, key, made.budget.eval_episodes
            return evaluate(parts.env, parts.agent, *of, True, most)

        play = jax.jit(
            lanes.map_lanes(by_mode, program.mesh, width),
            compiler_options=lanes.compiler_options(program.mesh),
        )

        def score(state: Any, which: int, wanted: np.ndarray) -> np.ndarray:
            """The scores of the wanted runs; other runs cost almost nothing."""
            given = state, keys(which)[1], np.pad(wanted, (0, size - len(seeds)))
            return np.asarray(play(None, program.put(given)))[: len(seeds)].mean(1)

        state = program.init(settings, keys(0)[0])
        seconds, steps, solved = (np.zeros(len(seeds), t) for t in (float, int, bool))
        for chunk in range(1, made.num_iterations // length + 1):
            state, _ = program.chunk(settings, state, length)
            first = chunk * (confirm + 1)
            reached = ~solved & (score(state, first, ~solved) >= target)
            if reached.any():
                again = [score(state, first + 1 + i, reached) for i in range(confirm)]
                reached &= np.mean(again, 0) >= target
            seconds[~solved] = time.perf_counter() - begin
            steps[~solved] = chunk * length * made.batch_size
            solved |= reached
            if solved.all():
                break
        found = {"seconds": seconds.round(3), "steps": steps, "solved": solved}
        return {name: of.tolist() for name, of in found.items()}

    return turn
