"""One update of any framework, judged from its arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kltrust.findings import _batch, _start, _transitions  # noqa: F401
from kltrust.findings._arrays import (
    Batch,
    as_array,
    as_policy,
    check_numbers,
    entropy,
    parts_of,
)
from kltrust.findings._declare import TRAINING, UPDATE, Missing, look
from kltrust.findings._found import Finding, Findings
from kltrust.findings._judge import checked
from kltrust.findings._lane import Lane
from kltrust.findings._refused import (
    as_actions,
    check_arrays,
    check_fraction,
    check_policies,
)


def judge_update(
    old: Any,
    new: Any,
    actions: Any,
    advantages: Any = None,
    *,
    log_probs: Any = None,
    weight: Any = None,
    mask: Any = None,
    observations: Any = None,
    rewards: Any = None,
    values: Any = None,
    next_values: Any = None,
    terminated: Any = None,
    truncated: Any = None,
    targets: Any = None,
    new_values: Any = None,
    logged_kl: Any = None,
    minibatch_kls: Any = None,
    gradient_norms: Any = None,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    claims: Mapping[str, float] | None = None,
) -> Findings:
    """Says what is wrong with one update of any framework, from its arrays.

    All arrays are of NumPy or JAX, or tensors that support dlpack. Rows are [N] or [T, B], time
    first, the same for all. Missing arrays are not judged. Everything runs in float64 on the host.

    Args:
        old: the policy that acted, before the update, at the rows: logits [*E, A], a tuple (mean,
            std) [*E, D], log-probabilities of the actions [*E], a dict of logits, probs, mean, std,
            log_std or log_prob, or a distribution of torch or distrax of one of these kinds.
        new: the policy after the update, likewise, at the same rows.
        actions: [*E] whole numbers in [0, A), or [*E, D], as they were drawn.
        advantages: [*E] as the loss took them.
        log_probs: [*E] as stored when acting: they check that ratios are 1 at the start.
        weight: [*E], 0 for padding.
        mask: [*E, A] bool, true for allowed.
        observations: [*E, ...] as the policy takes them.
        rewards: [T, B]. From these and the next four, advantages are computed again, correctly and
            with every fault that has a name. A note says so if one of them is missing, if rows are
            [N], or if there are fewer than 16 steps: then this is not checked.
        values: [T, B] of the state; rows [N] do for findings about the critic.
        next_values: [T, B] of the next state, before any reset.
        terminated: [T, B] the step ended the episode.
        truncated: [T, B] a time limit cut the episode; without it, none did.
        targets: [*E] of the critic.
        new_values: [*E] the critic's after the update.
        logged_kl: the KL that was logged for this update.
        minibatch_kls: [M] of the last epoch's minibatches.
        gradient_norms: [M] of the steps, before clipping.
        gamma: the discount of the advantages.
        gae_lambda: the lambda of the advantages.
        claims: the limits that the update was to keep, as in `judge`.

    Returns:
        `Findings`, worst first.

    Raises:
        ValueError: if an array's shape is not that of the rows, or its values can't be: an action
            that the policy does not have, a deviation of 0 or less, a flag other than 0 and 1.
    """
    leading, old_policy, new_policy, acted = _pair(old, new, actions)
    given = {
        name: None if x is None else as_array(x)
        for name, x in {
            "advantages": advantages,
            "log_probs": log_probs,
            "weight": weight,
            "rewards": rewards,
            "values": values,
            "next_values": next_values,
            "terminated": terminated,
            "truncated": truncated,
            "targets": targets,
            "new_values": new_values,
            "mask": mask,
            "observations": observations,
        }.items()
    }
    kept = check_arrays(given, leading)
    check_fraction(gamma=gamma, gae_lambda=gae_lambda)
    claims = checked(claims)
    numbers = {
        "logged_kl": _series("logged_kl", logged_kl),
        "gamma": gamma,
        "gae_lambda": gae_lambda,
        "value_clip": claims.get("value clip"),
    }
    check_policies(old_policy, new_policy, given["mask"], kept, leading)
    acted = as_actions(acted, old_policy, new_policy, given["mask"], kept, leading)
    batch = Batch(old_policy, new_policy, acted, {**given, **numbers})
    judged: list[tuple[str, Any]] = [
        (UPDATE, batch),
        (TRAINING, Lane(_metrics_of(batch, _series("minibatch_kls", minibatch_kls)), claims)),
    ]
    norms = _series("gradient_norms", gradient_norms)
    if norms is not None:
        judged.append((TRAINING, Lane({"extra.grad_norm": norms}, claims)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = look(*judged)
    return Findings([Finding(entry.name, entry.severity, e, {}) for entry, e in found])


def _pair(old: Any, new: Any, actions: Any) -> tuple:
    """(shape of the rows, old, new, actions [N, ...]) as `Batch` takes them."""
    acted = as_array(actions)
    # The dtype of the actions decides how to read an array with as many axes as the actions.
    rank = acted.ndim if acted.dtype.kind in "iub" else max(acted.ndim - 1, 1)
    first = parts_of(old, rank, "old")
    name, x = next((k, v) for k, v in first.items() if k not in ("std", "log_std"))
    leading = x.shape if name == "log_prob" else x.shape[:-1]
    if acted.shape[: len(leading)] != leading:
        hint = ": drop the last axis of actions" if acted.shape[-1:] == (1,) else ""
        raise ValueError(f"actions have the shape {acted.shape}, old has rows {leading}{hint}")
    number = int(np.prod(leading))
    if not number:
        raise ValueError(f"there are no rows to judge: actions have the shape {acted.shape}")
    return (
        leading,
        as_policy(first, leading, "old"),
        as_policy(parts_of(new, rank, "new"), leading, "new"),
        acted.reshape(number, *acted.shape[len(leading) :]),
    )


def _series(name: str, x: Any) -> np.ndarray | None:
    """Numbers in any shape as one axis; None if there are none to judge."""
    if x is None:
        return None
    values = np.ravel(check_numbers(name, as_array(x)))
    if not values.size:
        raise ValueError(f"{name} is empty: leave it out")
    return values


def _metrics_of(batch: Batch, minibatch_kls: np.ndarray | None) -> dict[str, np.ndarray]:
    """The learner's row of metrics for this update, as far as the arrays allow."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio, kl = np.exp(batch.log_ratio), batch.kl
        row = {"kl": batch.mean(kl), "kl_max": float(np.max(kl, initial=0))}
        row["max_ratio"] = float(np.max(ratio, initial=0))
        row["clip_fraction"] = batch.mean(np.abs(ratio - 1) > 0.2)
        square = batch.mean(ratio**2)
        row["audit.update.effective_sample_size"] = (
            batch.mean(ratio) ** 2 / square if square else 0.0
        )
        spread = entropy(batch.new)
        if spread is not None:
            row["entropy"] = batch.mean(spread[batch.kept])
        if batch.given.get("advantages") is not None:
            row["surrogate_gain"] = batch.mean((ratio - 1) * batch.rows("advantages"))
        if batch.given.get("mask") is not None:
            mask = np.asarray(batch["mask"], bool).reshape(len(batch.kept), -1)[batch.kept]
            row["fully_masked"] = float((~mask.any(axis=1)).sum())
        try:
            row["kl_reverse"] = batch.mean(batch.kl_reverse)
            error = batch.rows("targets") - batch.rows("values")
            row["value_loss"] = 0.5 * batch.mean(error**2)
        except Missing:
            pass
    columns = {name: np.array([value]) for name, value in row.items()}
    if minibatch_kls is not None:
        columns["audit.path.minibatch"] = minibatch_kls[None].astype(float)
        columns["audit.path.epoch"] = np.array([[row["kl"]]])
    return columns
