"""What a sweep gains: the same runs one after another, in one vmap, and spread over the devices.

    python benchmarks/sweep_speed.py

Each way has a process of its own, since the number of host devices is chosen before JAX starts.
They take turns: in every round each trains all runs for some iterations while the others wait, so
that whatever else the machine does meets all alike. A speed is a ratio within a round. Writes
sweep_speed.json to benchmarks/results/
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

RESULTS = Path(__file__).parent / "results"
WAYS = ("one after another", "one vmap", "sweep")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    env: str = "CartPole-v1"
    algorithms: tuple[str, ...] = ("ppo_clip", "trpo")
    num_envs: tuple[int, ...] = (4, 64)
    num_steps: int = 128
    runs: int = 16
    rounds: int = 9
    steps_per_round: int = 200_000
    """Environment steps of all runs together, about."""
    out: Path = RESULTS


def main(options: Options) -> None:
    cases = []
    for algorithm in options.algorithms:
        for num_envs in options.num_envs:
            case = compare(algorithm, num_envs, options)
            cases.append(case)
            for way in WAYS[1:]:
                median, low, high = case["times as fast"][way]
                print(
                    f"{algorithm:10} {num_envs} x {options.num_steps}  {way}: {median:.2f} times "
                    f"one after another ({low:.2f} to {high:.2f})",
                    flush=True,
                )
    from kltrust.experiments.versions import snapshot

    result = {
        "env": options.env,
        "num_steps": options.num_steps,
        "runs": options.runs,
        "rounds": options.rounds,
        "cases": cases,
        "versions": snapshot(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sweep_speed.json").write_text(json.dumps(result, indent=1) + "\n")


def compare(algorithm: str, num_envs: int, options: Options) -> dict[str, Any]:
    """Steps per second of all three ways in turns, and the ratios to the first."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for way in WAYS:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker, args=(theirs, way, algorithm, num_envs, options), daemon=True
        )
        process.start()
        theirs.close()
        compile_seconds = ours.recv()  # one at a time: they would compile in each other's way
        pipes.append((way, ours, compile_seconds))
        processes.append(process)
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, pipe, _ in pipes:
            pipe.send("go")
            speeds[way].append(pipe.recv())
    for _, pipe, _ in pipes:
        pipe.send("stop")
    for process in processes:
        process.join()
    ratios = {way: np.divide(speeds[way], speeds[WAYS[0]]) for way in WAYS[1:]}
    return {
        "algorithm": algorithm,
        "num_envs": num_envs,
        "steps_per_second": {way: [round(s) for s in speeds[way]] for way in WAYS},
        "compile_seconds": {way: round(seconds, 2) for way, _, seconds in pipes},
        # Median, smallest and largest of the rounds.
        "times as fast": {
            way: [round(float(f(r)), 3) for f in (np.median, np.min, np.max)]
            for way, r in ratios.items()
        },
    }


def worker(pipe: Any, way: str, algorithm: str, num_envs: int, options: Options) -> None:
    """Compiles, then trains a round whenever it is told to."""
    import jax

    from kltrust.experiments import devices, lanes, plan, training
    from kltrust.experiments.program import Program, traced_settings
    from kltrust.experiments.settings import Experiment

    if way == "sweep":
        devices.use_all_cores(options.runs)
    batch = num_envs * options.num_steps
    iterations = max(1, options.steps_per_round // (batch * options.runs))
    experiment = Experiment.from_dict(
        {
            "algorithm": algorithm,
            "env": options.env,
            "learner": {"num_envs": num_envs, "num_steps": options.num_steps},
            "budget": {"total_steps": 1000 * iterations * batch},
        }
    )
    lanes_together = 1 if way == WAYS[0] else options.runs
    width = {
        "one after another": 1,
        "one vmap": options.runs,
        "sweep": plan.choose_width(experiment, options.runs, iterations, jax.devices()),
    }[way]
    mesh = lanes.make_mesh(lanes_together, width)
    program = Program(experiment, mesh, width, iterations)
    settings = traced_settings(experiment)
    keys, _ = training.lane_keys(np.arange(options.runs))
    parts = [keys[i : i + lanes_together] for i in range(0, options.runs, lanes_together)]
    size = lanes.padded_size(lanes_together, width, mesh)
    states = [program.init(settings, lanes.pad(part, size)) for part in parts]

    def round_of_all() -> None:
        for i, state in enumerate(states):
            states[i], metrics = program.start_chunk(settings, state, iterations)
        jax.block_until_ready((states, metrics))

    round_of_all()
    pipe.send(sum(program.compile_seconds.values()))
    while pipe.recv() == "go":
        start = time.perf_counter()
        round_of_all()
        pipe.send(options.runs * iterations * batch / (time.perf_counter() - start))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
