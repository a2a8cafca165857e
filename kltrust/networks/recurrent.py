"""Agents with memory: sequences that contain resets, and a carry passed from step to step.

To use your recurrent agent, in any framework, write two functions of one step, see `Memory`.
`recurrent_agent` makes an `ActorCritic` of them that works with every algorithm. In this example
the policy sums its observations, and the critic remembers nothing::

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
    """Makes an agent from the steps of a ``memory``, by scanning them along sequences.

    ``init(key) -> (policy_params, value_params)``; ``memory`` has the steps and the initial carries
    of an episode. Layers without memory run faster on a whole sequence than step by step. To use
    that, make an `ActorCritic` with your functions of sequences. They must agree with the steps.
    """

    def on_sequences(step: Callable, initial: PyTree) -> Callable[[Params, Sequences], Any]:
        def function(params: Params, sequences: Sequences) -> Any:
            return scan_sequences(lambda c, x: step(params, c, x), initial, sequences)

        return function

    policy = on_sequences(memory.policy_step, memory.policy_carry)
    return ActorCritic(init, policy, on_sequences(memory.value_step, memory.value_carry), memory)


def scan_sequences(step: Step, initial: PyTree, sequences: Sequences) -> Any:
    """The outputs of a step along sequences [B, T]: leaves [B, T, ...].

    ``step`` takes a carry and one step's ``sequences.obs``; ``initial`` is as in `unroll`.
    """
    obs, start = swap_axes((sequences.obs, sequences.start))
    return swap_axes(unroll(step, initial, obs, start, sequences.carry)[1])


def unroll(
    step: Step, initial: PyTree, x: PyTree, start: Array, carry: PyTree
) -> tuple[PyTree, Any]:
    """A scan of ``step`` over x [T, B, ...] that resets the carry where an episode begins.

    Where ``start`` [T, B] is true, the carry before this step is replaced by ``initial``, the carry
    of one environment at the start of an episode. The first ``carry`` is [B, ...].

    Returns:
        (carry after the last step, y [T, B, ...]).
    """

    def one(carry: PyTree, xs: tuple[PyTree, Array]) -> tuple[PyTree, Any]:
        x, start = xs
        return step(restart(start, initial, carry), x)

    return loops.scan(one, carry, (x, start))


def restart(start: Array, initial: PyTree, carry: PyTree) -> PyTree:
    """The ``carry`` [*E, ...], but one environment's ``initial`` where ``start`` [*E] is true."""
    return tree.where(start, initial, carry)


def initial_carry(initial: PyTree, num_envs: int) -> PyTree:
    """``initial`` repeated for each environment: leaves [num_envs, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *jnp.shape(x))), initial)


def swap_axes(x: PyTree) -> PyTree:
    """``x`` with the first two axes of its leaves swapped: [T, B, ...] to [B, T, ...] or back."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), x)


def with_memory(env: Env, initial: PyTree) -> Env:
    """The environment with the agent's carry as part of its observations and actions.

    An observation is (obs, carry) and an action is (action, carry after it). So code that steps
    environments needs no knowledge of carries. ``next_obs`` is without a carry, and the spaces are
    still those of ``env``. An episode starts with the carry ``initial``.
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
    step = remembered(env.step)
    return env._replace(reset=reset, step=step, step_batch=step_batch, draw=env.draw)
