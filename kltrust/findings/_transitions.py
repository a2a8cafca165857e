"""Findings about how advantages were computed from transitions.

Each fault changes the recursion of generalised advantage estimation. If the given advantages agree
with one of the faulty recursions and not with the right one, the fault is found by name.
"""

from __future__ import annotations

import numpy as np

from kltrust.findings._arrays import Batch
from kltrust.findings._declare import UPDATE, Evidence, Missing, finding


def estimate(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    ended: np.ndarray,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """[T, B] advantages: delta_t + gamma lam (1 - ended_t) A_(t+1), V(s') only if not terminated.

    This is `advantages.gae` for ``ended = terminated | truncated``; every other choice is a fault.
    """
    delta = rewards + gamma * np.where(terminated, 0, next_values) - values
    found, after = np.zeros_like(delta), np.zeros(delta.shape[1])
    for t in reversed(range(len(delta))):
        after = delta[t] + gamma * lam * np.where(ended[t], 0, after)
        found[t] = after
    return found


_NEEDED = ("advantages", "rewards", "values", "next_values", "terminated")
_FEWEST = 16
"""With fewer steps a wrong recursion may agree by chance."""


def _gaps(kept: np.ndarray, ended: np.ndarray) -> int:
    """The number of steps [T, B] before padding that did not end their episode."""
    return int((kept[:-1] & ~ended[:-1] & ~kept[1:]).sum())


class _Rollout:
    """The transitions of a batch, [T, B], and the comparison with the given advantages.

    Steps of weight 0 are padding. They count as zeros in the recursion and not in comparisons.
    """

    def __init__(self, batch: Batch):
        self.advantage = np.asarray(batch["advantages"], np.float64)
        if self.advantage.ndim != 2 or batch.kept.sum() < _FEWEST:
            raise Missing("[T, B]")
        self.kept = batch.kept.reshape(self.advantage.shape)
        names = ("rewards", "values", "next_values", "terminated", "truncated")
        given = [np.asarray(batch[name], np.float64) for name in names[:4]]
        truncated = batch.given.get("truncated")
        given.append(np.zeros_like(given[3]) if truncated is None else np.asarray(truncated, float))
        if {x.shape for x in given} != {self.advantage.shape}:
            raise Missing("[T, B]")
        given = [np.where(self.kept, x, 0) for x in given]  # padding may hold anything
        self.rewards, self.values, self.next_values = given[:3]
        self.terminated, self.truncated = given[3] > 0, given[4] > 0
        self.ended = self.terminated | self.truncated
        if _gaps(self.kept, self.ended):
            raise Missing("ends before padding")
        self.gamma, self.lam = float(batch["gamma"]), float(batch["gae_lambda"])

    def made(self, **changed: object) -> np.ndarray:
        """Advantages from these transitions, with some inputs replaced."""
        of = {
            "rewards": self.rewards,
            "values": self.values,
            "next_values": self.next_values,
            "terminated": self.terminated,
            "ended": self.ended,
            "gamma": self.gamma,
            "lam": self.lam,
        }
        return estimate(**{**of, **changed})  # type: ignore[arg-type]

    def agrees(self, made: np.ndarray) -> bool:
        """Whether these equal the given ones up to a shift and a scale, as standardising makes."""
        x, y = self.advantage[self.kept], made[self.kept]
        x, y = x - x.mean(), y - y.mean()
        if not (x.std() > 0 and y.std() > 0):
            return False
        return float(np.max(np.abs(x / x.std() - y / y.std()))) < 1e-2

    def judged(self, made: np.ndarray, rows: np.ndarray, quantity: str) -> Evidence | None:
        """Evidence if the given advantages agree with ``made`` and not with the right ones.

        ``rows`` are those where the fault makes a difference.
        """
        right, rows = self.made(), rows & self.kept
        if not rows.any() or self.agrees(right) or not self.agrees(made):
            return None
        error = np.where(self.kept, np.abs(made - right), 0)
        worst = np.unravel_index(np.argmax(error), error.shape)
        first = int(np.argmax(rows.any(axis=1)))
        return Evidence(
            quantity,
            float(made[worst]),
            float(right[worst]),
            first,
            int(rows.sum()),
            int(self.kept.sum()),
            "steps",
            limit_name="right",
        )


@finding(
    "note",
    UPDATE,
    means="The check computes the advantages again, step by step: it needs advantages, rewards, "
    "values, next_values and terminated, each [T, B], time first. Rows [N] have no time. Steps of "
    "weight 0 are left out; the step before them must end its episode.",
    remedy="Give all five as [T, B], of 16 steps or more, and `truncated` where there are time "
    "limits and at the last step before padding; or none of rewards, next_values, terminated and "
    "truncated.",
)
def advantages_not_checked(batch: Batch) -> Evidence | None:
    """Transitions were given, but the computation of the advantages could not be checked."""
    has = {name for name, x in batch.given.items() if x is not None}
    of_steps = has & {*_NEEDED[1:], "truncated"}
    # Beside targets, values serve findings about the critic.
    if not of_steps or (of_steps == {"values"} and has & {"targets", "new_values"}):
        return None
    if missing := [name for name in _NEEDED if name not in has]:
        return Evidence("arguments missing", len(missing), detail=", ".join(missing))
    shape = batch["advantages"].shape
    if len(shape) != 2:
        detail = f"rows {list(shape)} where [T, B] is needed"
        return Evidence("axes of the rows", len(shape), 2, detail=detail, limit_name="needed")
    if (steps := batch.kept.sum()) < _FEWEST:
        return Evidence("steps", int(steps), _FEWEST, limit_name="needed")
    flags = [batch.given[name] for name in ("terminated", "truncated") if name in has]
    if gaps := _gaps(batch.kept.reshape(shape), np.any(flags, axis=0)):
        detail = "steps of weight 0 follow them within their episode"
        return Evidence("steps that are not ended", gaps, 0, detail=detail, limit_name="allowed")
    return None


@finding(
    "error",
    UPDATE,
    means="A time limit was taken for an end: the value of the last state is missing, and the "
    "critic learns that time runs out where it can't see it.",
    remedy="Bootstrap from V(s') before the reset unless the state is terminal.",
)
def time_limit_taken_for_end(batch: Batch) -> Evidence | None:
    """Advantages where a time limit cut the episode have no value of the state after it."""
    r = _Rollout(batch)
    return r.judged(r.made(terminated=r.ended), r.truncated & ~r.terminated, "advantage")


@finding(
    "error",
    UPDATE,
    means="An end was taken for a time limit: the value of a state that is never left is added.",
    remedy="V(s') = 0 where the episode terminated; check the order of the two flags.",
)
def end_taken_for_time_limit(batch: Batch) -> Evidence | None:
    """Advantages where the episode ended have a value of the state after it."""
    r = _Rollout(batch)
    return r.judged(r.made(terminated=np.zeros_like(r.ended)), r.terminated, "advantage")


@finding(
    "error",
    UPDATE,
    means="The recursion does not stop at the end of an episode: advantages hold rewards of the "
    "next one.",
    remedy="Multiply the trace by 1 - (terminated or truncated).",
)
def trace_across_episodes(batch: Batch) -> Evidence | None:
    """Advantages go on over the end of an episode."""
    r = _Rollout(batch)
    none = np.zeros_like(r.ended)
    for terminated, ended in ((r.terminated, none), (none, none), (r.terminated, r.terminated)):
        rows = r.truncated & ~r.terminated if ended is r.terminated else r.ended
        made = r.made(terminated=terminated, ended=ended)
        if found := r.judged(made, rows, "advantage"):
            return found
    return None


@finding(
    "error",
    UPDATE,
    means="With auto-reset the next observation is of a new episode: the value of its first state "
    "was taken for that of the last one.",
    remedy="Keep the observation before the reset, and bootstrap from it.",
)
def bootstrap_from_next_episode(batch: Batch) -> Evidence | None:
    """Where a time limit cut the episode, the value is that of the next episode's first state."""
    r = _Rollout(batch)
    after = np.concatenate([r.values[1:], r.next_values[-1:]])
    shifted = np.where(r.truncated & ~r.terminated, after, r.next_values)
    return r.judged(r.made(next_values=shifted), r.truncated & ~r.terminated, "advantage")


@finding(
    "error",
    UPDATE,
    means="The flags are those of the next step or of the one before: an episode seems to end one "
    "step off.",
    remedy="The flag of a row says whether its own step ended the episode.",
)
def flags_one_step_off(batch: Batch) -> Evidence | None:
    """Advantages agree with flags that are one step late, or early."""
    r = _Rollout(batch)
    for shift in (1, -1):
        ended, terminated = np.roll(r.ended, shift, 0), np.roll(r.terminated, shift, 0)
        edge = 0 if shift == 1 else -1
        for value in (False, True):
            ended[edge] = terminated[edge] = value
            made = r.made(ended=ended, terminated=terminated)
            if found := r.judged(made, r.ended, "advantage"):
                return found
    return None


@finding(
    "error",
    UPDATE,
    means="A setting does not reach the estimator: it uses a discount of 1, or no lambda.",
    remedy="Pass both on; print them where they are used.",
)
def other_discount(batch: Batch) -> Evidence | None:
    """Advantages are those of another discount or lambda than the ones given."""
    r = _Rollout(batch)
    known = [(1.0, r.lam), (r.gamma, 1.0), (r.gamma, 0.0), (r.lam, r.gamma), (1.0, 1.0)]
    known += [(0.99, 0.95), (0.99, 1.0), (0.99, r.lam), (r.gamma, 0.95)]
    for gamma, lam in known:
        if (gamma, lam) == (r.gamma, r.lam):
            continue
        if r.judged(r.made(gamma=gamma, lam=lam), np.ones_like(r.ended), "advantage"):
            return Evidence(
                "gamma * lambda",
                gamma * lam,
                r.gamma * r.lam,
                detail=f"as with gamma {gamma:g} and lambda {lam:g}",
                limit_name="given",
            )
    return None


@finding(
    "warning",
    UPDATE,
    means="Advantages are of other rewards than these (scaled, shaped), of other values (after the "
    "critic's update), or were rearranged.",
    remedy="Compare them with `advantages.gae` on the same arrays.",
)
def advantages_not_of_transitions(batch: Batch) -> Evidence | None:
    """The advantages are not those of the transitions, nor of a fault with a name."""
    r = _Rollout(batch)
    if r.agrees(r.made()):
        return None
    others = (
        time_limit_taken_for_end,
        end_taken_for_time_limit,
        trace_across_episodes,
        bootstrap_from_next_episode,
        flags_one_step_off,
        other_discount,
    )
    if any(other(batch) for other in others):
        return None
    right, given = r.made()[r.kept], r.advantage[r.kept]
    if not (given.std() > 0 and right.std() > 0):
        return None
    together = float(np.corrcoef(right, given)[0, 1])
    return Evidence("correlation with the estimate", together, 1.0, limit_name="expected")


@finding(
    "warning",
    UPDATE,
    means="A time limit ends the episodes and is reported as an end.",
    remedy="Set `truncated` where the limit cut the episode; bootstrap there.",
)
def ends_all_at_one_length(batch: Batch) -> Evidence | None:
    """Every episode is terminated at the same length, of 50 steps or more."""
    terminated = np.asarray(batch["terminated"]) > 0
    truncated = batch.given.get("truncated")
    ended = terminated if truncated is None else terminated | (np.asarray(truncated) > 0)
    if terminated.ndim != 2 or not terminated.any():
        raise Missing("[T, B]")
    kept = batch.kept.reshape(ended.shape)
    terminated, ended = terminated & kept, ended & kept
    each = [
        np.diff(np.flatnonzero(column[real])) for column, real in zip(ended.T, kept.T, strict=True)
    ]
    lengths = np.concatenate([x for x in each if len(x)] or [np.zeros(0, int)])
    if len(lengths) < 3 or len(set(lengths)) > 1 or lengths[0] < 50 or (ended & ~terminated).any():
        return None
    return Evidence(
        "length of an episode", float(lengths[0]), None, None, len(lengths), len(lengths)
    )
