"""Agents that remember: sequences with resets inside, and a carry handed from step to step.

A recurrent agent of one's own, in any framework, is two functions of one step, see `Memory`:
`recurrent_agent` makes an `ActorCritic` of them, on which every algorithm works. Here the policy
sums what it has seen, and the critic remembers nothing::

    import distrax, jax.numpy as jnp
    from kltrust.networks.recurrent import recurrent_agent
    from kltrust.types import Memory

    def policy_step(params, carry, obs):
        carry = carry + obs
        return carry, distrax.Categorical(logits=carry @ params)

    def value_step(params, carry, obs):
        return carry, obs @ params

    def init(key):
        return jnp.zeros((4, 2)), jnp.zeros(4)

    agent = recurrent_agent(init, Memory(policy_step, value_step, jnp.zeros(4), ()))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from kltrust import loops, tree
from kltrust.types import ActorCritic, Array, Env, EnvStep, Memory, Params, PyTree, Sequences

Step: TypeAlias = Callable[[PyTree, Any], tuple[PyTree, Any]]
"""``step(carry [B, ...], x [B, ...]) -> (carry, y [B, ...])``."""


def recurrent_agent(init: Callable[[Array], tuple[Params, Params]], memory: Memory) -> ActorCritic:
    """The agent that its steps make: along sequences they are scanned.

    ``init(key) -> (policy_params, value_params)``; ``memory`` has the steps, and the carries that
    an episode begins with. Layers without memory run faster along a whole sequence than step by
    step. To use that, make an `ActorCritic` with functions of sequences of your own, which must
    agree with the steps.
    """

    def along(step: Callable, initial: PyTree) -> Callable[[Params, Sequences], Any]:
        def function(params: Params, sequences: Sequences) -> Any:
            return scan_sequences(lambda c, x: step(params, c, x), initial, sequences)

        return function

    policy = along(memory.policy_step, memory.policy_carry)
    return ActorCritic(init, policy, along(memory.value_step, memory.value_carry), memory)


def scan_sequences(step: Step, initial: PyTree, sequences: Sequences) -> Any:
    """What a step returns along sequences [B, T]: leaves [B, T, ...].

    ``step`` takes a carry and one step's ``sequences.obs``; ``initial`` is as in `unroll`.
    """
    obs, start = swap_axes((sequences.obs, sequences.start))
    return swap_axes(unroll(step, initial, obs, start, sequences.carry)[1])


def unroll(
    step: Step, initial: PyTree, x: PyTree, start: Array, carry: PyTree
) -> tuple[PyTree, Any]:
    """A scan of ``step`` over x [T, B, ...] that begins anew where an episode does.

    Where ``start`` [T, B] is true, ``initial``, the carry of one environment at the start of an
    episode, takes the carry's place before this step. The first ``carry`` is [B, ...].

    Returns:
        (carry after the last step, y [T, B, ...]).
    """

    def one(carry: PyTree, xs: tuple[PyTree, Array]) -> tuple[PyTree, Any]:
        x, start = xs
        return step(restart(start, initial, carry), x)

    return loops.scan(one, carry, (x, start))


def restart(start: Array, initial: PyTree, carry: PyTree) -> PyTree:
    """The carry [*E, ...], and ``initial``, of one environment, where ``start`` [*E] is true."""
    return tree.where(start, initial, carry)


def initial_carry(initial: PyTree, num_envs: int) -> PyTree:
    """A carry for each environment: leaves [num_envs, ...], each ``initial``."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *jnp.shape(x))), initial)


def swap_axes(x: PyTree) -> PyTree:
    """The leaves of ``x`` from [T, B, ...] to [B, T, ...] and back."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), x)


def remembering(env: Env, initial: PyTree) -> Env:
    """The environment with the agent's carry as part of its observations and actions.

    An observation is (obs, carry) and an action (action, the carry after it). Whatever steps
    environments then needs to know nothing of carries; ``next_obs`` is the environment's own, and
    the spaces are still those of ``env``. An episode starts with the carry ``initial``.
    """

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return state, (obs, initial)

    def remembered(step: EnvStep) -> EnvStep:
        def remembering_step(key: Array, state: PyTree, action: PyTree) -> Any:
            action, carry = action
            state, obs, outcome = step(key, state, action)
            done = outcome.terminated | outcome.truncated
            return state, (obs, tree.where(done, initial, carry)), outcome

        return remembering_step

    step_batch = env.step_batch and remembered(env.step_batch)
    return env._replace(reset=reset, step=remembered(env.step), step_batch=step_batch)
