"""Arguments of `judge_update` that no finding can make sense of: refused, with the remedy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kltrust.findings._arrays import Policy, check_numbers

_PADDING = "if it is padding, leave the row out or give it weight 0"


def check_fraction(**settings: float) -> None:
    """Refuses settings that are not between 0 and 1."""
    for name, value in settings.items():
        if np.asarray(value).dtype.kind not in "biufV" or not 0 <= value <= 1:
            raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}")


def check_arrays(given: Mapping[str, np.ndarray | None], leading: tuple[int, ...]) -> np.ndarray:
    """Refuses arrays whose rows are not those of the actions, and weights and flags of other kinds.

    Returns:
        [N] bool, the rows that are no padding.

    Raises:
        ValueError: names the array, the first bad row and the remedy.
    """
    for name, x in given.items():
        if x is None:
            continue
        check_numbers(name, x)
        wide = name in ("mask", "observations")
        if x.shape[: len(leading)] != leading or not (wide or x.shape == leading):
            raise ValueError(f"{name} has the shape {x.shape}, the actions' rows are {leading}")
        if name == "mask" and x.ndim != len(leading) + 1:
            raise ValueError(f"mask has the shape {x.shape}, it must be {[*leading, 'A']}")
    kept = np.ones(int(np.prod(leading)), bool)
    weight = given.get("weight")
    if weight is not None:
        flat = np.asarray(weight, np.float64).reshape(-1, 1)
        bad = ~(np.isfinite(flat) & (flat >= 0))
        _refuse("weight must be finite and at least 0", flat, bad, leading, "padding has weight 0")
        kept = flat[:, 0] > 0
        if not kept.any():
            raise ValueError("weight is 0 at every row: only padding has weight 0")
    for name in ("terminated", "truncated", "mask"):
        flags = given.get(name)
        if flags is not None:
            values = flags.reshape(len(kept), -1)
            bad = (values != 0) & (values != 1) & kept[:, None]
            remedy = "pass the flags themselves, no discounts or counts"
            if name == "mask":
                remedy = "pass true for allowed actions, no terms added to logits"
            _refuse(f"{name} must be true or false", values, bad, leading, remedy)
    return kept


def check_policies(
    old: Policy, new: Policy, mask: np.ndarray | None, kept: np.ndarray, leading: tuple[int, ...]
) -> None:
    """Refuses policies of two kinds or sizes, deviations of 0 or less and negative probabilities.

    Raises:
        ValueError: names the policy, the first bad row and the remedy.
    """
    kinds = {old.kind, new.kind}
    if kinds == {"logits", "mean"}:
        raise ValueError("one of old and new has logits, the other a mean: give the same kind")
    if len(kinds) == 1 and old.shape != new.shape:
        raise ValueError(
            f"old has {old.kind} of shape {old.shape}, new {new.shape}, at flat rows: both need "
            "the same actions"
        )
    for name, policy in (("old", old), ("new", new)):
        if policy.std is not None:
            # NaN has a finding of its own.
            bad = (policy.std <= 0) & kept[:, None]
            remedy = "give deviations, not their logarithms (log_std); bound them from below"
            if "log_std" in policy.given:
                remedy = "exp(log_std) is 0 in float64: bound log_std from below"
            _refuse(f"{name}: std must be greater than 0", policy.std, bad, leading, remedy)
        if "probs" in policy.given:
            probs = np.asarray(policy.given["probs"], np.float64).reshape(len(kept), -1)
            bad = (probs < 0) & kept[:, None]
            remedy = "pass logits as logits"
            _refuse(f"{name}: probs must be at least 0", probs, bad, leading, remedy)
    if mask is not None and "mean" in kinds:
        raise ValueError("a mask is for categorical policies, these have a mean: leave it out")
    size = next((p.shape[-1] for p in (old, new) if p.kind == "logits"), None)
    if mask is not None and size not in (None, mask.shape[-1]):
        raise ValueError(f"mask has {mask.shape[-1]} actions, the policy has {size}")


def as_actions(
    actions: np.ndarray,
    old: Policy,
    new: Policy,
    mask: np.ndarray | None,
    kept: np.ndarray,
    leading: tuple[int, ...],
) -> np.ndarray:
    """Actions [N] int64 of a categorical policy, 0 at padded rows; others as they are.

    Raises:
        ValueError: if a categorical policy does not have the action, or a Gaussian's action has
            other dimensions than its mean.
    """
    check_numbers("actions", actions)
    normal = next((p for p in (old, new) if p.kind == "mean"), None)
    if normal is not None:
        if actions.size != np.prod(normal.shape):
            raise ValueError(
                f"actions have the shape {actions.shape} at flat rows, the mean {normal.shape}: "
                "give one number for each dimension"
            )
        return actions
    sizes = [p.shape[-1] for p in (old, new) if p.kind == "logits"]
    sizes += [] if mask is None else [mask.shape[-1]]
    if not sizes:
        return actions
    if actions.size != len(kept):
        raise ValueError(
            f"actions have the shape {actions.shape} at flat rows: a categorical policy takes one "
            "whole number for each row; name log-probabilities as {'log_prob': ...}"
        )
    flat = np.asarray(actions, np.float64).reshape(-1, 1)
    whole = np.isfinite(flat) & (flat == np.floor(flat))
    bad = ~(whole & (flat >= 0) & (flat < sizes[0])) & kept[:, None]
    remedy = _PADDING
    if not whole[kept].all():
        remedy += "; a policy over continuous actions is a tuple (mean, std)"
    elif (flat[kept] == sizes[0]).any() and (flat[kept] > 0).all():
        remedy += "; if actions count from 1, subtract 1"
    must = f"actions must be whole numbers from 0 to {sizes[0] - 1}"
    _refuse(must, flat, bad, leading, remedy)
    return np.where(kept, flat[:, 0], 0).astype(np.int64)


def _refuse(
    must: str, x: np.ndarray, bad: np.ndarray, leading: tuple[int, ...], remedy: str
) -> None:
    """Raises if an entry of ``x`` [N, K] is ``bad``; names the first one and its row."""
    if not bad.any():
        return
    row, column = np.argwhere(bad)[0]
    where = [int(i) for i in np.unravel_index(row, leading)]
    named = str(where[0]) if len(where) == 1 else str(where)
    rows = int(bad.any(axis=1).sum())
    many = f", the first of {rows} such rows" if rows > 1 else ""
    raise ValueError(f"{must}, got {float(x[row, column]):.12g} at row {named}{many}: {remedy}")
