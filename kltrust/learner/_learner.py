"""One iteration of policy optimisation as a pure function of its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.advantages import gae, standardize
from kltrust.audit import Reference, audit_by_default, audit_on_request, measure_update
from kltrust.checks import check, check_kinds, check_minibatches, kind_of, typed_key
from kltrust.critic import ValueRegression, measure_critic
from kltrust.learner._check import check_agent, checked_update
from kltrust.learner._parts import Schedule, resolver
from kltrust.learner._settings import LearnerSettings
from kltrust.learner._state import LearnerState, Metrics
from kltrust.networks.masks import count_fully_masked
from kltrust.rollout.acting import play, stagger
from kltrust.rollout.batches import (
    episode_starts,
    first_carries,
    make_batch,
    to_units,
    value_estimates,
)
from kltrust.rollout.loop import count_episodes, count_nonfinite, reset_batch
from kltrust.rollout.normalization import (
    init_moments,
    init_reward_scale,
    normalize,
    scale_rewards,
    update_moments,
)
from kltrust.settings import changed, signature_with, with_role
from kltrust.tree import fusion_barrier
from kltrust.types import (
    ActorCritic,
    Array,
    Blocks,
    Critic,
    CriticBatch,
    Env,
    Number,
    PolicyUpdate,
    Wanted,
)


class Learner(NamedTuple):
    """``init(key) -> LearnerState`` and ``step(LearnerState) -> (LearnerState, Metrics)``."""

    init: Callable[[Array], LearnerState]
    step: Callable[[LearnerState], tuple[LearnerState, Metrics]]


def make_learner(
    env: Env | Schedule,
    agent: ActorCritic,
    update: PolicyUpdate | Schedule,
    *,
    critic: Critic | Schedule = ValueRegression(),  # noqa: B008
    planned_iterations: Number | None = None,
    settings: LearnerSettings | None = None,
    **changes: Any,
) -> Learner:
    """One iteration of policy optimisation as a pure function of its state.

    Args:
        env: the environment, of which ``num_envs`` run in parallel; one of gymnax will do. Or a
            schedule, a function from the fraction of the planned iterations to the environment.
        agent: policy and value function, with or without memory.
        update: the algorithm; or a schedule likewise: ``lambda f: trpo(max_kl=0.02 * (1 - f))``.
        critic: the critic's update; or a schedule likewise.
        planned_iterations: the number of iterations at which a schedule's fraction is 1.
        settings: rollout, advantages and measurement; None takes the defaults.
        **changes: settings by name, see `LearnerSettings`.

    Raises:
        ValueError: on a bad setting, a batch that does not divide, a schedule without a plan.
        TypeError: if ``update`` is no algorithm; names the remedy.
    """
    own = changed(settings or LearnerSettings(), changes, "setting of make_learner")
    num_envs, num_steps, audit = own.num_envs, own.num_steps, own.audit

    def fitting(given: Any, _: str) -> Env:
        made = check_kinds(given, agent)
        # `step_batch` may ask all devices at every step whether an episode has ended.
        return made._replace(step_batch=None) if own.minibatch_blocks > 1 else made

    first_env, scheduled_env = resolver(env, planned_iterations, "an environment", fitting)
    first_update, scheduled_update = resolver(update, planned_iterations, "an algorithm")
    first_critic, scheduled_critic = resolver(critic, planned_iterations, "a critic")
    units, of = num_envs * num_steps, "rows (num_envs * num_steps)"
    if agent.memory is not None:
        units, of = num_envs, "sequences (num_envs)"
    for what, part in (("update", first_update), ("critic", first_critic)):
        counts = {f"{what}.{n}": getattr(part, n) for n in with_role(part, "minibatches")}
        check_minibatches(units, of, own.minibatch_blocks, **counts)
    planned = 1 if planned_iterations is None else planned_iterations
    check(planned_iterations=(planned, False))
    check_agent(first_env, agent)

    def resolve(iteration: Array | int) -> tuple[Env, PolicyUpdate, Critic]:
        # A run that goes on beyond its plan keeps the schedule's last value.
        fraction = jnp.minimum(jnp.asarray(iteration, jnp.float32) / planned, 1)
        return scheduled_env(fraction), scheduled_update(fraction), scheduled_critic(fraction)

    def init(key: Array) -> LearnerState:
        env, algorithm, learned_critic = resolve(0)
        params_key, env_key, key = jax.random.split(typed_key(key), 3)
        policy_params, value_params = loops.match_varying(agent.init(params_key), params_key)
        env_state, obs = reset_batch(env, env_key, num_envs)
        one_obs = jax.tree.map(lambda x: x[0], obs)
        carries = first_carries(agent, (policy_params, value_params), obs)
        normalizer = init_moments(one_obs) if own.normalize_observations else None
        # Copies: a state that is donated must not hold a buffer twice.
        first = jax.tree.map(jnp.copy, Reference(policy_params, normalizer))
        state = LearnerState(
            policy_params=policy_params,
            value_params=value_params,
            update_state=algorithm.init(policy_params),
            value_state=learned_critic.init(value_params),
            env_state=env_state,
            obs=obs,
            normalizer=normalizer,
            reward_scale=init_reward_scale(num_envs) if own.normalize_rewards else None,
            episode_return=jnp.zeros(num_envs, jnp.float32),
            episode_length=jnp.zeros(num_envs, jnp.int32),
            key=key,
            iteration=jnp.int32(0),
            reference=None if audit == "default" else first,
            policy_carry=carries[0],
            value_carry=carries[1],
        )
        if not own.stagger_steps:
            return state
        stagger_key, key = jax.random.split(key)
        return stagger(env, agent, state._replace(key=key), stagger_key, own.stagger_steps)

    def step(state: LearnerState) -> tuple[LearnerState, Metrics]:
        env, algorithm, learned_critic = resolve(state.iteration)
        rollout_key, update_key, value_key, key = jax.random.split(state.key, 4)

        (env_state, obs, policy_carry), transition = play(env, agent, state, rollout_key, num_steps)
        done = transition.terminated | transition.truncated
        start = episode_starts(agent, state.episode_length, done)
        reward_scale, reward = state.reward_scale, transition.reward
        if reward_scale is not None:
            reward_scale, reward = scale_rewards(reward_scale, reward, done, own.gamma)

        obs_seen = normalize(state.normalizer, transition.obs)
        next_seen = normalize(state.normalizer, transition.next_obs)
        value, next_value, value_carry = value_estimates(
            agent, state.value_params, obs_seen, next_seen, start, state.value_carry
        )
        advantage = gae(
            reward,
            value,
            next_value,
            transition.terminated,
            transition.truncated,
            gamma=own.gamma,
            lam=own.gae_lambda,
        )
        target = advantage + value
        if own.normalize_advantages:
            advantage = standardize(advantage)

        policy_batch = make_batch(
            agent.policy,
            state.policy_params,
            obs_seen,
            transition.action,
            advantage,
            start,
            state.policy_carry,
        )._replace(blocks=Blocks(own.minibatch_blocks), wanted=Wanted(path=audit != "default"))
        moved = algorithm.update(
            agent.policy, state.policy_params, state.update_state, policy_batch, update_key
        )
        policy_params, update_state, report = checked_update(algorithm, state.policy_params, moved)
        rows = to_units(obs_seen, start, state.value_carry, value, target)
        value_params, value_state = learned_critic.update(
            agent.value,
            state.value_params,
            state.value_state,
            CriticBatch(rows[0], rows[1], rows[2], policy_batch.blocks),
            value_key,
        )

        episode_return, episode_length, episodes = count_episodes(
            state.episode_return, state.episode_length, transition.reward, done
        )
        # Last, so that everything above used the statistics with which the actions were taken.
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
        # Keeps the training's bits the same, whatever is measured after it.
        new_state, policy_batch, transition = fusion_barrier((new_state, policy_batch, transition))
        if audit == "default":
            audited = audit_by_default(agent.policy, new_state.policy_params, policy_batch)
        else:
            own_damping = [getattr(algorithm, n) for n in with_role(algorithm, "fisher damping")]
            damping = (own_damping or [0.1])[0] if audit == "full" else None
            audited = audit_on_request(
                env, agent, state, new_state, policy_batch, transition, report.path, damping=damping
            )
        metrics = Metrics(
            **measure_update(agent.policy, new_state.policy_params, policy_batch, audited.update),
            **measure_critic(value, target),
            **episodes,
            **count_nonfinite(transition, (new_state.policy_params, new_state.value_params)),
            fully_masked=count_fully_masked(env.action_space, transition.obs),
            audit=audited,
            extra=report.extra,
        )
        return new_state, metrics

    return Learner(init, step)


make_learner.__signature__ = signature_with(make_learner, LearnerSettings)  # type: ignore[attr-defined]


def run(learner: Learner, state: LearnerState, num_iterations: int) -> tuple[LearnerState, Metrics]:
    """num_iterations steps of ``learner`` as one scan: (state, Metrics of [num_iterations, ...]).

    It starts at ``state``, from ``learner.init`` or an earlier `run`; num_iterations is static.
    """
    if not isinstance(learner, Learner):
        raise TypeError(
            f"the first argument must be a learner, as kltrust.make_learner returns, got "
            f"{kind_of(learner)}"
        )
    return loops.scan(lambda s, _: learner.step(s), state, length=num_iterations)


def train(learner: Learner, key: Array, num_iterations: int) -> tuple[LearnerState, Metrics]:
    """``learner.init(key)`` and `run` -> (state, Metrics), as in `run`.

    Compile it outside: ``jax.jit(lambda key: train(learner, key, n))``. The ``key`` is typed, from
    `jax.random.key`; one from `jax.random.PRNGKey` stands for the typed key with the same data.
    """
    first = getattr(learner, "init", typed_key)(key)
    return run(learner, first, num_iterations)
