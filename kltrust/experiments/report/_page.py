"""The parts of a page, as HTML and as Markdown: sections of paragraphs, tables and figures.

All tables format their numbers in the same way.
"""

import base64
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from kltrust.experiments.reading.statistics import Estimate
from kltrust.experiments.report._style import image


@dataclass(frozen=True)
class Table:
    """Cells by the title of their column; the first column names the row.

    The first ``words`` columns hold words; numbers are aligned to the right. The rows with the
    indices in ``best`` are stressed. With a text in ``fold``, a click on it shows the table.
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
        """The rows, each with a cell for every column."""
        return [[str(cell) for cell in row] for row in zip(*self.columns.values(), strict=True)]

    def markdown(self) -> str:
        """The table in GitHub's Markdown, after its caption."""
        rule = ["---"] * self.words + ["---:"] * (len(self.columns) - self.words)
        rows = self.rows
        for i in self.best:
            rows[i][0] = f"**{rows[i][0]}**"
        lines = [" | ".join(map(_escaped, row)) for row in (self.columns, rule, *rows)]
        return "\n".join([self.caption, "", *(f"| {line} |" for line in lines)])


def _escaped(cell: str) -> str:
    """The cell escaped: a bar would end it, a line break end the table, an angle begin a tag."""
    return cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


@dataclass(frozen=True)
class Code:
    """Text to copy or, of kind "formula", to read; with a text in ``fold``, a click shows it."""

    text: str
    kind: str = "code"
    fold: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure; ``alt`` says the same in words and numbers, for readers who can't see it."""

    name: str
    title: str
    alt: str
    caption: str
    figure: Any
    kind: str = "picture"

    @functools.cached_property
    def address(self) -> str:
        """A data URL that contains the whole figure."""
        return "data:image/svg+xml;base64," + base64.b64encode(image(self.figure, "svg")).decode()

    @property
    def width(self) -> int:
        """The width in CSS pixels, 96 to the inch: letters are nearly as large as the page's."""
        return round(self.figure.get_figwidth() * 96)


Block = str | list[str] | Code | Picture | Table
"""A string is a paragraph; a list of strings is a list of sentences."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; ``name`` is for links to it."""

    name: str
    title: str
    blocks: Sequence[Block]
    sections: Sequence["Section"] = ()

    def walk(self) -> Iterator["Section"]:
        """The section itself and all sections in it, in the order of the page."""
        yield self
        for section in self.sections:
            yield from section.walk()

    @property
    def rows(self) -> list[Block | list[Picture]]:
        """Its blocks; neighbouring pictures form one row and stand side by side."""
        found: list[Any] = []
        for block in self.blocks:
            if not isinstance(block, Picture):
                found.append(block)
            elif found and isinstance(found[-1], tuple):
                found[-1] += (block,)
            else:
                found.append((block,))
        return found

    @property
    def tables(self) -> list[Table]:
        """Its own tables."""
        return [block for block in self.blocks if isinstance(block, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """Its own pictures."""
        return [block for block in self.blocks if isinstance(block, Picture)]


def each_env(
    name: str, frame: pd.DataFrame, blocks: Callable[[str, str, pd.DataFrame], list[Block]]
) -> list[Section]:
    """A section for each environment of a frame; ``blocks`` makes it from environment and rows."""
    names = {str(env): f"{name}-{i}" for i, env in enumerate(dict.fromkeys(frame.env))}
    return [Section(n, env, blocks(n, env, frame[frame.env == env])) for env, n in names.items()]


def render(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """One HTML page that needs no other files and no network."""
    loader = jinja2.PackageLoader("kltrust.experiments.report", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    template = environment.get_template("template.html.j2")
    script = resources.files("kltrust.experiments.report").joinpath("table.js").read_text("utf-8")
    page = template.render(
        title=title, notes=notes, sections=sections, script=markupsafe.Markup(script)
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def markdown(sections: Sequence[Section]) -> str:
    """All tables, under the headings of their sections."""
    parts = []
    for top in sections:
        for section in top.walk():
            if any(inner.tables for inner in section.walk()):
                parts.append(f"{'##' if section is top else '###'} {section.title}")
            parts += [table.markdown() for table in section.tables]
    return "\n\n".join(parts) + "\n"


def slug(name: str) -> str:
    """A name made fit for a file or an anchor."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"


def number(value: float, size: float | None = None) -> str:
    """A score to three or four digits: ``-1,012``, ``93.8``, ``0.512``; a dash if there is none.

    The number of decimals fits ``size``, or else the value.
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
    """A share as per cent; a few are never shown as 0 %, nor nearly all as 100 %."""
    if value != value:
        return "–"
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{value:.1%}".replace("%", " %").replace(".0 ", " ")


def listed(numbers: Sequence[int]) -> str:
    """The count, and the numbers: ``10: 0 to 9``."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{len(numbers)}: {numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)}: {', '.join(map(str, numbers))}"


def estimate(value: Estimate, count: int = 2) -> str:
    """Like ``499.1 [497.9, 500.0]``; without an interval if there is only one seed."""
    if count < 2:
        return number(value.value)
    size = max(map(abs, value))
    return "{} [{}, {}]".format(*(number(v, size) for v in value))
