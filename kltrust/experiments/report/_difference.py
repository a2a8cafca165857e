"""The section that sets folders side by side: one specification under two codes, or two devices."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd

from kltrust.experiments.reading.compare import compare
from kltrust.experiments.reading.plots import GREY, panels
from kltrust.experiments.report import _style
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._page import Block, Picture, Section, Table, number

MOST = 40
"""The most settings in a picture."""


class Pair(NamedTuple):
    """The folder ``name``, of this number, against the ``first`` one; no table says why."""

    number: int
    first: str
    name: str
    table: pd.DataFrame | None
    line: str
    only: tuple[str, ...] = ()


def pairs(study: Study) -> list[Pair]:
    """Every folder but the first against it; none where no two have a setting in common."""
    if _side_by_side(study) is None:
        return []
    first, *others = (source.name for source in study.sources)
    rows, found = _own(study), []
    for i, name in enumerate(others, start=1):
        sides: list[Any] = [
            SimpleNamespace(evaluations=rows[rows.source == side].reset_index(drop=True))
            for side in (0, i)
        ]
        try:
            table, only = compare(*sides)
        except ValueError as error:  # nothing in common, or one seed
            found.append(Pair(i, first, name, None, f"{name} against {first}: {error}."))
            continue
        counts = table.verdict.value_counts()
        verdicts = (f"{count} {verdict}" for verdict, count in counts.items())
        line = f"{name} against {first}, setting by setting: {', '.join(verdicts)}."
        found.append(Pair(i, first, name, table, line, tuple(only)))
    return found


def section(study: Study, of: Sequence[Pair]) -> Section | None:
    """The scores of the settings that folders share, and the differences; None without pairs."""
    shared = _side_by_side(study)
    if shared is None or not of:
        return None
    blocks: list[Block] = [
        "Settings are matched by environment and name, seeds by their number. With equal seeds the "
        f"difference to {of[0].first} is taken seed by seed. The intervals of a table hold "
        "together at 95 % (Student's t, or Welch's where seeds differ, Bonferroni over its "
        'settings). "Not shown" means that these seeds show no difference, not that there is none. '
        "The command kltrust compare has a margin and an exit status."
    ]
    if len(of) > 1:
        blocks.append(shared)
    for pair in of:
        missing = [f"Only one of the two has {', '.join(pair.only)}."] if pair.only else []
        blocks += [pair.line, *missing]
        if pair.table is not None:
            blocks += [_picture(pair, pair.table)] if len(pair.table) <= MOST else []
            blocks.append(_table(pair, pair.table))
    return Section("difference", "Folder against folder", blocks)


def _own(study: Study) -> pd.DataFrame:
    """The evaluations with ``source``, and the labels that the folders themselves use."""
    of = study.runs.set_index("run")
    labels = {run: setting.label for run, setting in of.setting.items()}
    rows = study.evaluations
    return rows.assign(label=rows.run.map(labels), source=rows.run.map(of.source))


def _side_by_side(study: Study) -> Table | None:
    """Mean scores by setting and folder; None without a setting that two folders have."""
    last = _own(study).sort_values(["run", "iteration"]).drop_duplicates("run", keep="last")
    means = last.groupby(["env", "label", "source"], sort=False).mean_return.mean().unstack()
    means = means.reindex(columns=range(len(study.sources)))
    means = means[means.notna().sum(axis=1) > 1]
    if means.empty:
        return None
    columns = {
        "setting": means.index.get_level_values("label"),
        "environment": means.index.get_level_values("env"),
        **{source.name: means[i].map(number) for i, source in enumerate(study.sources)},
    }
    caption = "Mean returns at the last evaluation, of every setting that two folders have."
    return Table("side-by-side", caption, columns, words=2)


def _table(pair: Pair, table: pd.DataFrame) -> Table:
    """Both means, the difference with its interval, and the verdict of every setting."""
    gap = [
        "{} [{}, {}]".format(*(f"{'+' if v > 0 else ''}{number(v, max(map(abs, of)))}" for v in of))
        for of in zip(table.difference, table.low, table.high, strict=True)
    ]
    both = zip(table.seeds_a, table.seeds_b, strict=True)
    columns = {
        "setting": table.label,
        "environment": table.env,
        "seeds": [str(a) if a == b else f"{a}, {b}" for a, b in both],
        pair.first: table.a.map(number),
        pair.name: table.b.map(number),
        "difference": gap,
        "verdict": table.verdict,
    }
    best = [i for i, verdict in enumerate(table.verdict) if verdict == "worse"]
    caption = f"Mean final returns, and {pair.name} minus {pair.first}; stressed where it is worse."
    return Table(f"difference-{pair.number}", caption, columns, words=2, best=best)


def _picture(pair: Pair, table: pd.DataFrame) -> Picture:
    """A dot and a bar for each setting, one panel for each environment: scales differ."""
    envs = dict.fromkeys(table.env)
    height = 0.9 + 0.32 * int(table.env.value_counts().max())
    figure, grid = panels(len(envs), 4.6 + _style.inches(table.label), height, columns=1)
    colours = {"worse": _style.COLOURS[1], "better": _style.COLOURS[2]}
    for axes, env in zip(grid, envs, strict=True):
        rows = table[table.env == env]
        for y, row in enumerate(rows.itertuples()):
            look = {"color": colours.get(str(row.verdict), _style.COLOURS[0]), "marker": "o"}
            _style.draw_interval(axes, y, row.difference, row.low, row.high, look)
        axes.axvline(0, color=GREY, linewidth=1)
        _style.name_rows(axes, list(rows.label), shown=True)
        axes.set(xlabel=f"return on {env}: {pair.name} minus {pair.first}")
    return Picture(
        f"difference-{pair.number}",
        f"{pair.name} against {pair.first}",
        pair.line,
        "Dot: the difference in mean final return. Bar: its interval, which holds for all settings "
        "together. Orange: worse. Green: better.",
        figure,
    )
