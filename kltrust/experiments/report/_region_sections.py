"""The trust region, measured; and scores at equal movement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kltrust.experiments.report import _region, _region_figures
from kltrust.experiments.report._blocks import List, Picture, Section, Text
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._style import Style
from kltrust.experiments.report._tables import Table, estimate, share, small

if TYPE_CHECKING:
    import pandas as pd


def section(
    study: Study, updates: pd.DataFrame, measured: pd.DataFrame, styles: Mapping[str, Style]
) -> Section:
    """What every setting claims and what its updates did."""
    kinds = dict.fromkeys(claim.kind for claim in measured.claim)
    inner = []
    for i, env in enumerate(dict.fromkeys(measured.env)):
        mine, of_env = measured[measured.env == env], updates[updates.env == env]
        inner.append(Section(f"region-{i}", env, [_table(i, env, mine), _training(env, of_env)]))
    return Section(
        "region",
        "The trust region, measured",
        [
            Text(
                "How far did each update really move the policy, and did it keep to the region "
                "that its algorithm claims? KL(old || new) is exact, in nats, over all states of "
                "the batch, measured by the learner alike for every algorithm."
            ),
            Picture(
                "region",
                "Realised KL against the claim",
                _said(measured),
                "For each setting: the bar from the 5th to the 95th percentile of the mean KL of "
                "all updates, its median, the largest as a cross. The black line is the claim: "
                "solid for a bound, dashed for a set point, dotted for a heuristic. Where the "
                "claim is annealed, the line is its value at the start.",
                _region_figures.overview(measured, styles),
            ),
            List(verdicts(measured)),
            Table(
                "claims",
                "What is meant by a claim. A stop beside it is the max_kl at which a PPO undoes an "
                "epoch.",
                ["claim", "meaning"],
                [[kind, _region.KINDS[kind]] for kind in kinds],
                words=2,
            ),
        ],
        inner,
    )


def equal_kl(
    measured: pd.DataFrame, scores: pd.DataFrame, styles: Mapping[str, Style]
) -> Section | None:
    """Score against realised KL, for settings that moved at all; None if there are none."""
    table = measured.merge(scores[["env", "label", "mean", "value", "seeds"]], on=["env", "label"])
    table = table[(table["median"] > 0) & table.value.notna()]
    if table.empty:
        return None
    rows = [
        [row.env, row.label, small(row.median), estimate(row.mean, row.seeds)]
        for row in table.sort_values(["env", "median"], kind="stable").itertuples()
    ]
    ends = [
        f"On {env} medians go from {small(part['median'].min())} to {small(part['median'].max())} "
        f"nats, and the highest score is {estimate(best['mean'], best.seeds)} at "
        f"{small(best['median'])} by {best.label}"
        for env, part in table.groupby("env", sort=False)
        for best in [part.loc[part.value.idxmax()]]
    ]
    return Section(
        "equal-kl",
        "Score at equal realised KL",
        [
            Text(
                "Two settings with the same name for a number need not move alike. Here methods "
                "are compared where they moved equally far: look up and down at one place of the x "
                "axis, not along a line."
            ),
            Picture(
                "score-at-kl",
                "Score against the median realised KL",
                ". ".join(ends) + ".",
                "One point for each setting, with the 95 % interval of its score; a line joins the "
                "settings of one method.",
                _region_figures.score_at_kl(table, styles),
            ),
            Table(
                "score-at-kl",
                "Settings by the median realised KL of their updates (nats), and their scores.",
                ["environment", "setting", "median KL", "score"],
                rows,
                words=2,
            ),
        ],
    )


def verdicts(measured: pd.DataFrame) -> list[str]:
    """One sentence for each method: how many of its updates kept to the claim."""
    found = []
    for method, rows in measured.groupby("method", sort=False):
        total = int(rows.updates.sum())
        kinds = list(dict.fromkeys(claim.kind for claim in rows.claim))
        if kinds == [_region.NONE]:
            found.append(
                f"{method} claims no region; its largest update moved by "
                f"{small(rows.largest.max())} nats."
            )
            continue
        claimed = rows[rows.above.notna()]
        beyond = (claimed.above * claimed.updates).sum()
        count = int(claimed.updates.sum())
        of = "" if count == total else f" (of those with a claim, {count:,})"
        found.append(
            f"{method}: {round(beyond):,} of {total:,} updates{of} went beyond the "
            f"{' or '.join(k for k in kinds if k != _region.NONE)} "
            f"({share(beyond / max(count, 1))}); the median update used {_range(claimed.used)} of "
            f"it, the largest moved by {small(rows.largest.max())} nats{_overrun(rows)}."
        )
    return found


def _overrun(rows: pd.DataFrame) -> str:
    stopped = rows[[np.isfinite(claim.stop) for claim in rows.claim]]
    if stopped.empty:
        return ""
    return f", and {int(stopped.overran.sum()):,} went beyond the early stop's max_kl"


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return small(low) if small(low) == small(high) else f"{small(low)} to {small(high)}"


def _said(measured: pd.DataFrame) -> str:
    rows = [
        f"{row.label} on {row.env}: median {small(row.median)}, 95th percentile {small(row.p95)}, "
        f"largest {small(row.largest)}, claim: {row.claim}"
        for row in measured.itertuples()
    ]
    more = f"; and {len(rows) - 12} more in the tables below" if len(rows) > 12 else ""
    return "; ".join(rows[:12]) + more + "."


def _table(i: int, env: str, measured: pd.DataFrame) -> Table:
    rows = [
        [
            row.label,
            str(row.claim),
            f"{row.updates:,}" + (f" ({row.nonfinite} not finite)" if row.nonfinite else ""),
            share(row.above),
            small(row.used),
            *map(small, (row.median, row.p95, row.largest)),
            *map(small, (row.state_median, row.state_largest, row.max_ratio)),
            share(row.clip_fraction),
        ]
        for row in measured.itertuples()
    ]
    return Table(
        f"region-{i}",
        f"All updates on {env}. KL in nats: mean over states (median, 95th percentile and largest "
        "of the updates), then the largest over states (median and largest of the updates). "
        "KL/claim: the median. Ratio: the largest new/old probability ratio of any sample. "
        "Clipped: mean share of samples whose ratio is further than 0.2 from 1, for every method.",
        [
            "setting",
            "claim",
            "updates",
            "beyond it",
            "KL/claim",
            "median KL",
            "95th pct.",
            "largest",
            "state: median",
            "state: largest",
            "ratio",
            "clipped",
        ],
        rows,
        words=2,
    )


def _training(env: str, updates: pd.DataFrame) -> Picture:
    finite = updates[np.isfinite(updates.kl)]
    said = []
    for label, rows in finite.groupby("label", sort=False):
        medians = rows.groupby("iteration").kl.median()
        said.append(f"{label} from {small(medians.iloc[0])} to {small(medians.iloc[-1])}")
    return Picture(
        f"kl-{env}",
        f"KL of every update along training on {env}",
        f"Median over seeds of the mean KL, first and last update: {'; '.join(said)}.",
        "Median over seeds, with the 5th to the 95th percentile where there are three or more. "
        "Above: mean over states, which is what claims are about. Below: the state that moved "
        "most. Dotted, in the setting's colour: the claim in force. Of a method with more than "
        f"{_region_figures.SHOWN} settings so many are shown, from least to most movement.",
        _region_figures.training(updates),
    )
