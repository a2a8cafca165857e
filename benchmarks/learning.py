"""What the library's presets learn, whether the trust region holds meanwhile, and is it real?

    python benchmarks/learning.py                        everything (an hour or so on 2 cores)
    python benchmarks/learning.py --parts learning --envs Pendulum-v1 --algorithms trpo

    learning          seeds 0 to 19 (presets were tuned on seeds from 1000), 100 episodes each, by
                      the mode, from start states that differ between seeds; how far updates went
    gymnasium_scores  seeds 0 to 2 as functions of NumPy arrays (`kltrust.numpy_policy`), 1,000
                      episodes each in gymnasium's own environments, whose code shares nothing with
                      gymnax's, and 1,000 in gymnax from other start states

Writes learning/ALGORITHM-ENV.json and gymnasium_scores.json to benchmarks/results/ after every
pair; pairs that are there already and are not asked for stay.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from typing import Any

import common
import numpy as np
from common import Result, options, plains, rounded

# Environment: (steps of each run, the score that counts as solved, for the trust-region columns).
TASKS = {
    "CartPole-v1": (100_000, 497.0),
    "Acrobot-v1": (500_000, -78.0),
    "Pendulum-v1": (500_000, -162.0),
    "MountainCar-v0": (1_000_000, -105.0),
    "MountainCarContinuous-v0": (500_000, 92.0),
}
# The target for the mean return over all episodes. MountainCar has none and comes last: its presets
# train the longest.
TARGETS = {"CartPole-v1": 490.0, "Acrobot-v1": -90.0, "Pendulum-v1": -170.0, "MountainCar-v0": None}


@dataclasses.dataclass(frozen=True)
class Options(common.Parts):
    """Which pairs, and how much of each."""

    algorithms: tuple[str, ...] = ("trpo", "ppo_clip", "ppo_penalty")
    envs: tuple[str, ...] = ()  # All of a part, if none is named
    seeds: int | None = None  # 20 for learning, 3 for gymnasium_scores
    first_seed: int = 0
    episodes: int | None = None  # Of each seed: 100 for learning, 1,000 for gymnasium_scores
    fraction: float = 1.0  # Of the steps: a smaller one tries the benchmark out


def main(options: Options) -> None:
    for part in common.chosen("parts", options.parts, PARTS):
        measure, envs, seeds, episodes = PARTS[part]
        seeds, episodes = options.seeds or seeds, options.episodes or episodes
        those = [options.first_seed + i for i in range(seeds)]
        for env in common.chosen("envs", options.envs, envs):
            for algorithm in options.algorithms:
                measure(algorithm, env, those, episodes, options)


def learning(algorithm: str, env: str, seeds: list[int], episodes: int, options: Options) -> None:
    """Trains and plays one pair; returns the tables' numbers."""
    total_steps, solved = TASKS[env]
    experiment = common.preset(algorithm, env, total_steps * options.fraction)
    with common.trained(experiment, seeds) as record:
        part = common.only_part(record)
        scores = common.played(record, episodes, options.first_seed).mean(axis=1)
        result = {
            "algorithm": algorithm,
            "env": env,
            "experiment": experiment.to_dict(),
            "seeds": seeds,
            "episodes_per_seed": episodes,
            "scores": rounded(scores),
            **trust_region(part, experiment, solved),
            "curves": curves(part),
            "seconds": {k: round(v, 1) for k, v in part.seconds.items()},
            "width": part.config["width"],
            "versions": record.versions,
        }
    print(
        f"{algorithm:12} {env:26} {scores.mean():8.2f} worst seed {scores.min():8.2f}  KL median "
        f"{result['kl_median']:.4f} max {result['kl_max']:.4f}  {result['seconds']['run']:.0f} s"
    )
    common.write(options.out / "learning" / f"{algorithm}-{env}.json", result)


def trust_region(part: Any, experiment: Any, solved: float) -> Result:
    """How far the policy moved in its updates, and TRPO's use of its region until solved."""
    metrics, evaluations = part.metrics(), part.evaluations()
    reached = evaluations[evaluations.mean_return >= solved].groupby("seed").iteration.min()
    until = metrics.seed.map(reached).fillna(np.inf)
    learning = metrics[metrics.iteration < until]
    quantiles = {"kl_median": 0.5, "kl_p95": 0.95, "kl_max": 1}
    result = {"updates": len(metrics), "seeds_solved_during_training": len(reached)}
    result |= {name: float(metrics.kl.quantile(q)) for name, q in quantiles.items()}
    largest = {"state_kl_max": metrics.kl_max, "max_ratio": metrics.max_ratio}
    result |= {name: float(of.max()) for name, of in largest.items()}
    if "extra.accepted" in metrics:
        # The bound in force at each update: a preset may anneal it.
        used, accepted = metrics.kl / metrics["extra.max_kl"], metrics["extra.accepted"]
        result |= {
            "max_kl": experiment.update.max_kl,
            "violations": int((used > 1 + 1e-5).sum()),
            "rejected": int((~accepted).sum()),
            "rejected_that_moved": int((metrics[~accepted].kl != 0).sum()),
            "accepted_share_until_solved": float(learning["extra.accepted"].mean()),
            "region_used_median": float(used[accepted].median()),
            "backtracks_mean": float(metrics["extra.backtracks"].mean()),
        }
    return result


def curves(part: Any, points: int = 60) -> Result:
    """Numbers for the picture: evaluation returns, and an update's KL as quantiles over seeds."""
    kl = part.metrics().groupby("env_steps").kl
    returns = part.evaluations().groupby("env_steps").mean_return
    kept = np.unique(np.linspace(0, kl.ngroups - 1, points).round().astype(int))
    found = {
        "return_mean": returns.mean(),
        "return_low": returns.quantile(0.1),
        "return_high": returns.quantile(0.9),
        "kl_median": kl.median().iloc[kept],
        "kl_low": kl.quantile(0.05).iloc[kept],
        "kl_high": kl.quantile(0.95).iloc[kept],
    }
    steps = {"eval_steps": found["return_mean"], "kl_steps": found["kl_median"]}
    of_steps = {name: [int(x) for x in of.index] for name, of in steps.items()}
    return of_steps | {name: plains(of) for name, of in found.items()}


def gymnasium(algorithm: str, env: str, seeds: list[int], episodes: int, options: Options) -> None:
    """Trains one pair, and plays it in gymnax and in gymnasium."""
    steps = int(common.preset(algorithm, env).budget.total_steps * options.fraction)
    with common.trained(common.preset(algorithm, env, steps), seeds) as record:
        row = {
            "env": env,
            "algorithm": algorithm,
            "steps": steps,
            "seeds": seeds,
            "episodes": episodes,
            "target": TARGETS.get(env),
            "gymnasium": summary(
                np.stack(common.played_in_gymnasium(record, env, seeds, episodes))
            ),
            "gymnax": summary(common.played(record, episodes, options.first_seed)),
            "versions": {**record.versions, "gymnasium": importlib.metadata.version("gymnasium")},
        }
    means = (
        "{} {mean:8.2f} [{low:.2f}, {high:.2f}]".format(where, **row[where])
        for where in ("gymnasium", "gymnax")
    )
    print(f"{algorithm:12} {env:15} {'  '.join(means)}")
    common.write_row(options.out / "gymnasium_scores.json", row)


def summary(returns: np.ndarray) -> Result:
    """Means of returns [seeds, episodes] with 95 % intervals, over all and for every seed."""
    mean, low, high = interval(returns)
    std, worst = rounded([returns.std(), returns.min()])
    by_seed = [interval(of_seed[None]) for of_seed in returns]
    of_all = {"mean": mean, "low": low, "high": high, "std": std, "worst_episode": worst}
    return {**of_all, "by_seed": by_seed}


def interval(returns: np.ndarray, resamples: int = 2000) -> tuple[float, ...]:
    """The mean, and the 95 % percentile bootstrap of seeds and of the episodes of each.

    Args:
        returns: [seeds, episodes]; with a single seed, only episodes are resampled.
        resamples: the bootstrap's resamples; its generator is seeded.
    """
    rng = np.random.default_rng(0)
    num_seeds = len(returns)
    means = []
    for _ in range(resamples):
        seeds = rng.integers(num_seeds, size=(num_seeds, 1))
        means.append(returns[seeds, rng.integers(returns.shape[1], size=returns.shape)].mean())
    return tuple(rounded([returns.mean(), *np.quantile(means, (0.025, 0.975))]))


PARTS = {"learning": (learning, TASKS, 20, 100), "gymnasium_scores": (gymnasium, TARGETS, 3, 1000)}
"""Each part, with its environments, its number of seeds, and of episodes per seed."""


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
