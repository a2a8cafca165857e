"""One update, measured from both ends: the policies at the states, the ratios at the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from kltrust.audit._states import QUANTILES, Summary, largest, means, measure_states
from kltrust.checks import check
from kltrust.losses import importance_ratio
from kltrust.tree import in_full_precision
from kltrust.types import Array, Number, Params, Policy, PolicyBatch
from kltrust.updates.objectives import log_ratio, mean_entropy


class UpdateAudit(NamedTuple):
    """An update's effect on one batch. Scalars, and `Summary` of scalars; KLs in nats.

    The first seven fields, kl to bretagnolle_huber, are those of `StateAudit`: policy(old_params)
    and policy(new_params) at the batch's states. The others compare policy(new_params) with
    ``batch.old``, from which the actions were drawn, at those actions: r = new(a|s) / old(a|s). All
    averages are weighted.

    Attributes:
        ratio: r per sample.
        ratio_min: the smallest r.
        ratio_deviation: mean of abs(r - 1). It estimates 2 TV where new has no mass that old lacks.
        tv_sampled: mean of max(1 - r, 0), an unbiased estimate of the mean TV between
            ``batch.old`` and new. Its terms are at most 1; those of abs(r - 1) / 2 are unbounded.
        effective_sample_size: (sum w r)^2 / (sum w sum w r^2), as a share of the batch, in (0, 1]
            (Kish 1965); 1 where all r are equal. Estimates 1 / E[r^2] = exp(-D_2(new || old)).
        surrogate_gain: mean of (r - 1) A, in units of the advantage.
        inside: share of samples with 1 - eps <= r <= 1 + eps.
        gradient_removed: share of samples outside that interval whose gradient PPO's clipping has
            removed: A > 0 and r > 1 + eps, or A < 0 and r < 1 - eps (KLip-PPO, arXiv 2606.23932).
        gradient_kept: share of samples outside it that keep their gradient, including samples with
            A = 0.
            The three shares add up to 1.
    """

    kl: Summary
    kl_reverse: Summary
    kl_from_mean: Array | None
    kl_from_scale: Array | None
    tv: Summary | None
    pinsker: Summary
    bretagnolle_huber: Summary
    ratio: Summary
    ratio_min: Array
    ratio_deviation: Array
    tv_sampled: Array
    effective_sample_size: Array
    surrogate_gain: Array
    inside: Array
    gradient_removed: Array
    gradient_kept: Array


def audit_update(
    policy: Policy,
    old_params: Params | None,
    new_params: Params,
    batch: PolicyBatch,
    *,
    clip_eps: Number = 0.2,
    quantiles: Sequence[float] = QUANTILES,
    max_outcomes: int = 1024,
) -> UpdateAudit:
    """Measures an update by any algorithm, exactly where the distribution allows it.

    It costs two forward passes and no gradient. For *fresh states*, pass another batch, such as the
    next iteration's. Its ``old`` is then the new policy, so that the ratios are 1 and say nothing,
    while the first part measures the update at the states that the new policy visits.

    Args:
        policy: the policy.
        old_params: before the update; None takes ``batch.old`` for old at the states too, and saves
            a forward pass.
        new_params: after it.
        batch: its leading shape is [N] or, for a recurrent policy, [B, T]; rows of weight 0 do not
            count.
        clip_eps: eps of the partition, whatever the algorithm clipped at; traced.
        quantiles: as in `audit_states`.
        max_outcomes: as in `audit_states`.

    Raises:
        ValueError: on a concrete, negative ``clip_eps`` or a quantile outside [0, 1].
        NotImplementedError: if no exact KL is known.
    """
    check(clip_eps=(clip_eps, True))
    policy = in_full_precision(policy)
    old = batch.old if old_params is None else policy(old_params, batch.obs)
    new = policy(new_params, batch.obs)
    ratios = log_ratio(new, batch)
    ratio = importance_ratio(ratios)
    inside, gradient_removed, gradient_kept = clip_partition(ratio, batch.advantage, clip_eps)
    averaged = {
        "ratio_deviation": jnp.abs(ratio - 1),
        "tv_sampled": jnp.maximum(1 - ratio, 0),
        "surrogate_gain": (ratio - 1) * batch.advantage,
        "inside": inside,
        "gradient_removed": gradient_removed,
        "gradient_kept": gradient_kept,
    }
    of_samples = {"ratio": ratio}, {name: x.astype(ratio.dtype) for name, x in averaged.items()}
    return UpdateAudit(
        **measure_states(*of_samples, old, new, batch.weight, quantiles, max_outcomes),
        ratio_min=-largest(-ratio, batch.weight),
        effective_sample_size=effective_sample_size(ratios, batch.weight),
    )


def clip_partition(ratio: Array, advantage: Array, clip_eps: Number) -> tuple[Array, Array, Array]:
    """(inside, gradient_removed, gradient_kept), [*E] bool, exactly one of them true.

    The comparisons are those of `losses.clipped_surrogate_loss`, so the second says where this loss
    removed the gradient. The ``ratio`` new / old at the actions and the ``advantage`` are [*E], and
    ``clip_eps`` is the half-width of the clipping interval. A NaN ratio is none of the three.
    """
    above, below = ratio > 1 + clip_eps, ratio < 1 - clip_eps
    gradient_removed = (above & (advantage > 0)) | (below & (advantage < 0))
    inside = (ratio >= 1 - clip_eps) & (ratio <= 1 + clip_eps)
    return inside, gradient_removed, (above | below) & ~gradient_removed


def effective_sample_size(log_ratio: Array, weight: Array | None = None) -> Array:
    """(sum w r)^2 / (sum w sum w r^2), r = exp(log_ratio): [], 0 if all r are 0.

    log_ratio is [*E], and so is the non-negative ``weight`` w; None is all ones.
    """
    kept = log_ratio != -jnp.inf  # keeps a NaN, so that it shows in the result
    kept = kept if weight is None else kept & (weight > 0)
    # The share is the same for c r: dividing by the largest r avoids an overflow.
    top = jnp.max(jnp.where(kept, log_ratio, -jnp.inf))
    ratio = jnp.where(kept, jnp.exp(jnp.where(kept, log_ratio - top, 0)), 0)
    mean = means({"ratio": ratio, "square": jnp.square(ratio)}, weight)
    share = jnp.square(mean["ratio"]) / jnp.where(mean["square"] == 0, 1, mean["square"])
    return jnp.where(mean["square"] == 0, 0, share)


def measure_update(
    policy: Policy, params: Params, batch: PolicyBatch, audit: UpdateAudit | None = None
) -> dict[str, Array]:
    """The fields kl to clip_fraction of `Metrics`, each []: how far the policy moved, exactly.

    ``policy`` has the parameters ``params`` after the update, which saw the whole ``batch``. The
    ``audit`` is that of this update, with samples split at eps = 0.2; None computes it.
    """
    if audit is None:
        audit = audit_update(policy, None, params, batch, quantiles=())
    return {
        "kl": audit.kl.mean,
        "kl_reverse": audit.kl_reverse.mean,
        "kl_max": audit.kl.max,
        "surrogate_gain": audit.surrogate_gain,
        "entropy": mean_entropy(in_full_precision(policy)(params, batch.obs), batch.weight),
        "max_ratio": audit.ratio.max,
        "clip_fraction": audit.gradient_removed + audit.gradient_kept,
    }
