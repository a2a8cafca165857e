"""Findings about the size of a step: the search, the solver, the controllers, the early stop."""

from __future__ import annotations

import numpy as np

from kltrust.findings._declare import TRAINING, Evidence, finding
from kltrust.findings._lane import Lane
from kltrust.findings._region import NOTHING


@finding(
    "warning",
    TRAINING,
    means="The gradient is 0: advantages without variance, a reward that never comes, or a "
    "policy so certain that nothing is sampled beside its mode.",
    remedy="Look at the rewards of a batch; explore more; check that advantages reach the loss.",
)
def gradient_zero(lane: Lane) -> Evidence | None:
    """There is no gradient to follow in a fifth of the updates or more."""
    name = "extra.zero_gradient" if lane.has("extra.zero_gradient") else "extra.moved"
    bad = lane[name] != (0 if name == "extra.zero_gradient" else 1)
    return lane.when(name, bad, share=0.2)


@finding(
    "warning",
    TRAINING,
    means="No length of the step both improves the surrogate and keeps the KL: gradient and "
    "objective disagree (a sign, dropout, other rows), or the direction is rounding alone.",
    remedy="Check the surrogate's gradient against its differences; evaluate both at the same "
    "rows, without randomness; solve in float32 or better.",
)
def line_search_fails(lane: Lane) -> Evidence | None:
    """The line search takes no step in a third of the updates or more."""
    failed = lane["extra.accepted"] == 0
    if lane.has("extra.zero_gradient"):
        failed &= lane["extra.zero_gradient"] == 0
    return lane.when("extra.accepted", failed, share=1 / 3)


@finding(
    "note",
    TRAINING,
    means="The quadratic model of the KL is not good at this length: the damping is small, or the "
    "bound is large.",
    remedy="More damping or a smaller bound saves the search; results change little.",
)
def line_search_always_shortens(lane: Lane) -> Evidence | None:
    """The line search shortens nearly every step."""
    lane.need(10)
    return lane.when("extra.backtracks", lane["extra.backtracks"] > 0, share=0.9)


@finding(
    "warning",
    TRAINING,
    means="The direction is not the natural gradient: too few iterations for this damping, or a "
    "Fisher product that is not symmetric or not of the same rows.",
    remedy="More iterations, more damping, or a preconditioner; check v'(Fu) = u'(Fv).",
)
def cg_not_converged(lane: Lane) -> Evidence | None:
    """Conjugate gradients end with most of the residual left."""
    return lane.typical("extra.cg_residual", 0.5, np.greater)


@finding(
    "note",
    TRAINING,
    means="The step is more a gradient step than a natural one: damping is large beside the Fisher "
    "matrix's eigenvalues, which also shortens it.",
    remedy="Lower the damping while conjugate gradients still converge.",
)
def damping_decides(lane: Lane) -> Evidence | None:
    """Damping makes up more than half of the quadratic model that scales the step."""
    damped = lane["audit.curvature.kl_quadratic_damped"]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(damped > 0, lane["audit.curvature.kl_quadratic"] / damped, np.nan)
    return lane.typical("kl_quadratic / kl_quadratic_damped", 0.5, np.less, values=part)


@finding(
    "note",
    TRAINING,
    means="The step is so long that KL(old || new) is no longer quadratic in it.",
    remedy="A smaller bound, or a line search on the true KL.",
)
def quadratic_model_off(lane: Lane) -> Evidence | None:
    """The realised KL is more than twice its quadratic model, or less than half."""
    model = lane["audit.curvature.kl_quadratic"]
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.where(model > NOTHING, np.abs(np.log(lane["audit.curvature.kl"] / model)), np.nan)
    return lane.typical("abs(log(kl / kl_quadratic))", float(np.log(2)), np.greater, values=off)


def _at_clamp(lane: Lane, quantity: str, role: str) -> Evidence | None:
    """Evidence that a setting is at the bound for the smallest updates, yet they are too large."""
    lane.need(10)
    x, limit, target = lane[quantity], lane.claim(role), lane.claim("set point")
    there = x >= limit * 0.9999 if role == "ceiling" else x <= limit * 1.0001
    return lane.when(quantity, there & (lane["kl"] > 1.5 * target), limit=limit, share=0.25)


@finding(
    "warning",
    TRAINING,
    means="The controller can't bring the KL down to its set point: the penalty has no hold, since "
    "its gradient is missing or the optimiser's steps are too long.",
    remedy="Check that the KL term has a gradient; lower the learning rate.",
    explains=("set_point_missed",),
)
def beta_at_clamp(lane: Lane) -> Evidence | None:
    """The penalty's weight is at its upper bound, and the KL beyond its set point."""
    return _at_clamp(lane, "extra.beta", "ceiling")


@finding(
    "warning",
    TRAINING,
    means="The controller can't bring the KL down to its set point: something other than the "
    "learning rate moves the policy, or the bound is too high.",
    remedy="Lower the bound; fewer epochs; check that the rate reaches the optimiser.",
    explains=("set_point_missed",),
)
def learning_rate_at_clamp(lane: Lane) -> Evidence | None:
    """The learning rate that follows the KL is at its lower bound, and the KL too large."""
    return _at_clamp(lane, "extra.learning_rate", "floor")


@finding(
    "error",
    TRAINING,
    means="The KL in the loss is a number without a gradient: computed from detached "
    "distributions, from old with itself, or from samples with an estimator whose gradient is 0.",
    remedy="Differentiate KL(old || new) with respect to new; use the exact KL, k3, or ratio * k1.",
    explains=("beta_at_clamp", "set_point_missed"),
)
def penalty_without_hold(lane: Lane) -> Evidence | None:
    """The penalty's weight grew a hundredfold, and the KL stayed beyond its set point."""
    lane.need(10)
    beta, kl, target = lane["extra.beta"], lane["kl"], lane.claim("set point")
    grown = beta >= 100 * beta[0]
    bad = grown & (kl > 2 * target)
    if bad.sum() < 3:
        return None
    return lane.when("kl", bad, limit=target, share=0.25, detail=f"beta up to {beta.max():.3g}")


@finding(
    "warning",
    TRAINING,
    means="One step of the controller overshoots the set point and the next one undershoots: its "
    "factors are too large, or it acts at every minibatch.",
    remedy="Factors nearer to 1, a wider tolerance, one step an iteration.",
)
def beta_oscillates(lane: Lane) -> Evidence | None:
    """The penalty's weight goes up and down in turn."""
    lane.need(12)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.diff(np.log(np.maximum(lane["extra.beta"], 1e-30)))
    turns = np.zeros(lane.length, bool)
    turns[2:] = (change[1:] * change[:-1] < 0) & (
        np.minimum(*np.abs([change[1:], change[:-1]])) > 1
    )
    return lane.when("extra.beta", turns, share=0.5)


@finding(
    "note",
    TRAINING,
    means="The controller, or the step size it can't control, does not reach the set point.",
    remedy="See what it is held by: a clamp, the learning rate, the number of epochs.",
)
def set_point_missed(lane: Lane) -> Evidence | None:
    """The mean KL is typically more than three times its set point, or less than a third."""
    lane.need(10)
    target = lane.claim("set point")
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(np.log(lane["kl"] / target))
    off = np.where(np.isinf(off), np.nan, off)
    late = lane.late(lane["kl"])
    found = lane.typical("kl", float(np.log(3)), np.greater, values=off)
    return found and found._replace(value=float(np.median(late)), limit=target)


@finding(
    "warning",
    TRAINING,
    means="The step is too long for the bound: most of the computed epochs are thrown away.",
    remedy="A smaller learning rate or fewer epochs, so that the bound is the exception.",
)
def early_stop_always(lane: Lane) -> Evidence | None:
    """Nearly every update stops early."""
    lane.need(10)
    return lane.when("extra.kl_stopped", lane["extra.kl_stopped"] > 0, share=0.9)


@finding(
    "error",
    TRAINING,
    means="The first epoch alone leaves the bound and is undone: the run does not learn.",
    remedy="A smaller learning rate, more minibatches' worth of clipping, or a larger bound.",
    explains=("early_stop_always",),
)
def no_epoch_kept(lane: Lane) -> Evidence | None:
    """Not one epoch of the update stays, in half of the updates or more."""
    return lane.when("extra.epochs_applied", lane["extra.epochs_applied"] == 0, share=0.5)


@finding(
    "warning",
    TRAINING,
    means="The penalty epochs go so far that the passes can't bring every state back: what was "
    "computed is thrown away.",
    remedy="A smaller learning rate, more passes, or a larger bound; let the weight begin higher.",
)
def bound_not_mended(lane: Lane) -> Evidence | None:
    """Fix-up passes end beyond the bound and undo the update, in a tenth of the updates."""
    return lane.when("extra.fixed", lane["extra.fixed"] == 0, share=0.1)


@finding(
    "warning",
    TRAINING,
    means="The weights of the better half are those of its best sample alone: the temperature can "
    "fall no further, since the advantages differ too little for what they may be apart.",
    remedy="Standardised advantages; a smaller set point of the temperature; smaller dual steps.",
)
def temperature_at_floor(lane: Lane) -> Evidence | None:
    """The temperature of the weights is at its lower bound in a quarter of the updates or more."""
    limit = lane.claim("floor")
    there = lane["extra.temperature"] <= limit * 1.0001
    return lane.when("extra.temperature", there, limit=limit, share=0.25)


@finding(
    "note",
    TRAINING,
    means="The policy that acts is not the one that is within the bounds: the regression has no "
    "hold on it.",
    remedy="More epochs, a larger weight of the regression, a smaller learning rate.",
)
def projection_left_behind(lane: Lane) -> Evidence | None:
    """The acting policy is typically further from the projected one than that is from old."""
    gap, moved = lane["extra.projection_gap"], lane["extra.projected_kl"]
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.where(moved > NOTHING, gap / moved, np.nan)
    return lane.typical("projection_gap / projected_kl", 1.0, np.greater, values=over)
