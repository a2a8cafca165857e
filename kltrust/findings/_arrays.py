"""One update as NumPy arrays, from any framework."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from kltrust.findings._declare import Missing

_NAMES = ("logits", "probs", "mean", "std", "log_std", "log_prob")


def as_array(x: Any) -> np.ndarray:
    """An array of NumPy or JAX, a tensor that supports dlpack, or a list, as a NumPy array."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        if "bfloat16" in str(x.dtype):  # NumPy has no bfloat16; float32 holds all its values
            x = x.float()
    if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray):
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError, ValueError):
            pass
    return np.asarray(x)


def check_numbers(name: str, x: np.ndarray) -> np.ndarray:
    """An array, if it holds numbers or flags.

    Raises:
        ValueError: names the array and what it holds.
    """
    if x.dtype.kind not in "biufV":  # V: the bfloat16 of JAX
        raise ValueError(f"{name} must be an array of numbers, got {x.dtype} of shape {x.shape}")
    return x


class Policy(NamedTuple):
    """A distribution over actions at every row; parameters are float64, unknown ones None.

    Attributes:
        logits: [N, A] normalised log-probabilities, -inf for impossible actions.
        mean, std: [N, D] of a diagonal Gaussian.
        log_prob: [N] of the actions, if nothing else is known.
        given: the arrays as they were passed.
    """

    logits: np.ndarray | None
    mean: np.ndarray | None
    std: np.ndarray | None
    log_prob: np.ndarray | None
    given: dict[str, np.ndarray]

    @property
    def kind(self) -> str:
        """Which form is known: logits, mean or log_prob."""
        if self.logits is not None:
            return "logits"
        return "log_prob" if self.mean is None else "mean"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of this form, with the rows flattened."""
        return np.shape(getattr(self, self.kind))


def as_policy(given: Any, leading: tuple[int, ...], name: str) -> Policy:
    """A policy in any form that `judge_update` takes, with its rows flattened.

    Raises:
        ValueError: if its form is unknown, or its rows are not those of the actions.
    """
    parts = parts_of(given, len(leading), name)
    number = int(np.prod(leading))
    for key, x in parts.items():
        check_numbers(f"{name}: {key}", x)
        wide = x.ndim == len(leading) + (key != "log_prob")
        # A deviation that does not depend on the state may be one row or a number.
        if key in ("std", "log_std") and "mean" in parts:
            parts[key] = _like_mean(name, key, x, parts["mean"])
        elif not wide or x.shape[: len(leading)] != leading:
            raise ValueError(
                f"{name}: {key} has the shape {x.shape}, the actions' rows are {leading}: give one "
                "row for each action"
            )
    flat = {
        k: x.reshape(number, -1).astype(np.float64)
        if k != "log_prob"
        else x.reshape(number).astype(np.float64)
        for k, x in parts.items()
    }
    logits = flat.get("logits")
    with np.errstate(divide="ignore", invalid="ignore"):
        if "probs" in flat:
            logits = np.log(flat["probs"])
        if logits is not None:
            logits = logits - logits.max(axis=-1, keepdims=True)
            logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    std = np.exp(flat["log_std"]) if "log_std" in flat else flat.get("std")
    return Policy(logits, flat.get("mean"), std, flat.get("log_prob"), parts)


def _like_mean(name: str, key: str, x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A deviation, or its logarithm, for every entry of the mean."""
    try:
        return np.broadcast_to(x, mean.shape)
    except ValueError:
        raise ValueError(
            f"{name}: {key} has the shape {x.shape}, the mean {mean.shape}: give one deviation for "
            "each dimension, alone or at each row"
        ) from None


def parts_of(given: Any, rank: int, name: str) -> dict[str, np.ndarray]:
    """The arrays of a policy by their names; rows have ``rank`` axes."""
    if isinstance(given, Mapping):
        if unknown := sorted(set(given) - set(_NAMES)):
            raise ValueError(f"{name} has no {', '.join(unknown)}: it takes {', '.join(_NAMES)}")
        if "mean" in given and not {"std", "log_std"} & set(given):
            raise ValueError(f"{name} has a mean and no std or log_std: give one of them")
        if not {"logits", "probs", "mean", "log_prob"} & set(given):
            raise ValueError(f"{name} needs logits, probs, mean and std, or log_prob")
        return {key: as_array(x) for key, x in given.items()}
    if isinstance(given, tuple) and len(given) == 2:
        return {"mean": as_array(given[0]), "std": as_array(given[1])}
    given = getattr(given, "base_dist", given)  # torch's Independent
    if hasattr(given, "logits") and getattr(given, "logits", None) is not None:
        return {"logits": as_array(given.logits)}
    if hasattr(given, "loc"):
        scale = getattr(given, "scale_diag", None)
        return {
            "mean": as_array(given.loc),
            "std": as_array(given.scale if scale is None else scale),
        }
    x = as_array(given)
    got = f"an array of {x.dtype}" if x.ndim else type(given).__name__
    if x.dtype.kind not in "fV":
        raise ValueError(
            f"{name} must be logits, (mean, std), log-probabilities of the actions, all as floats, "
            f"or a dict of {', '.join(_NAMES)}; got {got}"
        )
    return {"log_prob" if x.ndim == rank else "logits": x}


class Batch:
    """One update: the arguments of `judge_update`, and quantities derived from them.

    If a condition reads a part that was not given, this raises `Missing`: the finding is skipped.
    """

    def __init__(self, old: Policy, new: Policy, actions: np.ndarray, given: Mapping[str, Any]):
        self.old, self.new, self.actions, self.given = old, new, actions, given

    def __getitem__(self, name: str) -> Any:
        """An array or a number that was given."""
        if self.given.get(name) is None:
            raise Missing(name)
        return self.given[name]

    def rows(self, name: str) -> np.ndarray:
        """A given array of one number a row, flattened: [N]."""
        return np.asarray(self[name], np.float64).reshape(-1)[self.kept]

    @cached_property
    def kept(self) -> np.ndarray:
        """[N] bool; rows of weight 0 are padding."""
        weight = self.given.get("weight")
        return np.ones(len(self.actions), bool) if weight is None else np.ravel(weight) > 0

    @cached_property
    def weight(self) -> np.ndarray:
        """[N] the weights of the rows that are kept, scaled to a mean of 1."""
        weight = self.given.get("weight")
        if weight is None:
            return np.ones(int(self.kept.sum()))
        kept = np.ravel(np.asarray(weight, np.float64))[self.kept]
        return kept / kept.mean()

    @cached_property
    def old_log_prob_of_all(self) -> np.ndarray:
        """[N] log old(a|s), of all rows."""
        return log_prob(self.old, self.actions)

    @property
    def old_log_prob(self) -> np.ndarray:
        """[N] log old(a|s), of the rows that are kept."""
        return self.old_log_prob_of_all[self.kept]

    @cached_property
    def new_log_prob(self) -> np.ndarray:
        """[N] log new(a|s)."""
        return log_prob(self.new, self.actions)[self.kept]

    @cached_property
    def log_ratio(self) -> np.ndarray:
        """[N] log new(a|s) - log old(a|s)."""
        with np.errstate(invalid="ignore"):
            return self.new_log_prob - self.old_log_prob

    @cached_property
    def kl(self) -> np.ndarray:
        """[N] KL(old || new): exact if both are distributions, else the estimate k3."""
        found = kl(self.old, self.new)
        if found is None:
            with np.errstate(over="ignore"):
                return np.expm1(self.log_ratio) - self.log_ratio
        return found[self.kept]

    @property
    def kl_name(self) -> str:
        """How evidence names `kl`."""
        same = self.old.kind == self.new.kind != "log_prob"
        return "exact KL" if same else "KL by k3"

    @cached_property
    def kl_reverse(self) -> np.ndarray:
        """[N] KL(new || old), exact."""
        found = kl(self.new, self.old)
        if found is None:
            raise Missing("distributions")
        return found[self.kept]

    def mean(self, x: np.ndarray) -> float:
        """The weighted mean of a quantity of the rows that are kept."""
        return float(np.mean(self.weight * x))


def log_prob(policy: Policy, actions: np.ndarray) -> np.ndarray:
    """[N] log-probabilities of actions [N] or [N, D]."""
    if policy.log_prob is not None:
        return policy.log_prob
    if policy.logits is not None:
        return np.take_along_axis(policy.logits, actions.reshape(-1, 1).astype(np.int64), 1)[:, 0]
    assert policy.mean is not None
    assert policy.std is not None
    z = (actions.reshape(policy.mean.shape) - policy.mean) / policy.std
    return (-0.5 * z**2 - np.log(policy.std) - 0.5 * np.log(2 * np.pi)).sum(axis=-1)


def kl(p: Policy, q: Policy) -> np.ndarray | None:
    """[N] KL(p || q), exact; None for log-probabilities alone."""
    if p.logits is not None and q.logits is not None:
        mass = np.exp(p.logits)
        with np.errstate(invalid="ignore"):
            terms = np.where(mass > 0, mass * (p.logits - q.logits), 0)
        return np.maximum(terms.sum(axis=-1), 0)
    if p.mean is not None and q.mean is not None:
        assert p.std is not None
        assert q.std is not None
        ratio = (p.std / q.std) ** 2
        return 0.5 * (ratio - 1 - np.log(ratio) + ((p.mean - q.mean) / q.std) ** 2).sum(axis=-1)
    return None


def entropy(policy: Policy) -> np.ndarray | None:
    """[N] nats; None for log-probabilities alone."""
    if policy.logits is not None:
        mass = np.exp(policy.logits)
        return -np.where(mass > 0, mass * np.where(mass > 0, policy.logits, 0), 0).sum(axis=-1)
    if policy.std is not None:
        return (np.log(policy.std) + 0.5 * np.log(2 * np.pi * np.e)).sum(axis=-1)
    return None


def surprise_variance(policy: Policy) -> np.ndarray:
    """[N] variance of -log p(a) over a ~ p, discrete: the scatter of one sample."""
    assert policy.logits is not None
    mass = np.exp(policy.logits)
    finite = np.where(mass > 0, policy.logits, 0)
    return np.maximum((mass * finite**2).sum(-1) - (mass * finite).sum(-1) ** 2, 0)
