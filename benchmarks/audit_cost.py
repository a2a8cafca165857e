"""What the audit costs: iterations that measure nothing against those of every level, in turns.

    python benchmarks/audit_cost.py

In one process, so that whatever else the machine does meets all of them. Nothing is measured where
only the state of a step is asked for: what computes the metrics is then dead code. Writes
audit_cost.json to benchmarks/results/: milliseconds of every round, and the ratios to the first.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from timing import in_turns

RESULTS = Path(__file__).parent / "results"
BARE = "nothing"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    env: str = "CartPole-v1"
    algorithms: tuple[str, ...] = ("ppo_clip", "trpo")
    levels: tuple[str, ...] = ("default", "extended", "full")
    num_envs: int = 64
    num_steps: int = 128
    hidden: tuple[int, ...] = (64, 64)
    rounds: int = 21
    iterations: int = 3
    """Of a round."""
    out: Path = RESULTS


def main(options: Options) -> None:
    from kltrust.experiments.store.versions import snapshot

    cases = {name: compare(name, options) for name in options.algorithms}
    result = {**dataclasses.asdict(options), "cases": cases, "versions": snapshot()}
    del result["out"]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "audit_cost.json").write_text(json.dumps(result, indent=1) + "\n")


def compare(algorithm: str, options: Options) -> dict[str, Any]:
    """Milliseconds of an iteration at every level, and how many times the bare one it takes."""
    rounds = {name: prepare(algorithm, name, options) for name in (BARE, *options.levels)}
    seconds = in_turns(rounds, options.rounds)
    ratios = {name: np.divide(seconds[name], seconds[BARE]) for name in options.levels}
    found = {
        # Median, and the quartiles: of ratios within a round.
        name: [round(float(x), 4) for x in np.quantile(ratio, (0.5, 0.25, 0.75))]
        for name, ratio in ratios.items()
    }
    for name, (median, low, high) in found.items():
        print(f"{algorithm:10} {name:10} {median:.3f} times ({low:.3f} to {high:.3f})", flush=True)
    return {
        "milliseconds": {
            name: [round(1e3 * s / options.iterations, 3) for s in of_level]
            for name, of_level in seconds.items()
        },
        "times": found,
    }


def prepare(algorithm: str, level: str, options: Options) -> Callable[[], None]:
    """A round: compiled, and run once."""
    import jax

    import kltrust
    from kltrust.learner import LearnerState

    env = kltrust.make(options.env)
    learner = kltrust.make_learner(
        env,
        kltrust.actor_critic(env, options.hidden),
        getattr(kltrust, algorithm)(),
        num_envs=options.num_envs,
        num_steps=options.num_steps,
        audit="default" if level == BARE else level,
    )

    def iterations(state: LearnerState) -> Any:
        def step(state: LearnerState, _: None) -> Any:
            new, metrics = learner.step(state)
            return new, None if level == BARE else metrics

        return jax.lax.scan(step, state, length=options.iterations)

    compiled = jax.jit(iterations)
    state, _ = compiled(jax.jit(learner.init)(jax.random.key(0)))

    def run() -> None:
        jax.block_until_ready(compiled(state))

    run()
    return run


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
