"""The page and the Markdown, from sections."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kltrust.experiments.report._blocks import Picture, Section
from kltrust.experiments.report._style import data_uri, svg


def render(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """One HTML page that needs nothing beside it, nor a network."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kltrust.experiments.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("template.html.j2")
    page = template.render(title=title, notes=notes, sections=sections, image=_image, width=_width)
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def markdown(sections: Sequence[Section]) -> str:
    """All tables, under the headings of their sections."""
    parts = []
    for top in sections:
        walked = list(top.walk())
        for section in walked:
            tables = [table.markdown() for table in section.tables]
            if tables or (section is top and any(s.tables for s in walked)):
                parts.append(f"{'##' if section is top else '###'} {section.title}")
            parts += tables
    return "\n\n".join(parts) + "\n"


def slug(name: str) -> str:
    """A name as one of a file or of an anchor."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"


def _image(picture: Picture) -> str:
    return data_uri(svg(picture.figure))


def _width(picture: Picture) -> int:
    """In CSS pixels: 96 to the inch, so that letters have nearly the size of the page's."""
    return round(picture.figure.get_figwidth() * 96)
