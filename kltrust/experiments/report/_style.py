"""How the figures look: for any colour vision, on a light ground, in print."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

# Okabe and Ito's, without the yellow, which no light ground shows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
GREY, INK = "#777777", "#222222"


class Style(NamedTuple):
    """Colour, marker and line: each tells a name from its neighbours without the other two."""

    colour: str
    marker: str
    line: Any


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name, in order; the three repeat after 7, 8 and 5, never together."""
    return {
        name: Style(COLOURS[i % 7], MARKERS[i % 8], LINES[i % 5])
        for i, name in enumerate(dict.fromkeys(names))
    }


def panels(number: int, *, width: float = 4.6, height: float = 3.4, columns: int = 3) -> Any:
    """A figure with a grid of so many axes: (figure, list of axes)."""
    from matplotlib.figure import Figure

    columns = min(columns, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in grid[number:]:
        axes.set_axis_off()
    for axes in grid:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid[:number]


def thousands(axes: Any) -> None:
    """Plain numbers with separators, few enough to be read."""
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.locator_params(axis="x", nbins=5)


def logarithmic(axes: Any, which: str, values: Iterable[float]) -> None:
    """A logarithmic "x" or "y" axis in plain numbers, if there are positive values."""
    from matplotlib.ticker import LogLocator, NullFormatter

    positive = [v for v in values if v > 0 and np.isfinite(v)]
    if not positive:
        return
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval() if axes.has_data() else (min(positive), max(positive))
    few = high < 100 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=9))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def inches(names: Iterable[str]) -> float:
    """How wide the longest of some names is, about, in a figure's letters."""
    return 0.08 * max(map(len, names), default=0)


def legend_below(figure: Any, handles: dict[str, Any]) -> None:
    """One legend for all panels, under them, where it covers nothing."""
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / (inches(handles) + 0.7)))),
        frameon=False,
        fontsize=9,
    )


def svg(figure: Any) -> bytes:
    """The figure as SVG: letters as paths, since no font is there for sure; no date in it."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "kltrust"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def png(figure: Any) -> bytes:
    """The figure as PNG, for slides and READMEs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def data_uri(image: bytes) -> str:
    """An SVG as the address of itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(image).decode()


def plain_text() -> Any:
    """Within it, a dollar in a label is a dollar: matplotlib takes a pair for mathematics."""
    import matplotlib

    return matplotlib.rc_context({"text.parse_math": False})
