"""Runs a specification and records what a paper needs of it: small enough to commit.

    python benchmarks/record.py benchmarks/specs/ppo_table1.toml
    python benchmarks/record.py benchmarks/specs/classic.toml --folder runs/classic

Where the folder holds that sweep already, unfinished or not, it goes on with it. Writes NAME.json
to benchmarks/results/: the score of every seed (the last evaluation, acting by the mode), how far
each setting's updates went and what it claims, and the return of uniformly random actions over
1,000 episodes or more, which is the zero of the scaled scores. `benchmarks/readme.py` makes the
README's tables from it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Which sweep, and where."""

    spec: tyro.conf.Positional[Path]
    folder: Path | None = None
    """Of the sweep; default runs/NAME."""
    random_episodes: int = 1000
    out: Path = HERE / "results"


def main(options: Options) -> int:
    from kltrust.experiments import spec

    specification = spec.load(options.spec)
    folder = options.folder or Path("runs") / specification.name
    finished = run(specification, folder)
    result = {
        "spec": options.spec.name,
        "seeds": list(specification.seeds),
        "random": random_returns(specification, options.random_episodes),
        **measured(folder),
        "steps": sum(
            s.experiment.num_iterations * s.experiment.batch_size for s in specification.settings
        )
        * len(specification.seeds),
        "versions": finished.versions,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{specification.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


def run(specification: Any, folder: Path) -> Any:
    """The sweep, from where it is."""
    from kltrust.experiments import devices, plan, sweep
    from kltrust.experiments.record import RUN, Record
    from kltrust.experiments.sweep_progress import SweepProgress

    devices.use_all_cores(len(specification.settings) * len(specification.seeds))
    if not (folder / RUN).exists():
        return sweep.start(plan.make_plan(specification), folder, progress=SweepProgress())
    there = sweep.plan_of(Record(folder))
    if (there.settings, there.seeds) != (specification.settings, specification.seeds):
        raise ValueError(f"{folder} holds a sweep of another specification: take another folder")
    return sweep.resume(folder, progress=SweepProgress())


def measured(folder: Path) -> dict[str, Any]:
    """Scores by seed, and the realised KL, of every environment and label."""
    from kltrust.experiments.report import _region
    from kltrust.experiments.report._gather import gather

    study = gather([folder])
    region = _region.measured(study, _region.updates(study))
    rows = []
    for row in region.to_dict("records"):
        runs = study.scored.query("env == @row['env'] and label == @row['label']")
        claim = row.pop("claim")
        rows.append(
            {
                "env": row.pop("env"),
                "label": row.pop("label"),
                "algorithm": runs.algorithm.iloc[0],
                "steps": int(runs.planned.iloc[0] * batch_size(runs.iloc[0])),
                "scores": [round(float(x), 4) for x in runs.sort_values("seed").score],
                "broken": int(runs.broken.notna().sum()),
                "claim": {"kind": claim.kind, "what": claim.what, "value": plain(claim.value)},
                **{k: plain(v) for k, v in row.items() if k != "method"},
            }
        )
    seconds: dict[str, float] = {}
    for source in study.sources:
        for _, part in source.parts:
            for name, value in (part.seconds if part is not None else {}).items():
                seconds[name] = round(seconds.get(name, 0.0) + value, 1)
    return {"rows": rows, "seconds": seconds, "notes": list(study.notes)}


def batch_size(run: Any) -> int:
    return int(run["learner.num_envs"] * run["learner.num_steps"])


def plain(value: Any) -> Any:
    """Five digits; None for what is no number."""
    value = float(value)
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.5g}")


def random_returns(specification: Any, num_episodes: int) -> dict[str, dict[str, float]]:
    """Mean return of uniformly random actions, and its standard error, by environment."""
    import jax

    from kltrust.environments import make
    from kltrust.rollout import episode_returns

    found = {}
    for env_name in dict.fromkeys(s.experiment.env for s in specification.settings):
        env = make(env_name)

        def act(obs: Any, key: Any, env: Any = env) -> Any:
            return random_action(env.action_space, key, (num_episodes,))

        def play(key: Any, env: Any = env, act: Any = act) -> Any:
            return episode_returns(env, act, key, num_episodes, env.max_steps)[0]

        returns = np.asarray(jax.jit(play)(jax.random.key(0)))
        found[env_name] = {
            "mean": round(float(returns.mean()), 4),
            "standard_error": round(float(returns.std(ddof=1) / np.sqrt(len(returns))), 4),
            "episodes": num_episodes,
        }
    return found


def random_action(space: Any, key: Any, batch: tuple[int, ...]) -> Any:
    """Uniform over a space of a finite number of actions, or of finite bounds."""
    import jax

    if type(space).__name__ == "Discrete":
        return jax.random.randint(key, batch, 0, space.n)
    if type(space).__name__ == "Box" and np.isfinite([space.low, space.high]).all():
        return jax.random.uniform(key, (*batch, *space.shape), minval=space.low, maxval=space.high)
    raise ValueError(f"no uniform distribution over {space}")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
