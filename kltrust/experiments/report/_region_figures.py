"""Figures of what an update did to the policy, beside what was claimed: frames to figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.report import _region
from kltrust.experiments.report._style import (
    INK,
    Style,
    inches,
    legend_below,
    logarithmic,
    panels,
    styles as make_styles,
    thousands,
)

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 6
"""Settings of a method in one panel: more lines would hide each other."""
KIND_LINES = {_region.BOUND: "-", _region.SET_POINT: "--", _region.HEURISTIC: ":"}


def overview(table: pd.DataFrame, styles: Mapping[str, Style]) -> Any:
    """From `_region.measured`: a row for each setting, a panel for each environment.

    The bar goes from the 5th to the 95th percentile of the updates' mean KL, the marker is their
    median, the cross their largest; the black line is the claim.
    """
    envs, labels = list(dict.fromkeys(table.env)), list(dict.fromkeys(table.label))
    figure, grid = panels(
        len(envs), width=3.2, height=1.5 + 0.3 * len(labels), columns=min(len(envs), 3)
    )
    figure.set_figwidth(figure.get_figwidth() + inches(labels))
    floor = _floor(table["median"])
    for i, (axes, env) in enumerate(zip(grid, envs, strict=True)):
        for row in table[table.env == env].itertuples():
            _overview_row(axes, labels.index(row.label), row, styles[row.method], floor)
        named = i % 3 == 0
        axes.set_yticks(range(len(labels)), labels if named else [""] * len(labels), fontsize=9)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        logarithmic(axes, "x", [floor, *table.largest])
        axes.set(title=env, xlabel="mean KL(old || new) of an update, nats")
    handles: dict[str, Any] = {
        "median": axes.plot([], [], "o", color="#777777")[0],
        "5th to 95th percentile": axes.plot([], [], color="#777777", linewidth=5, alpha=0.4)[0],
        "largest": axes.plot([], [], "x", color="#777777")[0],
    }
    for kind in {claim.kind: None for claim in table.claim if claim.kind in KIND_LINES}:
        line = KIND_LINES[kind]
        handles[f"claim: {kind}"] = axes.plot([], [], color=INK, linestyle=line, linewidth=2)[0]
    legend_below(figure, handles)
    return figure


def training(updates: pd.DataFrame) -> Any:
    """From `_region.updates` of one environment: KL along training, a column for each method.

    Above the mean over states, below the largest; median over seeds with the 5th to the 95th
    percentile. Dotted: the claim in force, which is about the mean.
    """
    updates = updates[updates.label.isin(shown(updates))]
    methods = list(dict.fromkeys(updates.method))
    entries = updates.groupby("method").label.nunique().max() + 1
    height = 2.6 + 0.1 * entries  # half of it for each row: the legend is below
    width = max(3.5, 0.7 + inches(updates.label))
    figure, grid = panels(2 * len(methods), width=width, height=height, columns=len(methods))
    rows = {"kl": grid[: len(methods)], "kl_max": grid[len(methods) :]}
    for column, axes_row in rows.items():
        floor = _floor(updates[column])
        for axes, method in zip(axes_row, methods, strict=True):
            if axes is not axes_row[0]:
                axes.sharey(axes_row[0])  # before anything is drawn: the limits are those of all
            part = updates[updates.method == method]
            _training_panel(axes, part, column, floor)
            logarithmic(axes, "y", [floor, *updates[column], *updates.claim])
            thousands(axes)
    for axes, method in zip(rows["kl"], methods, strict=True):
        axes.set_title(method, fontsize=11)
    for axes in rows["kl_max"]:
        axes.set_xlabel("environment steps of each run")
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False, fontsize=9, ncols=1
        )
    rows["kl"][0].set_ylabel("KL(old || new), nats,\nmean over states")
    rows["kl_max"][0].set_ylabel("KL(old || new), nats,\nlargest over states")
    return figure


def score_at_kl(table: pd.DataFrame, styles: Mapping[str, Style]) -> Any:
    """Score against the median realised KL of a setting; a line joins the settings of a method.

    From a frame with env, method, median (of the KL), mean (an `Estimate` of the score).
    """
    envs = list(dict.fromkeys(table.env))
    figure, grid = panels(len(envs), width=4.4, height=3.6)
    handles = {}
    for axes, env in zip(grid, envs, strict=True):
        for method, rows in table[table.env == env].groupby("method", sort=False):
            rows, style = rows.sort_values("median"), styles[str(method)]
            value, low, high = (np.array([getattr(m, k) for m in rows["mean"]]) for k in _FIELDS)
            handles[str(method)] = axes.errorbar(
                rows["median"],
                value,
                yerr=[value - low, high - value],
                color=style.colour,
                linestyle=style.line,
                marker=style.marker,
                capsize=3,
            )
        logarithmic(axes, "x", table["median"][table.env == env])
        axes.set(title=env, xlabel="median KL(old || new) of an update, nats")
    grid[0].set_ylabel("score, mean over seeds")
    legend_below(figure, handles)
    return figure


_FIELDS = ("value", "low", "high")


def shown(updates: pd.DataFrame) -> set[str]:
    """At most `SHOWN` labels of each method, from the one that moved least to that which most."""
    found: set[str] = set()
    for _, rows in updates.groupby("method", sort=False):
        labels = rows.groupby("label").kl.median().sort_values().index
        places = np.linspace(0, len(labels) - 1, min(SHOWN, len(labels))).round().astype(int)
        found |= {str(label) for label in labels[places]}
    return found


def _overview_row(axes: Any, y: int, row: Any, style: Style, floor: float) -> None:
    low, median, high, largest = (
        max(v, floor) for v in (row.p05, row.median, row.p95, row.largest)
    )
    bar = {"color": style.colour, "linewidth": 6, "alpha": 0.4, "solid_capstyle": "butt"}
    axes.plot([low, high], [y, y], **bar)
    axes.plot([median], [y], color=style.colour, marker=style.marker)
    axes.plot([largest], [y], color=style.colour, marker="x")
    if line := KIND_LINES.get(row.claim.kind):
        x = row.claim.value
        axes.plot([x, x], [y - 0.42, y + 0.42], color=INK, linestyle=line, linewidth=2)


def _training_panel(axes: Any, part: pd.DataFrame, column: str, floor: float) -> None:
    claimed = False
    for label, style in make_styles(part.label).items():
        rows = part[(part.label == label) & np.isfinite(part[column])]
        by_step = rows.groupby("env_steps")
        middle = by_step[column].median().clip(lower=floor)
        name = label.removeprefix(part.method.iloc[0]).strip() or label
        look = {"color": style.colour, "linestyle": style.line, "marker": style.marker}
        every = max(1, len(middle) // 6)
        axes.plot(middle.index, middle, **look, markersize=4, markevery=every, label=name)
        if rows.run.nunique() > 2:
            low, high = (by_step[column].quantile(q).clip(lower=floor) for q in (0.05, 0.95))
            axes.fill_between(middle.index, low, high, color=style.colour, alpha=0.18, linewidth=0)
        claim = by_step.claim.median()
        claim = claim[claim > 0]
        if len(claim):
            axes.plot(claim.index, claim, color=style.colour, linestyle=":", linewidth=1.6)
            claimed = True
    if claimed:
        axes.plot([], [], color="#777777", linestyle=":", linewidth=1.6, label="the claim")


def _floor(values: pd.Series) -> float:
    """Where a logarithmic axis ends: a rejected update moves by 0, which has no place on it."""
    positive = values[(values > 0) & np.isfinite(values)]
    return float(positive.quantile(0.02)) / 10 if len(positive) else 1e-6
