"""Runs a specification and records what a paper needs of it: small enough to commit.

    python benchmarks/record.py benchmarks/specs/ppo_table1.toml
    python benchmarks/record.py benchmarks/specs/classic.toml --folder runs/classic
    python benchmarks/record.py benchmarks/specs/minatar_2m.toml --folder runs/part1 runs/part2
    python benchmarks/record.py benchmarks/specs/minatar.toml --no-run

Where the folder holds that sweep already, unfinished or not, it goes on with it. Several folders
are parts of the sweep, taken as far as they are: recorded is what all seeds have finished. Runs of
settings or seeds that the specification does not name are left out: what a preset was before, say.

Writes NAME.json to benchmarks/results/: the score of every seed (the last evaluation, acting by the
mode) and its training return (see `training_returns`), how far each setting's updates went and what
it claims, and the return of uniformly random actions over 1,000 episodes or more, which is the zero
of the scaled scores. `benchmarks/readme.py` makes the README's tables from it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tyro

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Which sweep, and where."""

    spec: tyro.conf.Positional[Path]
    folder: tuple[Path, ...] = ()
    """Of the sweep, or of parts of it; default runs/NAME."""
    run: bool = True
    """Go on with the sweep; --no-run records what is there, all seeds of a setting or none."""
    random_episodes: int = 1000
    out: Path = HERE / "results"


def main(options: Options) -> int:
    from kltrust.experiments.config import spec
    from kltrust.experiments.store.record import Record

    specification = spec.load(options.spec)
    folders = options.folder or (Path("runs") / specification.name,)
    if options.run and len(folders) == 1:
        run(specification, folders[0])
    found = measured(folders, specification)
    result = {
        "spec": options.spec.name,
        "seeds": list(specification.seeds),
        "random": random_baselines(specification, options.random_episodes),
        **found,
        "steps": sum(row["steps"] * len(row["scores"]) for row in found["rows"]),
        "versions": Record(folders[0]).versions,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{specification.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


def run(specification: Any, folder: Path) -> None:
    """The sweep, from where it is."""
    from kltrust.experiments.cli.progress import ConsoleProgress
    from kltrust.experiments.engine import devices
    from kltrust.experiments.jobs import plan
    from kltrust.experiments.jobs.run import resume, start
    from kltrust.experiments.store.record import RUN

    devices.use_all_cores(len(specification.settings) * len(specification.seeds))
    if not (folder / RUN).exists():
        start(plan.make_plan(specification), folder, progress=ConsoleProgress())
        return
    require_same(specification, folder)
    resume(folder, progress=ConsoleProgress())


def require_same(specification: Any, folder: Path) -> None:
    from kltrust.experiments.jobs.run import plan_of
    from kltrust.experiments.store.record import Record

    there = plan_of(Record(folder))
    if (there.settings, there.seeds) != (specification.settings, specification.seeds):
        raise ValueError(f"{folder} holds a sweep of another specification: take another folder")


def measured(folders: tuple[Path, ...], specification: Any) -> dict[str, Any]:
    """Scores by seed, and the realised KL, of every environment and label that is finished."""
    from kltrust.experiments.report import _region
    from kltrust.experiments.report._gather import gather

    study = without_others(gather(folders), specification)
    study = without_unfinished(study, len(specification.seeds))
    region = _region.measured(study, _region.updates(study))
    training = training_returns(study.metrics, study.runs)
    rows = []
    for row in region.to_dict("records"):
        runs = study.scored.query("env == @row['env'] and label == @row['label']")
        runs = runs.sort_values("seed")
        claim = row.pop("claim")
        rows.append(
            {
                "env": row.pop("env"),
                "label": row.pop("label"),
                "algorithm": runs.algorithm.iloc[0],
                "steps": int(runs.planned.iloc[0] * batch_size(runs.iloc[0])),
                "scores": [round(float(x), 4) for x in runs.score],
                "training": [plain(x) for x in runs.run.map(training)],
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


def without_others(study: Any, specification: Any) -> Any:
    """The runs of the specification's settings and seeds, under the names that it gives them."""
    labels = {
        run: study.setting(run).label
        for run, seed in zip(study.runs.run, study.runs.seed, strict=True)
        if seed in specification.seeds and study.setting(run) in specification.settings
    }
    if not labels:
        folders = ", ".join(str(source.record.path) for source in study.sources)
        raise ValueError(f"{folders}: all runs are of another specification: take another folder")
    return only(study, labels, label=labels)


def only(study: Any, runs: Iterable[int], **columns: dict[int, Any]) -> Any:
    """The study with these runs alone; columns of all its tables can be set by run."""
    kept = {}
    for name in ("runs", "metrics", "evaluations"):
        frame = getattr(study, name)
        frame = frame[frame.run.isin(list(runs))]
        kept[name] = frame.assign(**{k: frame.run.map(v) for k, v in columns.items()})
    return dataclasses.replace(study, **kept)


def without_unfinished(study: Any, num_seeds: int) -> Any:
    """The study without the pairs of setting and environment that lack a seed's last iteration."""
    runs = study.runs
    done = runs[runs.iterations >= runs.planned]
    kept = done[done.groupby(["env", "label"]).run.transform("size") == num_seeds].run
    return only(study, kept)


def training_returns(metrics: Any, runs: Any) -> Any:
    """Mean return of the episodes that ended in the last tenth of the planned iterations, by run.

    Of episodes as training plays them, by sampled actions; missing where none ended.
    """
    planned = metrics.run.map(runs.set_index("run").planned)
    late = metrics[metrics.iteration >= planned - (planned // 10).clip(lower=1)]
    sums = late.groupby("run")[["return_sum", "num_episodes"]].sum()
    return sums.return_sum / sums.num_episodes.where(sums.num_episodes > 0)


def batch_size(run: Any) -> int:
    return int(run["learner.num_envs"] * run["learner.num_steps"])


def plain(value: Any) -> Any:
    """Five digits; None for what is no number."""
    value = float(value)
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.5g}")


def random_baselines(specification: Any, num_episodes: int) -> dict[str, dict[str, float]]:
    """What uniformly random actions return, by environment."""
    import jax

    from kltrust.environments import make

    found = {}
    for env_name in dict.fromkeys(s.experiment.env for s in specification.settings):
        play = functools.partial(random_returns, make(env_name), num_episodes=num_episodes)
        found[env_name] = baseline(jax.jit(play)(jax.random.key(0)))
    return found


def baseline(returns: Any) -> dict[str, float]:
    """The mean of returns [episodes] and its standard error."""
    returns = np.asarray(returns)
    return {
        "mean": round(float(returns.mean()), 4),
        "standard_error": round(float(returns.std(ddof=1) / np.sqrt(len(returns))), 4),
        "episodes": len(returns),
    }


def random_returns(env: Any, key: Any, num_episodes: int) -> Any:
    """Returns [num_episodes] of uniformly random actions, of the allowed ones where others are."""
    import jax

    from kltrust.networks.masks import mask_of
    from kltrust.rollout import episode_returns

    def act(obs: Any, key: Any) -> Any:
        draw = functools.partial(random_action, env.action_space)
        return jax.vmap(draw)(jax.random.split(key, num_episodes), mask_of(obs))

    return episode_returns(env, act, key, num_episodes, env.max_steps)[0]


def random_action(space: Any, key: Any, mask: Any = None) -> Any:
    """Uniform over a space of finitely many actions, or of finite bounds."""
    import jax

    from kltrust.environments import sample_action
    from kltrust.types import Box

    if not isinstance(space, Box):
        return sample_action(space, key, mask)
    if not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"no uniform distribution over {space}: its bounds must be finite")
    return jax.random.uniform(key, space.shape, minval=space.low, maxval=space.high)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
