"""What a trust region is for: the unconstrained step against TRPO, on the same seeds.

    python benchmarks/collapse.py

Trains `vanilla_pg` with a step that is too large, and `trpo`, on CartPole-v1, and counts the
seeds on which the return falls below half of its own peak, at all and within a few updates of one
whose KL is more than ten times TRPO's bound. Writes collapse.json and collapse.png to
benchmarks/results/
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Options:
    """The experiment."""

    seeds: int = 20
    learning_rate: float = 8.0
    """Of `vanilla_pg`; on standardised advantages."""
    total_steps: int = 100_000
    window: int = 5
    """Updates, the large one the first of them, within which the return must fall."""
    large_kl: float = 0.1
    out: Path = RESULTS


def main(options: Options) -> None:
    from kltrust.experiments.engine.devices import use_all_cores

    use_all_cores(options.seeds)
    result: dict[str, Any] = {
        "seeds": list(range(options.seeds)),
        "learning_rate": options.learning_rate,
        "window": options.window,
        "large_kl": options.large_kl,
    }
    curves = {}
    for algorithm, update in {
        "vanilla_pg": {"learning_rate": options.learning_rate},
        "trpo": {},
    }.items():
        returns, kl, versions = train(algorithm, update, options)
        falls = [
            falls_after(r, np.ones_like(k, bool), options) for r, k in zip(returns, kl, strict=True)
        ]
        large = [
            falls_after(r, k > options.large_kl, options) for r, k in zip(returns, kl, strict=True)
        ]
        result[algorithm] = {
            "fell": int(sum(falls)),
            "fell_after_a_large_update": int(sum(large)),
            "fell_after_a_large_update_by_seed": large,
            "peak_by_seed": [round(float(r.max()), 1) for r in returns],
            "final_by_seed": [round(float(r[-1]), 1) for r in returns],
            "kl_median": float(np.median(kl)),
            "kl_max": float(kl.max()),
        }
        result["versions"] = versions
        curves[algorithm] = returns, kl
        print(algorithm, {k: v for k, v in result[algorithm].items() if "seed" not in k})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "collapse.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(curves, options.out / "collapse.png")


def train(
    algorithm: str, update: dict[str, float], options: Options
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Returns of fresh episodes after each update, and its KL, each [seeds, iterations].

    Fresh ones, since the episodes that happen to end within an iteration are a biased sample once
    they last for hundreds of steps: the failed ones end first.
    """
    from kltrust.experiments.config.experiment import Experiment
    from kltrust.experiments.jobs import training
    from kltrust.experiments.reading.results import load

    experiment = Experiment.from_dict(
        {
            "algorithm": algorithm,
            "env": "CartPole-v1",
            "update": update,
            "learner": {"num_envs": 16, "num_steps": 128, "value_minibatches": 8},
            "budget": {
                "total_steps": options.total_steps,
                "num_evals": options.total_steps,
                "eval_episodes": 20,
            },
        }
    )
    folder = Path(tempfile.mkdtemp())
    try:
        record = training.train(experiment, range(options.seeds), folder / "run")
        loaded = load(record.path)
        returns = loaded.evaluations.pivot(
            index="seed", columns="iteration", values="sampled_mean_return"
        )
        kl = loaded.metrics.pivot(index="seed", columns="iteration", values="kl")
    finally:
        shutil.rmtree(folder)
    return returns.to_numpy(), kl.to_numpy(), record.versions


def falls_after(returns: np.ndarray, updates: np.ndarray, options: Options) -> bool:
    """Whether the return falls below half of its peak so far within a window after an update."""
    peak = np.maximum.accumulate(returns)
    # An update's own evaluation is the first that shows what it did.
    for update in np.flatnonzero(updates):
        if np.any(returns[update : update + options.window] < peak[update] / 2):
            return True
    return False


def draw(curves: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Every seed's return and KL, the two algorithms side by side."""
    from matplotlib.figure import Figure

    from kltrust.experiments.reading.plots import BLUE, VERMILION

    figure = Figure(figsize=(9, 5), layout="constrained", dpi=130)
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, ((name, (returns, kl)), color) in enumerate(
        zip(curves.items(), (VERMILION, BLUE), strict=True)
    ):
        grid[0][column].plot(returns.T, color=color, alpha=0.4, linewidth=0.8)
        grid[1][column].plot(kl.T, color=color, alpha=0.4, linewidth=0.8)
        grid[1][column].axhline(0.01, color="black", linestyle=":", linewidth=1)
        grid[1][column].set(yscale="log", xlabel="update")
        grid[0][column].set_title(name)
    grid[0][0].set_ylabel("return of 20 fresh episodes")
    grid[1][0].set_ylabel("KL(old || new), nats")
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
