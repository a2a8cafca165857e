"""Tables that a page and a README share, and how numbers are written in them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kltrust.experiments.reading.statistics import Estimate


@dataclass(frozen=True)
class Table:
    """Cells by the title of their column; the first column names the row.

    So many first columns hold ``words``; numbers stand to the right. The rows with the indices in
    ``best`` are stressed. A text in ``fold`` has to be pressed to see the table.
    """

    name: str
    caption: str
    columns: Mapping[str, Collection[Any]]
    words: int = 1
    best: Collection[int] = ()
    fold: str = ""
    kind: str = "table"

    @property
    def rows(self) -> list[list[str]]:
        """As many cells each as there are columns."""
        return [[str(cell) for cell in row] for row in zip(*self.columns.values(), strict=True)]

    def markdown(self) -> str:
        """As a table of GitHub's Markdown, with its caption before it."""
        rule = ["---"] * self.words + ["---:"] * (len(self.columns) - self.words)
        rows = self.rows
        for i in self.best:
            rows[i][0] = f"**{rows[i][0]}**"
        lines = [" | ".join(map(_escaped, row)) for row in (self.columns, rule, *rows)]
        return "\n".join([self.caption, "", *(f"| {line} |" for line in lines)])


def _escaped(cell: str) -> str:
    """A bar would end the cell, a line break the table, and an angle begin a tag."""
    return cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def number(value: float, size: float | None = None) -> str:
    """A score to three or four digits: ``-1,012``, ``93.8``, ``0.512``; a dash if there is none.

    The number of decimals is that of ``size``, or of the value.
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
