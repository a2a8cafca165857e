"""The trust region that each setting claims, and how far its updates went.

The learner measures exactly, and in the same way for every algorithm: KL(old || new) in nats over
the states of the batch, its mean and its maximum, and the largest probability ratio.
"""

import numpy as np
import pandas as pd

from kltrust.experiments.reading.claims import (
    BOUND,
    HEURISTIC,
    NONE,
    ROUNDING,
    SET_POINT,
    claim_of,
    in_force,
)
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._page import share, small

KINDS = {
    BOUND: "max_kl: the update is shortened or undone until its mean KL is no larger",
    SET_POINT: "target_kl: the mean KL is steered towards it, and may exceed it",
    HEURISTIC: (
        "clip_eps² / 2, the mean KL at which log-ratios have a mean square of clip_eps²; "
        "a rule of thumb, not a promise: clipping bounds neither a ratio nor a KL"
    ),
    NONE: "no region: only the step size, or the weight of a penalty, limits the step",
}


def updates(study: Study) -> pd.DataFrame:
    """The study's metrics with ``claim``, the value in force at each update.

    The value is the one that the algorithm reports, if it does; else the setting's, with its
    annealing. NaN is no claim.
    """
    metrics = study.metrics.reset_index(drop=True)
    claim, iteration = np.full(len(metrics), np.nan), metrics.iteration.to_numpy()
    reported: dict[str, np.ndarray] = {}
    for run, rows in metrics.groupby("run").indices.items():
        experiment = study.setting(run).experiment
        column, own = f"extra.{claim_of(experiment).what}", None
        if column in metrics:
            if column not in reported:
                reported[column] = metrics[column].astype(float).to_numpy(float, na_value=np.nan)
            own = reported[column][rows]
        claim[rows] = in_force(experiment, iteration[rows], own)
    return metrics.assign(claim=claim)


def measured(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """One row per environment and label, from `updates`.

    Columns: env, method, label and claim (`Claim`); max_ratio and clip_fraction (mean).

    - updates, and nonfinite: the number of them whose KL is no number.
    - median, p95, p05 and largest: of the mean KL.
    - state_median and state_largest: of the maximum over states.
    - above: the share of the updates beyond the claim; one that is no number is beyond it.
    - overran: the number of updates beyond ``claim.stop``.
    - used: the median of kl / claim.
    """
    claims = {run: claim_of(study.setting(run).experiment) for run in table.run.unique().tolist()}
    stop = table.run.map({run: claim.stop for run, claim in claims.items()})
    numbers = table[["kl", "kl_max", "max_ratio", "clip_fraction"]].astype(float)
    numbers["used"] = numbers.kl / table.claim
    numbers = numbers.where(np.isfinite(numbers))
    # 0 <= 0: a bound annealed to 0, and an update that did not move the policy.
    beyond = (~(numbers.kl <= table.claim * (1 + ROUNDING))).astype(float)
    rows = table[["env", "label", "method", "run"]].assign(
        **numbers,
        nonfinite=numbers.kl.isna(),
        beyond=beyond.where(table.claim.notna()),
        overran=~(numbers.kl <= stop * (1 + ROUNDING)),
    )
    found = rows.groupby(["env", "label"], sort=False, as_index=False).agg(
        method=("method", "first"),
        run=("run", "first"),
        updates=("run", "count"),
        nonfinite=("nonfinite", "sum"),
        median=("kl", "median"),
        largest=("kl", "max"),
        state_median=("kl_max", "median"),
        state_largest=("kl_max", "max"),
        max_ratio=("max_ratio", "max"),
        clip_fraction=("clip_fraction", "mean"),
        above=("beyond", "mean"),
        overran=("overran", "sum"),
        used=("used", "median"),
    )
    kl = rows.groupby(["env", "label"], sort=False).kl
    for place, (name, q) in enumerate((("p95", 0.95), ("p05", 0.05)), start=7):
        found.insert(place, name, kl.quantile(q).to_numpy())
    found.insert(3, "claim", [claims[run] for run in found.pop("run")])
    return found


def verdicts(measured: pd.DataFrame) -> list[str]:
    """One sentence for each method: how many of its updates kept its claim."""
    found = []
    for method, rows in measured.groupby("method", sort=False):
        largest = small(rows.largest.max())
        claimed = rows[rows.above.notna()]
        if claimed.empty:
            found.append(f"{method} claims no region; its largest update moved by {largest} nats.")
            continue
        total, count = int(rows.updates.sum()), int(claimed.updates.sum())
        beyond = (claimed.above * claimed.updates).sum()
        of = "" if count == total else f" (of those with a claim, {count:,})"
        used = " to ".join(dict.fromkeys(map(small, (claimed.used.min(), claimed.used.max()))))
        stopped = rows[[np.isfinite(claim.stop) for claim in rows.claim]]
        overran = f", and {stopped.overran.sum():,} exceeded the early stop's max_kl"
        found.append(
            f"{method}: {round(beyond):,} of {total:,} updates{of} exceeded the "
            f"{' or '.join(dict.fromkeys(claim.kind for claim in claimed.claim))} "
            f"({share(beyond / count)}); the median KL was {used} of it, "
            f"the largest {largest} nats{overran if len(stopped) else ''}."
        )
    return found
