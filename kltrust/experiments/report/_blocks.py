"""What a report consists of, before it is a page: sections of paragraphs, tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kltrust.experiments.report._tables import Table


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class List:
    """Some sentences, each of which stands for itself."""

    items: list[str]
    kind: str = "list"


@dataclass(frozen=True)
class Code:
    """Something to copy, a command or a file; of kind "formula", something to read."""

    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its file.
        title: what it shows.
        alt: what it says, with the numbers, for who can't see it.
        caption: how to read it.
        figure: matplotlib's.
    """

    name: str
    title: str
    alt: str
    caption: str
    figure: Any
    kind: str = "picture"


@dataclass(frozen=True)
class Fold:
    """A block that is there for who wants it."""

    title: str
    block: Table | Code
    kind: str = "fold"


Block = Text | List | Code | Picture | Fold | Table


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; ``name`` is for links to it."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def walk(self) -> Iterator[Section]:
        """Itself and all sections in it, in the order of the page."""
        yield self
        for section in self.sections:
            yield from section.walk()

    @property
    def tables(self) -> list[Table]:
        """Its own tables, folded ones included."""
        inner = [b.block if isinstance(b, Fold) else b for b in self.blocks]
        return [block for block in inner if isinstance(block, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """Its own pictures."""
        return [block for block in self.blocks if isinstance(block, Picture)]
