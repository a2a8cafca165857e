"""Acting with an agent: its policy as deployed, its rollouts, episodes that evaluate it.

The caller need not know whether the agent has a memory: an agent with memory acts in an environment
that carries the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from kltrust import loops
from kltrust.checks import check_kinds, kind_of
from kltrust.lazy import distrax
from kltrust.lowering import argmax
from kltrust.networks.recurrent import with_memory
from kltrust.rollout.batches import episode_starts, value_estimates
from kltrust.rollout.loop import count_episodes, episode_returns, rollout
from kltrust.rollout.normalization import Moments, normalize
from kltrust.tree import where
from kltrust.types import (
    ActorCritic,
    Array,
    Distribution,
    Env,
    Number,
    Params,
    PyTree,
    Sequences,
    Transition,
)


class Deployable(Protocol):
    """A state to act with: a `LearnerState`, or anything else that has these two."""

    @property
    def policy_params(self) -> Params:
        """The policy's parameters."""

    @property
    def normalizer(self) -> Moments | None:
        """The moments that normalise its observations, or None."""


def policy_of(agent: ActorCritic, state: Deployable) -> Callable[[PyTree], Distribution]:
    """The deployable policy, the normaliser included: raw obs [*E, *O] -> Distribution.

    It is the policy of ``agent`` with the parameters and the normaliser of ``state``. A recurrent
    agent's policy takes `Sequences` of raw observations; use `policy_step_of` to act with it.
    """

    def policy(obs: PyTree) -> Distribution:
        if agent.memory is not None and not isinstance(obs, Sequences):
            raise TypeError(
                "the policy of a recurrent agent takes Sequences(obs [B, T, ...], start, carry): "
                "act step by step with policy_step_of(agent, state)"
            )
        return agent.policy(state.policy_params, normalize(state.normalizer, obs))

    return policy


def policy_step_of(
    agent: ActorCritic, state: Deployable
) -> Callable[[PyTree, PyTree], tuple[PyTree, Distribution]]:
    """A step of the deployable policy: (carry [*E, ...], raw obs [*E, *O]) -> (carry, dist).

    An episode begins with the carry ``agent.memory.policy_carry``; without memory the carry is ().
    Arguments as in `policy_of`.
    """
    if agent.memory is None:
        policy = policy_of(agent, state)
        return lambda carry, obs: (carry, policy(obs))
    step = agent.memory.policy_step
    return lambda carry, obs: step(state.policy_params, carry, normalize(state.normalizer, obs))


def make_actor(
    env: Env, agent: ActorCritic, state: Deployable, choose: Callable[[Distribution, Array], PyTree]
) -> tuple[Env, Callable[[PyTree, Array], PyTree]]:
    """(env, act) for an agent in its environment, as `rollout` and `episode_returns` take them.

    ``choose(distribution, key) -> action``. The environment is `with_memory` the agent's carries,
    () for an agent without memory.
    """
    step = policy_step_of(agent, state)

    def act(seen: tuple[PyTree, PyTree], key: Array) -> tuple[PyTree, PyTree]:
        obs, carry = seen
        carry, distribution = step(carry, obs)
        return choose(distribution, key), carry

    return with_memory(env, () if agent.memory is None else agent.memory.policy_carry), act


def play(
    env: Env, agent: ActorCritic, state: Any, key: Array, num_steps: int
) -> tuple[tuple[PyTree, PyTree, PyTree], Transition]:
    """A rollout of T = num_steps steps by the sampled policy, starting from a `LearnerState`.

    Returns:
        ((env_state, obs, policy_carry), transition [T, B]), the first three [B, ...].
    """
    world, act = make_actor(env, agent, state, sample_actions)
    seen = state.obs, state.policy_carry

    def without_carries(step: Transition) -> Transition:
        return step._replace(obs=step.obs[0], action=step.action[0])

    (env_state, (obs, carry)), transition = rollout(
        world, act, state.env_state, seen, key, num_steps, record=without_carries
    )
    return (env_state, obs, carry), transition


def stagger(env: Env, agent: ActorCritic, state: Any, key: Array, most: int) -> Any:
    """Each environment plays a random number of steps by the policy, from 0 to ``most`` - 1.

    Environments that begin together stay in step as long as only a time limit ends their episodes.
    Every batch then holds the same stretch of the episode in all environments, and the update
    forgets the other stretches.

    ``most`` is static: the time limit, if that is what ends episodes.

    Returns:
        The `LearnerState` after those steps: the environments, their episodes' returns and lengths,
        and the agent's memory of them. Nothing is learned from the steps.
    """
    number_key, key = jax.random.split(key)
    number = jax.random.randint(number_key, state.episode_length.shape, 0, most)

    def step(state: Any, xs: tuple[Array, Array]) -> tuple[Any, None]:
        t, key = xs
        (env_state, obs, policy_carry), transition = play(env, agent, state, key, 1)
        done = transition.terminated | transition.truncated
        start = episode_starts(agent, state.episode_length, done)
        seen = normalize(state.normalizer, transition.obs)
        next_seen = normalize(state.normalizer, transition.next_obs)
        critic = state.value_params, seen, next_seen, start, state.value_carry
        _, _, value_carry = value_estimates(agent, *critic)
        episode_return, episode_length, _ = count_episodes(
            state.episode_return, state.episode_length, transition.reward, done
        )
        after = {
            "env_state": env_state,
            "obs": obs,
            "policy_carry": policy_carry,
            "value_carry": value_carry,
            "episode_return": episode_return,
            "episode_length": episode_length,
        }
        before = {name: getattr(state, name) for name in after}
        return state._replace(**where(t < number, after, before)), None

    steps = jnp.arange(most - 1), jax.random.split(key, most - 1)
    return loops.scan(step, state, steps)[0]


def sample_actions(distribution: Any, key: Array) -> PyTree:
    """One action for each entry of the distribution's batch [*E], by a typed key: [*E, ...]."""
    # One-hot and other kinds of categoricals have other actions.
    if type(distribution) is distrax.Categorical:
        # The action that distrax draws, from noise in one row: the compiler unrolls short rows.
        logits = distribution.logits
        noise = jax.random.gumbel(key, (logits.size,), logits.dtype).reshape(logits.shape)
        return argmax(logits + noise).astype(distribution.dtype)
    # distrax's Bernoulli promotes ranks, which its caller may have forbidden.
    with jax.numpy_rank_promotion("allow"):
        return distribution.sample(seed=key)


def evaluate(
    env: Env,
    agent: ActorCritic,
    state: Deployable,
    key: Array,
    num_episodes: int,
    deterministic: bool | Array = True,
    max_steps: Number | None = None,
) -> Array:
    """Undiscounted raw returns of fresh episodes: [num_episodes].

    Args:
        env: one environment; the episodes run in parallel.
        agent: as trained.
        state: gives the parameters and the normaliser.
        key: gives the start states and, if sampled, the actions.
        num_episodes: static.
        deterministic: act by the distribution's mode, else sample; [num_episodes] bool sets it
            for each episode.
        max_steps: cuts longer episodes; their return so far counts. By default the
            environment's own limit.

    Raises:
        ValueError: if neither the environment nor ``max_steps`` gives a limit.
    """
    env = check_kinds(env, agent)
    if not hasattr(state, "policy_params"):
        raise TypeError(
            f"state must be a LearnerState, as kltrust.train returns, got {kind_of(state)}"
        )
    if runs := np.shape(getattr(state, "iteration", 0)):
        raise ValueError(
            f"the state is of {list(runs)} runs: take one, jax.tree.map(lambda x: x[0], state), or "
            "vmap evaluate over state and key"
        )
    max_steps = env.max_steps if max_steps is None else max_steps
    if max_steps is None:
        raise ValueError(f"{env.name} has no time limit: pass max_steps")

    def choose(distribution: Distribution, key: Array) -> PyTree:
        if isinstance(deterministic, bool):
            return distribution.mode() if deterministic else sample_actions(distribution, key)
        return where(deterministic, distribution.mode(), sample_actions(distribution, key))

    env, act = make_actor(env, agent, state, choose)
    return episode_returns(env, act, key, num_episodes, max_steps)[0]
