"""The part of the audit that every iteration's metrics name."""

from __future__ import annotations

from kltrust.audit._update import UpdateAudit, audit_update
from kltrust.types import Array, Params, Policy, PolicyBatch
from kltrust.updates import mean_entropy


def measure_update(
    policy: Policy, params: Params, batch: PolicyBatch, audit: UpdateAudit | None = None
) -> dict[str, Array]:
    """The fields kl to clip_fraction of `Metrics`, each []: how far the policy moved, exactly.

    Args:
        policy: the policy.
        params: after the update.
        batch: what the update saw, taken whole.
        audit: of this update, samples parted at eps = 0.2; None makes it.
    """
    if audit is None:
        audit = audit_update(policy, None, params, batch, quantiles=())
    return {
        "kl": audit.kl.mean,
        "kl_reverse": audit.kl_reverse.mean,
        "kl_max": audit.kl.max,
        "surrogate_gain": audit.surrogate_gain,
        "entropy": mean_entropy(policy(params, batch.obs), batch.weight),
        "max_ratio": audit.ratio.max,
        "clip_fraction": audit.killed + audit.passing,
    }
