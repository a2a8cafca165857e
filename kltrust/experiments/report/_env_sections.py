"""Each environment by itself: scores, learning curves, sensitivities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kltrust.experiments.report import _figures, _summaries
from kltrust.experiments.report._blocks import Block, Picture, Section, Text
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._style import Style
from kltrust.experiments.report._tables import Table, estimate, number

if TYPE_CHECKING:
    import pandas as pd


def section(study: Study, scores: pd.DataFrame, styles: Mapping[str, Style]) -> Section:
    """One section for each environment, from `_summaries.scores`."""
    curves, sensitivity = _summaries.curves(study), _summaries.sensitivity(study)
    leaders = _summaries.leaders(scores)
    inner = []
    for i, env in enumerate(study.envs):
        tables = (scores, leaders, curves, sensitivity)
        inner.append(_of_env(f"env-{i}", env, [t[t.env == env] for t in tables], styles))
    return Section(
        "environments",
        "Each environment by itself",
        [
            Text(
                "Scores are the mean return of the last evaluation, acting by the mode; brackets "
                "are 95 % bootstrap intervals over seeds. Learning curves have a band, marker and "
                "thick line for each method's best setting here; its other settings are thin lines "
                "of the same colour."
            ),
            Text(
                "Seconds: the runs that differ only in numbers are one program and share its "
                "devices. What is shown is that program's training and evaluation time, without "
                "compilation, divided by its runs: what a run costs in such company, by "
                "construction the same for all settings of one program. A run alone takes longer."
            ),
        ],
        inner,
    )


def _of_env(
    name: str, env: str, tables: list[pd.DataFrame], styles: Mapping[str, Style]
) -> Section:
    scores, leaders, curves, sensitivity = tables
    blocks: list[Block] = [_table(name, env, scores)]
    if len(curves):
        blocks.append(_learning(name, env, leaders, curves, styles))
    if len(sensitivity):
        blocks.append(_sensitivity(name, env, sensitivity, styles))
    return Section(name, env, blocks)


def _table(name: str, env: str, scores: pd.DataFrame) -> Table:
    rows = [
        [
            row.label,
            str(row.seeds),
            estimate(row.mean, row.seeds),
            estimate(row.iqm, row.seeds),
            number(row.worst),
            f"{row.steps:,}" + ("" if row.iterations == row.planned else " (unfinished)"),
        ]
        for row in scores.itertuples()
    ]
    return Table(
        f"scores-{name}",
        f"Scores on {env}, by the mean (of equal ones, by the mean over all evaluations); the "
        "highest mean is stressed.",
        ["setting", "seeds", "mean", "IQM", "worst seed", "steps of a run"],
        rows,
        best=frozenset(np.flatnonzero(scores.value == scores.value.max()).tolist()),
    )


def _learning(
    name: str,
    env: str,
    leaders: pd.DataFrame,
    curves: pd.DataFrame,
    styles: Mapping[str, Style],
) -> Picture:
    ends = curves[curves.label.isin(leaders.label)].groupby("label", sort=False).last()
    said = "; ".join(
        f"{label} {number(row['mean'])} after {row.env_steps:,} steps and {row.seconds:.2g} seconds"
        for label, row in ends.iterrows()
    )
    return Picture(
        f"learning-{env}",
        f"Learning curves on {env}",
        f"Mean return at the end, best setting of each method: {said}.",
        "Mean over seeds of the evaluations' return, with 95 % intervals.",
        _figures.learning(curves, set(leaders.label), styles),
    )


def _sensitivity(name: str, env: str, table: pd.DataFrame, styles: Mapping[str, Style]) -> Picture:
    said = []
    for (key, method), rows in table.groupby(["key", "method"], sort=False):
        ordered = rows.sort_values("mean")
        worst, best = ordered.iloc[0], ordered.iloc[-1]
        said.append(
            f"{method}, {key}: from {number(worst['mean'])} at {worst.value} to "
            f"{number(best['mean'])} at {best.value}"
        )
    return Picture(
        f"sensitivity-{env}",
        f"Sensitivity to the swept settings on {env}",
        "; ".join(said) + ".",
        "Mean score at each value, averaged over whatever else was swept, with 95 % intervals. "
        "Settings that were swept together (zip, random) change together here too.",
        _figures.sensitivity(table, styles),
    )
