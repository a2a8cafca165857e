"""The one rollout, and deterministic or sampled episodes for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from kltrust import loops, tree
from kltrust.checks import typed_key
from kltrust.lowering import recording_scan, scan, split_rows
from kltrust.types import Array, Env, EnvStep, Number, PyTree, Transition

_Pair: TypeAlias = tuple[Array, Array]


def reset_batch(env: Env, key: Array, num_envs: int) -> tuple[PyTree, PyTree]:
    """Resets B = num_envs environments ``env`` by a typed key: (state [B, ...], obs [B, *O])."""
    return jax.vmap(env.reset)(jax.random.split(typed_key(key), num_envs))


def step_all(env: Env) -> EnvStep:
    """A step of a batch, leaves [B, ...]: ``step_batch`` of ``env``, else the vmap of its step."""
    return jax.vmap(env.step) if env.step_batch is None else env.step_batch


def rollout(
    env: Env,
    act: Callable[[PyTree, Array], PyTree],
    state: PyTree,
    obs: PyTree,
    key: Array,
    num_steps: int,
    *,
    record: Callable[[Transition], Any] = lambda transition: transition,
) -> tuple[tuple[PyTree, PyTree], Any]:
    """Steps a batch of environments T = num_steps times; it knows no critic.

    Args:
        env: the batch is a `vmap` of it, see `Env.step_batch`.
        act: ``act(obs, key) -> action [B, ...]``.
        state: [B, ...] the environments' states.
        obs: [B, *O] their observations.
        key: a typed key.
        num_steps: T.
        record: the result of ``record(transition)`` is kept for every step, where the `Transition`
            has leaves [B, ...]; by default all of it.

    Returns:
        ((state, obs), recorded), the leaves of ``recorded`` being [T, B, ...].
    """
    num_envs, key = jax.tree.leaves(obs)[0].shape[0], typed_key(key)
    # All keys at once: one vectorised hash outside the loop, not two small ones in every step.
    act_keys, env_keys = split_rows(key, num_steps, 1, num_envs)
    draw = env.draw and jax.vmap(jax.vmap(env.draw))

    def drawn(keys: _Pair) -> tuple[Array, PyTree]:
        assert draw is not None
        return keys[0], draw(keys[1])

    def step(carry: tuple[PyTree, PyTree], keys: _Pair) -> tuple[tuple[PyTree, PyTree], Any]:
        state, obs = carry
        action = act(obs, keys[0])
        state, new_obs, outcome = step_all(env)(keys[1], state, action)
        return (state, new_obs), record(Transition(obs, action, *outcome))

    ahead = None if draw is None else drawn
    return recording_scan(step, (state, obs), (act_keys.ravel(), env_keys), num_envs, ahead)


def episode_returns(
    env: Env,
    act: Callable[[PyTree, Array], PyTree],
    key: Array,
    num_episodes: int,
    max_steps: Number,
) -> tuple[Array, Array]:
    """Undiscounted returns and the lengths of whole fresh episodes: two of [n], n = num_episodes.

    The episodes run in parallel in ``env``, with ``act(obs [n, *O], key) -> action [n, ...]`` and
    a typed ``key``. Episodes still running at max_steps are cut, and their return so far counts.
    """
    reset_key, step_key = jax.random.split(typed_key(key))
    state, obs = reset_batch(env, reset_key, num_episodes)

    def running(carry: tuple) -> Array:
        t, *_, done = carry
        return (t < max_steps) & ~jnp.all(done)

    def step(carry: tuple) -> tuple:
        t, state, obs, returns, lengths, done = carry
        keys = jax.random.split(jax.random.fold_in(step_key, t), num_episodes + 1)
        action = act(obs, keys[0])
        state, obs, outcome = step_all(env)(keys[1:], state, action)
        returns = returns + jnp.where(done, 0.0, outcome.reward)
        lengths = lengths + jnp.where(done, 0, 1)
        return t + 1, state, obs, returns, lengths, done | outcome.terminated | outcome.truncated

    zeros = jnp.zeros(num_episodes, jnp.float32)
    counts = jnp.zeros(num_episodes, jnp.int32)
    start = (jnp.int32(0), state, obs, zeros, counts, jnp.zeros(num_episodes, bool))
    _, _, _, returns, lengths, _ = loops.while_loop(running, step, start)
    return returns, lengths


def count_episodes(
    episode_return: Array, episode_length: Array, reward: Array, done: Array
) -> tuple[Array, Array, dict[str, Array]]:
    """Sums over the episodes that ended, and the running returns and lengths [B] of the others.

    The return so far is added once, to the sum of these steps' rewards: one by one, rewards of 1
    would vanish beside a return of 2^24.

    episode_return and episode_length [B] are of the episodes under way before the first step;
    ``reward`` and ``done``, terminated or truncated, are [T, B].

    Returns:
        (episode_return, episode_length, {"return_sum", "length_sum", "num_episodes"}).
    """

    def step(carry: tuple, xs: _Pair) -> tuple[tuple, _Pair]:
        (before, returns, lengths), (reward, done) = carry, xs
        returns, lengths = returns + reward, lengths + 1
        ended = jnp.where(done, before + returns, 0), jnp.where(done, lengths, 0)
        return tuple(jnp.where(done, 0, x) for x in (before, returns, lengths)), ended

    start = episode_return, jnp.zeros_like(episode_return), episode_length
    (before, returns, lengths), ended = scan(step, start, (reward, done))
    counts = {"length_sum": ended[1], "num_episodes": done.astype(jnp.int32)}
    sums = {"return_sum": jnp.sum(ended[0]), **tree.map_stacked(jnp.sum, counts)}
    return before + returns, lengths, sums


def count_nonfinite(transition: Transition, params: PyTree) -> dict[str, Array]:
    """How many rewards and transitions are NaN or infinite, and whether any parameter is.

    The leaves of ``transition`` are [T, B, ...]; ``params`` are all parameters after the update.

    Returns:
        {"nonfinite_rewards", "nonfinite_observations", "nonfinite_update"}, each [] int32.
    """
    batch_shape = transition.reward.shape
    bad_obs = jnp.zeros(batch_shape, bool)
    for leaf in jax.tree.leaves((transition.obs, transition.next_obs)):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            inner = tuple(range(len(batch_shape), leaf.ndim))
            bad_obs |= ~jnp.all(jnp.isfinite(leaf), axis=inner)
    bad_reward = ~jnp.isfinite(transition.reward)
    bad = {"nonfinite_rewards": bad_reward, "nonfinite_observations": bad_obs}
    counts = tree.map_stacked(jnp.sum, jax.tree.map(lambda x: x.astype(jnp.int32), bad))
    return {**counts, "nonfinite_update": (~tree.all_finite(params)).astype(jnp.int32)}
