"""From acting to a batch, with and without memory: all that differs between the two is here.

An agent without memory sees rows, [T, B, ...] flattened; one with memory sees `Sequences`, whose
carries are those that it had at the start of the rollout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import distrax
import jax
import jax.numpy as jnp

from kltrust.normalization import Moments, normalize
from kltrust.recurrent import initial_carry, remembering, swap_axes, unroll
from kltrust.rollout import rollout
from kltrust.tree import leading_size
from kltrust.types import (
    ActorCritic,
    Array,
    Env,
    Params,
    Policy,
    PolicyBatch,
    PyTree,
    Sequences,
    Transition,
)


class Deployable(Protocol):
    """What acting takes: a `LearnerState`, or anything else that has these two."""

    @property
    def policy_params(self) -> Params:
        """The policy's parameters."""

    @property
    def normalizer(self) -> Moments | None:
        """The moments its observations are normalised by, if they are."""


class Playing(Deployable, Protocol):
    """What going on with a rollout takes: a `LearnerState`."""

    @property
    def env_state(self) -> PyTree:
        """The environments, [B, ...]."""

    @property
    def obs(self) -> PyTree:
        """Their observations, [B, *O]."""

    @property
    def policy_carry(self) -> PyTree:
        """What the policy remembers of their episodes, [B, ...]; () without memory."""


# --- acting ---------------------------------------------------------------------------------------


def policy_of(agent: ActorCritic, state: Deployable) -> Callable[[PyTree], Any]:
    """The deployable policy, the normaliser included: raw obs [*E, *O] -> Distribution.

    Of a recurrent agent it takes `Sequences` of raw observations; `policy_step_of` acts with it.

    Args:
        agent: as trained.
        state: its policy's parameters and its normaliser are used.
    """

    def policy(obs: PyTree) -> Any:
        if agent.memory is not None and not isinstance(obs, Sequences):
            raise TypeError(
                "the policy of a recurrent agent takes Sequences(obs [B, T, ...], start, carry): "
                "act step by step with policy_step_of(agent, state)"
            )
        return agent.policy(state.policy_params, normalize(state.normalizer, obs))

    return policy


def policy_step_of(
    agent: ActorCritic, state: Deployable
) -> Callable[[PyTree, PyTree], tuple[PyTree, Any]]:
    """A step of the deployable policy: (carry [*E, ...], raw obs [*E, *O]) -> (carry, dist).

    An episode begins with the carry ``agent.memory.policy_carry``; without memory it is ().

    Args:
        agent: as trained.
        state: its policy's parameters and its normaliser are used.
    """
    if agent.memory is None:
        return lambda carry, obs: (carry, policy_of(agent, state)(obs))
    step = agent.memory.policy_step
    return lambda carry, obs: step(state.policy_params, carry, normalize(state.normalizer, obs))


def acting(
    env: Env, agent: ActorCritic, state: Deployable, choose: Callable[[Any, Array], PyTree]
) -> tuple[Env, Callable[[PyTree, Array], PyTree]]:
    """An agent in its environment, as `rollout` and `episode_returns` take them.

    Args:
        env: the environment.
        agent: as trained.
        state: its policy's parameters and its normaliser are used.
        choose: ``choose(distribution, key) -> action``.

    Returns:
        (env, act), the environment `remembering` the carries of an agent with memory.
    """
    if agent.memory is None:
        policy = policy_of(agent, state)
        return env, lambda obs, key: choose(policy(obs), key)
    step = policy_step_of(agent, state)

    def act(seen: tuple[PyTree, PyTree], key: Array) -> tuple[PyTree, PyTree]:
        obs, carry = seen
        carry, distribution = step(carry, obs)
        return choose(distribution, key), carry

    return remembering(env, agent.memory.policy_carry), act


def play(
    env: Env, agent: ActorCritic, state: Playing, key: Array, num_steps: int
) -> tuple[tuple[PyTree, PyTree, PyTree], Transition]:
    """A rollout of the sampled policy from where the state stands.

    Args:
        env: the environment.
        agent: as trained.
        state: a `LearnerState`.
        key: a typed key.
        num_steps: T.

    Returns:
        ((env_state, obs, policy_carry), transition [T, B]), the first three [B, ...].
    """
    world, act = acting(env, agent, state, sampled)
    if agent.memory is None:
        (env_state, obs), transition = rollout(
            world, act, state.env_state, state.obs, key, num_steps
        )
        return (env_state, obs, ()), transition
    seen = state.obs, state.policy_carry
    (env_state, (obs, carry)), transition = rollout(
        world, act, state.env_state, seen, key, num_steps, record=_without_carries
    )
    return (env_state, obs, carry), transition


def sampled(distribution: Any, key: Array) -> PyTree:
    """One action for each entry of the batch [*E]: [*E, ...].

    Args:
        distribution: of batch shape [*E].
        key: a typed key.
    """
    if isinstance(distribution, distrax.Categorical):
        # The action that distrax draws, from noise in one row: the compiler unrolls short ones.
        logits = distribution.logits
        noise = jax.random.gumbel(key, (logits.size,), logits.dtype).reshape(logits.shape)
        return jnp.argmax(logits + noise, -1).astype(distribution.dtype)
    return distribution.sample(seed=key)


def _without_carries(transition: Transition) -> Transition:
    return transition._replace(obs=transition.obs[0], action=transition.action[0])


# --- learning -------------------------------------------------------------------------------------


def episode_starts(agent: ActorCritic, episode_length: Array, done: Array) -> Array | None:
    """Where an episode begins, [T, B] bool; None for an agent without memory, which does not ask.

    Args:
        agent: with or without memory.
        episode_length: [B] steps of the episodes under way before the first step.
        done: [T, B], terminated or truncated.
    """
    if agent.memory is None:
        return None
    return jnp.concatenate([(episode_length == 0)[None], done[:-1]])


def values(
    agent: ActorCritic,
    params: Params,
    obs: PyTree,
    next_obs: PyTree,
    start: Array | None,
    carry: PyTree,
) -> tuple[Array, Array, PyTree]:
    """V(obs) and V(next_obs), in the light of all that the episode has shown so far.

    Args:
        agent: with or without memory.
        params: the critic's.
        obs: [T, B, *O] as the critic takes it.
        next_obs: [T, B, *O] likewise, before auto-reset.
        start: of `episode_starts`.
        carry: [B, ...] the critic's before the first step.

    Returns:
        (value [T, B], next_value [T, B], the carry after the last step).
    """
    if agent.memory is None:
        return agent.value(params, obs), agent.value(params, next_obs), ()
    assert start is not None
    step = partial(agent.memory.value_step, params)

    def keeping(carry: PyTree, obs: PyTree) -> tuple[PyTree, tuple[PyTree, Array]]:
        carry, value = step(carry, obs)
        return carry, (carry, value)

    carry, (carries, value) = unroll(keeping, agent.memory.value_carry, obs, start, carry)
    # One more step out of each state. A sequence of next_obs would come from other carries: it
    # lacks the first observation of every episode.
    return value, step(carries, next_obs)[1], carry


def arrange(obs: PyTree, start: Array | None, carry: PyTree, *others: PyTree) -> tuple:
    """[T, B, ...] arrays as a batch, whose leading axis counts independent units.

    Args:
        obs: [T, B, *O].
        start: of `episode_starts`; None makes rows.
        carry: [B, ...] before the first step.
        others: pytrees of [T, B, ...].

    Returns:
        (obs [N, *O], others [N, ...]), or (`Sequences`, others [B, T, ...]).
    """
    if start is None:
        return flatten((obs, *others))
    obs, start, *rest = swap_axes((obs, start, *others))
    return Sequences(obs, start, carry), *rest


def flatten(x: PyTree) -> PyTree:
    """[T, B, ...] to [B * T, ...], environment-major: whole trajectories stay together.

    Args:
        x: a pytree of arrays.
    """
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), x)


def make_batch(
    policy: Policy,
    params: Params,
    obs: PyTree,
    action: PyTree,
    advantage: Array,
    start: Array | None = None,
    carry: PyTree = (),
) -> PolicyBatch:
    """What the algorithm sees of [T, B, ...] arrays; ``old`` is taken on the whole batch.

    There, and not step by step in the rollout, so that the update's own first forward pass gives
    the same log-probabilities.

    Args:
        policy: the behaviour policy.
        params: its parameters.
        obs: [T, B, *O] as the policy takes it.
        action: [T, B, ...].
        advantage: [T, B].
        start: of `episode_starts`; None for a policy without memory.
        carry: [B, ...] the policy's before the first step.

    Returns:
        N = B * T rows, environment-major, or B sequences.
    """
    obs, action, advantage = arrange(obs, start, carry, action, advantage)
    return PolicyBatch(obs, action, advantage, policy(params, obs))


# --- checks at the door ---------------------------------------------------------------------------


def check_minibatches(
    agent: ActorCritic, num_envs: int, num_steps: int, num_blocks: int, **counts: int
) -> None:
    """Refuses numbers of minibatches that do not divide a batch, or a block of it.

    Args:
        agent: with memory, minibatches are of whole sequences.
        num_envs: B, a multiple of ``num_blocks``.
        num_steps: T.
        num_blocks: of which every minibatch takes as many units.
        **counts: name = number of minibatches.

    Raises:
        ValueError: names the setting and the remedy.
    """
    units, batch, what = num_envs * num_steps, "the batch of num_envs * num_steps", "rows"
    if agent.memory is not None:
        units, batch, what = num_envs, "num_envs", "sequences of a recurrent agent"
    units //= num_blocks
    part = "" if num_blocks == 1 else f" / minibatch_blocks = {num_blocks}"
    for name, count in counts.items():
        if units % count:
            raise ValueError(
                f"{name}={count} does not divide {batch}{part} = {units} {what}: choose one of "
                "its divisors"
            )


def first_carries(
    agent: ActorCritic, params: tuple[Params, Params], obs: PyTree
) -> tuple[PyTree, PyTree]:
    """The carries of policy and critic before any step: two of [B, ...], () without memory.

    Args:
        agent: with or without memory.
        params: the policy's and the critic's.
        obs: [B, *O].

    Raises:
        ValueError: if a step returns another carry than it is given.
    """
    memory = agent.memory
    if memory is None:
        return (), ()
    parts = {
        "policy": (memory.policy_step, params[0], memory.policy_carry),
        "value": (memory.value_step, params[1], memory.value_carry),
    }
    num_envs, carries = leading_size(obs), []
    for name, (step, of_step, initial) in parts.items():
        carry = initial_carry(initial, num_envs)
        after = jax.eval_shape(step, of_step, carry, obs)[0]
        if _aval(after) != _aval(carry):
            raise ValueError(
                f"{name}_step returns the carry {_aval(after)} where {name}_carry, which an "
                f"episode begins with, gives {_aval(carry)}: make them of one structure, shapes "
                "and dtypes"
            )
        carries.append(carry)
    return carries[0], carries[1]


def _aval(x: PyTree) -> str:
    """Structure, shapes and dtypes, to compare and to print."""
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", x))
