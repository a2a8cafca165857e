"""Figures of scores: each a function of frames, to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.reading.statistics import Estimate
from kltrust.experiments.report._aggregate import AGGREGATES, THRESHOLDS
from kltrust.experiments.report._style import (
    GREY,
    INK,
    Style,
    inches,
    legend_below,
    logarithmic,
    panels,
    thousands,
)

if TYPE_CHECKING:
    import pandas as pd

Styles = Mapping[str, Style]


def aggregates(table: Mapping[str, list[Estimate]], styles: Styles) -> Any:
    """A row for each method, a panel for each of `AGGREGATES`; bars are 95 % intervals."""
    height = 1.1 + 0.42 * len(table)
    figure, grid = panels(len(AGGREGATES), width=2.1, height=height, columns=len(AGGREGATES))
    figure.set_figwidth(figure.get_figwidth() + inches(table))
    for i, (axes, title) in enumerate(zip(grid, AGGREGATES, strict=True)):
        for row, (method, estimates) in enumerate(table.items()):
            _interval(axes, row, estimates[i], styles[method])
        _rows(axes, list(table), labelled=i == 0)
        better = "lower is better" if title == "optimality gap" else "higher is better"
        axes.set_title(f"{title}\n({better})", fontsize=10)
        axes.locator_params(axis="x", nbins=4)
    figure.supxlabel("normalised score", fontsize=10)
    return figure


def profile(curves: Mapping[str, tuple[np.ndarray, ...]], styles: Styles) -> Any:
    """Share of runs whose normalised score is above tau, against tau, with 95 % bands."""
    figure, (axes,) = panels(1, width=7, height=3.8)
    handles = {}
    for method, (value, low, high) in curves.items():
        style = styles[method]
        axes.fill_between(THRESHOLDS, low, high, color=style.colour, alpha=0.15, linewidth=0)
        (handles[method],) = axes.plot(
            THRESHOLDS,
            value,
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markevery=10,
        )
    axes.set(xlabel="normalised score tau", ylabel="share of runs above tau", ylim=(-0.02, 1.02))
    legend_below(figure, handles)
    return figure


def improvement(
    paired: Mapping[tuple[str, str], Estimate], unpaired: Mapping[tuple[str, str], Estimate]
) -> Any:
    """P(X better than Y) of each pair, by seed and over all seeds; the line is an even chance."""
    names = [f"{x}  over  {y}" for x, y in unpaired]
    figure, (axes,) = panels(1, width=4.5 + inches(names), height=1.3 + 0.5 * len(names))
    kinds = {
        "paired: the same seed": (paired, Style("#0072B2", "o", "-"), -0.13),
        "unpaired: any seed against any": (unpaired, Style("#D55E00", "s", "--"), 0.13),
    }
    for table, style, offset in kinds.values():
        for row, pair in enumerate(unpaired):
            if pair in table:
                _interval(axes, row + offset, table[pair], style)
    axes.axvline(0.5, color=INK, linewidth=1, linestyle=":")
    _rows(axes, names)
    axes.set(xlim=(-0.02, 1.02), xlabel="probability that the first does better")
    handles = {
        name: axes.plot([], [], color=s.colour, marker=s.marker, linestyle=s.line)[0]
        for name, (table, s, _) in kinds.items()
        if table
    }
    legend_below(figure, handles)
    return figure


def learning(curves: pd.DataFrame, chosen: set[str], styles: Styles) -> Any:
    """The return of one environment's labels against steps and seconds; bands for the chosen."""
    figure, (left, right) = panels(2, width=5.2, height=3.7)
    handles = {}
    for label, rows in curves.groupby("label", sort=False):
        style = styles[rows.method.iloc[0]]
        for axes, column in ((left, "env_steps"), (right, "seconds")):
            if label not in chosen:
                axes.plot(rows[column], rows["mean"], color=style.colour, linewidth=0.7, alpha=0.55)
                continue
            axes.fill_between(
                rows[column], rows.low, rows.high, color=style.colour, alpha=0.18, linewidth=0
            )
            (handles[str(label)],) = axes.plot(
                rows[column],
                rows["mean"],
                color=style.colour,
                linestyle=style.line,
                marker=style.marker,
                markersize=4,
            )
    thousands(left)
    left.set(xlabel="environment steps of each run", ylabel="return, mean over seeds")
    right.set(xlabel="seconds of the device for each run", ylabel="")
    legend_below(figure, handles)
    return figure


def sensitivity(table: pd.DataFrame, styles: Styles) -> Any:
    """The score against each swept setting of one environment: a panel each."""
    keys = list(dict.fromkeys(table.key))
    figure, grid = panels(len(keys), height=3.1, columns=2 if len(keys) in (2, 4) else 3)
    handles = {}
    for axes, key in zip(grid, keys, strict=True):
        if axes is not grid[0]:
            axes.sharey(grid[0])
        part = table[table.key == key]
        place = _axis_of(axes, list(dict.fromkeys(part.value)))
        for method, rows in part.groupby("method", sort=False):
            style, rows = styles[str(method)], rows.assign(x=[place[v] for v in rows.value])
            rows = rows.sort_values("x")
            handles[str(method)] = axes.errorbar(
                rows.x,
                rows["mean"],
                yerr=[rows["mean"] - rows.low, rows.high - rows["mean"]],
                color=style.colour,
                linestyle=style.line,
                marker=style.marker,
                capsize=3,
            )
        axes.set(xlabel=key)
    for axes in grid:
        axes.set_ylabel("score, mean over runs" if axes.get_subplotspec().is_first_col() else "")
    legend_below(figure, handles)
    return figure


def _axis_of(axes: Any, values: list[Any]) -> dict[Any, float]:
    """Where each value stands: numbers by size, on a log axis if over a decade; else in a row."""
    numbers = all(type(v) in (int, float) and np.isfinite(v) for v in values)
    if not numbers:
        plain = all(type(v) in (int, float) for v in values)
        ordered = sorted(values) if plain else sorted(values, key=str)
        axes.set_xticks(range(len(values)), [_shown(v) for v in ordered])
        return {v: float(i) for i, v in enumerate(ordered)}
    if min(values) > 0 and max(values) >= 10 * min(values):
        logarithmic(axes, "x", values)
    if len(values) <= 6:
        axes.set_xticks(values, [_shown(v) for v in values])
        axes.set_xticks([], minor=True)
    return {v: float(v) for v in values}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _interval(axes: Any, row: float, estimate: Estimate, style: Style) -> None:
    axes.plot(
        [estimate.low, estimate.high],
        [row, row],
        color=style.colour,
        linewidth=5,
        alpha=0.35,
        solid_capstyle="butt",
    )
    axes.plot([estimate.value], [row], color=style.colour, marker=style.marker)


def _rows(axes: Any, names: list[str], *, labelled: bool = True) -> None:
    """One row for each name, the first on top."""
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.spines["left"].set_color(GREY)
