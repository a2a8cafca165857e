"""The style of the figures, for any colour vision and for print, and their common parts."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kltrust.experiments.reading.plots import draw_over_seeds, thin_tick_labels

# Okabe and Ito's colours without the yellow, which is invisible on a light ground.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
INK = "#222222"
LIGHT = "#e6e8eb"
DARK = {
    INK: LIGHT,
    "#000000": LIGHT,
    "#777777": "#a9b1ba",
    "#0072B2": "#4fb0ee",
    "#D55E00": "#ff8a3c",
    "#009E73": "#35cfa2",
    "#CC79A7": "#e9a3c9",
    "#56B4E9": "#c3b1ff",
}
"""Lighter colours for a dark ground."""
RC: dict[Any, Any] = {
    # A dollar in a label is a dollar: matplotlib would read a pair of them as mathematics.
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}
"""Matplotlib's settings for the figures."""

SHOWN = 6
"""The most settings of a method in one panel: more lines would hide each other."""
Look = dict[str, Any]
"""Matplotlib's keywords for a name: colour, marker and line."""
Looks = Mapping[str, Look]


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; its three parts repeat after 7, 8 and 5 names, so not together."""
    return {
        name: {"color": COLOURS[i % 7], "marker": MARKERS[i % 8], "linestyle": LINES[i % 5]}
        for i, name in enumerate(dict.fromkeys(names))
    }


def of_settings(rows: pd.DataFrame, looks: Looks) -> dict[str, Look]:
    """A look for each label: its method's colour, ever paler and with other lines."""
    found: dict[str, Look] = {}
    for method, labels in rows.groupby("method", sort=False).label:
        for i, label in enumerate(dict.fromkeys(labels)):
            lines = {
                "marker": MARKERS[i % 8],
                "linestyle": LINES[i % 5],
                "alpha": 1 - 0.1 * (i % 6),
            }
            found[label] = {"color": looks[method]["color"], **lines}
    return found


def draw_curves(axes: Any, rows: pd.DataFrame, column: str, **look: Any) -> None:
    """Draws `draw_over_seeds` of a column with markers; a band from three seeds on."""
    every = max(1, rows.env_steps.nunique() // 6)
    draw_over_seeds(axes, rows, rows[column], least=3, markersize=4, markevery=every, **look)


def draw_points(axes: Any, table: pd.DataFrame, x: str, looks: Looks) -> None:
    """Each row's mean with its interval, against a column; a line joins a method's points."""
    for method, rows in table.groupby("method", sort=False):
        rows = rows.sort_values(x)
        error = np.array([rows["mean"] - rows.low, rows.high - rows["mean"]])
        look = {"label": method, "capsize": 3, **looks[method]}
        axes.errorbar(rows[x], rows["mean"], yerr=error, **look)


def draw_interval(axes: Any, y: float, middle: float, low: float, high: float, look: Look) -> None:
    """A marker and a broad bar from low to high, in a row."""
    thick = {"linewidth": 5, "alpha": 0.4, "solid_capstyle": "butt"}
    axes.plot([low, high], [y, y], color=look["color"], **thick)
    axes.plot([middle], [y], **look)


def name_rows(axes: Any, names: list[str], *, shown: bool) -> None:
    """Labels a row for each name, the first on top."""
    axes.set_yticks(range(len(names)), names if shown else [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)


def inches(names: Iterable[str]) -> float:
    """The approximate width, in inches, of the longest name in a figure's letters."""
    return 0.08 * max(map(len, names), default=0)


def legend_below(figure: Any) -> None:
    """One legend of all labels under the panels, where it covers nothing."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    room = int(figure.get_figwidth() / (inches(handles) + 0.7))
    look = {"ncols": max(1, min(len(handles), room)), "frameon": False, "fontsize": 9}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", **look)


def image(figure: Any, kind: str) -> bytes:
    """The figure as "png" or "svg"; letters in SVG are paths, since a reader may lack any font.

    The figure is laid out when it is first drawn, and not again.
    """
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        thin_tick_labels(figure)
    buffer = io.BytesIO()
    how: dict[str, Any] = {"dpi": 150}
    if kind == "svg":
        how = {"metadata": {"Date": None}, "transparent": True}
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "kltrust"}):
        figure.savefig(buffer, format=kind, **how)
    found = buffer.getvalue()
    return found.replace(b"</style>", f"{_dark()}</style>".encode(), 1) if kind == "svg" else found


def _dark() -> str:
    """The CSS that gives an SVG lighter colours on a dark page."""
    rules = [
        f'[style*="{what}: {light.lower()}"]{{{what}:{dark} !important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    ]
    return f"@media (prefers-color-scheme: dark){{{''.join(rules)}}}"


def select_labels(updates: pd.DataFrame, most: int = SHOWN) -> set[str]:
    """At most ``most`` labels of each method, from the one that moved least to the one most."""
    found: set[str] = set()
    for _, rows in updates.groupby("method", sort=False):
        labels = rows.groupby("label").kl.median().sort_values().index
        places = np.linspace(0, len(labels) - 1, min(most, len(labels)))
        found |= set(labels[places.round().astype(int)])
    return found
