"""The trust region that a setting claims to keep: the mean KL(old || new) of an update, in nats."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.settings import declared, with_role

BOUND, SET_POINT, HEURISTIC, NONE = "bound", "set point", "heuristic", "none"
ROUNDING = 1e-5
"""Relative tolerance: a bound is checked in float32 and measured again."""


class Claim(NamedTuple):
    """A trust region as a setting states it; ``what`` is its name or formula.

    The kind is "bound", "set point", "heuristic" or "none", the value is in nats. ``stop`` is an
    additional bound, at which epochs are undone. Infinity means no region, or no stop.
    """

    kind: str
    what: str
    value: float
    stop: float = np.inf

    def __str__(self) -> str:
        """Like ``bound 0.02``, or ``set point 0.01, stop 0.05``."""
        stated = "none" if self.kind == NONE else f"{self.kind} {self.value:.3g}"
        return stated + (f", stop {self.stop:.3g}" if np.isfinite(self.stop) else "")


def claim_of(experiment: Experiment) -> Claim:
    """The mean KL of an update that a setting claims to keep to.

    If there are several, it is the one that the method is named for: a set point that is steered
    towards comes before clipping's heuristic, and both before the bound at which epochs are undone.
    """
    roles = ("bound", "set point", "clip")
    bound, set_point, clip = (_finite_setting(experiment.update, role) for role in roles)
    stop = bound[1] if bound else np.inf
    if set_point:
        return Claim(SET_POINT, *set_point, stop)
    if clip:
        return Claim(HEURISTIC, f"{clip[0]}²/2", clip[1] ** 2 / 2, stop)
    return Claim(BOUND, *bound) if bound else Claim(NONE, "", np.inf)


def _finite_setting(update: Any, role: str) -> tuple[str, float] | None:
    """Name and value of the setting with a role, if there is one and it is not switched off."""
    found = [(name, float(getattr(update, name))) for name in with_role(update, role)]
    return next((pair for pair in found if np.isfinite(pair[1])), None)


def schedule_of(experiment: Experiment) -> tuple[float, float, int]:
    """Value v, anneal a and power p: the claim after a share x of a training is v (1 - a x)^p.

    The value is NaN where nothing is claimed, the power 0 where the schedule leaves the claim.
    """
    stated = claim_of(experiment)
    powers = {f.name: declared(f).anneal for f in dataclasses.fields(experiment.update)}
    value = np.nan if stated.kind == NONE else stated.value
    return value, float(experiment.budget.anneal), powers.get(stated.what, 0)


def in_force(
    experiment: Experiment, iteration: np.ndarray, reported: np.ndarray | None = None
) -> np.ndarray:
    """The claim at each update [n], annealed; NaN is no claim.

    Args:
        experiment: the setting.
        iteration: [n], from 0.
        reported: [n], the value that the algorithm reports itself, which goes before; NaN where it
            does not.
    """
    value, anneal, power = schedule_of(experiment)
    done = iteration / max(experiment.num_iterations, 1)
    claim = value * (1 - anneal * done) ** power
    if reported is None or np.isnan(value):
        return claim
    return np.where(np.isnan(reported), claim, reported)
