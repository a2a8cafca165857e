"""Tables that a page and a README share: rows of text, drawn twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kltrust.experiments.reading.statistics import Estimate


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        name: for links to it.
        caption: what it shows, and how to read it.
        columns: their titles; the first names the row.
        rows: as many cells each.
        words: how many of the first columns hold words; numbers stand to the right.
        best: indices of rows to stress.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    best: frozenset[int] = frozenset()
    kind: str = "table"

    def markdown(self) -> str:
        """As a table of GitHub's Markdown, with its caption before it."""
        rule = ["---" if i < self.words else "---:" for i in range(len(self.columns))]
        lines = [self.columns, rule]
        for i, row in enumerate(self.rows):
            lines.append([f"**{row[0]}**", *row[1:]] if i in self.best else row)
        cells = [[_escaped(cell) for cell in line] for line in lines]
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _escaped(cell: str) -> str:
    """A bar would end the cell, a line break the table, and an angle begin a tag."""
    for character, instead in (("|", "\\|"), ("\n", " "), ("<", "&lt;")):
        cell = cell.replace(character, instead)
    return cell


def number(value: float, size: float | None = None) -> str:
    """A score to three or four digits: ``-1,012``, ``93.8``, ``0.512``; a dash if there is none.

    Args:
        value: the score.
        size: what decides how many decimals there are; None takes the value.
    """
    if value != value:
        return "–"
    size = abs(value if size is None else size)
    decimals = next((d for limit, d in ((1000, 0), (10, 1), (1, 2), (0.01, 3)) if size >= limit), 5)
    return f"{value:,.{decimals}f}"


def small(value: float) -> str:
    """Nats and ratios: three digits, whatever their size."""
    if value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def share(value: float) -> str:
    """A share as per cent; some is never shown as none, nor nearly all as all."""
    if value != value:
        return "–"
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{value:.1%}".replace("%", " %").replace(".0 ", " ")


def estimate(value: Estimate, count: int = 2) -> str:
    """Like ``499.1 [497.9, 500.0]``; without an interval where there is but one seed."""
    if count < 2:
        return number(value.value)
    size = max(map(abs, value))
    return "{} [{}, {}]".format(*(number(v, size) for v in value))


def chance(value: Estimate) -> str:
    """A probability with its interval."""
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
