"""The section on the trust region: the claims, and how far each update moved the policy."""

from typing import Any

import numpy as np
import pandas as pd

from kltrust.experiments.reading.plots import GREY, logarithmic, panels, thousands
from kltrust.experiments.report import _region, _style
from kltrust.experiments.report._page import Block, Picture, Section, Table, each_env, share, small

ROWS = 40
"""The most settings in the overview: more rows would be unreadable."""
KIND_LINES = {_region.BOUND: "-", _region.SET_POINT: "--", _region.HEURISTIC: ":"}


def section(updates: pd.DataFrame, measured: pd.DataFrame, looks: _style.Looks) -> Section:
    """The section on every setting's claim and its updates."""
    kinds = list(dict.fromkeys(claim.kind for claim in measured.claim))

    def of_env(name: str, env: str, rows: pd.DataFrame) -> list[Block]:
        return [_table(name, env, rows), _training(env, updates[updates.env == env], looks)]

    meant = Table(
        "claims",
        "What is meant by a claim. A stop beside it is the max_kl at which a PPO undoes an epoch.",
        {"claim": kinds, "meaning": [_region.KINDS[kind] for kind in kinds]},
        words=2,
    )
    text = (
        "How far did each update really move the policy, and did it keep to the region that its "
        "algorithm claims? KL(old || new) is exact, in nats, over all states of the batch, "
        "measured by the learner alike for every algorithm."
    )
    blocks: list[Block] = [text, _overview(measured, looks), _region.verdicts(measured), meant]
    inner = each_env("region", measured, of_env)
    return Section("region", "The trust region, measured", blocks, inner)


def equal_kl(measured: pd.DataFrame, scores: pd.DataFrame, looks: _style.Looks) -> Section | None:
    """Score against realised KL, for settings that moved the policy; None if there are none."""
    table = measured.merge(
        scores[["env", "label", "mean", "low", "high", "shown"]], on=["env", "label"]
    )
    table = table[(table["median"] > 0) & table["mean"].notna()]
    if table.empty:
        return None
    said = []
    figure, grid = panels(table.env.nunique(), 4.4, 3.6)
    for axes, (env, mine) in zip(grid, table.groupby("env", sort=False), strict=True):
        medians, best = mine["median"], mine.loc[mine["mean"].idxmax()]
        said.append(
            f"On {env} medians go from {small(medians.min())} to {small(medians.max())} nats, and "
            f"the highest score is {best.shown} at {small(best['median'])} by {best.label}."
        )
        _style.draw_points(axes, mine, "median", looks)
        logarithmic(axes, medians, "x")
        axes.set(title=env, xlabel="median KL(old || new) of an update, nats")
    grid[0].set_ylabel("score, mean over seeds")
    _style.legend_below(figure)
    text = (
        "Two settings with the same name for a number need not move alike. Here methods are "
        "compared where they moved equally far: look up and down at one place of the x axis, not "
        "along a line."
    )
    picture = Picture(
        "score-at-kl",
        "Score against the median realised KL",
        " ".join(said),
        "One point for each setting, with the 95 % interval of its score; a line joins the "
        "settings of one method.",
        figure,
    )
    by = table.sort_values(["env", "median"], kind="stable")
    columns = {"environment": by.env, "setting": by.label, "median KL": by["median"].map(small)}
    caption = "Settings by the median realised KL of their updates (nats), and their scores."
    listed = Table("score-at-kl", caption, {**columns, "score": by.shown}, words=2)
    return Section("equal-kl", "Score at equal realised KL", [text, picture, listed])


def _table(name: str, env: str, measured: pd.DataFrame) -> Table:
    broken = [f" ({n} not finite)" if n else "" for n in measured.nonfinite]
    return Table(
        name,
        f"All updates on {env}. KL in nats: mean over states (median, 95th percentile and largest "
        "of the updates), then the largest over states (median and largest of the updates). "
        "KL/claim: the median. Ratio: the largest new/old probability ratio of any sample. "
        "Clipped: mean share of samples whose ratio is further than 0.2 from 1, for every method.",
        {
            "setting": measured.label,
            "claim": measured.claim,
            "updates": measured.updates.map("{:,}".format) + broken,
            "beyond it": measured.above.map(share),
            "KL/claim": measured.used.map(small),
            "median KL": measured["median"].map(small),
            "95th pct.": measured.p95.map(small),
            "largest": measured.largest.map(small),
            "state: median": measured.state_median.map(small),
            "state: largest": measured.state_largest.map(small),
            "ratio": measured.max_ratio.map(small),
            "clipped": measured.clip_fraction.map(share),
        },
        words=2,
    )


def _overview(measured: pd.DataFrame, looks: _style.Looks) -> Picture:
    """A row for each setting (for some, if there are many) and a panel for each environment."""
    said = [
        f"{row.label} on {row.env}: median {small(row.median)}, 95th percentile {small(row.p95)}, "
        f"largest {small(row.largest)}, claim: {row.claim}"
        for row in measured.head(12).itertuples()
    ]
    more = f"; and {len(measured) - 12} more in the tables below" if len(measured) > 12 else ""
    total = measured.label.nunique()
    if total > ROWS:
        by_kl = measured.assign(kl=measured["median"])
        few = max(1, ROWS // measured.method.nunique())
        measured = measured[measured.label.isin(_style.select_labels(by_kl, few))]
    labels = list(dict.fromkeys(measured.label))
    figure, grid = panels(measured.env.nunique(), 3.2, 1.5 + 0.3 * len(labels))
    figure.set_figwidth(figure.get_figwidth() + _style.inches(labels))
    floor = _floor(measured["median"])
    of_env = measured.groupby("env", sort=False)
    for i, (axes, (env, rows)) in enumerate(zip(grid, of_env, strict=True)):
        for row in rows.itertuples():
            y, style = labels.index(row.label), looks[row.method]
            median, low, high = np.maximum([row.median, row.p05, row.p95], floor)
            _style.draw_interval(axes, y, median, low, high, style)
            axes.plot([max(row.largest, floor)], [y], "x", color=style["color"])
            if line := KIND_LINES.get(row.claim.kind):
                ends = [row.claim.value] * 2, [y - 0.42, y + 0.42]
                axes.plot(*ends, line, color=_style.INK, linewidth=2)
        _style.name_rows(axes, labels, shown=i % 3 == 0)
        logarithmic(axes, [floor, *measured.largest], "x")
        axes.set(title=env, xlabel="mean KL(old || new) of an update, nats")
    axes.plot([], [], "o", color=GREY, label="median")
    axes.plot([], [], color=GREY, linewidth=5, alpha=0.4, label="5th to 95th percentile")
    axes.plot([], [], "x", color=GREY, label="largest")
    for kind in dict.fromkeys(claim.kind for claim in measured.claim if claim.kind in KIND_LINES):
        axes.plot([], [], KIND_LINES[kind], color=_style.INK, linewidth=2, label=f"claim: {kind}")
    _style.legend_below(figure)
    return Picture(
        "region",
        "Realised KL against the claim",
        "; ".join(said) + more + ".",
        "For each setting: the bar from the 5th to the 95th percentile of the mean KL of all "
        "updates, its median, the largest as a cross. The black line is the claim: solid for a "
        "bound, dashed for a set point, dotted for a heuristic. Where the claim is annealed, the "
        "line is its value at the start."
        + (f" {len(labels)} of {total} settings, from least to most movement." * (total > ROWS)),
        figure,
    )


def _training(env: str, updates: pd.DataFrame, looks: _style.Looks) -> Picture:
    """A column for each method: the mean over states above, the largest below."""
    finite = updates[np.isfinite(updates.kl)]
    medians = finite.groupby(["label", "iteration"], sort=False).kl.median()
    ends = medians.groupby("label", sort=False).agg(["first", "last"]).itertuples()
    said = [f"{row.Index} from {small(row.first)} to {small(row.last)}" for row in ends]
    updates = updates[updates.label.isin(_style.select_labels(updates))]
    methods = list(dict.fromkeys(updates.method))
    entries = updates.groupby("method").label.nunique().max() + 1
    height = 2.6 + 0.1 * entries  # half of it for each row: the legend is below
    width = max(3.5, 0.7 + _style.inches(updates.label))
    columns = len(methods)
    figure, grid = panels(2 * columns, width, height, columns, sharey="row")
    rows = {"kl": ("mean", grid[:columns]), "kl_max": ("largest", grid[columns:])}
    for column, (what, row) in rows.items():
        floor = _floor(updates[column])
        for axes, method in zip(row, methods, strict=True):
            _training_panel(axes, updates[updates.method == method], column, floor, looks)
            logarithmic(axes, [floor, *updates[column], *updates.claim])
            thousands(axes)
        row[0].set_ylabel(f"KL(old || new), nats,\n{what} over states")
    for upper, lower, method in zip(grid[:columns], grid[columns:], methods, strict=True):
        upper.set_title(method, fontsize=11)
        lower.set_xlabel("environment steps of each run")
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.25)}
        lower.legend(**place, frameon=False, fontsize=9)
    return Picture(
        f"kl-{env}",
        f"KL of every update along training on {env}",
        f"Median over seeds of the mean KL, first and last update: {'; '.join(said)}.",
        "Median over seeds, with the 5th to the 95th percentile where there are three or more. "
        "Above: mean over states, which is what claims are about. Below: the state that moved "
        "most. Dotted, in the setting's colour: the claim in force. At most "
        f"{_style.SHOWN} settings of a method are shown, from least to most movement.",
        figure,
    )


def _training_panel(
    axes: Any, part: pd.DataFrame, column: str, floor: float, looks: _style.Looks
) -> None:
    dotted = {"linestyle": ":", "linewidth": 1.6}
    part = part[np.isfinite(part[column])].assign(drawn=part[column].clip(lower=floor))
    for label, look in _style.of_settings(part, looks).items():
        rows = part[part.label == label]
        name = label.removeprefix(rows.method.iloc[0]).strip() or label
        _style.draw_curves(axes, rows, "drawn", label=name, **look)
        claim = rows.groupby("env_steps").claim.median()
        axes.plot(claim.where(claim > 0), color=look["color"], **dotted)
    if (part.claim > 0).any():
        axes.plot([], [], color=GREY, label="the claim", **dotted)


def _floor(values: pd.Series) -> float:
    """The lower end of a logarithmic axis, which can't show the 0 of a rejected update."""
    positive = values[(values > 0) & np.isfinite(values)]
    return float(positive.quantile(0.02)) / 10 if len(positive) else 1e-6
