"""Pictures of runs: what was learned, beside how far the policy moved for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.settings import with_role

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's blue and vermilion: told apart with any colour vision.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#777777"


def learning_curve(
    experiment: Experiment, metrics: pd.DataFrame, evaluations: pd.DataFrame, path: Path
) -> Path:
    """Draws return and realised KL against environment steps.

    Left: the mean evaluation return over seeds with its range, and the training return. Right:
    the mean KL(old || new) of every update (median over seeds, 5th to 95th percentile, the largest)
    and the bound or set point that the algorithm was given.

    Args:
        experiment: of all rows.
        metrics: those of `Results`.
        evaluations: likewise.
        path: of the picture.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    _draw_returns(left, evaluations, metrics)
    _draw_kl(right, metrics, experiment)
    seeds = metrics.seed.nunique()
    figure.suptitle(
        f"{experiment.algorithm} on {experiment.env}, {seeds} seed{'s' if seeds > 1 else ''}"
    )
    figure.savefig(path)
    return path


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
    steps = by_step.mean().index
    label = "evaluation, acting by the mode"
    if evaluations.seed.nunique() > 1:
        label += ": mean and range of seeds"
        axes.fill_between(steps, by_step.min(), by_step.max(), color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(steps, by_step.mean(), color=BLUE, marker=".", label=label)
    dress(axes, "What was learned", "return")


def _draw_kl(axes: Any, metrics: pd.DataFrame, experiment: Experiment) -> None:
    by_step = metrics.groupby("env_steps").kl
    steps, median = by_step.median().index, by_step.median()
    if metrics.seed.nunique() > 1:
        low, high = by_step.quantile(0.05), by_step.quantile(0.95)
        shade = axes.fill_between(steps, low, high, color=VERMILION, alpha=0.2, linewidth=0)
        shade.set_label("5th to 95th percentile")
        axes.plot(steps, median, color=VERMILION, label="median of seeds")
        axes.plot(
            steps, by_step.max(), color=VERMILION, linestyle=":", linewidth=1, label="largest"
        )
    else:
        axes.plot(steps, median, color=VERMILION, label="of each update")
    update = experiment.update
    names = [*with_role(update, "bound"), *with_role(update, "set point")]
    bounds = {name: float(getattr(update, name)) for name in names}
    for name, bound in bounds.items():
        if np.isfinite(bound):
            # The one that was in force, where it is reported: it may be annealed.
            in_force = np.full(len(steps), bound)
            if f"extra.{name}" in metrics:
                in_force = metrics.groupby("env_steps")[f"extra.{name}"].mean().to_numpy()
            style = {"color": "black", "linestyle": "--", "linewidth": 1}
            axes.plot(steps, in_force, label=f"{name} {bound:g}", **style)
    if (metrics.kl > 0).any():
        logarithmic(axes, [*metrics.kl, *bounds.values()])
    dress(axes, "How far the policy moved, per update", "mean KL(old || new), nats")


def logarithmic(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis labelled with plain numbers, some within a decade if there are few."""
    from matplotlib.ticker import LogLocator, NullFormatter

    positive = [v for v in values if v > 0 and np.isfinite(v)]
    few = max(positive) < 30 * min(positive)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def dress(axes: Any, title: str, ylabel: str) -> None:
    """Title, labels, legend and grid, against environment steps."""
    axes.set(xlabel="environment steps of each run", ylabel=ylabel, title=title)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    axes.legend(fontsize=8, framealpha=0.7, edgecolor="none")
    axes.grid(alpha=0.3)
