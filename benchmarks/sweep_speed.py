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
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from timing import Call, processes_in_turns
from workers.ours import WAYS

RESULTS = Path(__file__).parent / "results"


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
    from kltrust.experiments.store.versions import snapshot

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
    batch = num_envs * options.num_steps
    iterations = max(1, options.steps_per_round // (batch * options.runs))
    experiment = {
        "algorithm": algorithm,
        "env": options.env,
        "learner": {"num_envs": num_envs, "num_steps": options.num_steps},
    }
    settings = {"experiment": experiment, "runs": options.runs, "iterations": iterations}
    calls = {way: Call("workers.ours:train", {**settings, "way": way}) for way in WAYS}
    seconds = processes_in_turns(calls, options.rounds)
    speeds = {way: np.divide(options.runs * iterations * batch, seconds[way]) for way in WAYS}
    ratios = {way: speeds[way] / speeds[WAYS[0]] for way in WAYS[1:]}
    return {
        "algorithm": algorithm,
        "num_envs": num_envs,
        "steps_per_second": {way: [round(s) for s in speeds[way]] for way in WAYS},
        # Median, smallest and largest of the rounds.
        "times as fast": {
            way: [round(float(f(r)), 3) for f in (np.median, np.min, np.max)]
            for way, r in ratios.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
