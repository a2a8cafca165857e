"""The audit on request of a learner's iteration: with a rollout that nothing else sees."""

from __future__ import annotations

from typing import Any

import jax

from kltrust.audit._iteration import IterationAudit, audit_iteration
from kltrust.rollout.acting import play
from kltrust.rollout.batches import arrange, episode_starts
from kltrust.types import ActorCritic, Array, Env, KLPath, Number, PolicyBatch, PyTree, Transition

# Folded into an iteration's key for the audit: none of the four that the key is split into.
_AUDIT = 0x6B6C


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
    """The extended audit; the fresh states are those of a rollout of the new policy.

    Args:
        env: the environment.
        agent: policy and value function.
        old: the `LearnerState` before the iteration.
        new: the one after it.
        batch: what the update saw.
        transition: what the batch was made of, [T, B].
        path: of the update, or None.
        damping: of the curvature's part; None leaves that part out.
    """
    num_steps = transition.reward.shape[0]
    play_key, key = jax.random.split(jax.random.fold_in(old.key, _AUDIT))
    _, fresh = play(env, agent, new._replace(normalizer=old.normalizer), play_key, num_steps)

    def raw(state: Any, transition: Transition) -> PyTree:
        done: Array = transition.terminated | transition.truncated
        start = episode_starts(agent, state.episode_length, done)
        return arrange(transition.obs, start, state.policy_carry)[0]

    return audit_iteration(
        agent.policy,
        old.policy_params,
        new.policy_params,
        batch,
        raw_obs=raw(old, transition),
        fresh_obs=raw(new, fresh),
        normalizer=old.normalizer,
        new_normalizer=new.normalizer,
        reference=old.reference,
        path=path,
        damping=damping,
        key=key,
    )
