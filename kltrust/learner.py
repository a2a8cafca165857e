"""The learner: rollout, advantages, the algorithm's update, the critic's, and the measurement.

Everything but the update is the same for every algorithm, so that what differs between two runs
is what differs between two algorithms.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust.advantages import gae, standardize
from kltrust.algorithms import as_update
from kltrust.audit import (
    AUDITS,
    IterationAudit,
    Reference,
    audit_by_default,
    audit_on_request,
    measure_update,
)
from kltrust.checks import check
from kltrust.critic import ValueRegression, measure_critic
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
from kltrust.settings import check_names, setting, settings, signature_with, with_role
from kltrust.tree import unfused
from kltrust.types import (
    ActorCritic,
    Array,
    Blocks,
    Critic,
    CriticBatch,
    Env,
    Number,
    Params,
    PolicyUpdate,
    PyTree,
    UpdateReport,
    Wanted,
)

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


@settings
class LearnerSettings:
    """Rollout, advantages and measurement: the same for every algorithm."""

    num_envs: int = setting(
        8,
        "Environments in parallel.",
        at_least=1,
        usual="8 to 4096; what the device has room for",
    )
    num_steps: int = setting(
        256,
        "Steps of each environment in an iteration.",
        at_least=1,
        usual="16 to 2048; 2048 with one environment (Schulman et al. 2017, MuJoCo)",
    )
    gamma: Number = setting(
        0.99,
        "Discount.",
        at_least=0,
        at_most=1,
        usual="0.9 to 0.999; 0.99 (Schulman et al. 2015, 2017)",
    )
    gae_lambda: Number = setting(
        0.95,
        "Lambda of the advantage estimator (Schulman et al. 2016).",
        at_least=0,
        at_most=1,
        usual="0.9 to 1; 0.95 (Schulman et al. 2017), 0.92 to 0.98 (Schulman et al. 2016)",
    )
    normalize_advantages: bool = setting(
        True, "Standardise advantages over the whole batch.", usual="on"
    )
    normalize_observations: bool = setting(
        False,
        "Standardise observations by running moments, frozen within an iteration.",
        usual="on for continuous control (Engstrom et al. 2020), off for images",
    )
    normalize_rewards: bool = setting(
        False,
        "Divide rewards by the deviation of the running discounted return.",
        usual="on where returns are large (Engstrom et al. 2020)",
    )
    minibatch_blocks: int = setting(
        1,
        "Splits the environments into this many equal blocks. Every minibatch takes the same "
        "number of rows from each.",
        at_least=1,
        usual="1; the number of devices where one run is spread over them",
    )
    stagger_steps: int = setting(
        0,
        "Before the first iteration each environment plays a random number of steps below this, "
        "so that episodes that only a time limit ends do not stay in step.",
        at_least=0,
        usual="0; the time limit, where only that ends episodes",
    )
    audit: str = setting(
        "default",
        "How much is measured of every update: default, extended (fresh states, path, reference) "
        "or full (curvature too). It changes no bit of the training, only its cost.",
        choices=AUDITS,
        usual="default; extended or full to study updates",
    )

    def check(self) -> None:
        """Refuses blocks that do not divide the environments."""
        if self.num_envs % self.minibatch_blocks:
            raise ValueError(
                f"minibatch_blocks={self.minibatch_blocks} does not divide "
                f"num_envs={self.num_envs}: take a multiple of it"
            )


def make_learner(
    env: Env,
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
        env: the environment, stepped ``num_envs`` times in parallel.
        agent: policy and value function, with or without memory.
        update: the algorithm; or a schedule, a function from the fraction of the planned
            iterations to the algorithm: ``lambda f: trpo(max_kl=0.02 * (1 - f))``.
        critic: how the critic learns; or a schedule likewise.
        planned_iterations: what a schedule's fraction is a fraction of.
        settings: rollout, advantages and measurement; None takes the defaults.
        **changes: settings by name, see `LearnerSettings`.

    Raises:
        ValueError: on a bad setting, a batch that does not divide, a schedule without a plan.
        TypeError: if ``update`` is no algorithm; names the remedy.
    """
    check_names(LearnerSettings, changes, "setting of make_learner")
    own = dataclasses.replace(settings or LearnerSettings(), **changes)
    num_envs, num_steps, audit = own.num_envs, own.num_steps, own.audit
    first_update, scheduled_update = _resolver(update, planned_iterations, as_update)
    first_critic, scheduled_critic = _resolver(critic, planned_iterations, as_critic)
    for what, part in (("update", first_update), ("critic", first_critic)):
        counts = {f"{what}.{n}": getattr(part, n) for n in with_role(part, "minibatches")}
        check_minibatches(agent, num_envs, num_steps, own.minibatch_blocks, **counts)
    if own.minibatch_blocks > 1:
        # It may ask all devices at every step whether an episode has ended.
        env = env._replace(step_batch=None)
    planned = 1 if planned_iterations is None else planned_iterations
    check(planned_iterations=(planned, False))

    def resolve(iteration: Array | int) -> tuple[PolicyUpdate, Critic]:
        fraction = jnp.asarray(iteration, jnp.float32) / planned
        return scheduled_update(fraction), scheduled_critic(fraction)

    def init(key: Array) -> LearnerState:
        algorithm, learned_critic = resolve(0)
        params_key, env_key, key = jax.random.split(key, 3)
        policy_params, value_params = agent.init(params_key)
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
        algorithm, learned_critic = resolve(state.iteration)
        rollout_key, update_key, value_key, key = jax.random.split(state.key, 4)

        (env_state, obs, policy_carry), transition = play(env, agent, state, rollout_key, num_steps)
        done = transition.terminated | transition.truncated
        start = episode_starts(agent, state.episode_length, done)
        reward_scale, reward = state.reward_scale, transition.reward
        if reward_scale is not None:
            reward_scale, reward = scale_rewards(reward_scale, reward, done, own.gamma)

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
        policy_params, update_state, report = algorithm.update(
            agent.policy, state.policy_params, state.update_state, policy_batch, update_key
        )
        if not isinstance(report, UpdateReport):
            report = UpdateReport(report)
        rows = arrange(obs_seen, start, state.value_carry, value, target)
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
        new_state, policy_batch, transition = unfused((new_state, policy_batch, transition))
        if audit == "default":
            audited = audit_by_default(agent.policy, new_state.policy_params, policy_batch)
        else:
            damping = damping_of(algorithm) if audit == "full" else None
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


def _resolver(
    given: Any, planned_iterations: Number | None, as_part: Callable[[Any], Any]
) -> tuple[Any, Callable[[Array], Any]]:
    """A part, or a schedule of parts: (the part at the start or None, part of a fraction)."""
    # A declared class is no schedule: `as_part` says that it wants to be called.
    is_schedule = callable(given) and not isinstance(given, type) and not hasattr(given, "update")
    if not is_schedule:
        part = as_part(given)
        return part, lambda fraction: part
    name = getattr(given, "__name__", repr(given))
    if not _takes_one(given):
        raise TypeError(
            f"{name} is no schedule, which takes the fraction of the iterations that is done: if "
            "it makes the algorithm or the critic, call it"
        )
    if planned_iterations is None:
        raise ValueError(
            "a schedule needs planned_iterations: the number of iterations to run. (As a function, "
            f"{name} is taken for one: if it makes the algorithm or the critic, call it.)"
        )
    return as_part(given(0.0)), lambda fraction: as_part(given(fraction))


def _takes_one(function: Callable) -> bool:
    """Whether a function can be called with one argument, as far as is known."""
    try:
        inspect.signature(function).bind(0.0)
    except TypeError:
        return False
    except ValueError:  # of a function in C that has no signature
        return True
    return True


def as_critic(given: Any) -> Critic:
    """A critic, or an error that names the remedy."""
    if isinstance(given, type):
        raise TypeError(f"{given.__name__} is a class: call it, as in {given.__name__}()")
    if callable(getattr(given, "init", None)) and callable(getattr(given, "update", None)):
        return given
    raise TypeError(f"a critic has two functions, init and update, got {given!r}: see Critic")


def damping_of(algorithm: PolicyUpdate) -> Number:
    """The algorithm's own damping of the Fisher matrix; 0.1 if it has none."""
    names = with_role(algorithm, "fisher damping")
    return getattr(algorithm, names[0]) if names else 0.1


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
