"""Findings about an update's inputs, and about the values logged for it."""

from __future__ import annotations

import numpy as np

from kltrust.findings._arrays import Batch
from kltrust.findings._declare import UPDATE, Evidence, Missing, finding
from kltrust.findings._start import _MANY, _worst


@finding(
    "error",
    UPDATE,
    means="Rewards are all equal and the critic knows them, groups have one score, or advantages "
    "were standardised over one row each.",
    remedy="Look at rewards and values; standardise over the whole batch.",
    explains=("kl_always_zero", "new_is_old"),
)
def advantages_constant(batch: Batch) -> Evidence | None:
    """All advantages are equal: there is nothing to follow."""
    advantage = batch.rows("advantages")
    size = np.abs(advantage).max(initial=0)
    if len(advantage) < 2 or np.ptp(advantage) > 1e-6 * max(size, 1e-6):
        return None
    number = len(advantage)
    return Evidence(
        "deviation of advantages", float(advantage.std()), 0, None, number, number, "rows"
    )


@finding(
    "warning",
    UPDATE,
    means="One outlier (a reward of another scale, a terminal bonus) decides the update.",
    remedy="Clip or scale the rewards; look at the row named.",
)
def advantages_dominated(batch: Batch) -> Evidence | None:
    """One row in a hundred has more than half of the advantages' sum of squares."""
    advantage = batch.rows("advantages")
    if len(advantage) < 2 * _MANY:
        raise Missing("rows")
    squares = (advantage - np.median(advantage)) ** 2
    total = squares.sum()
    few = np.argsort(squares)[-max(1, len(squares) // 100) :]
    bad = np.zeros(len(squares), bool)
    bad[few] = total > 0 and squares[few].sum() > 0.5 * total
    return _worst(batch, "advantage", advantage, bad, None)


@finding(
    "error",
    UPDATE,
    means="The loss has the wrong sign, or advantages and actions are not of the same rows.",
    remedy="Minimise -mean(ratio * advantage); flatten all arrays in one order.",
    explains=("update_against_advantages",),
)
def step_against_advantages(batch: Batch) -> Evidence | None:
    """The update made actions less likely that have a positive advantage, beyond chance."""
    advantage, log_ratio = batch.rows("advantages"), batch.log_ratio
    if len(advantage) < _MANY or not np.isfinite(log_ratio).all():
        raise Missing("rows")
    gain = np.expm1(np.clip(log_ratio, -20, 20)) * (advantage - advantage.mean())
    scatter = gain.std() / np.sqrt(len(gain))
    if scatter == 0 or gain.mean() > -4 * scatter:
        return None
    bad = gain < 0
    found = _worst(batch, "(ratio - 1) * advantage", gain, bad, None)
    return found and found._replace(value=float(gain.mean()), limit=0.0)


@finding(
    "warning",
    UPDATE,
    means="Outputs of the network grew until softmax is 0 or 1: gradients vanish, and no other "
    "action is ever tried.",
    remedy="A small last layer at the start, an entropy bonus, shorter steps.",
    explains=("kl_always_zero",),
)
def logits_saturated(batch: Batch) -> Evidence | None:
    """The new policy is certain of one action, by 0.999 or more, at 95 % of the states."""
    if batch.new.logits is None or batch.new.logits.shape[-1] < 2:
        raise Missing("logits")
    top = np.exp(batch.new.logits[batch.kept].max(axis=-1))
    bad = top > 0.999
    return _worst(batch, "largest probability", top, bad, 0.999) if bad.mean() > 0.95 else None


@finding(
    "warning",
    UPDATE,
    means="The deviation ran to 0 or away: KL and ratios are then of the deviation alone, and "
    "the next step overflows.",
    remedy="A floor and a ceiling of the deviation; check the entropy bonus and its sign.",
)
def deviation_extreme(batch: Batch) -> Evidence | None:
    """A standard deviation of the new policy is below a thousandth, or above a thousand."""
    if batch.new.std is None:
        raise Missing("deviations")
    std = batch.new.std[batch.kept]
    off = np.abs(np.log(std)).max(axis=-1)
    column = std[np.arange(len(std)), np.abs(np.log(std)).argmax(axis=-1)]
    return _worst(batch, "standard deviation", column, off > np.log(1e3), None)


@finding(
    "warning",
    UPDATE,
    means="Features of such a size saturate a network, or drown the others.",
    remedy="Normalise the observations by running moments; divide pictures by 255.",
)
def observation_scale(batch: Batch) -> Evidence | None:
    """A feature of the observations is typically above 100 in size."""
    obs = np.asarray(batch["observations"], np.float64).reshape(len(batch.kept), -1)[batch.kept]
    size = np.sqrt(np.mean(obs**2, axis=0))
    bad = size > 100
    if not bad.any():
        return None
    first = int(np.argmax(bad))
    return Evidence(
        "root mean square", float(size.max()), 100, first, int(bad.sum()), len(bad), "features"
    )


@finding(
    "note",
    UPDATE,
    means="These features say nothing, or the same observation was stored for all rows.",
    remedy="Drop them; check that each observation is copied, not a view of the last one.",
)
def observations_constant(batch: Batch) -> Evidence | None:
    """Features of the observations do not vary over the batch."""
    obs = np.asarray(batch["observations"], np.float64).reshape(len(batch.kept), -1)[batch.kept]
    bad = np.ptp(obs, axis=0) == 0
    if len(obs) < _MANY or not bad.any():
        return None
    return Evidence("range", 0, None, int(np.argmax(bad)), int(bad.sum()), len(bad), "features")


@finding(
    "warning",
    UPDATE,
    means="The critic's network sees nothing, has no gradient, or its loss compares [N] with "
    "[N, 1], which broadcasts to all pairs and teaches it the mean.",
    remedy="Bring values and targets to one shape; look at the critic's gradient.",
    explains=("critic_worse_than_constant",),
)
def critic_constant(batch: Batch) -> Evidence | None:
    """The critic gives all states the same value, while its targets vary."""
    value, target = batch.rows("values"), batch.rows("targets")
    if len(value) < _MANY or target.std() == 0 or value.std() > 1e-3 * target.std():
        return None
    number = len(value)
    found = Evidence("deviation of values", float(value.std()), float(target.std()))
    return found._replace(count=number, of=number, detail="rows", limit_name="that of targets")


@finding(
    "note",
    UPDATE,
    means="The penalty's and the learning rates' usual values presume advantages of deviation 1.",
    remedy="Standardise the advantages over the batch, or tune for this scale.",
)
def advantages_scale(batch: Batch) -> Evidence | None:
    """The advantages' deviation is above 10, or below a tenth."""
    std = float(batch.rows("advantages").std())
    if std == 0 or 0.1 <= std <= 10:
        return None
    return Evidence("deviation of advantages", std, 10 if std > 10 else 0.1)


def _logged(batch: Batch) -> tuple[float, float]:
    """(the KL that was logged, the exact one)."""
    logged, exact = float(np.mean(batch["logged_kl"])), batch.mean(batch.kl)
    if not exact > 1e-8 or batch.kl_name != "exact KL":
        raise Missing("an exact KL")
    return logged, exact


def _near(x: float, y: float, tolerance: float = 0.02) -> bool:
    return abs(x - y) <= tolerance * abs(y)


@finding(
    "warning",
    UPDATE,
    means="The KL was averaged over the dimensions of an action, not summed: a bound on it is "
    "wider by their number.",
    remedy="Sum over the dimensions.",
)
def kl_averaged_over_dimensions(batch: Batch) -> Evidence | None:
    """The logged KL is the exact one divided by the number of action dimensions."""
    logged, exact = _logged(batch)
    dims = batch.old.mean.shape[-1] if batch.old.mean is not None else 1
    if dims < 2 or not _near(logged * dims, exact) or _near(logged, exact, 0.1):
        return None
    detail = f"{dims} dimensions"
    return Evidence("logged KL", logged, exact, detail=detail, limit_name="exact KL")


@finding(
    "note",
    UPDATE,
    means="The other direction is logged, or steered by: KL(new || old) where the papers have "
    "KL(old || new).",
    remedy="Say which it is; a bound on one is no bound on the other.",
)
def kl_of_the_other_direction(batch: Batch) -> Evidence | None:
    """The logged KL is KL(new || old)."""
    logged, exact = _logged(batch)
    back = batch.mean(batch.kl_reverse)
    if not _near(logged, back) or _near(back, exact, 0.1):
        return None
    return Evidence("logged KL", logged, exact, limit_name="exact KL")


@finding(
    "warning",
    UPDATE,
    means="It is the mean of -log ratio, which scatters around the KL and may be negative: its "
    "deviation over N rows is sqrt(2 KL / N), more than the KL itself where that is small.",
    remedy="Log the exact KL, or (ratio - 1) - log ratio, which is never negative.",
)
def kl_estimate_signed(batch: Batch) -> Evidence | None:
    """The logged KL is negative, or an estimate that may be and is off by a tenth or more."""
    logged, signed = float(np.mean(batch["logged_kl"])), -batch.mean(batch.log_ratio)
    exact = batch.mean(batch.kl)
    if logged >= 0 and not (_near(logged, signed, 1e-3) and not _near(signed, exact, 0.1)):
        return None
    return Evidence("logged KL", logged, exact, limit_name=batch.kl_name)


@finding(
    "note",
    UPDATE,
    means="It was taken of other rows or at another time: before the last step, at the last "
    "minibatch, as a mean over epochs.",
    remedy="Measure after the last step over the whole batch.",
)
def kl_logged_elsewhere(batch: Batch) -> Evidence | None:
    """The logged KL is less than half or more than twice the exact KL of this update."""
    logged, exact = _logged(batch)
    known = [batch.mean(batch.kl_reverse), -batch.mean(batch.log_ratio)]
    dims = batch.old.mean.shape[-1] if batch.old.mean is not None else 1
    if logged <= 0 or 0.5 <= logged / exact <= 2 or any(_near(logged, x) for x in known):
        return None
    if _near(logged * dims, exact):
        return None
    return Evidence("logged KL", logged, exact, limit_name="exact KL")


@finding(
    "warning",
    UPDATE,
    means="Beyond its clip the value loss has no gradient: with errors far larger than that, the "
    "critic takes many updates to get anywhere.",
    remedy="No value clipping, or rewards scaled to returns of about 1.",
)
def values_at_their_clip(batch: Batch) -> Evidence | None:
    """The critic moved by the whole clip at most rows, and is still ten clips away."""
    clip = float(batch["value_clip"])
    moved = np.abs(batch.rows("new_values") - batch.rows("values"))
    left = np.abs(batch.rows("targets") - batch.rows("new_values"))
    bad = (moved >= 0.99 * clip) & (left > 10 * clip)
    return _worst(batch, "error left", left, bad, clip) if bad.mean() > 0.5 else None
