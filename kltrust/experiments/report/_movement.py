"""The trust region, measured: what was claimed, and how far each update moved the policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kltrust.experiments.reading.plots import GREY, logarithmic, thousands
from kltrust.experiments.report import _region, _style
from kltrust.experiments.report._page import Block, Picture, Section, each_env
from kltrust.experiments.report._style import INK, SHOWN, Looks, looks_of
from kltrust.experiments.report._tables import Table, share, small

KIND_LINES = {_region.BOUND: "-", _region.SET_POINT: "--", _region.HEURISTIC: ":"}


def section(updates: pd.DataFrame, measured: pd.DataFrame, looks: Looks) -> Section:
    """What every setting claims and what its updates did."""
    kinds = list(dict.fromkeys(claim.kind for claim in measured.claim))

    def of_env(name: str, env: str, rows: pd.DataFrame) -> list[Block]:
        return [_table(name, env, rows), _training(env, updates[updates.env == env])]

    return Section(
        "region",
        "The trust region, measured",
        [
            "How far did each update really move the policy, and did it keep to the region "
            "that its algorithm claims? KL(old || new) is exact, in nats, over all states of "
            "the batch, measured by the learner alike for every algorithm.",
            Picture(
                "region",
                "Realised KL against the claim",
                _said(measured),
                "For each setting: the bar from the 5th to the 95th percentile of the mean KL of "
                "all updates, its median, the largest as a cross. The black line is the claim: "
                "solid for a bound, dashed for a set point, dotted for a heuristic. Where the "
                "claim is annealed, the line is its value at the start.",
                _draw_overview(measured, looks),
            ),
            verdicts(measured),
            Table(
                "claims",
                "What is meant by a claim. A stop beside it is the max_kl at which a PPO undoes an "
                "epoch.",
                {"claim": kinds, "meaning": [_region.KINDS[kind] for kind in kinds]},
                words=2,
            ),
        ],
        each_env("region", measured, of_env),
    )


def verdicts(measured: pd.DataFrame) -> list[str]:
    """One sentence for each method: how many of its updates kept to the claim."""
    found = []
    for method, rows in measured.groupby("method", sort=False):
        largest = small(rows.largest.max())
        claimed = rows[rows.above.notna()]
        if claimed.empty:
            found.append(f"{method} claims no region; its largest update moved by {largest} nats.")
            continue
        total, count = int(rows.updates.sum()), int(claimed.updates.sum())
        beyond = (claimed.above * claimed.updates).sum()
        of = "" if count == total else f" (of those with a claim, {count:,})"
        used = " to ".join(dict.fromkeys(map(small, (claimed.used.min(), claimed.used.max()))))
        stopped = rows[[np.isfinite(claim.stop) for claim in rows.claim]]
        found.append(
            f"{method}: {round(beyond):,} of {total:,} updates{of} went beyond the "
            f"{' or '.join(dict.fromkeys(claim.kind for claim in claimed.claim))} "
            f"({share(beyond / count)}); the median update used {used} of it, "
            f"the largest moved by {largest} nats"
            + (
                f", and {stopped.overran.sum():,} went beyond the early stop's max_kl."
                if len(stopped)
                else "."
            )
        )
    return found


def _said(measured: pd.DataFrame) -> str:
    rows = [
        f"{row.label} on {row.env}: median {small(row.median)}, 95th percentile {small(row.p95)}, "
        f"largest {small(row.largest)}, claim: {row.claim}"
        for row in measured.head(12).itertuples()
    ]
    more = f"; and {len(measured) - 12} more in the tables below" if len(measured) > 12 else ""
    return "; ".join(rows) + more + "."


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


def _training(env: str, updates: pd.DataFrame) -> Picture:
    medians = (
        updates[np.isfinite(updates.kl)].groupby(["label", "iteration"], sort=False).kl.median()
    )
    said = [
        f"{label} from {small(rows.iloc[0])} to {small(rows.iloc[-1])}"
        for label, rows in medians.groupby("label", sort=False)
    ]
    return Picture(
        f"kl-{env}",
        f"KL of every update along training on {env}",
        f"Median over seeds of the mean KL, first and last update: {'; '.join(said)}.",
        "Median over seeds, with the 5th to the 95th percentile where there are three or more. "
        "Above: mean over states, which is what claims are about. Below: the state that moved "
        "most. Dotted, in the setting's colour: the claim in force. Of a method with more than "
        f"{SHOWN} settings so many are shown, from least to most movement.",
        _draw_training(updates),
    )


def _draw_overview(table: pd.DataFrame, looks: Looks) -> Any:
    """From `_region.measured`: a row for each setting, a panel for each environment.

    The bar goes from the 5th to the 95th percentile of the updates' mean KL, the marker is their
    median, the cross their largest; the black line is the claim.
    """
    envs, labels = list(dict.fromkeys(table.env)), list(dict.fromkeys(table.label))
    height = 1.5 + 0.3 * len(labels)
    figure, grid = _style.panels(len(envs), width=3.2, height=height, columns=min(len(envs), 3))
    figure.set_figwidth(figure.get_figwidth() + _style.inches(labels))
    floor = _floor(table["median"])
    for i, (axes, env) in enumerate(zip(grid, envs, strict=True)):
        for row in table[table.env == env].itertuples():
            y, style = labels.index(row.label), looks[row.method]
            _style.bar(axes, y, *np.maximum([row.median, row.p05, row.p95], floor), style)
            axes.plot([max(row.largest, floor)], [y], "x", color=style["color"])
            if line := KIND_LINES.get(row.claim.kind):
                ends = [row.claim.value] * 2, [y - 0.42, y + 0.42]
                axes.plot(*ends, color=INK, linestyle=line, linewidth=2)
        _style.name_rows(axes, labels, shown=i % 3 == 0)
        logarithmic(axes, [floor, *table.largest], "x")
        axes.set(title=env, xlabel="mean KL(old || new) of an update, nats")
    axes.plot([], [], "o", color=GREY, label="median")
    axes.plot([], [], color=GREY, linewidth=5, alpha=0.4, label="5th to 95th percentile")
    axes.plot([], [], "x", color=GREY, label="largest")
    for kind in dict.fromkeys(claim.kind for claim in table.claim if claim.kind in KIND_LINES):
        line = {"color": INK, "linestyle": KIND_LINES[kind], "linewidth": 2}
        axes.plot([], [], label=f"claim: {kind}", **line)
    _style.legend_below(figure)
    return figure


def _draw_training(updates: pd.DataFrame) -> Any:
    """From `_region.updates` of one environment: KL along training, a column for each method.

    Above the mean over states, below the largest; median over seeds with the 5th to the 95th
    percentile. Dotted: the claim in force, which is about the mean.
    """
    updates = updates[updates.label.isin(_style.shown(updates))]
    methods = list(dict.fromkeys(updates.method))
    entries = updates.groupby("method").label.nunique().max() + 1
    height = 2.6 + 0.1 * entries  # half of it for each row: the legend is below
    width = max(3.5, 0.7 + _style.inches(updates.label))
    figure, grid = _style.panels(2 * len(methods), width=width, height=height, columns=len(methods))
    above, below = grid[: len(methods)], grid[len(methods) :]
    for column, row in (("kl", above), ("kl_max", below)):
        floor = _floor(updates[column])
        for axes, method in zip(row, methods, strict=True):
            if axes is not row[0]:
                axes.sharey(row[0])  # before anything is drawn: the limits are those of all
            _training_panel(axes, updates[updates.method == method], column, floor)
            logarithmic(axes, [floor, *updates[column], *updates.claim])
            thousands(axes)
        over = "mean over states" if column == "kl" else "largest over states"
        row[0].set_ylabel(f"KL(old || new), nats,\n{over}")
    for axes, method in zip(above, methods, strict=True):
        axes.set_title(method, fontsize=11)
    for axes in below:
        axes.set_xlabel("environment steps of each run")
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.25)}
        axes.legend(**place, frameon=False, fontsize=9, ncols=1)
    return figure


def _training_panel(axes: Any, part: pd.DataFrame, column: str, floor: float) -> None:
    dotted = {"linestyle": ":", "linewidth": 1.6}
    for label, look in looks_of(part.label).items():
        rows = part[(part.label == label) & np.isfinite(part[column])]
        name = label.removeprefix(part.method.iloc[0]).strip() or label
        _style.over_seeds(axes, rows, column, floor, label=name, **look)
        claim = rows.groupby("env_steps").claim.median()
        claim = claim[claim > 0]
        axes.plot(claim.index, claim, color=look["color"], **dotted)
    if (part.claim > 0).any():
        axes.plot([], [], color=GREY, label="the claim", **dotted)


def _floor(values: pd.Series) -> float:
    """Where a logarithmic axis ends: a rejected update moves by 0, which has no place on it."""
    positive = values[(values > 0) & np.isfinite(values)]
    return float(positive.quantile(0.02)) / 10 if len(positive) else 1e-6
