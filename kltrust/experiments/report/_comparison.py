"""The section that compares methods on all environments together, and its figures."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from kltrust.experiments.reading.plots import GREY, curve, panels
from kltrust.experiments.reading.statistics import Estimate
from kltrust.experiments.report import _style, _summaries
from kltrust.experiments.report._page import Block, Code, Picture, Section, Table, estimate, number
from kltrust.experiments.report._summaries import AGGREGATES, THRESHOLDS, Comparison, Pairs
from kltrust.experiments.search.sequential import sequential_test

GROUP = 5
"""Seeds between two looks of the sequential test."""


def section(comparison: Comparison, looks: _style.Looks, unequal: Sequence[str] = ()) -> Section:
    """Aggregates over the environments, profiles and probabilities of improvement.

    ``unequal`` lists the differences between methods besides the algorithm.
    """
    blocks: list[Block] = []
    if comparison.left_out:
        blocks.append(
            "Left out of the comparison, for want of an evaluated run on each environment or "
            f"of anything learned there: {', '.join(comparison.left_out)}."
        )
    if not comparison.chosen:
        blocks.append("No environment has runs that can be compared yet: see each by itself below.")
        return Section("better", "Which is better", blocks)
    blocks += [f"Not like with like: {text}." for text in unequal]
    blocks += _aggregates(comparison, looks)
    if len(comparison.chosen) > 1:
        blocks += [_profile(comparison, looks), *_improvement(comparison)]
        blocks += _told_apart(comparison)
    return Section("better", "Which is better", [*blocks, *_scales(comparison)])


def _aggregates(comparison: Comparison, looks: _style.Looks) -> list[Block]:
    everything = {label: _summaries.aggregates(x) for label, x in comparison.scores.items()}
    by_iqm = sorted(everything, key=lambda label: -everything[label][0].value)
    chosen = {m: everything[label] for m, label in comparison.chosen.items()}
    ordered = sorted(chosen, key=lambda m: -chosen[m][0].value)
    tasks = list(next(iter(comparison.scores.values())))
    over = f"over {', '.join(tasks)}" if len(tasks) > 1 else f"on {tasks[0]}"
    renamed = [f"{m}: {label}" for m, label in comparison.chosen.items() if m != label]
    return [
        f"Scores {over}: the last evaluation's mean return, acting by the mode, normalised so that "
        "0 is a random policy and 1 is the best setting's mean (the constants are below). Each "
        "method is shown at its best setting. It was chosen on these runs, so its score is "
        "optimistic, more so for a method with more settings. Brackets are 95 % "
        "percentile-bootstrap intervals (stratified: the seeds of each environment are resampled "
        f"by themselves, {_summaries.RESAMPLES:,} times).",
        Picture(
            "aggregates",
            "Aggregates of normalised scores",
            f"Interquartile mean of the normalised score of each method's best setting {over}: "
            f"{'; '.join(f'{m} {estimate(chosen[m][0])}' for m in ordered)}.",
            "Dot: the estimate. Bar: its 95 % interval. The interquartile mean (IQM) drops the "
            "lowest and the highest quarter of all runs; the optimality gap is how far runs stay "
            "below 1 on average.",
            _draw_aggregates(chosen, looks),
        ),
        Table(
            "aggregates",
            f"Normalised scores {over}, best setting of each method. "
            + (f"Chosen: {'; '.join(renamed)}." if renamed else ""),
            _columns(ordered, comparison.of_methods, chosen),
            best=[0],
        ),
        Table(
            "aggregates-all",
            f"Normalised scores {over}, all settings, by IQM.",
            _columns(by_iqm, comparison.scores, everything),
            best=[i for i, x in enumerate(by_iqm) if x in comparison.chosen.values()],
            fold=f"All {len(everything)} settings",
        ),
    ]


def _columns(
    names: list[str], scores: Mapping[str, Sized], found: Mapping[str, list[Estimate]]
) -> dict[str, list[str]]:
    """Names, the number of seeds of each, and its aggregates; one seed has no interval."""
    columns = {"setting": names, "seeds": [str(len(scores[name])) for name in names]}
    for i, title in enumerate(AGGREGATES):
        cells = [(found[name][i], len(scores[name])) for name in names]
        columns[title] = [f"{e:.2f}" if seeds > 1 else number(e.value) for e, seeds in cells]
    return columns


def _profile(comparison: Comparison, looks: _style.Looks) -> Picture:
    curves = _summaries.profiles(comparison.of_methods)
    half = len(THRESHOLDS) // 2
    said = "; ".join(f"{m} {value[half]:.0%}" for m, (value, _, _) in curves.items())
    figure, (axes,) = panels(1, 7, 3.8)
    for method, shares in curves.items():
        curve(axes, THRESHOLDS, *shares, label=method, markevery=10, **looks[method])
    axes.set(xlabel="normalised score tau", ylabel="share of runs above tau", ylim=(-0.02, 1.02))
    _style.legend_below(figure)
    return Picture(
        "profiles",
        "Performance profiles",
        f"Share of runs with a normalised score above one half: {said}.",
        "The higher a curve, the more of a method's runs (all seeds, all environments) reach the "
        "score on the x axis. Bands are 95 % intervals.",
        figure,
    )


def _improvement(comparison: Comparison) -> list[Block]:
    unpaired = _summaries.improvements(comparison.of_methods)
    paired = _summaries.paired_improvements(comparison.of_methods)
    names = {pair: f"{pair[0]} over {pair[1]}" for pair in unpaired}
    said = "; ".join(f"{names[pair]} {(unpaired | paired)[pair]:.2f}" for pair in names)
    return [
        "Probability of improvement: the chance that a run of X beats a run of Y. Runs of one seed "
        "begin with the same network and the same episodes, so the paired one compares seed with "
        "seed; the unpaired one compares any with any. Both average over environments "
        "m, S seeds in common:",
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
            "If an interval excludes 0.5, one of the two is better. Intervals: the "
            "paired one resamples seeds, the other the seeds of X and of Y apart.",
            _draw_improvement(paired, unpaired),
        ),
        Table(
            "improvement",
            "Probability that the first does better, with 95 % intervals.",
            {
                "pair": names.values(),
                "paired": [f"{paired[p]:.2f}" if p in paired else "–" for p in names],
                "unpaired": [f"{value:.2f}" for value in unpaired.values()],
            },
        ),
    ]


def _told_apart(comparison: Comparison) -> list[Block]:
    """After how many seeds methods are told apart; nothing if seeds allow only one look."""
    scores = {method: x.to_numpy() for method, x in comparison.of_methods.items()}
    if min(map(len, scores.values())) < 2 * GROUP:
        return []
    said = []
    for (first, second), better, seeds in sequential_test(scores, group=GROUP):
        if better is None:
            said.append(f"{first} and {second} not in {seeds}")
        else:
            said.append(f"{better} above {second if better == first else first} after {seeds}")
    return [
        f"How many seeds it takes to tell methods apart, by a sequential test (AdaStop) that looks "
        f"every {GROUP} seeds and is wrong about any pair in 5 % of reports at most, but for the "
        f"choice of the settings: {'; '.join(said)}."
    ]


def _scales(comparison: Comparison) -> list[Block]:
    scales = comparison.scales
    columns = {
        "environment": scales.index,
        "the setting that is one": scales.best,
        "zero": scales.zero.map(number),
        "zero is": scales.zero_of,
        "one": scales.one.map(number),
    }
    caption = (
        "Constants of the normalisation. Zero: the mean return of a random policy where it is "
        "recorded, else that of all runs at their first evaluation. One: the mean score of the "
        "best setting."
    )
    return [
        "The scale of each environment:",
        Code("normalised = (score - zero) / (one - zero)", kind="formula"),
        Table("scales", caption, columns, words=2),
    ]


def _draw_aggregates(table: Mapping[str, list[Estimate]], looks: _style.Looks) -> Any:
    """A row for each method, a panel for each of `AGGREGATES`."""
    count = len(AGGREGATES)
    figure, grid = panels(count, 2.1, 1.1 + 0.42 * len(table), columns=count)
    figure.set_figwidth(figure.get_figwidth() + _style.inches(table))
    for i, (axes, title) in enumerate(zip(grid, AGGREGATES, strict=True)):
        for row, (method, estimates) in enumerate(table.items()):
            _style.draw_interval(axes, row, *estimates[i], looks[method])
        _style.name_rows(axes, list(table), shown=i == 0)
        better = "lower is better" if title == "optimality gap" else "higher is better"
        axes.set_title(f"{title}\n({better})", fontsize=10)
        axes.locator_params(axis="x", nbins=4)
    figure.supxlabel("normalised score", fontsize=10)
    return figure


def _draw_improvement(paired: Pairs, unpaired: Pairs) -> Any:
    """P(X better than Y) of each pair, by seed and over all seeds; the line is an even chance."""
    names = [f"{x}  over  {y}" for x, y in unpaired]
    figure, (axes,) = panels(1, 4.5 + _style.inches(names), 1.3 + 0.5 * len(names))
    kinds = {"paired: the same seed": paired, "unpaired: any seed against any": unpaired}
    # A pair does not have a method's colour.
    neutral = zip(kinds, (_style.INK, GREY), ("o", "s"), strict=True)
    looks = {name: {"color": c, "marker": m, "linestyle": ""} for name, c, m in neutral}
    for (name, look), offset in zip(looks.items(), (-0.13, 0.13), strict=True):
        for row, pair in enumerate(unpaired):
            if pair in kinds[name]:
                _style.draw_interval(axes, row + offset, *kinds[name][pair], look)
        if kinds[name]:
            axes.plot([], [], label=name, **look)
    axes.axvline(0.5, color=_style.INK, linewidth=1, linestyle=":")
    _style.name_rows(axes, names, shown=True)
    axes.set(xlim=(-0.02, 1.02), xlabel="probability that the first does better")
    _style.legend_below(figure)
    return figure
