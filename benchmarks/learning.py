"""Do the presets learn, and does the trust region hold? 20 seeds of each algorithm on each task.

    python benchmarks/learning.py                      all pairs (about half an hour on 2 cores)
    python benchmarks/learning.py --envs Pendulum-v1 --algorithms trpo

Trains the library's presets on seeds 0 to 19 (they were tuned on seeds from 1000), plays 100
episodes a seed by the distribution's mode from start states that differ between seeds, and writes
one small JSON file per pair to benchmarks/results/learning/. `benchmarks/readme.py` makes the
README's tables from those files.
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

RESULTS = Path(__file__).parent / "results" / "learning"
ALGORITHMS = ("trpo", "ppo_clip", "ppo_penalty")
# Environment: (steps of each run, the score that counts as solved, for the trust-region columns).
TASKS = {
    "CartPole-v1": (100_000, 497.0),
    "Acrobot-v1": (500_000, -78.0),
    "Pendulum-v1": (500_000, -162.0),
    "MountainCar-v0": (1_000_000, -105.0),
    "MountainCarContinuous-v0": (500_000, 92.0),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Which pairs, and how many seeds."""

    algorithms: tuple[str, ...] = ALGORITHMS
    envs: tuple[str, ...] = tuple(TASKS)
    seeds: int = 20
    first_seed: int = 0
    episodes: int = 100
    fraction: float = 1.0
    """Of the tasks' steps: a smaller one tries the benchmark out."""
    out: Path = RESULTS


def main(options: Options) -> None:
    from kltrust.experiments.engine.devices import use_all_cores

    use_all_cores(options.seeds)
    for env in options.envs:
        for algorithm in options.algorithms:
            result = measure(algorithm, env, options)
            options.out.mkdir(parents=True, exist_ok=True)
            path = options.out / f"{algorithm}-{env}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(
                f"{algorithm:12} {env:26} {np.mean(result['scores']):8.2f} "
                f"worst seed {min(result['scores']):8.2f}  KL median {result['kl_median']:.4f} "
                f"max {result['kl_max']:.4f}  {result['seconds']['train']:.0f} s",
                flush=True,
            )


def measure(algorithm: str, env: str, options: Options) -> dict[str, Any]:
    """Trains and plays one pair; everything that the tables need, as plain numbers."""
    from kltrust.experiments.config import presets
    from kltrust.experiments.jobs import training
    from kltrust.experiments.reading.evaluation import evaluate_runs
    from kltrust.experiments.reading.results import load, parts_of
    from kltrust.experiments.reading.trained import find_runs

    total_steps, solved = TASKS[env]
    experiment = presets.preset(algorithm, env)
    budget = dataclasses.replace(experiment.budget, total_steps=int(total_steps * options.fraction))
    experiment = dataclasses.replace(experiment, budget=budget)
    seeds = [options.first_seed + i for i in range(options.seeds)]
    folder = Path(tempfile.mkdtemp())
    try:
        record = training.train(experiment, seeds, folder / "run")
        loaded = load(record.path)
        _, ((_, part),) = parts_of(record)
        returns = evaluate_runs(
            find_runs(record), num_episodes=options.episodes, seed=options.first_seed
        )
        result = {
            "algorithm": algorithm,
            "env": env,
            "experiment": experiment.to_dict(),
            "seeds": seeds,
            "episodes_per_seed": options.episodes,
            "scores": [round(float(x), 4) for x in returns.mean(axis=1)],
            **trust_region(loaded, experiment, solved),
            "curves": curves(loaded),
            "seconds": {k: round(v, 1) for k, v in part.seconds.items()},
            "width": part.config["width"],
            "versions": record.versions,
        }
    finally:
        shutil.rmtree(folder)
    return result


def trust_region(loaded: Any, experiment: Any, solved: float) -> dict[str, Any]:
    """How far the policy moved in its updates, and TRPO's use of its region until solved."""
    metrics, evaluations = loaded.metrics, loaded.evaluations
    reached = evaluations[evaluations.mean_return >= solved].groupby("seed").iteration.min()
    until = metrics.seed.map(reached).fillna(np.inf)
    learning = metrics[metrics.iteration < until]
    result = {
        "updates": len(metrics),
        "kl_median": float(metrics.kl.median()),
        "kl_p95": float(metrics.kl.quantile(0.95)),
        "kl_max": float(metrics.kl.max()),
        "state_kl_max": float(metrics.kl_max.max()),
        "max_ratio": float(metrics.max_ratio.max()),
        "seeds_solved_during_training": len(reached),
    }
    if "extra.accepted" in metrics:
        # The bound that was in force: a preset may anneal it.
        used = metrics.kl / metrics["extra.max_kl"]
        result |= {
            "max_kl": experiment.update.max_kl,
            "violations": int((used > 1 + 1e-5).sum()),
            "rejected": int((~metrics["extra.accepted"]).sum()),
            "rejected_that_moved": int((metrics[~metrics["extra.accepted"]].kl != 0).sum()),
            "accepted_share_until_solved": float(learning["extra.accepted"].mean()),
            "region_used_median": float(used[metrics["extra.accepted"]].median()),
            "backtracks_mean": float(metrics["extra.backtracks"].mean()),
        }
    return result


def curves(loaded: Any, points: int = 60) -> dict[str, Any]:
    """What the picture needs: evaluation returns, and quantiles over seeds of an update's KL."""
    returns = loaded.evaluations.groupby("env_steps").mean_return
    kl = loaded.metrics.groupby("env_steps").kl
    kept = np.unique(np.linspace(0, kl.ngroups - 1, points).round().astype(int))

    def plain(series: Any) -> list[float]:
        return [float(f"{x:.5g}") for x in series]

    return {
        "eval_steps": [int(x) for x in returns.mean().index],
        "return_mean": plain(returns.mean()),
        "return_low": plain(returns.quantile(0.1)),
        "return_high": plain(returns.quantile(0.9)),
        "kl_steps": [int(x) for x in kl.median().index[kept]],
        "kl_median": plain(kl.median().iloc[kept]),
        "kl_low": plain(kl.quantile(0.05).iloc[kept]),
        "kl_high": plain(kl.quantile(0.95).iloc[kept]),
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
