"""A section for each environment: scores, learning curves, sensitivities."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection

from kltrust.experiments.reading.plots import curve, logarithmic, panels, thousands
from kltrust.experiments.report import _summaries
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._page import Block, Picture, Section, Table, each_env, number
from kltrust.experiments.report._style import Looks, draw_points, legend_below

AXES = {
    "env_steps": "environment steps of each run",
    "seconds": "seconds of the device for each run",
}


def section(
    study: Study, scores: pd.DataFrame, pictures: Mapping[str, list[Picture]], looks: Looks
) -> Section:
    """One section for each environment, from `_summaries.scores` and `learning`."""
    sensitivity = _summaries.sensitivity(study)

    def of_env(name: str, env: str, rows: pd.DataFrame) -> list[Block]:
        blocks: list[Block] = [_table(name, env, rows)]
        blocks += pictures.get(env, [])
        if len(mine := sensitivity[sensitivity.env == env]):
            blocks.append(_sensitivity(env, mine, looks))
        return blocks

    texts = [
        "Scores are the mean return of the last evaluation, acting by the mode; brackets are 95 % "
        "bootstrap intervals over seeds. Learning curves have a band, marker and thick line for "
        "each method's best setting here; its other settings are thin lines of the same colour.",
        "Seconds: the runs that differ only in numbers are one program and share its devices. What "
        "is shown is that program's training and evaluation time, without compilation, divided by "
        "its runs. It is the same for all settings of one program; a run alone takes longer.",
    ]
    inner = each_env("env", scores, of_env)
    return Section("environments", "Each environment by itself", texts, inner)


def _table(name: str, env: str, scores: pd.DataFrame) -> Table:
    unfinished = np.where(scores.iterations == scores.planned, "", " (unfinished)")
    return Table(
        f"scores-{name}",
        f"Scores on {env}, by the mean (of equal ones, by the mean over all evaluations); the "
        "highest mean is stressed.",
        {
            "setting": scores.label,
            "seeds": scores.seeds,
            "mean": scores.shown,
            "IQM": scores.iqm,
            "worst seed": scores.worst.map(number),
            "steps of a run": scores.steps.map("{:,}".format) + unfinished,
        },
        best=np.flatnonzero(scores["mean"] == scores["mean"].max()).tolist(),
    )


def learning(study: Study, scores: pd.DataFrame, looks: Looks) -> dict[str, list[Picture]]:
    """Learning curves of each environment that has one: against steps, then against seconds."""
    curves = _summaries.curves(study)
    found = {}
    for env, rows in scores.groupby("env", sort=False):
        if len(mine := curves[curves.env == env]):
            chosen = set(rows.drop_duplicates("method").label)
            found[str(env)] = [_learning(str(env), chosen, mine, x, looks) for x in AXES]
    return found


def _learning(env: str, chosen: set[str], curves: pd.DataFrame, x: str, looks: Looks) -> Picture:
    """Learning curves against a column, with bands for the chosen settings."""
    ends = curves[curves.label.isin(chosen)].groupby("label", sort=False).last()
    said = "; ".join(
        f"{label} {number(row['mean'])} after {row.env_steps:,} steps and {row.seconds:.2g} seconds"
        for label, row in ends.iterrows()
    )
    figure, (axes,) = panels(1, 5.6, 3.5)
    thin: dict[str, list[np.ndarray]] = defaultdict(list)
    for label, rows in curves.groupby("label", sort=False):
        look = looks[rows.method.iloc[0]]
        if label in chosen:
            band = rows["mean"], rows.low, rows.high
            curve(axes, rows[x], *band, label=label, markersize=4, **look)
        else:
            thin[look["color"]].append(np.column_stack([rows[x], rows["mean"]]))
    for color, lines in thin.items():  # a search has a thousand: one artist for all
        axes.add_collection(LineCollection(lines, colors=color, linewidth=0.7, alpha=0.55))
        axes.autoscale_view()
    if x == "env_steps":
        thousands(axes)
    axes.set(xlabel=AXES[x], ylabel="return, mean over seeds")
    legend_below(figure)
    against = "" if x == "env_steps" else " in seconds"
    return Picture(
        f"learning{against.replace(' ', '-')}-{env}",
        f"Learning curves on {env}{against}",
        f"Mean return at the end, best setting of each method: {said}.",
        "Mean over seeds of the evaluations' return, with 95 % intervals; thin: other settings.",
        figure,
    )


def _sensitivity(env: str, table: pd.DataFrame, looks: Looks) -> Picture:
    """The score against each swept setting, a panel for each."""
    said = []
    for (key, method), rows in table.groupby(["key", "method"], sort=False):
        (_, worst), *_, (_, best) = rows.sort_values("mean").iterrows()
        said.append(
            f"{method}, {key}: from {number(worst['mean'])} at {worst.value} to "
            f"{number(best['mean'])} at {best.value}"
        )
    count = table.key.nunique()
    columns = min(2, count)
    figure, grid = panels(count, 4.6, 3.1, columns, sharey=True)
    for axes, (key, part) in zip(grid, table.groupby("key", sort=False), strict=True):
        place = _axis_of(axes, list(dict.fromkeys(part.value)))
        draw_points(axes, part.assign(x=part.value.map(place)), "x", looks)
        axes.set_xlabel(key)
    for axes in grid[::columns]:
        axes.set_ylabel("score, mean over runs")
    legend_below(figure)
    return Picture(
        f"sensitivity-{env}",
        f"Sensitivity to the swept settings on {env}",
        "; ".join(said) + ".",
        "Mean score at each value, averaged over whatever else was swept, with 95 % intervals. "
        "Settings that were swept together (zip, random) change together here too.",
        figure,
    )


def _axis_of(axes: Any, values: list[Any]) -> dict[Any, float]:
    """The place of each value: numbers by size, on a log axis if over a decade; else in a row."""
    plain = all(type(v) in (int, float) for v in values)
    if not plain or not np.isfinite(values).all():
        ordered = sorted(values) if plain else sorted(values, key=str)
        axes.set_xticks(range(len(values)), list(map(_shown, ordered)))
        return {v: float(i) for i, v in enumerate(ordered)}
    if min(values) > 0 and max(values) >= 10 * min(values):
        logarithmic(axes, values, "x")
    if len(values) <= 6:
        axes.set_xticks(values, list(map(_shown, values)))
        axes.set_xticks([], minor=True)
    return {v: float(v) for v in values}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
