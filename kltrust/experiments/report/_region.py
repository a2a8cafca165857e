"""The trust region that each setting claims, and how far its updates went.

What is measured is the learner's, exact and alike for every algorithm: KL(old || new) in nats over
the states of the batch, its mean and its maximum, and the largest probability ratio.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.report._gather import Study
from kltrust.settings import declared, with_role

if TYPE_CHECKING:
    import pandas as pd

BOUND, SET_POINT, HEURISTIC, NONE = "bound", "set point", "heuristic", "none"
KINDS = {
    BOUND: "max_kl: the update is shortened or undone until its mean KL is no larger",
    SET_POINT: "target_kl: what the mean KL is steered towards: it is meant to be met, not to hold",
    HEURISTIC: (
        "clip_eps² / 2, the mean KL at which log-ratios have a mean square of clip_eps²; "
        "nobody promised it, clipping bounds neither a ratio nor a KL"
    ),
    NONE: "no region: the step size, or the weight of a penalty, is all that holds it back",
}
ROUNDING = 1e-5
"""Relative; a bound is checked in float32 and measured again."""


class Claim(NamedTuple):
    """A trust region as a setting states it.

    Attributes:
        kind: `BOUND`, `SET_POINT`, `HEURISTIC` or `NONE`.
        what: the setting's name, or the formula.
        value: in nats; infinite if there is none.
        stop: a bound beside it, at which epochs are undone; infinite if there is none.
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

    Where there are several, it is what the method is named for: a set point that is steered towards
    goes before clipping's heuristic, and both before the bound at which epochs are undone.
    """
    update = experiment.update
    bound, set_point, clip = (
        _finite_setting(update, role) for role in ("bound", "set point", "clip")
    )
    stop = bound[1] if bound else np.inf
    if set_point:
        return Claim(SET_POINT, *set_point, stop)
    if clip:
        return Claim(HEURISTIC, f"{clip[0]}²/2", clip[1] ** 2 / 2, stop)
    return Claim(BOUND, *bound) if bound else Claim(NONE, "", np.inf)


def _finite_setting(update: Any, role: str) -> tuple[str, float] | None:
    """Name and value of the setting of a role, if there is one and it is not switched off."""
    found = [(name, float(getattr(update, name))) for name in with_role(update, role)]
    return next((pair for pair in found if np.isfinite(pair[1])), None)


def updates(study: Study) -> pd.DataFrame:
    """The study's metrics with ``claim``, the value in force at each update, and ``used``.

    In force is what the algorithm reports of itself, where it does; else the setting, annealed if
    it is. ``used`` is kl / claim.
    """
    metrics = study.metrics.reset_index(drop=True)
    claim = np.full(len(metrics), np.nan)
    for run, rows in metrics.groupby("run").indices.items():
        experiment = study.setting(int(run)).experiment
        stated = claim_of(experiment)
        if stated.kind == NONE:
            continue
        left = _annealing(experiment, stated.what, metrics.iteration.to_numpy()[rows])
        claim[rows] = stated.value * left
        column = f"extra.{stated.what}"
        if column in metrics:
            reported = metrics[column].iloc[rows].to_numpy(float, na_value=np.nan)
            claim[rows] = np.where(np.isnan(reported), claim[rows], reported)
    with np.errstate(divide="ignore", invalid="ignore"):
        return metrics.assign(claim=claim, used=metrics.kl / claim)


def _annealing(experiment: Experiment, setting: str, iteration: np.ndarray) -> np.ndarray:
    """The factor that the schedule puts on a setting: 1 where it is another that is annealed."""
    powers = {f.name: declared(f).anneal for f in dataclasses.fields(experiment.update)}
    power = powers.get(setting, 0)
    done = iteration / max(experiment.num_iterations, 1)
    return np.asarray(1 - experiment.budget.anneal * done) ** power


def measured(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """One row per environment and label, from `updates`.

    Columns: env, method, label, claim (`Claim`), updates, nonfinite (how many of them have a KL
    that is no number), median, p95 and largest of the mean KL, state_median and state_largest of
    the maximum over states, max_ratio, clip_fraction (mean), above (share of the updates beyond the
    claim; one that is no number is beyond it), overran (how many are beyond ``claim.stop``), used
    (median of kl / claim).
    """
    import pandas as pd

    rows = []
    for (env, label), part in table.groupby(["env", "label"], sort=False):
        claim = claim_of(study.setting(int(part.run.iloc[0])).experiment)
        finite = np.isfinite(part.kl)
        kl = part.kl[finite].astype(float)
        # 0 <= 0: a bound that is annealed to nothing, and an update that did not move.
        beyond = ~(part.kl <= part.claim * (1 + ROUNDING))
        rows.append(
            {
                "env": env,
                "method": part.method.iloc[0],
                "label": label,
                "claim": claim,
                "updates": len(part),
                "nonfinite": int((~finite).sum()),
                "median": kl.median(),
                "p95": kl.quantile(0.95),
                "p05": kl.quantile(0.05),
                "largest": kl.max(),
                "state_median": _finite(part.kl_max).median(),
                "state_largest": _finite(part.kl_max).max(),
                "max_ratio": _finite(part.max_ratio).max(),
                "clip_fraction": _finite(part.clip_fraction).mean(),
                "above": np.nan if claim.kind == NONE else beyond.mean(),
                "overran": int((~(part.kl <= claim.stop * (1 + ROUNDING))).sum()),
                "used": np.nan if claim.kind == NONE else _finite(part.used).median(),
            }
        )
    return pd.DataFrame(rows)


def _finite(column: pd.Series) -> pd.Series:
    return column[np.isfinite(column)].astype(float)
