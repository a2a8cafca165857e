"""The section on searches: what was stopped, when and why."""

from __future__ import annotations

import pandas as pd

from kltrust.experiments.reading.results import decisions_of
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._page import Block, Section, Table
from kltrust.experiments.search.board import COPY, END, LEAVING, PAUSE, STOP

MOST = 60
"""The most rows of a table."""


def section(study: Study) -> Section | None:
    """Each setting's last decision; None without a search."""
    blocks: list[Block] = []
    for source in study.sources:
        search = source.plan.search
        if search is None:
            continue
        for group, part in source.parts:
            table = decisions_of(source.plan, group, part)
            if len(table):
                blocks += _of_group(f"{source.name}: {search!r}", table, len(blocks))
    if not blocks:
        return None
    text = (
        "Not every setting got its whole budget. Scores are means over seeds at the evaluation "
        "after which something was decided. Settings that stopped early are not comparable with "
        "those that went on, and rank below them. All decisions are in the folder: "
        "kltrust.load(FOLDER).decisions."
    )
    return Section("search", "What the search decided", [text, *blocks])


def _of_group(name: str, table: pd.DataFrame, number: int) -> list[Block]:
    counts = table.action.value_counts()
    last = table[table.action.isin([*LEAVING, COPY])].drop_duplicates("trial", keep="last")
    last = last.sort_values(["env_steps", "score"], ascending=False, kind="stable")
    env, algorithm = table.env.iloc[0], table.algorithm.iloc[0]
    begun = table.trial.nunique()
    paused = int((last.action == PAUSE).sum() + (last.action == STOP).sum())
    said = (
        f"{name}. {algorithm} on {env}: {begun} settings begun, {counts.get(END, 0)} trained to "
        f"the end, {paused} stopped before, {counts.get(COPY, 0)} copies."
    )
    if last.empty:
        return [said]
    more = f" The first {MOST} of {len(last)}." if len(last) > MOST else ""
    last = last.head(MOST)
    columns = {
        "setting": last.label,
        "decision": last.action,
        "why": last.reason,
        "steps": [f"{steps:,}" for steps in last.env_steps],
        "score": [f"{score:.4g}" for score in last.score],
    }
    caption = f"The last decision on each setting of {algorithm} on {env}.{more}"
    return [said, Table(f"search-{number}", caption, columns, words=3)]
