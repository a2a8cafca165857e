"""What of the audit is part of every iteration, and what on request."""

from __future__ import annotations

from typing import NamedTuple

from kltrust.audit._curvature import CurvatureAudit, audit_curvature
from kltrust.audit._states import StateAudit, audit_states
from kltrust.audit._summary import Summary
from kltrust.audit._training import ReferenceKL, normalizer_kl, reference_kl
from kltrust.audit._update import UpdateAudit, audit_update
from kltrust.rollout.normalization import Moments, normalize
from kltrust.types import Array, KLPath, Number, Params, Policy, PolicyBatch, PyTree

AUDITS = ("default", "extended", "full")
"""Of every iteration: by one forward pass; by some ten more and a rollout; by Fisher products."""

_MAX_OUTCOMES = 64  # more would cost more than a forward pass
_PROBES, _PROBE_ITERS = 4, 20


class Reference(NamedTuple):
    """A frozen policy to measure the distance from.

    Attributes:
        policy_params: its parameters.
        normalizer: the moments that its observations are normalised by; None if they are not.
    """

    policy_params: Params
    normalizer: Moments | None


class IterationAudit(NamedTuple):
    """How far one iteration moved the policy. KLs exact, in nats; what is not there is None.

    Attributes:
        update: the update on its own batch, by the same standard for every algorithm, samples
            parted at eps = 0.2, whatever it clips at. Of every level.
        fresh: before and after the update at the states of a rollout of the new policy;
            "extended".
        path: along the epochs and minibatches of the shared loop; "extended", and None for an
            algorithm that does not use it.
        reference: to the frozen policy of `LearnerState.reference`, if there is one; "extended".
        normalizer: what the new statistics of the observations, which the next iteration will use,
            move on top; "extended", where observations are normalised.
        curvature: the quadratic model of the KL and the linear one of the gain; "full".
    """

    update: UpdateAudit
    fresh: StateAudit | None = None
    path: KLPath | None = None
    reference: ReferenceKL | None = None
    normalizer: Summary | None = None
    curvature: CurvatureAudit | None = None


def audit_by_default(policy: Policy, new_params: Params, batch: PolicyBatch) -> IterationAudit:
    """The part that every run has: one forward pass, no gradient, nothing sorted.

    Args:
        policy: the policy.
        new_params: after the update.
        batch: what the update saw; ``batch.old`` is the policy before it.
    """
    return IterationAudit(audit_update(policy, None, new_params, batch, max_outcomes=_MAX_OUTCOMES))


def audit_iteration(
    policy: Policy,
    old_params: Params,
    new_params: Params,
    batch: PolicyBatch,
    *,
    raw_obs: PyTree,
    fresh_obs: PyTree,
    normalizer: Moments | None,
    new_normalizer: Moments | None,
    reference: Reference | None,
    path: KLPath | None,
    damping: Number | None,
    key: Array,
) -> IterationAudit:
    """The part on request; see `IterationAudit`.

    Args:
        policy: the policy.
        old_params: before the update.
        new_params: after it.
        batch: what the update saw.
        raw_obs: the observations of ``batch`` before they were normalised.
        fresh_obs: raw observations of the new policy's own rollout.
        normalizer: the moments that ``batch.obs`` were normalised by, if they were.
        new_normalizer: those that the next iteration will use.
        reference: the frozen policy, or None.
        path: of the update, or None.
        damping: of the curvature's part; None leaves that part out.
        key: for it.
    """
    fresh = normalize(normalizer, fresh_obs)
    return audit_by_default(policy, new_params, batch)._replace(
        fresh=audit_states(
            policy(old_params, fresh), policy(new_params, fresh), max_outcomes=_MAX_OUTCOMES
        ),
        path=path,
        reference=None
        if reference is None
        else reference_kl(
            policy,
            new_params,
            reference.policy_params,
            batch.obs,
            reference_obs=normalize(reference.normalizer, raw_obs),
        ),
        normalizer=None
        if normalizer is None
        else normalizer_kl(policy, new_params, normalizer, new_normalizer, raw_obs),
        curvature=None
        if damping is None
        else audit_curvature(
            policy,
            old_params,
            new_params,
            batch,
            key=key,
            damping=damping,
            num_probes=_PROBES,
            probe_iters=_PROBE_ITERS,
        ),
    )
