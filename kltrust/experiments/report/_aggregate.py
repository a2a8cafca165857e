"""What is said over all environments: normalised scores, aggregates, probabilities of improvement.

Intervals are 95 % percentile-bootstrap ones by rliable, whose resampling is stratified: over the
seeds of each environment (or setting) by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kltrust.experiments.reading.statistics import Estimate, numpy_seeded
from kltrust.experiments.report._gather import Study

RESAMPLES = 2000
THRESHOLDS = np.linspace(0.0, 1.0, 51)
AGGREGATES = ("IQM", "mean", "median", "optimality gap")


class Scale(NamedTuple):
    """What 0 and 1 stand for on an environment: the first evaluation, and the best setting."""

    zero: float
    one: float
    best: str

    def __call__(self, score: Any) -> Any:
        """(score - zero) / (one - zero)."""
        return (score - self.zero) / (self.one - self.zero)


@dataclass(frozen=True)
class Comparison:
    """Scores over the environments that can be averaged over.

    Attributes:
        scales: of each environment.
        tasks: the environments that every label here was evaluated on.
        scores: normalised [seeds, tasks], by label.
        seeds: of the rows, by label.
        chosen: by method its best label, by the mean normalised score.
        left_out: labels that lack one of the tasks, and environments that are none.
    """

    scales: dict[str, Scale]
    tasks: list[str]
    scores: dict[str, np.ndarray]
    seeds: dict[str, list[int]]
    chosen: dict[str, str]
    left_out: list[str]

    @property
    def of_methods(self) -> dict[str, np.ndarray]:
        """The scores of each method's chosen setting."""
        return {method: self.scores[label] for method, label in self.chosen.items()}


def intervals(
    scores: np.ndarray, function: Callable[[np.ndarray], np.ndarray], *, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic of scores [seeds, strata] and its interval: value, low, high, [k] each.

    Args:
        scores: each column is resampled by itself.
        function: to a vector [k].
        resamples: of the bootstrap, whose generator is seeded.
    """
    from rliable import library

    with numpy_seeded(0):
        value, interval = library.get_interval_estimates({"": scores}, function, reps=resamples)
    return value[""], *interval[""]


def means_and_iqms(scores: np.ndarray) -> list[tuple[Estimate, Estimate]]:
    """Mean and interquartile mean of each column of scores [seeds, columns]."""
    from scipy.stats import trim_mean

    def both(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x.mean(axis=0), trim_mean(x, 0.25, axis=0)])

    found = [Estimate(*map(float, row)) for row in zip(*intervals(scores, both), strict=True)]
    return list(zip(found[: scores.shape[1]], found[scores.shape[1] :], strict=True))


def find_scales(study: Study) -> dict[str, Scale]:
    """Zero is the mean of all runs' first evaluation, one the mean score of the best setting.

    An environment on which no setting got beyond the first evaluation has no scale.
    """
    firsts = study.evaluations.sort_values("iteration").drop_duplicates("run")
    zero = firsts.mean_return.where(np.isfinite(firsts.mean_return)).groupby(firsts.env).mean()
    scales = {}
    for env, runs in study.scored.groupby("env", sort=False):
        means = runs.groupby("label", sort=False).score.mean()
        if means.max() > zero[env]:
            scales[str(env)] = Scale(float(zero[env]), float(means.max()), str(means.idxmax()))
    return scales


def compare(study: Study) -> Comparison:
    """Chooses the environments and labels that can be compared, and each method's best label."""
    scales = find_scales(study)
    runs = study.scored[study.scored.env.isin(scales)]
    there = {str(label): set(rows.env) for label, rows in runs.groupby("label", sort=False)}
    tasks = [env for env in study.envs if env in scales]
    methods = runs.drop_duplicates("label").set_index("label").method
    whole = {methods[label] for label, envs in there.items() if envs == set(tasks)}
    if len(whole) < min(2, methods.nunique()):
        tasks = [env for env in tasks if all(env in envs for envs in there.values())]
    scores, seeds, left_out = {}, {}, [env for env in study.envs if env not in tasks]
    for label, rows in runs.groupby("label", sort=False):
        grid = rows.pivot(index="seed", columns="env", values="score").reindex(columns=tasks)
        grid = grid.reindex(index=rows.seed.unique()).dropna()
        if not tasks or grid.empty:
            left_out.append(str(label))
            continue
        seeds[str(label)] = [int(seed) for seed in grid.index]
        scores[str(label)] = np.stack([scales[e](grid[e].to_numpy(float)) for e in tasks], axis=1)
    chosen: dict[str, str] = {}
    for label in sorted(scores, key=lambda name: -scores[name].mean()):
        chosen.setdefault(str(methods[label]), label)
    ordered = {m: chosen[m] for m in study.methods if m in chosen}
    return Comparison(scales, tasks, scores, seeds, ordered, left_out)


def aggregates(scores: np.ndarray) -> list[Estimate]:
    """`AGGREGATES` of normalised scores [seeds, tasks], by rliable."""
    from rliable import metrics

    functions = (
        metrics.aggregate_iqm,
        metrics.aggregate_mean,
        metrics.aggregate_median,
        metrics.aggregate_optimality_gap,
    )
    found = intervals(scores, lambda x: np.array([function(x) for function in functions]))
    return [Estimate(*map(float, row)) for row in zip(*found, strict=True)]


def profiles(scores: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, ...]]:
    """Share of runs above each of `THRESHOLDS`, by name: value, low, high."""

    def shares(x: np.ndarray) -> np.ndarray:
        return (x[..., None] > THRESHOLDS).mean(axis=(0, 1))

    return {name: intervals(x, shares, resamples=500) for name, x in scores.items()}


def improvement(x: np.ndarray, y: np.ndarray) -> float:
    """P(X > Y) + P(X = Y) / 2 averaged over tasks, rliable's probability of improvement.

    Any seed of X against any of Y; vectorised, since rliable's own runs a test for every resample.
    """
    return float(_wins(x[:, None], y[None]).mean())


def improvements(scores: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Estimate]:
    """`improvement` of every pair, with intervals; seeds of the two are resampled apart."""
    from rliable import library

    pairs = list(itertools.combinations(scores, 2))
    if not pairs:
        return {}
    arrays = {pair: [scores[name] for name in pair] for pair in pairs}
    with numpy_seeded(0):
        values, found = library.get_interval_estimates(
            arrays, lambda x, y: np.array([improvement(x, y)]), reps=RESAMPLES
        )
    return {p: Estimate(*(float(v) for v in (values[p][0], *found[p][:, 0]))) for p in pairs}


def paired_improvements(
    scores: Mapping[str, np.ndarray], seeds: Mapping[str, Sequence[int]]
) -> dict[tuple[str, str], Estimate]:
    """Share of seeds i with X_i > Y_i, ties half, averaged over tasks, of every pair.

    Runs of one seed begin with the same network and the same episodes, so that their difference has
    less chance in it. A pair with fewer than two seeds in common is left out.
    """
    found = {}
    for x, y in itertools.combinations(scores, 2):
        common = [seed for seed in seeds[x] if seed in set(seeds[y])]
        if len(common) < 2:
            continue
        rows = [[list(seeds[name]).index(s) for s in common] for name in (x, y)]
        wins = _wins(scores[x][rows[0]], scores[y][rows[1]])
        value, low, high = intervals(wins, lambda w: np.array([w.mean()]))
        found[x, y] = Estimate(float(value[0]), float(low[0]), float(high[0]))
    return found


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x > y) + 0.5 * (x == y)
