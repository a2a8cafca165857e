"""Runs a specification and records what a paper needs of it: small enough to commit.

    python benchmarks/record.py benchmarks/specs/ppo_table1.toml
    python benchmarks/record.py benchmarks/specs/wide.toml --folder runs/wide
    python benchmarks/record.py benchmarks/specs/minatar_2m.toml --folder runs/part1 runs/part2
    python benchmarks/record.py benchmarks/specs/minatar.toml --no-run
    python benchmarks/record.py --stale     what to record again, of all benchmarks, and why
    python benchmarks/record.py --all       records it, the quickest first

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
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import provenance
import tyro
from common import RESULTS, Result, load_spec, options, plain, plains, rounded, run_sweep, write


@dataclasses.dataclass(frozen=True)
class Options:
    """Which sweep, and where."""

    spec: tyro.conf.Positional[Path | None] = None
    folder: tuple[Path, ...] = ()  # Of the sweep, or of parts of it; default runs/NAME
    run: bool = True
    """Go on with the sweep; --no-run records what is there, all seeds of a setting or none."""
    random_episodes: int = 1000
    out: Path = RESULTS
    stale: bool = False
    """List the results whose code has changed since, with commands and hours; record nothing."""
    all: bool = False
    """Run these commands one after the other. A killed one goes on where its folder stands."""


def main(options: Options) -> int:
    if options.stale or options.all:
        return queue(options.all)
    if options.spec is None:
        raise SystemExit("name a specification, or take --stale or --all")
    specification = load_spec(options.spec)
    folders = options.folder or (Path("runs") / specification.name,)
    if options.run and len(folders) == 1:
        run_sweep(specification, folders[0])
    envs = dict.fromkeys(s.experiment.env for s in specification.settings)
    found = measured(folders, specification)
    random = {env: random_baseline(env, options.random_episodes) for env in envs}
    steps = sum(row["steps"] * len(row["scores"]) for row in found["rows"])
    of = {"spec": options.spec.name, "seeds": list(specification.seeds), "random": random}
    origin = provenance.origin(found["versions"].get("commit"), options.spec)
    result = {**of, "steps": steps, **found, "origin": origin}
    write(options.out / f"{specification.name}.json", result)
    return 0


def queue(run: bool) -> int:
    """Lists what is stale, or records it; the status is that of the first command that failed."""
    found = provenance.results()
    stale = {name: why for name, of in found.items() if (why := provenance.why_stale(of))}
    wanted = provenance.commands({name: found[name] for name in stale})
    print(*provenance.listing(wanted, stale), sep="\n")
    for name in provenance.not_in_history(found):
        print(f"{name}: names a commit that is not in the history")
    for command in wanted if run else ():
        print(f"== {command}", flush=True)
        arguments = [sys.executable, *command.split()[1:]]
        if status := subprocess.run(arguments, cwd=provenance.ROOT, check=False).returncode:
            return status
    return 0


def measured(folders: tuple[Path, ...], specification: Any) -> Result:
    """Scores by seed, and the realised KL, of every environment and label that is finished."""
    from kltrust.experiments.report import _region
    from kltrust.experiments.report._gather import gather

    study = without_others(gather(folders), specification)
    study = without_unfinished(study, len(specification.seeds))
    region = _region.measured(study, _region.updates(study))
    training = training_returns(study.metrics, study.runs)
    rows = []
    for row in region.to_dict("records"):
        env, label, claim = (row.pop(name) for name in ("env", "label", "claim"))
        runs = study.scored.query("env == @env and label == @label").sort_values("seed")
        first = runs.iloc[0]
        batch = int(first["learner.num_envs"] * first["learner.num_steps"])
        of = {"env": env, "label": label, "algorithm": first.algorithm}
        of |= {"steps": int(first.planned) * batch, "scores": rounded(runs.score)}
        of["training"] = plains(runs.run.map(training))
        of["broken"] = int(runs.broken.notna().sum())
        of["claim"] = {"kind": claim.kind, "what": claim.what, "value": plain(claim.value)}
        rows.append(of | {k: plain(v) for k, v in row.items() if k != "method"})
    total: Counter[str] = Counter()
    for _, part in (of for source in study.sources for of in source.parts):
        total.update(part.seconds if part is not None else {})
    seconds = {name: round(value, 1) for name, value in total.items()}
    versions = study.sources[0].record.versions
    return {"rows": rows, "seconds": seconds, "notes": list(study.notes), "versions": versions}


def without_others(study: Any, specification: Any) -> Any:
    """The runs of the specification's settings and seeds, with its names for them."""
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
    """The study with only these runs; columns of all its tables can be set by run."""
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

    Training plays these episodes with sampled actions. The mean is missing where none ended.
    """
    planned = metrics.run.map(runs.set_index("run").planned)
    late = metrics[metrics.iteration >= planned - (planned // 10).clip(lower=1)]
    sums = late.groupby("run")[["return_sum", "num_episodes"]].sum()
    return sums.return_sum / sums.num_episodes.where(sums.num_episodes > 0)


def random_baseline(env: str, num_episodes: int, **params: Any) -> Result:
    """The return of uniformly random actions."""
    import kltrust

    play = functools.partial(random_returns, kltrust.make(env, **params), num_episodes=num_episodes)
    return baseline(jax.jit(play)(jax.random.key(0)))


def baseline(returns: Any) -> Result:
    """The mean of returns [episodes] and its standard error."""
    mean, deviation = rounded([returns.mean(), np.std(returns, ddof=1) / np.sqrt(len(returns))])
    return {"mean": mean, "standard_error": deviation, "episodes": len(returns)}


def random_returns(env: Any, key: Any, num_episodes: int) -> Any:
    """Returns [num_episodes] of uniformly random actions; with a mask, among allowed ones."""
    from kltrust.networks.masks import mask_of
    from kltrust.rollout import episode_returns

    def act(obs: Any, key: Any) -> Any:
        draw = functools.partial(random_action, env.action_space)
        return jax.vmap(draw)(jax.random.split(key, num_episodes), mask_of(obs))

    return episode_returns(env, act, key, num_episodes, env.max_steps)[0]


def random_action(space: Any, key: Any, mask: Any = None) -> Any:
    """Uniform over a space of finitely many actions, or of finite bounds."""
    from kltrust.environments import sample_action
    from kltrust.types import Box

    if not isinstance(space, Box):
        return sample_action(space, key, mask)
    if not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"no uniform distribution over {space}: its bounds must be finite")
    return jax.random.uniform(key, space.shape, minval=space.low, maxval=space.high)


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
