"""The learner: rollout, advantages, the algorithm's update, the critic's, and the measurement.

Everything but the update is the same for every algorithm, so that what differs between two runs
is what differs between two algorithms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kltrust.advantages import gae, standardize
from kltrust.audit import (
    AUDITS,
    IterationAudit,
    Reference,
    apart,
    audit_by_default,
    audit_on_request,
    measure_update,
    recording_path,
    take_path,
)
from kltrust.checks import check, check_count
from kltrust.critic import fit_value, measure_critic
from kltrust.networks.masks import count_fully_masked
from kltrust.rollout.acting import Deployable, evaluate, play, policy_of, policy_step_of
from kltrust.rollout.batches import (
    arrange,
    check_minibatches,
    episode_starts,
    first_carries,
    flatten,
    make_batch,
    values,
)
from kltrust.rollout.loop import count_episodes, count_nonfinite, reset_batch
from kltrust.rollout.normalization import (
    Moments,
    RewardScale,
    init_moments,
    init_reward_scale,
    normalize,
    scale_rewards,
    update_moments,
)
from kltrust.rollout.starts import stagger
from kltrust.types import ActorCritic, Array, Blocks, Env, Number, Params, PolicyUpdate, PyTree
from kltrust.updates.minibatches import adam

__all__ = [
    "Deployable",
    "Learner",
    "LearnerState",
    "Metrics",
    "Schedule",
    "evaluate",
    "flatten",
    "make_batch",
    "make_learner",
    "policy_of",
    "policy_step_of",
    "run",
    "train",
]

Schedule = Callable[[Array], Any]
"""A setting as a function of the fraction of the planned iterations that is done, in [0, 1)."""


class LearnerState(NamedTuple):
    """All of a run: what is saved is resumed to the bit.

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
        reference: the frozen policy that an audit on request measures the distance from: the first
            one, unless it is replaced; None without such an audit.
        policy_carry: [B, ...] what the policy remembers of the episodes under way; () without
            memory.
        value_carry: [B, ...] likewise the critic; of no account where an episode begins.
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
        num_episodes: how many they were; it may be 0.
        nonfinite_rewards: rewards that were NaN or infinite.
        nonfinite_observations: transitions with a NaN or infinite observation.
        nonfinite_update: 1 if the new parameters are not all finite.
        fully_masked: observations whose mask allowed no action, and so all of them; see `Masked`.
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


class Learner(NamedTuple):
    """``init(key) -> LearnerState`` and ``step(LearnerState) -> (LearnerState, Metrics)``."""

    init: Callable[[Array], LearnerState]
    step: Callable[[LearnerState], tuple[LearnerState, Metrics]]


def make_learner(
    env: Env,
    agent: ActorCritic,
    update: PolicyUpdate | Schedule,
    *,
    num_envs: int = 8,
    num_steps: int = 256,
    gamma: Number = 0.99,
    gae_lambda: Number = 0.95,
    value_learning_rate: Number | Schedule = 1e-3,
    value_epochs: int = 10,
    value_minibatches: int = 32,
    value_clip_eps: Number = float("inf"),
    value_max_grad_norm: Number = 0.5,
    normalize_advantages: bool = True,
    normalize_observations: bool = False,
    normalize_rewards: bool = False,
    minibatch_blocks: int = 1,
    stagger_steps: int = 0,
    audit: str = "default",
    audit_damping: Number = 0.1,
    planned_iterations: Number | None = None,
) -> Learner:
    """One iteration of policy optimisation as a pure function of its state.

    Args:
        env: the environment, stepped ``num_envs`` times in parallel.
        agent: policy and value function, with or without memory.
        update: the algorithm; or a schedule, a function from the fraction of the planned
            iterations to the algorithm: ``lambda f: trpo(max_kl=0.02 * (1 - f))``.
        num_envs: B, environments in parallel.
        num_steps: T, steps of each environment in an iteration.
        gamma: the discount.
        gae_lambda: lambda of the advantage estimator (Schulman et al. 2016).
        value_learning_rate: Adam's for the critic, or a schedule.
        value_epochs: passes of the critic over the batch.
        value_minibatches: parts of each pass; of an agent with memory, of whole sequences.
        value_clip_eps: half-width of the interval around the old value outside of which the
            critic's loss has no gradient; inf is none.
        value_max_grad_norm: bound on the global norm of the critic's gradient.
        normalize_advantages: to mean 0 and deviation 1 over the whole batch.
        normalize_observations: by running moments, frozen within an iteration.
        normalize_rewards: divide by the deviation of the running discounted return.
        minibatch_blocks: the environments in so many blocks, of each of which every minibatch
            takes as many rows. For one run that is spread over devices, at least one a device.
        stagger_steps: before the first iteration each environment plays a random number of steps
            below this, so that the episodes of environments that only a time limit ends (which
            is what to set it to) do not stay in step; 0 lets all begin together.
        audit: how much is measured, see `IterationAudit`: "default"; "extended" with the fresh
            states, the path, the reference; "full" with the curvature too. It changes no bit of
            the training, only its cost.
        audit_damping: of the full audit's curvature part; the algorithm's own, say.
        planned_iterations: what a schedule's fraction is a fraction of.

    Raises:
        ValueError: on a bad setting, a batch that does not divide, a schedule without a plan.
    """
    check_count(
        num_envs=num_envs,
        num_steps=num_steps,
        value_epochs=value_epochs,
        value_minibatches=value_minibatches,
        minibatch_blocks=minibatch_blocks,
    )
    if stagger_steps:
        check_count(stagger_steps=stagger_steps)
    check(
        gamma=(gamma, True),
        gae_lambda=(gae_lambda, True),
        value_clip_eps=(value_clip_eps, False),
        value_max_grad_norm=(value_max_grad_norm, False),
        audit_damping=(audit_damping, True),
    )
    if audit not in AUDITS:
        raise ValueError(f"audit must be one of {', '.join(AUDITS)}, got {audit!r}")
    if not callable(value_learning_rate):
        check(value_learning_rate=(value_learning_rate, True))
    for name, number in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not isinstance(number, jax.core.Tracer) and float(number) > 1:
            raise ValueError(f"{name} must be at most 1, got {number}")
    if num_envs % minibatch_blocks:
        raise ValueError(
            f"minibatch_blocks={minibatch_blocks} does not divide num_envs={num_envs}: take "
            "a multiple of it"
        )
    check_minibatches(
        agent, num_envs, num_steps, minibatch_blocks, value_minibatches=value_minibatches
    )
    if minibatch_blocks > 1:
        # It may ask all devices at every step whether an episode has ended.
        env = env._replace(step_batch=None)
    scheduled = not isinstance(update, PolicyUpdate) or callable(value_learning_rate)
    if scheduled and planned_iterations is None:
        raise ValueError("a schedule needs planned_iterations: the number of iterations to run")
    planned = 1 if planned_iterations is None else planned_iterations
    check(planned_iterations=(planned, False))

    def resolve(iteration: Array | int) -> tuple[PolicyUpdate, optax.GradientTransformation]:
        fraction = jnp.asarray(iteration, jnp.float32) / planned
        algorithm = update if isinstance(update, PolicyUpdate) else update(fraction)
        rate = value_learning_rate
        rate = rate(fraction) if callable(rate) else rate
        return algorithm, adam(rate, value_max_grad_norm)

    def init(key: Array) -> LearnerState:
        algorithm, value_optimizer = resolve(0)
        params_key, env_key, key = jax.random.split(key, 3)
        policy_params, value_params = agent.init(params_key)
        env_state, obs = reset_batch(env, env_key, num_envs)
        one_obs = jax.tree.map(lambda x: x[0], obs)
        carries = first_carries(agent, (policy_params, value_params), obs)
        normalizer = init_moments(one_obs) if normalize_observations else None
        # Copies: a state that is donated must not hold a buffer twice.
        first = jax.tree.map(jnp.copy, Reference(policy_params, normalizer))
        state = LearnerState(
            policy_params=policy_params,
            value_params=value_params,
            update_state=algorithm.init(policy_params),
            value_state=value_optimizer.init(value_params),
            env_state=env_state,
            obs=obs,
            normalizer=normalizer,
            reward_scale=init_reward_scale(num_envs) if normalize_rewards else None,
            episode_return=jnp.zeros(num_envs, jnp.float32),
            episode_length=jnp.zeros(num_envs, jnp.int32),
            key=key,
            iteration=jnp.int32(0),
            reference=None if audit == "default" else first,
            policy_carry=carries[0],
            value_carry=carries[1],
        )
        if not stagger_steps:
            return state
        stagger_key, key = jax.random.split(key)
        return stagger(env, agent, state._replace(key=key), stagger_key, stagger_steps)

    def step(state: LearnerState) -> tuple[LearnerState, Metrics]:
        algorithm, value_optimizer = resolve(state.iteration)
        rollout_key, update_key, value_key, key = jax.random.split(state.key, 4)

        (env_state, obs, policy_carry), transition = play(env, agent, state, rollout_key, num_steps)
        done = transition.terminated | transition.truncated
        start = episode_starts(agent, state.episode_length, done)
        reward_scale, reward = state.reward_scale, transition.reward
        if reward_scale is not None:
            reward_scale, reward = scale_rewards(reward_scale, reward, done, gamma)

        obs_seen = normalize(state.normalizer, transition.obs)
        next_seen = normalize(state.normalizer, transition.next_obs)
        value, next_value, value_carry = values(
            agent, state.value_params, obs_seen, next_seen, start, state.value_carry
        )
        advantage = gae(
            reward,
            value,
            next_value,
            transition.terminated,
            transition.truncated,
            gamma=gamma,
            lam=gae_lambda,
        )
        target = advantage + value
        if normalize_advantages:
            advantage = standardize(advantage)

        policy_batch = make_batch(
            agent.policy,
            state.policy_params,
            obs_seen,
            transition.action,
            advantage,
            start,
            state.policy_carry,
        )._replace(blocks=Blocks(minibatch_blocks))
        with recording_path(audit != "default"):
            policy_params, update_state, extra = algorithm.update(
                agent.policy, state.policy_params, state.update_state, policy_batch, update_key
            )
        extra, path = take_path(extra)
        value_params, value_state = fit_value(
            agent.value,
            state.value_params,
            state.value_state,
            arrange(obs_seen, start, state.value_carry, value, target),
            value_key,
            optimizer=value_optimizer,
            num_epochs=value_epochs,
            num_minibatches=value_minibatches,
            clip_eps=value_clip_eps,
            num_blocks=minibatch_blocks,
        )

        episode_return, episode_length, episodes = count_episodes(
            state.episode_return, state.episode_length, transition.reward, done
        )
        # Last, so that everything above saw the statistics that the actions were taken with.
        normalizer = state.normalizer
        if normalizer is not None:
            normalizer = update_moments(normalizer, transition.obs)
        new_state = LearnerState(
            policy_params,
            value_params,
            update_state,
            value_state,
            env_state,
            obs,
            normalizer,
            reward_scale,
            episode_return,
            episode_length,
            key,
            state.iteration + 1,
            state.reference,
            policy_carry,
            value_carry,
        )
        # So that the training has the same bits whatever is measured after it.
        new_state, policy_batch, transition = apart((new_state, policy_batch, transition))
        if audit == "default":
            audited = audit_by_default(agent.policy, new_state.policy_params, policy_batch)
        else:
            damping = audit_damping if audit == "full" else None
            audited = audit_on_request(
                env, agent, state, new_state, policy_batch, transition, path, damping=damping
            )
        metrics = Metrics(
            **measure_update(agent.policy, new_state.policy_params, policy_batch, audited.update),
            **measure_critic(value, target),
            **episodes,
            **count_nonfinite(transition, (new_state.policy_params, new_state.value_params)),
            fully_masked=count_fully_masked(env.action_space, transition.obs),
            audit=audited,
            extra=extra,
        )
        return new_state, metrics

    return Learner(init, step)


def run(learner: Learner, state: LearnerState, num_iterations: int) -> tuple[LearnerState, Metrics]:
    """``num_iterations`` steps as one scan: (state, Metrics of [num_iterations, ...]).

    Args:
        learner: of `make_learner`.
        state: where to go on, of ``learner.init`` or an earlier `run`.
        num_iterations: static.
    """
    return jax.lax.scan(lambda s, _: learner.step(s), state, length=num_iterations)


def train(learner: Learner, key: Array, num_iterations: int) -> tuple[LearnerState, Metrics]:
    """``init`` and ``run``. Compile it outside: ``jax.jit(lambda key: train(learner, key, n))``.

    Args:
        learner: of `make_learner`.
        key: a typed key, of the seed.
        num_iterations: static.

    Returns:
        As `run`.
    """
    return run(learner, learner.init(key), num_iterations)
