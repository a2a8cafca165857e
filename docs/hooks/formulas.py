"""Formulas as MathML, made when the site is built: no script and no network when it is read.

Browsers lay MathML out by the tables of a mathematical font, which not every system has: the site
brings STIX Two Math (ziamath's copy), reduced to the signs that its formulas use.
"""

from __future__ import annotations

import html
import re
from importlib import resources
from pathlib import Path
from typing import Any

from fontTools import subset
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex leaves in its generic mode: \(inline\) in a span, \[display\] in a div.
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# What MathML shows without its being written: the sign of a root, and one-letter names in italics.
_IMPLIED = {0x221A, 0x210E, *range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C)}

_used: set[int] = set()


def on_pre_build(**kwargs: Any) -> None:
    """A new build has used nothing."""
    _used.clear()


def on_page_content(page_html: str, **kwargs: Any) -> str:
    """The page with its formulas converted."""
    return _FORMULA.sub(_convert, page_html)


def on_post_build(config: Any, **kwargs: Any) -> None:
    """Writes the font."""
    write_font(Path(config.site_dir) / "assets/math.ttf", _used | _IMPLIED)


def write_font(path: Path, unicodes: set[int]) -> None:
    """STIX Two Math with these characters, and what stretches and shrinks them."""
    options = subset.Options(layout_features=["*"], notdef_outline=True, hinting=False)
    with resources.as_file(resources.files("ziamath") / "fonts/STIXTwoMath-Regular.ttf") as source:
        font = subset.load_font(str(source), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=unicodes)
    subsetter.subset(font)
    subset.save_font(font, str(path), options)


def _convert(match: re.Match[str]) -> str:
    display = "block" if match.group(1) == "div" else "inline"
    tex = html.unescape(match.group(2)).strip()
    try:
        formula = convert(tex, display=display)
    except Exception as error:  # it has a class for each mistake, and none for all
        raise PluginError(f"not a formula: {tex}: {type(error).__name__}") from error
    if unknown := re.search(r"\\\w+", formula):
        raise PluginError(f"{unknown.group()} is not known to latex2mathml, in {tex}")
    _used.update(map(ord, html.unescape(re.sub("<[^>]*>", "", formula))))
    return f'<div class="formula">{formula}</div>' if display == "block" else formula
