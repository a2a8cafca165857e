"""From a rollout to a batch: all that differs between agents with and without memory is here.

An agent without memory learns from rows, [T, B, ...] flattened. An agent with memory learns from
`Sequences` with its carries at the start of the rollout.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.networks.recurrent import initial_carry, swap_axes, unroll
from kltrust.tree import in_full_precision, leading_size
from kltrust.types import ActorCritic, Array, Params, Policy, PolicyBatch, PyTree, Sequences


def episode_starts(agent: ActorCritic, episode_length: Array, done: Array) -> Array | None:
    """Where an episode begins, [T, B] bool; None for an agent without memory, which needs none.

    episode_length [B] counts the steps of the episodes under way before the first step; ``done``
    [T, B] is terminated or truncated.
    """
    if agent.memory is None:
        return None
    return jnp.concatenate([(episode_length == 0)[None], done[:-1]])


def value_estimates(
    agent: ActorCritic,
    params: Params,
    obs: PyTree,
    next_obs: PyTree,
    start: Array | None,
    carry: PyTree,
) -> tuple[Array, Array, PyTree]:
    """V(obs) and V(next_obs), given everything that the episode has shown so far.

    Args:
        agent: its critic is evaluated.
        params: the critic's parameters.
        obs: [T, B, *O] as the critic takes them.
        next_obs: likewise, before auto-reset.
        start: from `episode_starts`.
        carry: [B, ...] the critic's, before the first step.

    Returns:
        (value [T, B], next_value [T, B], the carry after the last step).
    """
    if agent.memory is None:
        return agent.value(params, obs), agent.value(params, next_obs), ()
    assert start is not None
    memory, step = agent.memory, partial(agent.memory.value_step, params)

    def keeping(carry: PyTree, obs: PyTree) -> tuple[PyTree, tuple[PyTree, Array]]:
        carry, value = step(carry, obs)
        return carry, (carry, value)

    def by_steps(sequences: Sequences) -> tuple[PyTree, tuple[PyTree, Array]]:
        return unroll(keeping, memory.value_carry, *sequences)

    def on_sequences(sequences: Sequences) -> tuple[PyTree, tuple[PyTree, Array]]:
        assert memory.value_on_sequences is not None
        obs, start = swap_axes(sequences[:2])
        found = swap_axes(memory.value_on_sequences(params, Sequences(obs, start, sequences.carry)))
        return jax.tree.map(lambda x: x[-1], found[0]), found

    sequences = Sequences(obs, start, carry)
    if memory.value_on_sequences is None:
        carry, (carries, value) = by_steps(sequences)
    else:
        found = loops.platform_dependent(sequences, cpu=by_steps, default=on_sequences)
        carry, (carries, value) = found
    # One more step from each state. A sequence of next_obs would give other carries: it lacks the
    # first observation of every episode.
    return value, step(carries, next_obs)[1], carry


def to_units(obs: PyTree, start: Array | None, carry: PyTree, *others: PyTree) -> tuple:
    """[T, B, ...] arrays as a batch, whose leading axis counts independent units.

    ``start`` is from `episode_starts`, or None to make rows. ``carry`` [B, ...] is that before the
    first step.

    Returns:
        (obs [N, *O], others [N, ...]), or (`Sequences`, others [B, T, ...]).
    """
    if start is None:
        return flatten((obs, *others))
    obs, start, *rest = swap_axes((obs, start, *others))
    return Sequences(obs, start, carry), *rest


def flatten(x: PyTree) -> PyTree:
    """``x`` from [T, B, ...] to [B * T, ...], environment-major: trajectories stay whole."""
    return jax.tree.map(lambda y: y.reshape(y.shape[0] * y.shape[1], *y.shape[2:]), swap_axes(x))


def make_batch(
    policy: Policy,
    params: Params,
    obs: PyTree,
    action: PyTree,
    advantage: Array,
    start: Array | None = None,
    carry: PyTree = (),
) -> PolicyBatch:
    """The algorithm's batch, made from [T, B, ...] arrays; ``old`` is evaluated on all of it.

    ``old`` is not evaluated step by step in the rollout, so that the update's own first forward
    pass gives the same log-probabilities. Its matrix products are in full precision.

    Args:
        policy: the behaviour policy.
        params: its parameters.
        obs: [T, B, *O] as the policy takes them.
        action: [T, B, ...].
        advantage: [T, B].
        start: from `episode_starts`, for a policy with memory.
        carry: [B, ...] the policy's, before the first step.

    Returns:
        N = B * T rows, environment-major, or B sequences.
    """
    obs, action, advantage = to_units(obs, start, carry, action, advantage)
    old = in_full_precision(policy)(params, obs)
    return PolicyBatch(obs, action, advantage, old)


def first_carries(
    agent: ActorCritic, params: tuple[Params, Params], obs: PyTree
) -> tuple[PyTree, PyTree]:
    """The carries of policy and critic before any step: two of [B, ...], () without memory.

    ``params`` are the policy's and the critic's, ``obs`` is [B, *O].

    Raises:
        ValueError: if a step returns a carry of another kind than its input.
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
        both = carry, jax.eval_shape(step, of_step, carry, obs)[0]
        given, after = (
            str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", x)) for x in both
        )
        if after != given:
            raise ValueError(
                f"{name}_step returns the carry {after} where {name}_carry, which an episode "
                f"begins with, gives {given}: make them of one structure, shapes and dtypes"
            )
        carries.append(carry)
    return carries[0], carries[1]
