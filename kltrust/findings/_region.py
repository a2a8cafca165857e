"""Findings about how far updates went, from the metrics of a run."""

from __future__ import annotations

import numpy as np

from kltrust.findings._declare import TRAINING, Evidence, Missing, finding
from kltrust.findings._lane import Lane

_ROUNDING = 1e-3
"""A relative tolerance: a bound is checked in float32 and measured again."""
NOTHING = 1e-10
"""Nats; the KL that rounding gives two equal policies."""


@finding(
    "error",
    TRAINING,
    means="A step was too long for float32, or a logit, a deviation or a loss overflowed.",
    remedy="A smaller learning rate, a hard bound on the KL, a bound on the gradient's norm; "
    "a standard deviation as an exponential or a softplus.",
)
def parameters_not_finite(lane: Lane) -> Evidence | None:
    """An update left parameters that are NaN or infinite."""
    return lane.when("nonfinite_update", lane["nonfinite_update"] > 0)


@finding(
    "error",
    TRAINING,
    means="The environment divides by zero, or its physics blew up.",
    remedy="Check the environment (`check_env`), its parameters and its reward.",
    explains=("parameters_not_finite",),
)
def environment_not_finite(lane: Lane) -> Evidence | None:
    """The environment returned rewards or observations that are NaN or infinite."""
    bad = lane["nonfinite_rewards"] + lane["nonfinite_observations"]
    return lane.when("nonfinite_rewards + nonfinite_observations", bad > 0, values=bad)


@finding(
    "error",
    TRAINING,
    means="The bound is checked on other data (a minibatch, a subsample), in the other "
    "direction, or before the last step; or a failed line search restores nothing.",
    remedy="Check the exact KL(old || new) over the whole batch after the last step, and restore "
    "the old parameters if it is too large.",
)
def bound_exceeded(lane: Lane) -> Evidence | None:
    """An update went beyond the hard bound on its mean KL."""
    limit = lane.in_force("bound", "extra.max_kl")
    lane.claim("bound")
    return lane.when("kl", lane["kl"] > limit * (1 + _ROUNDING), limit=limit)


@finding(
    "note",
    TRAINING,
    means="The damping or the gradient's norm bound shortens the step, or the learning rate is "
    "too small to get there; the setting that is named a bound decides nothing.",
    remedy="Lower the damping, raise the learning rate, or sweep what decides the step instead.",
)
def bound_never_used(lane: Lane) -> Evidence | None:
    """Updates use less than a tenth of the hard bound on their KL."""
    limit = lane.in_force("bound", "extra.max_kl")
    lane.claim("bound")
    lane.need(10)
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.where(limit > 0, lane["kl"] / limit, np.nan)
    return lane.typical("kl / bound", 0.1, np.less, values=used)


@finding(
    "error",
    TRAINING,
    means="The new distribution is compared with itself: the old one was taken after the update or "
    "shares its parameters; or the learning rate is 0, the loss has no gradient, or all "
    "advantages are equal.",
    remedy="Keep the old distribution's numbers, not its parameters; look at the gradient's norm "
    "and the advantages' deviation.",
)
def kl_always_zero(lane: Lane) -> Evidence | None:
    """Updates do not move the policy: the KL between old and new is 0."""
    kl = lane["kl"]
    still = np.abs(kl) < NOTHING
    for flag in ("extra.zero_gradient", "extra.kl_stopped"):
        if lane.has(flag):  # other findings report these
            still &= lane[flag] == 0
    if lane.has("extra.accepted"):
        still &= lane["extra.accepted"] == 1
    return lane.when("kl", still, share=0.5)


@finding(
    "warning",
    TRAINING,
    means="Clipping no longer restrains the policy: ratios jump over the interval in one step, or "
    "the same batch is used for too long.",
    remedy="A smaller learning rate, fewer epochs, or a bound on the KL.",
)
def clip_share_large(lane: Lane) -> Evidence | None:
    """More than half of the samples are beyond the clipping interval after an update."""
    return lane.typical("clip_fraction", 0.5, np.greater)


@finding(
    "note",
    TRAINING,
    means="Updates are too small for clipping to matter: the algorithm is a plain policy gradient.",
    remedy="A larger learning rate or more epochs, if it learns too slowly.",
)
def clip_never_used(lane: Lane) -> Evidence | None:
    """No sample is ever beyond the clipping interval."""
    lane.need(10)
    lane.claim("clip")
    return lane.when("clip_fraction", lane["clip_fraction"] == 0, share=0.999)


@finding(
    "warning",
    TRAINING,
    means="A few samples have nearly all the weight: the batch says little about the new policy.",
    remedy="Shorter steps; fewer epochs on one batch.",
)
def sample_size_small(lane: Lane) -> Evidence | None:
    """The effective sample size of the batch under the new policy is below a fifth of it."""
    return lane.typical("audit.update.effective_sample_size", 0.2, np.less)


@finding(
    "warning",
    TRAINING,
    means="The new policy does often what the old one hardly ever did: a step too long at some "
    "state, a deviation that shrank at once, or log-probabilities that do not belong together.",
    remedy="Bound the KL; check that stored log-probabilities are those of the stored actions.",
)
def ratio_huge(lane: Lane) -> Evidence | None:
    """The largest probability ratio of a batch is typically above 100."""
    return lane.typical("max_ratio", 100.0, np.greater)


@finding(
    "warning",
    TRAINING,
    means="Nothing holds the update back: a learning rate that is too large for this network, or "
    "advantages of a scale that the penalty was not made for.",
    remedy="A smaller learning rate; standardised advantages; an algorithm with a bound.",
)
def step_too_long(lane: Lane) -> Evidence | None:
    """The mean KL of an update is typically above half a nat."""
    return lane.typical("kl", 0.5, np.greater)


@finding(
    "note",
    TRAINING,
    means="The learning rate is far too small, or a bound on the gradient's norm is.",
    remedy="A larger learning rate; sweep it by factors of ten.",
)
def step_too_short(lane: Lane) -> Evidence | None:
    """The mean KL of an update is typically below a millionth of a nat, and not 0."""
    kl = lane["kl"]
    return lane.typical("kl", 1e-6, np.less, values=np.where(np.abs(kl) < NOTHING, np.nan, kl))


@finding(
    "warning",
    TRAINING,
    means="One batch was unlike the others, or the optimiser's state was reset or fed with NaN; "
    "training often does not recover from such an update.",
    remedy="A bound on the KL; a bound on the gradient's norm; look at that batch's rewards.",
)
def kl_spike(lane: Lane) -> Evidence | None:
    """One update moved the policy a hundred times as far as the others, and above half a nat."""
    lane.need(10)
    kl = lane["kl"]
    usual = np.nanmedian(kl)
    return lane.when("kl", (kl > 100 * usual) & (kl > 0.5), limit=max(100 * usual, 0.5))


@finding(
    "note",
    TRAINING,
    means="The KL is made at few states: the mean that is bounded says little about them.",
    remedy="Look at the quantiles; a smaller bound, or one on the largest KL.",
)
def few_states_move(lane: Lane) -> Evidence | None:
    """The largest KL of a state is typically above 100 times the mean."""
    kl = lane["kl"]
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.where(kl > 1e-6, lane["kl_max"] / kl, np.nan)
    return lane.typical("kl_max / kl", 100.0, np.greater, values=over)


@finding(
    "note",
    TRAINING,
    means="The step is far beyond where the two directions agree: a bound on one says little of "
    "the other.",
    remedy="Shorter steps, or a bound on the direction that matters to you.",
)
def directions_differ(lane: Lane) -> Evidence | None:
    """KL(new || old) is typically more than three times KL(old || new), or less than a third."""
    kl, back = lane["kl"], lane["kl_reverse"]
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.where((kl > 1e-6) & (back > 0), np.abs(np.log(back / kl)), np.nan)
    return lane.typical("abs(log(kl_reverse / kl))", float(np.log(3)), np.greater, values=off)


@finding(
    "note",
    TRAINING,
    means="The states of the batch are not those that the new policy visits.",
    remedy="A larger batch; shorter steps.",
)
def fresh_states_move_more(lane: Lane) -> Evidence | None:
    """At states of the new policy the update's KL is more than three times that of its batch."""
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.where(lane["kl"] > 1e-6, lane["audit.fresh.kl.mean"] / lane["kl"], np.nan)
    return lane.typical("audit.fresh.kl.mean / kl", 3.0, np.greater, values=over)


@finding(
    "warning",
    TRAINING,
    means="The statistics of the observations forget too fast, or are of few samples: the policy "
    "moves between two updates, bound by nothing.",
    remedy="Freeze the statistics within an iteration, average over all samples, warm them up.",
)
def normaliser_moves_more(lane: Lane) -> Evidence | None:
    """The observations' normaliser moves the policy further than the updates do."""
    lane.need(10)
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.where(lane["kl"] > 1e-6, lane["audit.normalizer.mean"] / lane["kl"], np.nan)
    return lane.typical("audit.normalizer.mean / kl", 1.0, np.greater, values=over)


@finding(
    "note",
    TRAINING,
    means="A minibatch's KL scatters around the batch's: stopping or steering by it is a lottery.",
    remedy="Take the KL of the whole batch after an epoch, or larger minibatches.",
)
def minibatch_kl_scatters(lane: Lane) -> Evidence | None:
    """Minibatches of the last epoch see KLs that scatter by more than the batch's KL itself."""
    epoch = np.atleast_2d(lane["audit.path.epoch"])
    path = lane["audit.path.minibatch"].reshape(*epoch.shape, -1)
    if path.shape[2] < 4:
        raise Missing("minibatches")
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = path[:, -1].std(axis=1) / epoch[:, -1]
    spread = np.where(np.isfinite(spread), spread, np.nan)
    return lane.typical("std over minibatches / kl", 1.0, np.greater, values=spread)


@finding(
    "warning",
    TRAINING,
    means="The gradient of every update is cut to one length: its size, and so the advantages' "
    "scale, decides nothing, and the learning rate is the length of the step.",
    remedy="A larger bound, or smaller losses: standardised advantages, a scaled reward.",
)
def gradient_always_bounded(lane: Lane) -> Evidence | None:
    """The gradient's norm is beyond its bound in nearly every update."""
    limit = lane.claim("gradient bound")
    return lane.when("extra.grad_norm", lane["extra.grad_norm"] > limit, limit=limit, share=0.95)


@finding(
    "error",
    TRAINING,
    means="The loss has the wrong sign, advantages and rows do not belong together, or another "
    "term of the loss (entropy, a shared critic) outweighs the surrogate.",
    remedy="Minimise -mean(ratio * advantage); check the alignment of rows; weigh the other terms.",
)
def update_against_advantages(lane: Lane) -> Evidence | None:
    """Most updates lower the surrogate that they are to raise: mean((r - 1) A) is negative."""
    lane.need(5)
    gain, kl = lane["surrogate_gain"], lane["kl"]
    return lane.when("surrogate_gain", (gain < 0) & (kl > NOTHING), limit=0.0, share=0.6)
