"""Is it real, what a preset learns in gymnax? The policies play gymnasium's own environments.

    python benchmarks/gymnasium_scores.py
    python benchmarks/gymnasium_scores.py --envs Pendulum-v1 --algorithms trpo

Trains the library's presets in gymnax, takes each seed's policy as a function of NumPy arrays
(`kltrust.numpy_policy`) and plays 1,000 episodes a seed by its mode in gymnasium, whose code shares
nothing with gymnax's, and 1,000 in gymnax from other start states. Writes gymnasium_scores.json to
benchmarks/results/ after every pair; pairs that it holds already and that are not asked for stay.
`benchmarks/readme.py` makes the README's table from it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro

RESULTS = Path(__file__).parent / "results"
ALGORITHMS = ("trpo", "ppo_clip", "ppo_penalty")
# The mean return, over all episodes, that is aimed at. MountainCar has none and comes last: its
# presets train the longest.
TARGETS = {"CartPole-v1": 490.0, "Acrobot-v1": -90.0, "Pendulum-v1": -170.0, "MountainCar-v0": None}


@dataclasses.dataclass(frozen=True)
class Options:
    """Which pairs, and how much of each."""

    algorithms: tuple[str, ...] = ALGORITHMS
    envs: tuple[str, ...] = tuple(TARGETS)
    seeds: int = 3
    first_seed: int = 0
    episodes: int = 1000
    """Of each seed, in each of the two."""
    fraction: float = 1.0
    """Of the presets' steps: a smaller one tries the benchmark out."""
    out: Path = RESULTS


def main(options: Options) -> None:
    from kltrust.experiments.engine.devices import use_all_cores

    use_all_cores(options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gymnasium_scores.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    found = {(row["env"], row["algorithm"]): row for row in rows}
    for env in options.envs:
        for algorithm in options.algorithms:
            found[env, algorithm] = row = measure(algorithm, env, options)
            path.write_text(json.dumps({"rows": list(found.values())}, indent=1) + "\n")
            ours, theirs = row["gymnax"], row["gymnasium"]
            print(
                f"{algorithm:12} {env:15} gymnasium {theirs['mean']:8.2f} "
                f"[{theirs['low']:.2f}, {theirs['high']:.2f}]  gymnax {ours['mean']:8.2f} "
                f"[{ours['low']:.2f}, {ours['high']:.2f}]",
                flush=True,
            )


def measure(algorithm: str, env: str, options: Options) -> dict[str, Any]:
    """Trains one pair, and plays it in both."""
    from kltrust.experiments.config import presets
    from kltrust.experiments.jobs import training
    from kltrust.experiments.reading import deploy
    from kltrust.experiments.reading.evaluation import evaluate_runs
    from kltrust.experiments.reading.trained import find_runs

    experiment = presets.preset(algorithm, env)
    steps = int(experiment.budget.total_steps * options.fraction)
    budget = dataclasses.replace(experiment.budget, total_steps=steps)
    experiment = dataclasses.replace(experiment, budget=budget)
    seeds = [options.first_seed + i for i in range(options.seeds)]
    with tempfile.TemporaryDirectory() as folder:
        record = training.train(experiment, seeds, Path(folder) / "run")
        ours = evaluate_runs(
            find_runs(record), num_episodes=options.episodes, seed=options.first_seed
        )
        theirs = [
            deploy.gymnasium_returns(
                deploy.numpy_policy(record, seed=seed),
                env,
                options.episodes,
                seed=seed * options.episodes,  # start states differ between seeds, as in gymnax
                num_envs=100,
            )
            for seed in seeds
        ]
        versions = record.versions
    return {
        "env": env,
        "algorithm": algorithm,
        "steps": steps,
        "seeds": seeds,
        "episodes": options.episodes,
        "target": TARGETS.get(env),
        "gymnasium": summary(np.stack(theirs)),
        "gymnax": summary(ours),
        "versions": {**versions, "gymnasium": importlib.metadata.version("gymnasium")},
    }


def summary(returns: np.ndarray) -> dict[str, Any]:
    """Of returns [seeds, episodes]: means with 95 % intervals, of all and of every seed."""
    mean, low, high = interval(returns)
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "std": round(float(returns.std()), 4),
        "worst_episode": round(float(returns.min()), 4),
        "by_seed": [interval(of_seed[None]) for of_seed in returns],
    }


def interval(returns: np.ndarray, resamples: int = 2000) -> tuple[float, float, float]:
    """The mean, and the 95 % percentile bootstrap of seeds and of the episodes of each.

    Args:
        returns: [seeds, episodes]; of a single seed the episodes alone are resampled.
        resamples: of the bootstrap, whose generator is seeded.
    """
    rng = np.random.default_rng(0)
    num_seeds, num_episodes = returns.shape
    means = []
    for _ in range(resamples):
        seeds = rng.integers(num_seeds, size=(num_seeds, 1))
        means.append(returns[seeds, rng.integers(num_episodes, size=returns.shape)].mean())
    low, high = np.quantile(means, (0.025, 0.975))
    return round(float(returns.mean()), 4), round(float(low), 4), round(float(high), 4)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
