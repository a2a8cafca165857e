"""Pictures of runs: the returns, and how far the policy moved to reach them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.settings import with_role

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's blue and vermilion: distinguishable with any colour vision.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#777777"
_APART = 4
"""The space between two numbers on an axis, in dots of a figure of 100 dots per inch."""


def learning_curve(
    experiment: Experiment, metrics: pd.DataFrame, evaluations: pd.DataFrame, path: Path
) -> Path:
    """Draws return and realised KL against environment steps.

    Left: the mean evaluation return over seeds with its range, and the training return. Right:
    the mean KL(old || new) of every update (median over seeds, 5th to 95th percentile, the largest)
    and the bound or set point in the algorithm's settings.
    """
    figure, (left, right) = panels(2, 5, 3.8)
    _draw_returns(left, evaluations, metrics)
    _draw_kl(right, metrics, experiment)
    seeds = metrics.seed.nunique()
    figure.suptitle(
        f"{experiment.algorithm} on {experiment.env}, {seeds} seed{'s' if seeds > 1 else ''}"
    )
    thin_tick_labels(figure)
    figure.savefig(path, dpi=120)
    return path


def panels(number: int, width: float, height: float, columns: int = 3, **shared: Any) -> Any:
    """A figure with a grid of ``number`` axes, each of a size in inches: (figure, list of axes)."""
    from matplotlib.figure import Figure

    columns = min(columns, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **shared).flatten().tolist()
    for axes in grid[number:]:
        axes.set_axis_off()
    for axes in grid:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid[:number]


def curve(axes: Any, x: Any, middle: Any, low: Any = None, high: Any = None, **look: Any) -> None:
    """A line, with a band from low to high if they are given."""
    axes.plot(x, middle, **look)
    if low is not None:
        axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)


def draw_over_seeds(
    axes: Any, rows: pd.DataFrame, values: pd.Series, *, least: int = 2, **look: Any
) -> None:
    """The median over seeds against steps; from ``least`` seeds on, also a band.

    The band is the 5th to the 95th percentile.
    """
    by_step = values.astype(float).groupby(rows.env_steps)
    low, middle, high = (by_step.quantile(q) for q in (0.05, 0.5, 0.95))
    band = (low, high) if rows.seed.nunique() >= least else ()
    curve(axes, middle.index, middle, *band, **look)


def _draw_returns(axes: Any, evaluations: pd.DataFrame, metrics: pd.DataFrame) -> None:
    sums = metrics.groupby("env_steps")[["return_sum", "num_episodes"]].sum()
    sums = sums[sums.num_episodes > 0]
    axes.plot(
        sums.index,
        sums.return_sum / sums.num_episodes,
        color=GREY,
        linewidth=1,
        label="training: mean of the episodes that ended",
    )
    by_step = evaluations.groupby("env_steps").mean_return
    mean, label = by_step.mean(), "evaluation, acting by the mode"
    several = evaluations.seed.nunique() > 1
    band = (by_step.min(), by_step.max()) if several else ()
    label += ": mean and range of seeds" if several else ""
    curve(axes, mean.index, mean, *band, color=BLUE, marker=".", label=label)
    label_axes(axes, "What was learned", "return")


def _draw_kl(axes: Any, metrics: pd.DataFrame, experiment: Experiment) -> None:
    by_step = metrics.groupby("env_steps")
    several = metrics.seed.nunique() > 1
    label = "median of seeds" if several else "of each update"
    draw_over_seeds(axes, metrics, metrics.kl, color=VERMILION, label=label)
    if several:
        axes.collections[0].set_label("5th to 95th percentile")
        style = {"color": VERMILION, "linestyle": ":", "linewidth": 1}
        axes.plot(by_step.kl.max(), label="largest", **style)
    update = experiment.update
    for name in (*with_role(update, "bound"), *with_role(update, "set point")):
        if np.isfinite(bound := float(getattr(update, name))):
            # The bound in force at each update, if reported: it may be annealed.
            told = f"extra.{name}"
            in_force = by_step[told].mean() if told in metrics else 0 * by_step.size() + bound
            style = {"color": "black", "linestyle": "--", "linewidth": 1}
            axes.plot(in_force, label=f"{name} {bound:g}", **style)
    logarithmic(axes, metrics.kl)
    label_axes(axes, "How far the policy moved, per update", "mean KL(old || new), nats")


def logarithmic(axes: Any, values: Iterable[float], which: str = "y") -> None:
    """A logarithmic axis with plain numbers, if there are positive values; extra ticks if few."""
    from matplotlib.ticker import LogLocator, NullFormatter

    positive = [v for v in values if v > 0 and np.isfinite(v)]
    if not positive:
        return
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval() if axes.has_data() else (min(positive), max(positive))
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=9))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def thousands(axes: Any) -> None:
    """Plain numbers with separators on the x axis, few enough to read."""
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.locator_params(axis="x", nbins=5)


def thin_tick_labels(figure: Any) -> None:
    """Leaves out the numbers on an axis that would overlap, and fixes the layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.ticker import FixedLocator, NullLocator

    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    taken: list[Any] = []
    for axes in figure.axes:
        axis = axes.xaxis  # numbers above each other have room
        low, high = sorted(axis.get_view_interval())
        ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        ticks = sorted((t for t in ticks if t.label1.get_text()), key=lambda t: t.get_loc())
        kept: list[Any] = []
        for tick in ticks:
            box = tick.label1.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                kept.append(tick)
                taken.append(box.padded(_APART, 0))
        if len(kept) < len(ticks):
            texts = [tick.label1.get_text() for tick in kept]
            axis.set_major_locator(FixedLocator([tick.get_loc() for tick in kept]))
            axis.set_minor_locator(NullLocator())
            axis.set_ticklabels(texts)
    figure.set_layout_engine("none")


def label_axes(axes: Any, title: str, ylabel: str) -> None:
    """Title, labels and legend, against environment steps."""
    axes.set(xlabel="environment steps of each run", ylabel=ylabel, title=title)
    thousands(axes)
    axes.legend(fontsize=8, framealpha=0.7, edgecolor="none")
