"""The audit of a run as one picture: how far each update moved the policy, by several measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.reading.plots import (
    BLUE,
    GREY,
    VERMILION,
    curve,
    draw_over_seeds,
    label_axes,
    logarithmic,
    panels,
    thin_tick_labels,
)
from kltrust.settings import with_role

if TYPE_CHECKING:
    import pandas as pd

GREEN = "#009E73"


def audit_picture(experiment: Experiment, metrics: pd.DataFrame, path: Path) -> Path | None:
    """Draws the audited numbers against environment steps; returns None if nothing was audited.

    Lines are medians over seeds, with the 5th to the 95th percentile if there are several seeds. A
    run with audits on request has more panels: the path within an update, fresh states, the models.
    """
    drawn = [draw for needed, draw in _PANELS if needed in metrics]
    if not drawn:  # written by a version that measured less
        return None
    figure, grid = panels(len(drawn), 4.6, 3.6)
    for axes, draw in zip(grid, drawn, strict=True):
        draw(axes, metrics, experiment)
    figure.suptitle(f"{experiment.algorithm} on {experiment.env}: every update, audited")
    thin_tick_labels(figure)
    figure.savefig(path, dpi=120)
    return path


def lengths(metrics: pd.DataFrame) -> pd.Series:
    """The Fisher-Rao length of the path so far, for every row of a table: sums of sqrt(2 KL)."""
    step = np.sqrt(2 * metrics.kl.clip(lower=0))
    return step.groupby(metrics.run).cumsum()


def path_of(metrics: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The recorded paths: (before each minibatch [rows, E, M], after each epoch [rows, E])."""
    epoch = np.stack(metrics["audit.path.epoch"])
    minibatch = np.stack(metrics["audit.path.minibatch"])
    return minibatch.reshape(*epoch.shape, -1), epoch


def percentiles(values: np.ndarray) -> np.ndarray:
    """5th, 50th and 95th percentile over the rows that have a number; NaN where none has."""
    none = np.isnan(values).all(axis=0)
    found = np.nanpercentile(np.where(none, 0, values), (5, 50, 95), axis=0)
    return np.where(none, np.nan, found)


def _line(axes: Any, metrics: Any, values: Any, color: str, label: str, style: str = "-") -> None:
    draw_over_seeds(axes, metrics, values, color=color, label=label, linestyle=style)


def _draw_distance(axes: Any, metrics: pd.DataFrame, experiment: Experiment) -> None:
    if "audit.update.tv.mean" in metrics:
        _line(axes, metrics, metrics["audit.update.tv.mean"], BLUE, "mean over states")
        _line(axes, metrics, metrics["audit.update.tv.max"], BLUE, "largest", ":")
    else:
        _line(axes, metrics, metrics["audit.update.tv_sampled"], BLUE, "mean, sampled")
    pinsker = metrics["audit.update.pinsker.mean"]
    _line(axes, metrics, pinsker, GREY, "Pinsker's bound of the mean", "--")
    for name in with_role(experiment.update, "clip"):
        if np.isfinite(half_width := getattr(experiment.update, name)):
            axes.axhline(half_width / 2, color="black", linewidth=1, label=f"{name} / 2")
    axes.set_ylim(0, 1.4 * axes.get_ylim()[1])  # room for the legend
    label_axes(axes, "How far, in total variation", "TV(old, new)")


def _draw_samples(axes: Any, metrics: pd.DataFrame, _: Experiment) -> None:
    for name, color, label in (
        ("effective_sample_size", BLUE, "effective sample size"),
        ("gradient_removed", VERMILION, "beyond 0.2, clipping removes the gradient"),
        ("gradient_kept", GREEN, "beyond 0.2, it keeps the gradient"),
    ):
        _line(axes, metrics, metrics[f"audit.update.{name}"], color, label)
    axes.set_ylim(-0.02, 1.02)
    label_axes(axes, "What became of the samples", "share of the batch")


def _draw_length(axes: Any, metrics: pd.DataFrame, _: Experiment) -> None:
    _line(axes, metrics, lengths(metrics), BLUE, "way so far: sum of sqrt(2 KL)")
    name = "audit.reference.from_reference.mean"
    if name in metrics:
        distance = np.sqrt(2 * metrics[name].clip(lower=0))
        _line(axes, metrics, distance, VERMILION, "sqrt(2 KL(first || now))", "--")
    label_axes(axes, "The way and the distance", "Fisher-Rao length, sqrt(nats)")


def _draw_path(axes: Any, metrics: pd.DataFrame, _: Experiment) -> None:
    minibatch, epoch = path_of(metrics)
    num_epochs, per_epoch = minibatch.shape[1:]
    before = np.arange(num_epochs * per_epoch) / per_epoch
    low, middle, high = percentiles(minibatch.reshape(len(metrics), -1))
    label = "minibatch, before its step"
    curve(axes, before, middle, low, high, color=BLUE, linewidth=1, label=label)
    after = np.arange(1, num_epochs + 1)
    axes.plot(after, percentiles(epoch)[1], "o", color=VERMILION, label="whole batch, after it")
    label_axes(axes, "Along an update: median of all", "mean KL(old || now), nats")
    axes.set_xlabel("epochs of the update")
    axes.locator_params(axis="x", integer=True)


def _draw_fresh(axes: Any, metrics: pd.DataFrame, _: Experiment) -> None:
    _line(axes, metrics, metrics.kl, BLUE, "states of the batch")
    fresh = metrics["audit.fresh.kl.mean"]
    _line(axes, metrics, fresh, VERMILION, "states of the new policy", "--")
    drawn = [*metrics.kl, *fresh]
    if "audit.normalizer.mean" in metrics:
        moved = metrics["audit.normalizer.mean"]
        _line(axes, metrics, moved, GREEN, "the normaliser's own", ":")
        drawn += list(moved)
    logarithmic(axes, drawn)
    label_axes(axes, "The same elsewhere", "mean KL, nats")


def _draw_models(axes: Any, metrics: pd.DataFrame, _: Experiment) -> None:
    model = metrics.filter(like="audit.curvature.").rename(columns=lambda c: c.split(".", 2)[2])
    for realised, predicted, color, label in (
        ("kl", "kl_quadratic", BLUE, "KL / s'Fs/2"),
        ("kl", "kl_quadratic_damped", GREY, "KL / s'(F + damping I)s/2"),
        ("surrogate_gain", "surrogate_gain_linear", VERMILION, "gain / g's"),
    ):
        ratio = model[realised] / model[predicted].where(model[predicted] != 0)
        _line(axes, metrics, ratio, color, label)
    axes.axhline(1, color="black", linewidth=1)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1), min(high, 4))
    label_axes(axes, "Realised over predicted", "ratio")


def _draw_spectrum(axes: Any, metrics: pd.DataFrame, _: Experiment) -> None:
    prefix = "audit.curvature."
    eigenvalue = metrics[f"{prefix}largest_eigenvalue.value"]
    dimension = metrics[f"{prefix}effective_dimension.value"]
    _line(axes, metrics, eigenvalue, BLUE, "F's largest eigenvalue")
    _line(axes, metrics, dimension, VERMILION, "effective dimension")
    along = metrics[f"{prefix}curvature"]
    _line(axes, metrics, along, GREEN, "curvature along the step, s'Fs / s's")
    logarithmic(axes, [*eigenvalue, *dimension, *along])
    label_axes(axes, "The Fisher matrix", "nats per unit²; directions")


_PANELS: tuple[tuple[str, Callable[[Any, Any, Experiment], None]], ...] = (
    ("audit.update.pinsker.mean", _draw_distance),
    ("audit.update.gradient_removed", _draw_samples),
    ("audit.update.kl.mean", _draw_length),
    ("audit.path.epoch", _draw_path),
    ("audit.fresh.kl.mean", _draw_fresh),
    ("audit.curvature.kl_quadratic", _draw_models),
    ("audit.curvature.kl_quadratic", _draw_spectrum),
)
"""Each panel, after the name of the column that it needs."""
