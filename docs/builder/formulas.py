"""Formulas as MathML, made when the site is built: no script and no network when it is read.

Browsers lay MathML out by the tables of a mathematical font, which not every system has: the site
brings STIX Two Math (ziamath's copy), reduced to the signs that its formulas use.
"""

from __future__ import annotations

import html
import io
import re
from importlib import resources

from fontTools import subset
from latex2mathml.converter import convert

# Code first, which may hold a dollar sign; then $$display$$ and $inline$.
_CODE_OR_FORMULA = re.compile(
    r"^ *(?P<fence>`{3,}|~{3,}).*?^ *(?P=fence)$"
    r"|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
    r"|^(?P<display>\$\$.+?\$\$)$"
    r"|(?<!\\)(?P<inline>\$(?![\s$])(?:\\.|[^\\$\n]|\n(?!\s*\n))+?(?<!\s)\$)",
    re.DOTALL | re.MULTILINE,
)
# What MathML shows without its being written: the sign of a root, and one-letter names in italics.
_IMPLIED = {0x221A, 0x210E, *range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C)}


def to_mathml(markdown: str) -> tuple[str, set[int]]:
    """A page with its formulas converted, and the characters that these use.

    Raises:
        ValueError: if latex2mathml does not know a formula.
    """
    used: set[int] = set()

    def replace(match: re.Match[str]) -> str:
        if tex := match["display"] or match["inline"]:
            display = "block" if match["display"] else "inline"
            formula = _convert(html.unescape(tex).strip("$").strip(), display)
            used.update(map(ord, html.unescape(re.sub("<[^>]*>", "", formula))))
            # In a span, since Python-Markdown takes <math> at the start of a line to be a block.
            around = 'div class="formula"' if match["display"] else "span"
            return f"<{around}>{formula}</{around.split()[0]}>"
        return match.group()

    return _CODE_OR_FORMULA.sub(replace, markdown), used


def font(unicodes: set[int]) -> bytes:
    """STIX Two Math with these characters, and what stretches and shrinks them."""
    options = subset.Options(layout_features=["*"], notdef_outline=True, hinting=False)
    with resources.as_file(resources.files("ziamath") / "fonts/STIXTwoMath-Regular.ttf") as source:
        loaded = subset.load_font(str(source), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=unicodes | _IMPLIED)
    subsetter.subset(loaded)
    written = io.BytesIO()
    subset.save_font(loaded, written, options)
    return written.getvalue()


def _convert(tex: str, display: str) -> str:
    try:
        formula = convert(tex, display=display)
    except Exception as error:  # it has a class for each mistake, and none for all
        raise ValueError(f"not a formula: {tex}: {type(error).__name__}") from error
    if unknown := re.search(r"\\\w+", formula):
        raise ValueError(f"{unknown.group()} is not known to latex2mathml, in {tex}")
    # A sign that Markdown would read is written as a character reference.
    return re.sub(r"[*_\[\]`~^|\\](?=[^<>]*<)", lambda sign: f"&#{ord(sign[0])};", formula)
