"""Findings about the start of an update: the old policy, the actions, the precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from kltrust.findings._arrays import Batch, entropy, surprise_variance
from kltrust.findings._declare import UPDATE, Evidence, Missing, finding

_MANY = 32
"""With fewer rows nothing is said about a distribution."""


def _worst(
    batch: Batch,
    quantity: str,
    x: np.ndarray,
    bad: np.ndarray,
    limit: float | None,
    detail: str = "",
) -> Evidence | None:
    """Evidence from the rows [N] that are bad: the largest x among them, and the first bad row."""
    if not bad.any():
        return None
    rows = np.flatnonzero(batch.kept)
    size = np.where(bad, np.where(np.isnan(x), np.inf, np.abs(x)), -1)
    worst = int(np.argmax(size))
    first = int(rows[np.argmax(bad)])
    return Evidence(
        quantity, float(x[worst]), limit, first, int(bad.sum()), len(bad), detail or "rows"
    )


@finding(
    "error",
    UPDATE,
    means="A logit or a deviation overflowed, or a reward or a value was no number.",
    remedy="Look at the rows named before anything else: every mean over them is NaN, too.",
    explains=("kl_always_zero",),
)
def arrays_not_finite(batch: Batch) -> Evidence | None:
    """Policies, advantages or values hold NaN."""
    number = len(batch.kept)
    bad = np.isnan(batch.old_log_prob) | np.isnan(batch.new_log_prob)
    for name in ("advantages", "values", "next_values", "rewards", "targets", "log_probs"):
        x = batch.given.get(name)
        if x is not None and np.size(x) == number:
            bad |= ~np.isfinite(batch.rows(name))
    return _worst(batch, "NaN or infinite", np.where(bad, np.nan, 0.0), bad, None)


def _gap(batch: Batch) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return batch.rows("log_probs") - batch.old_log_prob


def _is_same(batch: Batch) -> bool:
    old, new = batch.old.given, batch.new.given
    return set(old) == set(new) and all(np.array_equal(x, new[k]) for k, x in old.items())


def _is_off(gap: np.ndarray) -> bool:
    """Whether the gap exceeds the float32 rounding between two passes through one network."""
    finite = gap[np.isfinite(gap)]
    return len(finite) < len(gap) or (len(gap) > 0 and float(np.max(np.abs(finite))) > 1e-3)


@finding(
    "error",
    UPDATE,
    means="The policy that the update starts from is not the one that acted: observations "
    "normalised by newer statistics, dropout or batch statistics, another action than the stored "
    "one (clipped, squashed), a recurrent state that was not replayed.",
    remedy="Store the log-probability when acting, recompute it before the first step, and bring "
    "the difference to rounding; freeze whatever the policy depends on within an iteration.",
)
def ratio_not_one_at_start(batch: Batch) -> Evidence | None:
    """The old policy does not give the actions the log-probability that was stored with them."""
    gap = _gap(batch)
    if not _is_off(gap):
        return None
    return _worst(batch, "stored - old log-probability", gap, ~(np.abs(gap) <= 1e-3), 1e-3)


@finding(
    "error",
    UPDATE,
    means="Old was evaluated after the update, or shares the parameters of new and changes with "
    "them: every ratio is 1, and the KL is 0 whatever happened.",
    remedy="Keep the old distribution's numbers (detached copies) from before the first step.",
    explains=("ratio_not_one_at_start", "kl_always_zero", "actions_not_from_old"),
)
def old_policy_rebuilt(batch: Batch) -> Evidence | None:
    """Old equals new, while the log-probabilities stored when acting differ from both."""
    gap = _gap(batch)
    if not _is_same(batch) or not _is_off(gap):
        return None
    return _worst(batch, "stored - old log-probability", gap, ~(np.abs(gap) <= 1e-3), 1e-3)


@finding(
    "error",
    UPDATE,
    means="No step was taken (a learning rate of 0, parameters that the optimiser does not know, a "
    "gradient that is cut), or new is a reference to old.",
    remedy="Compare parameters before and after; print the gradient's norm.",
    explains=("kl_always_zero",),
)
def new_is_old(batch: Batch) -> Evidence | None:
    """The new policy is the old one, exactly, although there are advantages to follow."""
    if "log_probs" in batch.given and batch.given["log_probs"] is not None and _is_off(_gap(batch)):
        return None  # `old_policy_rebuilt` says more
    advantage = batch.rows("advantages")
    if not _is_same(batch) or advantage.std() == 0:
        return None
    number = len(batch.log_ratio)
    return Evidence("max abs(log ratio)", 0.0, None, None, number, number, "rows")


def _halves(x: np.ndarray) -> str:
    """The 16-bit format that holds every value of an array, or ""; "" for few or whole values."""
    values = np.unique(np.asarray(x, np.float64)[np.isfinite(x)])
    if len(values) < _MANY or np.all(values == np.round(values)):
        return ""
    single = values.astype(np.float32)
    if np.all(single == values) and not np.any(single.view(np.uint32) & 0xFFFF):
        return "bfloat16"
    with np.errstate(over="ignore"):
        return "float16" if np.all(values.astype(np.float16) == values) else ""


@finding(
    "warning",
    UPDATE,
    means="Half precision keeps two or three digits: log-ratios of a hundredth, and KLs of a "
    "ten-thousandth, drown in its rounding.",
    remedy="Log-probabilities, ratios, advantages and KLs in float32, whatever the network is in.",
    explains=("ratio_not_one_at_start",),
)
def half_precision(batch: Batch) -> Evidence | None:
    """Log-probabilities, distributions or advantages were rounded to 16 bits."""
    arrays: dict[str, Any] = {f"old {k}": x for k, x in batch.old.given.items()}
    arrays |= {f"new {k}": x for k, x in batch.new.given.items()}
    arrays |= {k: batch.given.get(k) for k in ("log_probs", "advantages")}
    found = {k: kind for k, x in arrays.items() if x is not None and (kind := _halves(x))}
    if not found:
        return None
    named = ", ".join(f"{name} in {kind}" for name, kind in found.items())
    return Evidence(
        "digits",
        8 if "bfloat16" in named else 11,
        24,
        detail=f"bits: {named}",
        limit_name="float32",
    )


@finding(
    "error",
    UPDATE,
    means="Log-probabilities of the dimensions of an action were averaged, not summed: ratios are "
    "those of one dimension.",
    remedy="Sum over the dimensions of an action.",
    explains=("ratio_not_one_at_start",),
)
def log_prob_not_summed(batch: Batch) -> Evidence | None:
    """The stored log-probability is the mean over the dimensions of the action."""
    if batch.old.mean is None or batch.old.mean.shape[-1] < 2:
        raise Missing("dimensions")
    stored, dims = batch.rows("log_probs"), batch.old.mean.shape[-1]
    if np.max(np.abs(stored * dims - batch.old_log_prob)) > 1e-3 * dims or not _is_off(_gap(batch)):
        return None
    found = Evidence("old / stored log-probability", dims, 1, limit_name="expected")
    return found._replace(count=len(stored), of=len(stored), detail="rows")


def _surprise(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """(mean of -log old(a) less the entropy, its deviation if a ~ old), by the action's parts.

    Each dimension of a Gaussian is a part; a discrete action is a single part.
    """
    if batch.old.log_prob is not None or len(batch.kept) < _MANY:
        raise Missing("a distribution")
    number = int(batch.kept.sum())
    if batch.old.mean is not None and batch.old.std is not None:
        actions = batch.actions.reshape(batch.old.mean.shape)
        z = ((actions - batch.old.mean) / batch.old.std)[batch.kept]
        return (z**2 - 1).mean(axis=0) / 2, np.full(z.shape[1], np.sqrt(0.5 / number))
    expected = entropy(batch.old)
    assert expected is not None
    excess = float(np.mean(-batch.old_log_prob - expected[batch.kept]))
    scatter = np.sqrt(surprise_variance(batch.old)[batch.kept].sum()) / number
    return np.array([excess]), np.array([max(float(scatter), 1e-9)])


@finding(
    "error",
    UPDATE,
    means="The actions belong to other rows (axes flattened in another order, shuffled apart), to "
    "another policy (stale, off-policy, the greedy one), or were changed after they were drawn.",
    remedy="Flatten everything in one order; store what was drawn, and change it at the "
    "environment.",
)
def actions_not_from_old(batch: Batch) -> Evidence | None:
    """The actions are more, or less, improbable under the old policy than its own would be."""
    excess, scatter = _surprise(batch)
    number = int(batch.kept.sum())
    worst = int(np.argmax(np.abs(excess) / scatter))
    if not abs(excess[worst]) > max(6 * scatter[worst], 1e-3):  # nats: less does not matter
        return None
    detail = "rows" if len(excess) == 1 else f"rows, of dimension {worst} of the action"
    return Evidence(
        "mean -log old(a) - entropy",
        float(excess[worst]),
        float(6 * scatter[worst]),
        None,
        number,
        number,
        detail,
    )


def _continuous(batch: Batch) -> np.ndarray:
    if batch.actions.dtype.kind != "f" or batch.old.logits is not None:
        raise Missing("continuous actions")
    actions = batch.actions.reshape(len(batch.kept), -1)[batch.kept]
    if len(actions) < _MANY:
        raise Missing("rows")
    return actions


@finding(
    "error",
    UPDATE,
    means="Actions were clipped to the environment's bounds before they were stored: their density "
    "is that of other actions, and the ratio that of nothing.",
    remedy="Store the action that was drawn; clip it at the environment alone.",
    explains=("actions_not_from_old", "ratio_not_one_at_start"),
)
def actions_clipped(batch: Batch) -> Evidence | None:
    """Many actions are exactly equal, at the ends of their range; a density has no ties."""
    actions = _continuous(batch)
    ends = (actions == actions.max(axis=0)) | (actions == actions.min(axis=0))
    share = ends.mean(axis=0).max()
    if share <= max(0.01, 4 / len(actions)):
        return None
    bad = ends.any(axis=1)
    return _worst(batch, "action at an end", actions[:, int(ends.mean(axis=0).argmax())], bad, None)


@finding(
    "error",
    UPDATE,
    means="The stored action went through tanh, and its density is that of the Gaussian before "
    "it: the Jacobian is missing.",
    remedy="Store the raw action, or subtract sum log(1 - tanh(u)^2) in old and new alike.",
    explains=("actions_not_from_old", "ratio_not_one_at_start"),
)
def actions_squashed(batch: Batch) -> Evidence | None:
    """All actions lie within (-1, 1), where the old Gaussian expects many beyond."""
    actions = _continuous(batch)
    if batch.old.mean is None or batch.old.std is None:
        raise Missing("a Gaussian")
    mean, std = batch.old.mean[batch.kept], batch.old.std[batch.kept]
    draws = np.random.default_rng(0).normal(size=(8, *mean.shape))
    beyond = float(np.mean(np.abs(mean + std * draws) > 1))
    number = actions.size
    if np.max(np.abs(actions)) >= 1 or beyond * number < 20 or np.max(np.abs(actions)) < 0.5:
        return None
    excess, scatter = _surprise(batch)
    if (np.abs(excess) <= 6 * scatter).all():
        return None
    expected = int(beyond * number)
    found = Evidence("actions beyond 1", 0, expected, limit_name="expected")
    return found._replace(count=number, of=number, detail="entries")


@finding(
    "error",
    UPDATE,
    means="The mask was not applied when acting, or is another one in the update; or the stored "
    "action is another's.",
    remedy="Store the mask beside the observation and apply the same one in old and new.",
    explains=("ratio_huge", "actions_not_from_old", "ratio_not_one_at_start"),
)
def illegal_actions(batch: Batch) -> Evidence | None:
    """Actions were taken that the old policy, or the mask, does not allow."""
    bad = batch.old_log_prob < -1e6
    if batch.given.get("mask") is not None and batch.actions.dtype.kind in "iu":
        mask = np.asarray(batch["mask"], bool).reshape(len(batch.kept), -1)
        action = batch.actions.reshape(-1, 1).astype(np.int64)
        # Another finding reports a mask that allows nothing.
        bad |= (~np.take_along_axis(mask, action, 1)[:, 0] & mask.any(axis=1))[batch.kept]
    return _worst(batch, "log old(a)", batch.old_log_prob, bad, None)


@finding(
    "error",
    UPDATE,
    means="The mask is applied to one of the two policies only: their supports differ, and the KL "
    "between them is infinite.",
    remedy="Apply the mask of the row to the logits of old and of new.",
    explains=("illegal_actions", "ratio_huge", "step_too_long", "bound_exceeded"),
)
def masks_differ(batch: Batch) -> Evidence | None:
    """Old and new do not allow the same actions."""
    if batch.old.logits is None or batch.new.logits is None:
        raise Missing("logits")
    # Either -inf or the large negative numbers that other libraries use for it.
    differ = ((batch.old.logits < -1e4) != (batch.new.logits < -1e4)).any(axis=1)[batch.kept]
    return _worst(batch, "KL(old || new)", batch.kl, differ, None)
