"""Score at equal realised KL: methods compared where they moved equally far."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kltrust.experiments.reading.plots import logarithmic
from kltrust.experiments.report._page import Picture, Section
from kltrust.experiments.report._style import Looks, legend_below, panels, points
from kltrust.experiments.report._tables import Table, small


def section(measured: pd.DataFrame, scores: pd.DataFrame, looks: Looks) -> Section | None:
    """Score against realised KL, for settings that moved at all; None if there are none."""
    table = measured.merge(scores[["env", "label", "mean", "value", "shown"]], on=["env", "label"])
    table = table[(table["median"] > 0) & table.value.notna()]
    if table.empty:
        return None
    ordered = table.sort_values(["env", "median"], kind="stable")
    said = [
        f"On {env} medians go from {small(part['median'].min())} to {small(part['median'].max())} "
        f"nats, and the highest score is {best.shown} at {small(best['median'])} by {best.label}."
        for env, part in table.groupby("env", sort=False)
        for best in [part.loc[part.value.idxmax()]]
    ]
    return Section(
        "equal-kl",
        "Score at equal realised KL",
        [
            "Two settings with the same name for a number need not move alike. Here methods "
            "are compared where they moved equally far: look up and down at one place of the x "
            "axis, not along a line.",
            Picture(
                "score-at-kl",
                "Score against the median realised KL",
                " ".join(said),
                "One point for each setting, with the 95 % interval of its score; a line joins the "
                "settings of one method.",
                _draw(table, looks),
            ),
            Table(
                "score-at-kl",
                "Settings by the median realised KL of their updates (nats), and their scores.",
                {
                    "environment": ordered.env,
                    "setting": ordered.label,
                    "median KL": ordered["median"].map(small),
                    "score": ordered.shown,
                },
                words=2,
            ),
        ],
    )


def _draw(table: pd.DataFrame, looks: Looks) -> Any:
    """Score against the median realised KL of a setting; a line joins the settings of a method.

    From a frame with env, method, median (of the KL), mean (an `Estimate` of the score).
    """
    envs = list(dict.fromkeys(table.env))
    figure, grid = panels(len(envs), width=4.4, height=3.6)
    for axes, env in zip(grid, envs, strict=True):
        mine = table[table.env == env]
        for method, rows in mine.groupby("method", sort=False):
            rows = rows.sort_values("median")
            value, low, high = np.array(rows["mean"].tolist()).T
            points(axes, rows["median"], value, low, high, label=method, **looks[method])
        logarithmic(axes, mine["median"], "x")
        axes.set(title=env, xlabel="median KL(old || new) of an update, nats")
    grid[0].set_ylabel("score, mean over seeds")
    legend_below(figure)
    return figure
