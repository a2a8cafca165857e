"""Summaries of scores as frames: over all environments, then for each one.

Intervals are `statistics.intervals`, stratified: the seeds of each environment (or setting) are
resampled by themselves. Scores are a frame for each name, with a row for each seed and a column
for each environment.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kltrust.experiments.reading import baseline, choice, statistics
from kltrust.experiments.reading.frames import learning_curves
from kltrust.experiments.reading.statistics import Estimate, estimates, intervals, means_and_iqms
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._page import estimate

RESAMPLES = 2000
POINTS = 500
"""Resamples for the interval at each point of a curve: few, since there are many points."""
THRESHOLDS = np.linspace(0.0, 1.0, 51)
AGGREGATES = {
    "IQM": statistics.interquartile_mean,
    "mean": statistics.mean,
    "median": statistics.median,
    "optimality gap": statistics.optimality_gap,
}
Pairs = dict[tuple[str, str], Estimate]


class Comparison(NamedTuple):
    """Normalised scores, by label, on the environments where all these labels were evaluated.

    ``scales`` come from `find_scales`, ``chosen`` has the best label of each method, by the mean,
    and ``left_out`` lists the environments and labels that can't be compared.
    """

    scales: pd.DataFrame
    scores: dict[str, pd.DataFrame]
    chosen: dict[str, str]
    left_out: list[str]

    @property
    def of_methods(self) -> dict[str, pd.DataFrame]:
        """The scores of each method's chosen setting."""
        return {method: self.scores[label] for method, label in self.chosen.items()}


def find_scales(study: Study) -> pd.DataFrame:
    """The scale of scores by env: the returns ``zero`` and ``one``, and ``best``, a setting.

    Zero is the return of a random policy, where it is recorded (``zero_of`` says so), else the mean
    of all runs' first evaluation. One is the mean score of ``best``, the best setting. An
    environment where no setting is better than zero has no scale.
    """
    firsts = study.evaluations.sort_values("iteration").drop_duplicates("run")
    zero = firsts.mean_return.where(np.isfinite(firsts.mean_return)).groupby(firsts.env).mean()
    random = {env: _random_return(study, env) for env in study.envs}
    zero.update(pd.Series(random, dtype=float).dropna())
    best = choice.rank_settings(study.scored).drop_duplicates("env").set_index("env")
    scales = pd.DataFrame({"best": best.label, "one": best.score, "zero": zero})
    scales["zero_of"] = [
        "all first evaluations" if random.get(env) is None else "a random policy"
        for env in scales.index
    ]
    return scales.reindex(study.envs).query("one > zero")


def _random_return(study: Study, env: str) -> float | None:
    """The recorded return of a random policy, if all runs of an environment have its defaults."""
    runs = study.scored.run[study.scored.env == env]
    params = [study.setting(run).experiment.env_params for run in runs]
    return None if any(params) else baseline.random_return(env, {})


def compare(study: Study) -> Comparison:
    """Chooses the environments and labels that can be compared, and each method's best label."""
    scales = find_scales(study)
    runs = study.scored[study.scored.env.isin(scales.index)]
    there = runs.groupby("label", sort=False).env.agg(set)
    methods = runs.drop_duplicates("label").set_index("label").method
    tasks = list(scales.index)
    whole = {methods[label] for label, envs in there.items() if envs == set(tasks)}
    if len(whole) < min(2, methods.nunique()):
        tasks = [env for env in tasks if all(env in envs for envs in there)]
    scores = {}
    for label, rows in runs.groupby("label", sort=False) if tasks else ():
        grid = rows.pivot(index="seed", columns="env", values="score").reindex(columns=tasks)
        grid = grid.reindex(index=rows.seed.unique()).dropna()
        if len(grid):
            scores[str(label)] = ((grid - scales.zero) / (scales.one - scales.zero))[tasks]
    left_out = [env for env in study.envs if env not in tasks]
    left_out += [label for label in there.index if label not in scores]
    # By the mean of normalised scores; among equal ones, by the mean over all evaluations.
    through = runs[runs.env.isin(tasks)].groupby(["label", "env"]).through.mean().unstack()
    through = ((through - scales.zero) / (scales.one - scales.zero))[tasks].mean(axis=1)
    means = {label: x.to_numpy().mean() for label, x in scores.items()}
    table = pd.DataFrame({"label": list(means), "score": means.values()}).assign(
        through=[through[label] for label in means]
    )
    best = {methods[label]: label for label in reversed(choice.ranked(table).label.tolist())}
    chosen = {method: best[method] for method in study.methods if method in best}
    return Comparison(scales, scores, chosen, left_out)


def aggregates(scores: pd.DataFrame) -> list[Estimate]:
    """`AGGREGATES` of normalised scores."""

    def all_of_them(x: np.ndarray) -> np.ndarray:
        return np.stack([function(x) for function in AGGREGATES.values()], axis=-1)

    return estimates(scores.to_numpy(), all_of_them, resamples=RESAMPLES)


def profiles(scores: Mapping[str, pd.DataFrame]) -> dict[str, tuple[np.ndarray, ...]]:
    """Share of runs above each of `THRESHOLDS`, by name: value, low, high."""
    shares = functools.partial(statistics.performance_profile, thresholds=THRESHOLDS)
    return {name: intervals(x.to_numpy(), shares, resamples=500) for name, x in scores.items()}


def improvements(scores: Mapping[str, pd.DataFrame]) -> Pairs:
    """`statistics.improvement` of every pair; seeds of the two are resampled apart."""
    found = {}
    for x, y in itertools.combinations(scores, 2):
        both = [scores[x].to_numpy(), scores[y].to_numpy()]
        (found[x, y],) = estimates(both, statistics.improvement, resamples=RESAMPLES)
    return found


def paired_improvements(scores: Mapping[str, pd.DataFrame]) -> Pairs:
    """Share of seeds i with X_i > Y_i, ties half, averaged over tasks, of every pair.

    Runs of one seed begin with the same network and the same episodes, which makes their difference
    less noisy. A pair with fewer than two seeds in common is left out.
    """
    found = {}
    for x, y in itertools.combinations(scores, 2):
        common = scores[x].index[scores[x].index.isin(scores[y].index)]
        if len(common) > 1:
            wins = statistics.wins(*(scores[name].loc[common].to_numpy() for name in (x, y)))
            (found[x, y],) = estimates(wins, statistics.mean, resamples=RESAMPLES)
    return found


def scores(study: Study) -> pd.DataFrame:
    """One row per environment and label that was evaluated.

    Columns: env, label, score (as `choice` has it), method, setting, seeds (how many), mean, low
    and high (of its interval), shown and iqm (mean and IQM as text), through (the mean over all
    evaluations: how fast it learned), worst (the score of the worst seed), iterations, planned,
    steps (environment steps of a run), with a search stopped. An environment's best comes first, as
    in `choice`.
    """
    more = {"stopped": ("stopped", lambda x: x.notna().any())} if "stopped" in study.runs else {}
    table = study.scored.groupby(["env", "label"], sort=False, as_index=False).agg(
        **more,
        method=("method", "first"),
        setting=("setting", "first"),
        seeds=("run", "count"),
        scores=("score", list),
        through=("through", "mean"),
        worst=("score", "min"),
        iterations=("iterations", "min"),
        planned=("planned", "max"),
        steps=("steps", "min"),
    )
    found = {}
    for (_, seeds), part in table.groupby(["env", "seeds"]):
        grid = np.array(part.scores.tolist(), float).T
        both = means_and_iqms(grid, resamples=RESAMPLES)
        for i, (mean, iqm) in zip(part.index, both, strict=True):
            found[i] = (*mean, estimate(mean, seeds), estimate(iqm, seeds))
    columns = ["mean", "low", "high", "shown", "iqm"]
    table = table.join(pd.DataFrame.from_dict(found, orient="index", columns=columns))
    ranked = choice.rank_settings(study.scored)[["env", "label", "score"]].merge(table)
    order = ranked.env.map(study.envs.index).sort_values(kind="stable").index
    return ranked.loc[order].reset_index(drop=True)


def curves(study: Study) -> pd.DataFrame:
    """The mean return over seeds at every evaluation.

    Columns: env, method, label, env_steps, seconds (see `Study`), mean, low, high.
    """
    keys = ["env", "method", "label"]
    found = learning_curves(study.evaluations, keys, resamples=POINTS)
    seconds = study.evaluations.groupby([*keys, "env_steps"]).seconds.mean()
    return found.join(seconds, on=[*keys, "env_steps"])


def sensitivity(study: Study) -> pd.DataFrame:
    """The mean score against each swept setting, averaged over the others that were swept.

    Columns: env, method, key, value, mean, low, high. Only for settings with at least two values.
    """
    swept: dict[tuple[str, str, str], dict[Any, list[np.ndarray]]] = {}
    for (env, method, _), runs in study.scored.groupby(["env", "method", "label"], sort=False):
        for key, value in runs.setting.iloc[0].swept.items():
            if isinstance(value, dict):  # a schedule, an optimiser
                value = ", ".join(f"{k} {v}" for k, v in value.items())
            value = tuple(value) if isinstance(value, list) else value
            values = swept.setdefault((env, method, key), {})
            values.setdefault(value, []).append(runs.score.to_numpy(float))
    rows = []
    for names, values in swept.items():
        for value, parts in values.items() if len(values) > 1 else ():
            alike = len({len(part) for part in parts}) == 1
            grid = np.stack(parts, axis=1) if alike else np.concatenate(parts)[:, None]
            (found,) = estimates(grid, statistics.mean, resamples=POINTS)
            rows.append((*names, value, *found))
    return pd.DataFrame(rows, columns=["env", "method", "key", "value", "mean", "low", "high"])
