"""Which is better: the section on all environments together."""

from __future__ import annotations

from collections.abc import Mapping

from kltrust.experiments.reading.statistics import Estimate
from kltrust.experiments.report import _aggregate, _figures
from kltrust.experiments.report._aggregate import AGGREGATES, Comparison
from kltrust.experiments.report._blocks import Block, Code, Fold, Picture, Section, Text
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._style import Style
from kltrust.experiments.report._tables import Table, chance, estimate, number

_INTERVALS = (
    "Brackets are 95 % percentile-bootstrap intervals (rliable; stratified: the seeds of each "
    f"environment are resampled by themselves, {_aggregate.RESAMPLES:,} times)."
)


def section(study: Study, comparison: Comparison, styles: Mapping[str, Style]) -> Section:
    """Aggregates over the environments, profiles and probabilities of improvement."""
    blocks: list[Block] = []
    if comparison.left_out:
        blocks.append(
            Text(
                "Left out of the comparison, for want of an evaluated run on each environment or "
                f"of anything learned there: {', '.join(comparison.left_out)}."
            )
        )
    if not comparison.chosen:
        blocks.append(
            Text("No environment has runs that can be compared yet: see each by itself below.")
        )
        return Section("better", "Which is better", blocks)
    blocks += _aggregates(study, comparison, styles)
    if len(comparison.chosen) > 1:
        blocks += [_profile(comparison, styles), *_improvement(comparison)]
    return Section("better", "Which is better", [*blocks, *_scales(comparison)])


def _aggregates(study: Study, comparison: Comparison, styles: Mapping[str, Style]) -> list[Block]:
    tasks = len(comparison.tasks)
    over = f"over {', '.join(comparison.tasks)}" if tasks > 1 else f"on {comparison.tasks[0]}"
    everything = {label: _aggregate.aggregates(x) for label, x in comparison.scores.items()}
    chosen = {m: everything[label] for m, label in comparison.chosen.items()}
    ordered = sorted(chosen, key=lambda m: -chosen[m][0].value)
    said = "; ".join(f"{m} {estimate(chosen[m][0])}" for m in ordered)
    columns = ["setting", "seeds", *AGGREGATES]
    of_label = sorted(everything, key=lambda name: -everything[name][0].value)
    best = {label: m for m, label in comparison.chosen.items()}
    return [
        Text(
            f"Scores {over}: the last evaluation's mean return, acting by the mode, normalised so "
            "that 0 is where runs stood at their first evaluation and 1 is the best setting's mean "
            "(the constants are below). Each method stands for itself by ONE setting, the one with "
            "its best mean on these very runs: that choice is optimistic, and the more so the more "
            f"settings a method had to choose from. {_INTERVALS}"
        ),
        Picture(
            "aggregates",
            "Aggregates of normalised scores",
            f"Interquartile mean of the normalised score of each method's best setting {over}: "
            f"{said}.",
            "Dot: the estimate. Bar: its 95 % interval. The interquartile mean (IQM) drops the "
            "lowest and the highest quarter of all runs; the optimality gap is how far runs stay "
            "below 1 on average.",
            _figures.aggregates(chosen, styles),
        ),
        Table(
            "aggregates",
            f"Normalised scores {over}, best setting of each method. {_choices(comparison)}",
            columns,
            [_row(m, comparison.chosen[m], comparison, chosen[m]) for m in ordered],
            best=frozenset([0]),
        ),
        Fold(
            f"All {len(everything)} settings",
            Table(
                "aggregates-all",
                f"Normalised scores {over}, all settings, by IQM.",
                columns,
                [_row(label, label, comparison, everything[label]) for label in of_label],
                best=frozenset(i for i, label in enumerate(of_label) if label in best),
            ),
        ),
    ]


def _choices(comparison: Comparison) -> str:
    chosen = [f"{m}: {label}" for m, label in comparison.chosen.items() if m != label]
    return f"Chosen: {'; '.join(chosen)}." if chosen else ""


def _row(name: str, label: str, comparison: Comparison, estimates: list[Estimate]) -> list[str]:
    seeds = len(comparison.seeds[label])
    return [name, str(seeds), *(chance(e) if seeds > 1 else number(e.value) for e in estimates)]


def _profile(comparison: Comparison, styles: Mapping[str, Style]) -> Picture:
    curves = _aggregate.profiles(comparison.of_methods)
    half = len(_aggregate.THRESHOLDS) // 2
    said = "; ".join(f"{m} {value[half]:.0%}" for m, (value, _, _) in curves.items())
    return Picture(
        "profiles",
        "Performance profiles",
        f"Share of runs with a normalised score above one half: {said}.",
        "The higher a curve, the more of a method's runs (all seeds, all environments) reach the "
        "score on the x axis. Bands are 95 % intervals.",
        _figures.profile(curves, styles),
    )


def _improvement(comparison: Comparison) -> list[Block]:
    unpaired = _aggregate.improvements(comparison.of_methods)
    seeds = {m: comparison.seeds[label] for m, label in comparison.chosen.items()}
    paired = _aggregate.paired_improvements(comparison.of_methods, seeds)
    said = "; ".join(
        f"{x} over {y} {chance(paired.get((x, y), value))}" for (x, y), value in unpaired.items()
    )
    rows = [
        [f"{x} over {y}", chance(paired[x, y]) if (x, y) in paired else "–", chance(value)]
        for (x, y), value in unpaired.items()
    ]
    return [
        Text(
            "Probability of improvement: the chance that a run of X beats a run of Y. Runs of one "
            "seed begin with the same network and the same episodes, so the paired one compares "
            "seed with seed; the unpaired one (rliable's) compares any with any. Both average over "
            "environments m, S seeds in common:"
        ),
        Code(
            "paired    P(X, Y) = mean over m of 1/S   sum over i    ([X_im > Y_im] + [X_im = "
            "Y_im] / 2)\nunpaired  P(X, Y) = mean over m of 1/S²  sum over i, j ([X_im > Y_jm] + "
            "[X_im = Y_jm] / 2)",
            kind="formula",
        ),
        Picture(
            "improvement",
            "Probability of improvement",
            f"Paired where seeds are shared: {said}.",
            "An interval that does not reach across 0.5 speaks for one of the two. Intervals: the "
            "paired one resamples seeds, the other the seeds of X and of Y apart.",
            _figures.improvement(paired, unpaired),
        ),
        Table(
            "improvement",
            "Probability that the first does better, with 95 % intervals.",
            ["pair", "paired", "unpaired"],
            rows,
        ),
    ]


def _scales(comparison: Comparison) -> list[Block]:
    rows = [
        [env, scale.best, number(scale.zero), number(scale.one)]
        for env, scale in comparison.scales.items()
    ]
    return [
        Text("The scale of each environment:"),
        Code("normalised = (score - zero) / (one - zero)", kind="formula"),
        Table(
            "scales",
            "Constants of the normalisation. Zero: the mean return of all runs at their first "
            "evaluation. One: the mean score of the best setting.",
            ["environment", "the setting that is one", "zero", "one"],
            rows,
            words=2,
        ),
    ]
