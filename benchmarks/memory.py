"""What a memory is worth: tasks whose observation does not tell the state, with and without a cell.

    python benchmarks/memory.py                    some twenty minutes on two cores
    python benchmarks/memory.py --envs MemoryChain-bsuite

Runs benchmarks/specs/memory.toml, TRPO and PPO-clip each with no cell and with a GRU, and writes
memory.json to benchmarks/results/: the score of every seed (the last evaluation, acting by the
mode), the curves, and beside them what can be known:

- MemoryChain: the context is shown in the first step only and asked for in the last. Guessing is
  worth 0, remembering 1.
- BernoulliBandit: which of two arms pays with probability 1 - p, and which with p, is drawn at the
  start of an episode. Without memory, stay after a reward and change after none; with one, the arm
  that has done better, which is Bayes-optimal as both arms tell the same about each other.
- CartPole-positions: CartPole without its velocities.
- UmbrellaChain: no task of memory, since every observation shows what is needed; for comparison.
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
from record import run

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    spec: Path = HERE / "specs" / "memory.toml"
    envs: tuple[str, ...] = ()
    """Of the specification's environments; all of them without any."""
    out: Path = HERE / "results"


def main(options: Options) -> int:
    from kltrust.experiments.config import spec
    from kltrust.experiments.reading import results
    from kltrust.experiments.store.versions import snapshot

    register()
    sweep = spec.load(options.spec)
    known = list(dict.fromkeys(s.experiment.env for s in sweep.settings))
    if unknown := set(options.envs) - set(known):
        raise ValueError(f"--envs are among {', '.join(known)}, got {', '.join(unknown)}")
    chosen = [s for s in sweep.settings if s.experiment.env in (options.envs or known)]
    sweep = dataclasses.replace(sweep, settings=tuple(chosen))
    folder = Path(tempfile.mkdtemp())
    try:
        run(sweep, folder / "sweep")
        rows = table(results.load(folder / "sweep"))
    finally:
        shutil.rmtree(folder)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "memory.json"
    # Environments that were not run this time keep their rows, and what made them.
    before = json.loads(path.read_text()) if path.exists() else {}
    for env, part in rows.items():
        before[env] = {**part, "versions": snapshot()}
    path.write_text(json.dumps(before, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


def register() -> None:
    """CartPole without its velocities, by name."""
    from kltrust import environments

    def positions(**params: Any) -> Any:
        env = environments.make("CartPole-v1", **params)
        return environments.hide_observations(env, keep=(0, 2))

    environments.register("CartPole-positions", positions, overwrite=True)


def table(loaded: Any) -> dict[str, Any]:
    """By environment: a row for every algorithm and cell."""
    found: dict[str, Any] = {}
    for (env, algorithm, cell), runs in loaded.runs.groupby(
        ["env", "algorithm", "network.cell"], sort=False
    ):
        evaluations = loaded.evaluations[loaded.evaluations.run.isin(runs.run)]
        along = evaluations.groupby("env_steps").mean_return.mean()
        kl = loaded.metrics[loaded.metrics.run.isin(runs.run)].kl
        place = found.setdefault(env, {"known": KNOWN[env](runs.iloc[0]), "rows": []})
        place["rows"].append(
            {
                "algorithm": algorithm,
                "cell": cell,
                "scores": [round(float(x), 4) for x in runs.sort_values("seed").score],
                "kl_median": float(f"{kl.median():.4g}"),
                "kl_max": float(f"{kl.max():.4g}"),
                "steps": [int(x) for x in along.index],
                "curve": [round(float(x), 4) for x in along],
            }
        )
    return found


def bandit(row: Any) -> dict[str, float]:
    """Expected returns of 100 pulls: staying after a reward, and the arm that has done better."""
    from scipy import stats

    p, pulls = float(row["env_params.reward_prob"]), 100
    # Reward tells of either arm alike: after t pulls, a majority of t signs, each right with 1 - p.
    right = []
    for t in range(pulls):
        count = np.arange(t + 1)
        weight = np.where(2 * count == t, 0.5, 2 * count > t)
        right.append(float(np.sum(weight * stats.binom.pmf(count, t, 1 - p))))
    good = np.array(right)
    better = float(np.sum(good * (1 - p) + (1 - good) * p))
    stay = 0.5 + (pulls - 1) * ((1 - p) ** 2 + p**2)
    return {"random": pulls / 2, "stay after a reward": round(stay, 3), "optimal": round(better, 3)}


KNOWN = {
    "MemoryChain-bsuite": lambda row: {"guessing": 0.0, "optimal": 1.0},
    "BernoulliBandit-misc": bandit,
    "CartPole-positions": lambda row: {"optimal": 500.0},
    "UmbrellaChain-bsuite": lambda row: {"guessing": 0.0, "optimal": 1.0},
}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
