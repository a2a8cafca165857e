"""Figures of the audit: frames to figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.reading.audit_plots import path_of, percentiles
from kltrust.experiments.report._region_figures import SHOWN, shown
from kltrust.experiments.report._style import legend_below, panels, styles, thousands
from kltrust.experiments.report._tables import small

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SHOWN", "along", "said", "within"]


def along(audited: pd.DataFrame) -> Any:
    """From updates of one environment with ``length``: three panels, a line for each setting."""
    audited = audited[audited.label.isin(shown(audited))]
    exact = "audit.update.tv.mean" in audited and audited["audit.update.tv.mean"].notna().all()
    drawn = {
        f"audit.update.{'tv.mean' if exact else 'tv_sampled'}": "TV, mean over states",
        "audit.update.killed": "samples that clipping kills",
        "audit.update.effective_sample_size": "effective sample size",
        "length": "sum of sqrt(2 KL) so far",
    }
    figure, grid = panels(len(drawn), width=4.2, height=3.0, columns=2)
    handles = {}
    for axes, (column, title) in zip(grid, drawn.items(), strict=True):
        for label, style in styles(audited.label).items():
            rows = audited[audited.label == label]
            by_step = rows[column].astype(float).groupby(rows.env_steps)
            middle = by_step.median()
            handles[label] = axes.plot(
                middle.index,
                middle,
                color=style.colour,
                linestyle=style.line,
                marker=style.marker,
                markersize=4,
                markevery=max(1, len(middle) // 6),
            )[0]
            if rows.run.nunique() > 2:
                low, high = by_step.quantile(0.05), by_step.quantile(0.95)
                axes.fill_between(
                    middle.index, low, high, color=style.colour, alpha=0.18, linewidth=0
                )
        thousands(axes)
        axes.set(ylabel=title, xlabel="environment steps of each run")
    legend_below(figure, handles)
    return figure


def within(recorded: pd.DataFrame) -> Any:
    """From updates of one environment with recorded paths: KL against epochs, by setting."""
    figure, (axes,) = panels(1, width=6.4, height=3.6)
    handles = {}
    for label, style in styles(recorded[recorded.label.isin(shown(recorded))].label).items():
        minibatch, epoch = path_of(recorded[recorded.label == label])
        num_epochs, per_epoch = minibatch.shape[1:]
        before = np.arange(num_epochs * per_epoch) / per_epoch
        middle = percentiles(minibatch.reshape(len(minibatch), -1))[1]
        axes.plot(before, middle, color=style.colour, linestyle=style.line, linewidth=1)
        handles[label] = axes.plot(
            np.arange(1, num_epochs + 1),
            percentiles(epoch)[1],
            color=style.colour,
            marker=style.marker,
            linestyle="",
        )[0]
    axes.set(xlabel="epochs of the update", ylabel="mean KL(old || now), nats")
    legend_below(figure, handles)
    return figure


def said(recorded: pd.DataFrame) -> str:
    """The medians after the first and after the last epoch, in words."""
    found = []
    for label, rows in recorded.groupby("label", sort=False):
        middle = percentiles(path_of(rows)[1])[1]
        found.append(f"{label} from {small(middle[0])} after one epoch to {small(middle[-1])}")
    return "; ".join(found) + "."
