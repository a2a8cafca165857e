"""Policies on states 0 to S - 1, exact gradients, and batches for any `PolicyUpdate`.

A class of policies is a ``policy(params, obs)`` with integer observations [*E] and its parameters
for the uniform policy. With aggregation or linear features, states share parameters, so that a step
that is right for one state can be wrong for another.
"""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.advantages import gae
from kltrust.tabular._mdp import MDP, expected_return, solve
from kltrust.types import Array, Number, Params, Policy, PolicyBatch


def softmax_policy(num_states: int, num_actions: int) -> tuple[Policy, Array]:
    """A row of logits per state: (policy, zeros [S, A]), S = num_states and A = num_actions."""
    return aggregated_policy(jnp.arange(num_states), num_states, num_actions)


def aggregated_policy(groups: Array, num_groups: int, num_actions: int) -> tuple[Policy, Array]:
    """A row of logits per group of states: (policy, zeros [G, A]).

    ``groups`` [S] holds the group of every state, below G = num_groups; A = num_actions.
    """
    groups = jnp.asarray(groups)

    def policy(params: Params, obs: Array) -> distrax.Categorical:
        return distrax.Categorical(params[groups[obs]])

    return policy, jnp.zeros((num_groups, num_actions), jnp.result_type(float))


def linear_policy(features: Array) -> tuple[Policy, Array]:
    """Logits phi(s, a)'theta: (policy, zeros [K]), the ``features`` phi [S, A, K]."""

    def policy(params: Params, obs: Array) -> distrax.Categorical:
        return distrax.Categorical(features[obs] @ params)

    return policy, jnp.zeros(features.shape[-1], features.dtype)


def probabilities(policy: Policy, params: Params, num_states: int) -> Array:
    """The ``policy`` at ``params`` as an array, from its integer observations: [num_states, A]."""
    distribution: Any = policy(params, jnp.arange(num_states))
    return distribution.probs


def policy_gradient(mdp: MDP, policy: Policy, params: Params) -> Params:
    """The exact gradient of J in the parameters, through the linear solve: like ``params``.

    The integer observations of ``policy`` are the states of ``mdp``.
    """
    num_states = mdp.start.shape[0]
    return jax.grad(lambda p: expected_return(mdp, probabilities(policy, p, num_states)))(params)


def exact_batch(mdp: MDP, policy: Policy, params: Params) -> PolicyBatch:
    """The batch without noise: one row per state and action, of weight d(s) pi(a|s).

    It is the limit of `sampled_batch`. Its surrogate is E_{s~d, a~new}[A], with a gradient at old
    of (1 - gamma) times that of J; the mean KL and the Fisher matrix are averages over d. Arguments
    as in `policy_gradient`.
    """
    num_states, num_actions = mdp.reward.shape
    pi = probabilities(policy, params, num_states)
    solution = solve(mdp, pi)
    obs = jnp.repeat(jnp.arange(num_states), num_actions)
    return PolicyBatch(
        obs=obs,
        action=jnp.tile(jnp.arange(num_actions, dtype=jnp.int32), num_states),
        advantage=solution.advantage.reshape(-1),
        old=policy(params, obs),
        weight=(solution.visitation[:, None] * pi).reshape(-1),
    )


def sampled_batch(
    mdp: MDP,
    policy: Policy,
    params: Params,
    key: Array,
    num_samples: int,
    *,
    noise: Number = 0.0,
) -> PolicyBatch:
    """N independent draws s ~ d, a ~ pi with A(s, a); without noise, sampling is the only error.

    num_samples is N, static. ``noise`` is the standard deviation of a Gaussian error added to every
    advantage, in its units. ``key`` is typed; the others are as in `policy_gradient`.
    """
    obs_key, action_key, noise_key = jax.random.split(key, 3)
    solution = solve(mdp, probabilities(policy, params, mdp.start.shape[0]))
    # A zero from a linear solve may be rounded, with either sign.
    log_d = jnp.log(jnp.maximum(solution.visitation, 0))
    obs = jax.random.categorical(obs_key, log_d, shape=(num_samples,))
    old = policy(params, obs)
    action = old.sample(seed=action_key)
    error = noise * jax.random.normal(noise_key, obs.shape, solution.advantage.dtype)
    return PolicyBatch(obs, action, solution.advantage[obs, action] + error, old)


def rollout_batch(
    mdp: MDP,
    policy: Policy,
    params: Params,
    key: Array,
    *,
    num_envs: int,
    num_steps: int,
    lam: Number,
    value: Array,
) -> PolicyBatch:
    """B trajectories of T steps with generalised advantage estimates, as a learner would see them.

    States are undiscounted, rows are environment-major, and the last step is bootstrapped.

    Args:
        mdp: the MDP.
        policy: as in `policy_gradient`.
        params: its parameters.
        key: a typed key.
        num_envs: B, static.
        num_steps: T, static.
        lam: the estimator's lambda.
        value: [S] the critic, right or wrong: with the exact V every lam is unbiased.
    """
    start_key, step_key = jax.random.split(key)
    start = jax.random.categorical(start_key, jnp.log(mdp.start), shape=(num_envs,))

    def step(state: Array, key: Array) -> tuple[Array, Any]:
        action_key, next_key = jax.random.split(key)
        action = policy(params, state).sample(seed=action_key)
        following = jax.random.categorical(next_key, jnp.log(mdp.transition[state, action]))
        return following, (state, action, following)

    keys = jax.random.split(step_key, num_steps)
    _, (state, action, following) = loops.scan(step, start, keys)
    reward, never = mdp.reward[state, action], jnp.zeros(state.shape, bool)
    seen = value[state], value[following], never, never
    advantage = gae(reward, *seen, gamma=mdp.gamma, lam=lam)
    obs, action, advantage = (x.swapaxes(0, 1).reshape(-1) for x in (state, action, advantage))
    return PolicyBatch(obs, action, advantage, policy(params, obs))
