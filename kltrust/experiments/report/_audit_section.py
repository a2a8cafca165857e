"""The audit of every update: what its mean KL does not tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kltrust.experiments.reading.audit_plots import lengths
from kltrust.experiments.report import _audit_figures
from kltrust.experiments.report._blocks import Block, List, Picture, Section, Text
from kltrust.experiments.report._tables import Table, share, small

if TYPE_CHECKING:
    import pandas as pd

NEEDED = "audit.update.kl.mean"
"""The column without which a folder is of a version that measured less."""
ON_REQUEST = {
    "audit.fresh.kl.mean": "fresh / batch KL",
    "audit.normalizer.mean": "normaliser's KL",
    "audit.reference.from_reference.mean": "distance / way",
    "audit.curvature.kl_quadratic": "KL / model",
    "audit.curvature.surrogate_gain_linear": "gain / model",
    "audit.curvature.largest_eigenvalue.value": "F's largest",
    "audit.curvature.effective_dimension.value": "dimension",
    "audit.curvature.cg_residual": "CG residual",
}


def section(updates: pd.DataFrame) -> Section | None:
    """From `_region.updates`; None if no folder has been audited."""
    if NEEDED not in updates:
        return None
    audited = updates[updates[NEEDED].notna()]
    audited = audited.assign(length=lengths(audited))
    more = [name for name in ON_REQUEST if name in audited and audited[name].notna().any()]
    inner = []
    for i, env in enumerate(dict.fromkeys(audited.env)):
        mine = audited[audited.env == env]
        blocks: list[Block] = [_table(i, env, mine), _along(env, mine)]
        if more:
            blocks.append(_requested(i, env, mine, more))
        if (picture := _within(env, mine)) is not None:
            blocks.append(picture)
        inner.append(Section(f"audit-{i}", env, blocks))
    return Section(
        "audit",
        "Every update, audited",
        [
            Text(
                "The same KL can be many small moves or a few large ones. Total variation is half "
                "the L1 distance, exact where it has a closed form; a sample is killed where "
                "clipping at 0.2 would have removed its gradient, whatever the method does; the "
                "effective sample size is what is left of the batch once it is reweighted by its "
                "ratios; the way is the sum of sqrt(2 KL) over all updates, a length in the "
                "Fisher-Rao metric for small steps."
            ),
            List(_sentences(audited)),
        ],
        inner,
    )


def _sentences(audited: pd.DataFrame) -> list[str]:
    """One for each method."""
    found = []
    for method, rows in audited.groupby("method", sort=False):
        beyond = 1 - rows["audit.update.inside"].astype(float)
        killed = rows["audit.update.killed"].astype(float)
        size = rows["audit.update.effective_sample_size"].astype(float)
        found.append(
            f"{method}: of the samples {share(beyond.mean())} ended further than 0.2 from a ratio "
            f"of 1, {share(killed.mean())} where clipping kills; the worst update left an "
            f"effective sample size of {share(size.min())} of its batch."
        )
    return found


def _table(i: int, env: str, audited: pd.DataFrame) -> Table:
    rows = []
    for label, part in audited.groupby("label", sort=False):
        update = part.filter(like="audit.update.").rename(columns=lambda c: c.split(".", 2)[2])
        exact = "tv.mean" in update and update["tv.mean"].notna().any()
        way = part.groupby("run").length.max().median()
        scale = np.nan
        if "kl_from_scale" in update:
            scale = update.kl_from_scale.sum() / max(update["kl.mean"].sum(), np.finfo(float).tiny)
        rows.append(
            [
                str(label),
                small(update["tv.mean" if exact else "tv_sampled"].median()),
                small(update["tv.max"].max()) if exact else small(np.nan),
                small(update["pinsker.mean"].median()),
                small(update.ratio_deviation.median()),
                *(share(update[name].mean()) for name in ("killed", "passing")),
                share(update.effective_sample_size.median()),
                share(update.effective_sample_size.min()),
                share(scale),
                small(way),
            ]
        )
    return Table(
        f"audit-{i}",
        f"All updates on {env}. TV: mean over states, median of the updates (sampled, where there "
        "is no closed form), the largest of any state, and Pinsker's bound of the mean. |r-1|: "
        "mean over samples, median. Killed and passing: mean shares of samples beyond 0.2. ESS: "
        "effective sample size, median and least. Scale: the share of the KL that the Gaussian's "
        "scales make. Way: of a run, median.",
        [
            "setting",
            "TV",
            "largest",
            "Pinsker",
            "|r-1|",
            "killed",
            "passing",
            "ESS",
            "least",
            "scale",
            "way",
        ],
        rows,
    )


def _requested(i: int, env: str, audited: pd.DataFrame, columns: list[str]) -> Table:
    """What was audited on request; medians over updates, a dash where there is no such number."""
    rows = []
    for label, part in audited[audited[columns].notna().any(axis=1)].groupby("label", sort=False):
        rows.append([str(label), *(small(_median(part, name)) for name in columns)])
    return Table(
        f"audit-requested-{i}",
        f"On request, on {env}; medians over updates. Fresh: at states of the new policy. "
        "Distance: sqrt(2 KL(first || last)), over the way. Model: s'Fs/2 for the KL, g's for the "
        "gain. Dimension: tr(F (F + damping)^-1), estimated. CG residual: relative.",
        ["setting", *(ON_REQUEST[name] for name in columns)],
        rows,
    )


def _median(part: pd.DataFrame, column: str) -> float:
    """Of one of `ON_REQUEST`, as its title says."""
    values = part[column].astype(float)
    if column == "audit.reference.from_reference.mean":
        last = part.assign(distance=np.sqrt(2 * values.clip(lower=0))).groupby("run").last()
        return float((last.distance / last.length.where(last.length > 0)).median())
    with np.errstate(divide="ignore", invalid="ignore"):
        if column == "audit.fresh.kl.mean":
            values = values / part.kl.where(part.kl > 0)
        elif column == "audit.curvature.kl_quadratic":
            values = part.kl / values.where(values > 0)
        elif column == "audit.curvature.surrogate_gain_linear":
            values = part["audit.curvature.surrogate_gain"] / values.where(values != 0)
    known = values.dropna()
    return float(known.median()) if len(known) else np.nan


def _along(env: str, audited: pd.DataFrame) -> Picture:
    said = [
        f"{label}: killed {share(part['audit.update.killed'].mean())}, "
        f"way {small(part.groupby('run').length.max().median())}"
        for label, part in audited.groupby("label", sort=False)
    ]
    return Picture(
        f"audit-{env}",
        f"The audit along training on {env}",
        "; ".join(said) + ".",
        "Median over seeds, with the 5th to the 95th percentile where there are three or more. Of "
        f"a method with more than {_audit_figures.SHOWN} settings so many are shown.",
        _audit_figures.along(audited),
    )


def _within(env: str, audited: pd.DataFrame) -> Picture | None:
    """The path of the KL through the epochs of an update, where it was recorded."""
    if "audit.path.epoch" not in audited or audited["audit.path.epoch"].isna().all():
        return None
    recorded = audited[audited["audit.path.epoch"].notna()]
    return Picture(
        f"audit-path-{env}",
        f"The KL through the epochs of an update on {env}",
        _audit_figures.said(recorded),
        "Median over all updates of the mean KL to the policy before. Line: over the states of "
        "each minibatch just before its step. Markers: over the whole batch after each epoch, an "
        "undone one included.",
        _audit_figures.within(recorded),
    )
