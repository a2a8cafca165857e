"""A learner's state between iterations, and the metrics of each iteration."""

from __future__ import annotations

from typing import NamedTuple

from kltrust.audit import IterationAudit, Reference
from kltrust.rollout.normalization import Moments, RewardScale
from kltrust.tree import describe, size
from kltrust.types import Array, Params, PyTree


class LearnerState(NamedTuple):
    """The whole state of a run: a saved run resumes bit for bit.

    Attributes:
        policy_params: the policy's parameters.
        value_params: the critic's.
        update_state: the algorithm's own (optimiser, beta), as its ``init`` made it.
        value_state: the critic's optimiser.
        env_state: [B, ...].
        obs: [B, *O], not normalised.
        normalizer: moments of the observations, part of the behaviour policy; None if off.
        reward_scale: the reward scaling's state; None if off.
        episode_return: [B] raw return of the episode under way.
        episode_length: [B] its steps.
        key: a typed key.
        iteration: [] int32, iterations done.
        reference: the frozen policy from which an audit on request measures the distance: the first
            one, unless you replace it; None without such an audit.
        policy_carry: [B, ...] the policy's memory of the episodes under way; () without memory.
        value_carry: [B, ...] the critic's memory, likewise; ignored where an episode begins.
    """

    policy_params: Params
    value_params: Params
    update_state: PyTree
    value_state: PyTree
    env_state: PyTree
    obs: PyTree
    normalizer: Moments | None
    reward_scale: RewardScale | None
    episode_return: Array
    episode_length: Array
    key: Array
    iteration: Array
    reference: Reference | None = None
    policy_carry: PyTree = ()
    value_carry: PyTree = ()

    def __repr__(self) -> str:
        """One line: the iterations done, and the sizes."""
        sizes = (
            f"{size(self.policy_params):,} of the policy, {size(self.value_params):,} of the critic"
        )
        return f"LearnerState(iteration {describe(self.iteration)}, numbers: {sizes})"


class Metrics(NamedTuple):
    """One iteration, measured alike for every algorithm; scalars. All KLs exact, in nats.

    Attributes:
        kl: mean over the batch's states of KL(old || new).
        kl_reverse: mean of KL(new || old).
        kl_max: the largest KL(old || new) over the batch's states.
        surrogate_gain: mean of (r - 1) A, r the ratio new / old, A as the update saw it.
        entropy: mean entropy of the new policy.
        max_ratio: the largest r in the batch.
        clip_fraction: share of samples with |r - 1| > 0.2, whatever the algorithm clips at.
        explained_variance: 1 - Var(target - V) / Var(target) of the critic before its update.
        value_loss: mean of half the squared error of the critic before its update.
        return_sum: sum of the raw returns of the episodes that ended in this iteration.
        length_sum: sum of their lengths.
        num_episodes: the number of these episodes; it may be 0.
        nonfinite_rewards: rewards that were NaN or infinite.
        nonfinite_observations: transitions with a NaN or infinite observation.
        nonfinite_update: 1 if the new parameters are not all finite.
        fully_masked: observations whose mask allowed no action; all are then allowed, see `Masked`.
        audit: how the update moved the policy, in more detail; more of it on request.
        extra: the algorithm's own report.
    """

    kl: Array
    kl_reverse: Array
    kl_max: Array
    surrogate_gain: Array
    entropy: Array
    max_ratio: Array
    clip_fraction: Array
    explained_variance: Array
    value_loss: Array
    return_sum: Array
    length_sum: Array
    num_episodes: Array
    nonfinite_rewards: Array
    nonfinite_observations: Array
    nonfinite_update: Array
    fully_masked: Array
    audit: IterationAudit
    extra: dict[str, Array]

    def __repr__(self) -> str:
        """One line: the first fields, or their shape."""
        some = [
            f"{name} {describe(getattr(self, name))}" for name in ("kl", "entropy", "value_loss")
        ]
        return f"Metrics({', '.join(some)}, ...; kltrust.results.to_frame has all)"
