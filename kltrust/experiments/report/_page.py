"""What a page consists of, sections of paragraphs, tables and figures; as HTML and as Markdown."""

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd

from kltrust.experiments.report._style import image
from kltrust.experiments.report._tables import Table


@dataclass(frozen=True)
class Code:
    """Something to copy or, of kind "formula", to read; a text in ``fold`` has to be pressed."""

    text: str
    kind: str = "code"
    fold: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure; ``alt`` is what it says, with the numbers, for who can't see it."""

    name: str
    title: str
    alt: str
    caption: str
    figure: Any
    kind: str = "picture"

    @property
    def address(self) -> str:
        """An address that holds all of the figure."""
        return "data:image/svg+xml;base64," + base64.b64encode(image(self.figure, "svg")).decode()

    @property
    def width(self) -> int:
        """In CSS pixels: 96 to the inch, so that letters have nearly the size of the page's."""
        return round(self.figure.get_figwidth() * 96)


Block = str | list[str] | Code | Picture | Table
"""A text is a paragraph, a list of texts a list of sentences."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; ``name`` is for links to it."""

    name: str
    title: str
    blocks: Sequence[Block]
    sections: Sequence["Section"] = ()

    def walk(self) -> Iterator["Section"]:
        """Itself and all sections in it, in the order of the page."""
        yield self
        for section in self.sections:
            yield from section.walk()

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
    """A section for each environment of a frame: its name, environment and rows make its blocks."""
    names = {str(env): f"{name}-{i}" for i, env in enumerate(dict.fromkeys(frame.env))}
    return [Section(n, env, blocks(n, env, frame[frame.env == env])) for env, n in names.items()]


def render(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """One HTML page that needs nothing beside it, nor a network."""
    loader = jinja2.PackageLoader("kltrust.experiments.report", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    template = environment.get_template("template.html.j2")
    page = template.render(title=title, notes=notes, sections=sections)
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
    """A name as one of a file or of an anchor."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"
