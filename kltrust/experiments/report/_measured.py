"""The section on other numbers along training: the usual ones, and each algorithm's own."""

import numpy as np
import pandas as pd

from kltrust.experiments.reading.plots import panels, thousands
from kltrust.experiments.report import _style
from kltrust.experiments.report._page import Block, Picture, Section, each_env, small

USUAL = {
    "entropy": "entropy of the policy, nats",
    "value_loss": "value loss",
    "explained_variance": "explained variance of the critic",
    "mean_return": "return of the training's episodes",
}
OWN = "extra."
MOST = 12
"""The most panels for an environment."""


def section(updates: pd.DataFrame, scores: pd.DataFrame, looks: _style.Looks) -> Section | None:
    """The section from `_region.updates` and `_summaries.scores`; None if nothing was measured.

    The lines show each method's best setting on an environment.
    """
    best = scores.drop_duplicates(["env", "method"])[["env", "label"]]
    drawn = updates.merge(best)
    columns = _columns(drawn)
    if not columns:
        return None

    def of_env(name: str, env: str, rows: pd.DataFrame) -> list[Block]:
        values = {c: rows[c].dropna() for c in columns if rows[c].notna().any()}
        moved = {c: columns[c] for c, x in values.items() if x.nunique() > 1}
        still = [
            f"{columns[c]} {small(float(x.iloc[0]))}" for c, x in values.items() if c not in moved
        ]
        blocks: list[Block] = [f"The same in every update: {', '.join(still)}."] if still else []
        shown = dict(list(moved.items())[:MOST])
        return [*blocks, _picture(env, rows, shown, looks)] if shown else blocks

    text = (
        "Each method by its best setting on the environment. Entropy, value loss and explained "
        "variance are the learner's, alike for every algorithm; the others are what an algorithm "
        "reports of itself."
    )
    return Section("along", "Along training", [text], each_env("along", drawn, of_env))


def _columns(updates: pd.DataFrame) -> dict[str, str]:
    """Titles by column: the usual columns that exist, then the algorithms' own."""
    found = {name: title for name, title in USUAL.items() if name in updates}
    own = [c for c in updates if c.startswith(OWN) and updates[c].dtype != object]
    return {**found, **{c: c.removeprefix(OWN) for c in own}}


def _picture(env: str, rows: pd.DataFrame, columns: dict[str, str], looks: _style.Looks) -> Picture:
    figure, grid = panels(len(columns), 4.2, 2.7, columns=2)
    said = []
    for axes, (column, title) in zip(grid, columns.items(), strict=True):
        ends = []
        for method, mine in rows.groupby("method", sort=False):
            values = mine[column].astype(float)
            mine = mine.assign(drawn=values.where(np.isfinite(values)))[values.notna()]
            if len(mine):
                _style.draw_curves(axes, mine, "drawn", label=method, **looks[method])
                last = mine[mine.env_steps == mine.env_steps.max()].drawn.median()
                ends.append(f"{method} {small(last)}")
        said.append(f"{title}: {', '.join(ends)}")
        thousands(axes)
        axes.set_ylabel(title)
    for axes in grid[-2:]:
        axes.set_xlabel("environment steps of each run")
    _style.legend_below(figure)
    return Picture(
        f"along-{env}",
        f"Along training on {env}",
        f"Medians at the end. {'; '.join(said)}.",
        "Median over seeds, with the 5th to the 95th percentile where there are three or more.",
        figure,
    )
