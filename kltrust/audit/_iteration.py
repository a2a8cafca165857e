"""The parts of the audit: those in every iteration, and those on request."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from kltrust.audit._curvature import CurvatureAudit, audit_curvature
from kltrust.audit._states import StateAudit, Summary, audit_states
from kltrust.audit._training import ReferenceKL, normalizer_kl, reference_kl
from kltrust.audit._update import UpdateAudit, audit_update
from kltrust.rollout.acting import play
from kltrust.rollout.batches import episode_starts, to_units
from kltrust.rollout.normalization import Moments, normalize
from kltrust.tree import in_full_precision
from kltrust.types import (
    ActorCritic,
    Array,
    Env,
    KLPath,
    Number,
    Params,
    Policy,
    PolicyBatch,
    PyTree,
    Transition,
)

AUDITS = ("default", "extended", "full")
"""The levels; they cost one forward pass, some ten more and a rollout, and Fisher products."""

_MAX_OUTCOMES = 64  # more would cost more than a forward pass
_PROBES = {"num_probes": 4, "probe_iters": 20}

# Folded into an iteration's key for the audit: differs from the four keys that it is split into.
_AUDIT = 0x6B6C


class Reference(NamedTuple):
    """A frozen policy to measure the distance from.

    Attributes:
        policy_params: its parameters.
        normalizer: the moments that normalise its observations; None without normalisation.
    """

    policy_params: Params
    normalizer: Moments | None


class IterationAudit(NamedTuple):
    """How far one iteration moved the policy. KLs are exact, in nats; missing parts are None.

    Attributes:
        update: the update on its own batch, measured in the same way for every algorithm; samples
            are split at eps = 0.2, whatever the algorithm clips at. At every level.
        fresh: before and after the update at the states of a rollout of the new policy;
            "extended".
        path: along the epochs and minibatches of the shared loop; "extended", and None for an
            algorithm that does not use that loop.
        reference: to the frozen policy of `LearnerState.reference`, if there is one; "extended".
        normalizer: the additional movement by the new statistics of the observations, which the
            next iteration will use; "extended", if observations are normalised.
        curvature: the quadratic model of the KL and the linear one of the gain; "full".
    """

    update: UpdateAudit
    fresh: StateAudit | None = None
    path: KLPath | None = None
    reference: ReferenceKL | None = None
    normalizer: Summary | None = None
    curvature: CurvatureAudit | None = None


def audit_by_default(policy: Policy, new_params: Params, batch: PolicyBatch) -> IterationAudit:
    """The part that every run has: one forward pass, no gradient, no sorting.

    ``policy`` has new_params after the update, which saw ``batch``; ``batch.old`` is the policy
    before it.
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
    """The part on request.

    Args:
        policy: as in `audit_update`, like the next three.
        old_params: before the update.
        new_params: after it.
        batch: the one that the update saw.
        raw_obs: the observations of the batch before normalisation.
        fresh_obs: raw observations of the new policy's own rollout.
        normalizer: the moments that the batch was normalised by, or None.
        new_normalizer: those of the next iteration.
        reference: the frozen policy, or None.
        path: that of the update, or None.
        damping: for the curvature's part; None leaves that part out.
        key: for the curvature's part.
    """
    policy, fresh = in_full_precision(policy), normalize(normalizer, fresh_obs)
    before, after = policy(old_params, fresh), policy(new_params, fresh)
    states = audit_states(before, after, max_outcomes=_MAX_OUTCOMES)
    audit = audit_by_default(policy, new_params, batch)._replace(fresh=states, path=path)
    if reference is not None:
        obs, frozen = normalize(reference.normalizer, raw_obs), reference.policy_params
        kl = reference_kl(policy, new_params, frozen, batch.obs, reference_obs=obs)
        audit = audit._replace(reference=kl)
    if normalizer is not None:
        moved = normalizer_kl(policy, new_params, normalizer, new_normalizer, raw_obs)
        audit = audit._replace(normalizer=moved)
    if damping is not None:
        model = audit_curvature(
            policy, old_params, new_params, batch, key=key, damping=damping, **_PROBES
        )
        audit = audit._replace(curvature=model)
    return audit


def audit_on_request(
    env: Env,
    agent: ActorCritic,
    old: Any,
    new: Any,
    batch: PolicyBatch,
    transition: Transition,
    path: KLPath | None,
    *,
    damping: Number | None,
) -> IterationAudit:
    """The extended audit of ``agent``'s update in ``env``.

    ``old`` and ``new`` are the `LearnerState` before and after the iteration. ``batch`` was made
    from ``transition`` [T, B]. A rollout of the new policy gives the fresh states; path and damping
    are as in `audit_iteration`.
    """
    num_steps = transition.reward.shape[0]
    play_key, key = jax.random.split(jax.random.fold_in(old.key, _AUDIT))
    _, fresh = play(env, agent, new._replace(normalizer=old.normalizer), play_key, num_steps)

    def raw(state: Any, transition: Transition) -> PyTree:
        done: Array = transition.terminated | transition.truncated
        start = episode_starts(agent, state.episode_length, done)
        return to_units(transition.obs, start, state.policy_carry)[0]

    update = agent.policy, old.policy_params, new.policy_params, batch
    return audit_iteration(
        *update,
        raw_obs=raw(old, transition),
        fresh_obs=raw(new, fresh),
        normalizer=old.normalizer,
        new_normalizer=new.normalizer,
        reference=old.reference,
        path=path,
        damping=damping,
        key=key,
    )
