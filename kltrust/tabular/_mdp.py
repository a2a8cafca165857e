"""Finite Markov decision processes, and policies in them evaluated by a linear solve."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kltrust import loops
from kltrust.checks import check_share, require
from kltrust.types import Array, Number


class MDP(NamedTuple):
    """A finite MDP with discounted returns; an end is an absorbing state of reward 0.

    Attributes:
        transition: [S, A, S] the probability of the next state; rows sum to one.
        reward: [S, A] expected reward.
        gamma: [] the discount, below 1.
        start: [S] the distribution of the first state.
    """

    transition: Array
    reward: Array
    gamma: Number
    start: Array


class Solution(NamedTuple):
    """The exact quantities of one policy.

    Attributes:
        expected_return: [] J = E sum_t gamma^t r_t.
        value: [S] V.
        action_value: [S, A] Q = r + gamma P V.
        advantage: [S, A] A = Q - V; its mean under the policy is 0 in every state.
        visitation: [S] d = (1 - gamma) sum_t gamma^t P(s_t = s); sums to one.
    """

    expected_return: Array
    value: Array
    action_value: Array
    advantage: Array
    visitation: Array


def induced(mdp: MDP, pi: Array) -> tuple[Array, Array]:
    """The Markov chain of a policy, see `solve`: transition matrix [S, S], expected reward [S]."""
    return jnp.einsum("sa,sax->sx", pi, mdp.transition), jnp.sum(pi * mdp.reward, axis=-1)


def solve(mdp: MDP, pi: Array) -> Solution:
    """J, V, Q, A and the discounted visitation of a policy, by one inversion.

    V = (I - gamma P)^-1 r,  d = (1 - gamma) (I - gamma P')^-1 start. It is differentiable, and has
    the precision of the arrays of ``mdp``: make them within ``jax.enable_x64(True)``. The policy
    ``pi`` is [S, A] probabilities.
    """
    transition, reward = induced(mdp, pi)
    system = jnp.eye(reward.size, dtype=reward.dtype) - mdp.gamma * transition
    inverse = _inverse(jax.lax.stop_gradient(system))
    value = _solve(system, inverse, reward)
    visitation = (1 - mdp.gamma) * _solve(system.T, inverse.T, mdp.start)
    # In differences of V: a constant cancels before it is multiplied. Constants are the direction
    # in which the solve is ill-conditioned as gamma tends to 1.
    change = jnp.einsum("sax,sx->sa", mdp.transition, value[None, :] - value[:, None])
    advantage = mdp.reward + mdp.gamma * change - (1 - mdp.gamma) * value[:, None]
    return Solution(
        jnp.dot(mdp.start, value), value, advantage + value[:, None], advantage, visitation
    )


def _solve(system: Array, inverse: Array, b: Array) -> Array:
    """system^-1 b, differentiable to any order through the system that is solved."""
    return jax.lax.custom_linear_solve(
        lambda x: system @ x, b, lambda _, y: inverse @ y, lambda _, y: inverse.T @ y
    )


def _inverse(system: Array) -> Array:
    """The inverse of I - gamma P by Gauss-Jordan elimination and one Newton step.

    It needs no pivoting: the matrix is diagonally dominant, and stays so. It avoids LAPACK's
    factorisation, which under ``vmap`` can deadlock in XLA's CPU backend on small machines.
    """
    size = system.shape[0]

    def eliminate(k: Array, a: Array) -> Array:
        unit = jnp.arange(size) == k
        pivot = a[k, k]
        row = jnp.where(unit, 1, a[k]) / pivot
        column = jnp.where(unit, 0, a[:, k])
        others = jnp.where(unit[None, :], 0, a) - column[:, None] * row[None, :]
        return jnp.where(unit[:, None], row[None, :], others)

    inverse = loops.fori_loop(0, size, eliminate, system)
    return 2 * inverse - inverse @ (system @ inverse)


def expected_return(mdp: MDP, pi: Array) -> Array:
    """J(pi) = E sum_t gamma^t r_t: [], with ``mdp`` and ``pi`` as in `solve`."""
    return solve(mdp, pi).expected_return


def state_distributions(mdp: MDP, pi: Array, num_steps: int) -> Array:
    """P(s_t = s) for t = 0 to num_steps - 1: [T, S], T = num_steps static.

    ``mdp`` and ``pi`` as in `solve`.
    """
    transition, _ = induced(mdp, pi)

    def step(distribution: Array, _: None) -> tuple[Array, Array]:
        return distribution @ transition, distribution

    return loops.scan(step, mdp.start, None, length=num_steps)[1]


def undiscounted_visitation(mdp: MDP, pi: Array, num_steps: int) -> Array:
    """The share of the first ``num_steps`` steps spent in each state, as in a batch: [S].

    Arguments as in `solve`; ``num_steps`` is static.
    """
    return jnp.mean(state_distributions(mdp, pi, num_steps), axis=0)


def optimal_policy(mdp: MDP, max_iters: int = 1000) -> Array:
    """A deterministic optimal policy by policy iteration (Howard 1960): [S, A] one-hot.

    An action is replaced only by one that is better beyond rounding, so that ties end the search;
    it ends after max_iters at the latest. `solve` at this policy gives J* and V* of ``mdp``.
    """
    num_actions = mdp.reward.shape[-1]
    rounding = 64 * jnp.finfo(mdp.reward.dtype).eps

    def improve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        action, _, k = state
        solution = solve(mdp, jax.nn.one_hot(action, num_actions, dtype=mdp.reward.dtype))
        # On the scale of the action values: the current actions' advantages are rounded zeros.
        tolerance = rounding * jnp.max(jnp.abs(solution.action_value))
        better = jnp.max(solution.advantage, axis=-1) > tolerance
        chosen = jnp.where(better, jnp.argmax(solution.advantage, axis=-1), action)
        return chosen, jnp.any(better), k + 1

    start = (jnp.argmax(mdp.reward, axis=-1), jnp.asarray(True), jnp.int32(0))
    action, _, _ = loops.while_loop(lambda s: s[1] & (s[2] < max_iters), improve, start)
    return jax.nn.one_hot(action, num_actions, dtype=mdp.reward.dtype)


def garnet(
    key: Array, num_states: int, num_actions: int, *, branching: int, gamma: Number = 0.95
) -> MDP:
    """A random MDP: every pair leads to ``branching`` states (Archibald et al. 1995).

    Successors are drawn without replacement, their probabilities by uniform cuts of [0, 1], the
    rewards uniformly from [0, 1], all by a typed ``key``. The start is uniform. S is num_states, A
    is num_actions, and the static ``branching`` is at most S.

    Raises:
        ValueError: if ``branching`` is not between 1 and S, or gamma not in [0, 1).
    """
    check_gamma(gamma)
    if not 1 <= branching <= num_states:
        raise ValueError(f"branching must be between 1 and {num_states}, got {branching}")
    successor_key, cut_key, reward_key = jax.random.split(key, 3)
    shape = (num_states, num_actions)
    _, successors = jax.lax.top_k(
        jax.random.uniform(successor_key, (*shape, num_states)), branching
    )
    cuts = jnp.sort(jax.random.uniform(cut_key, (*shape, branching - 1)), axis=-1)
    probs = jnp.diff(cuts, axis=-1, prepend=0, append=1)
    transition = jnp.sum(probs[..., None] * jax.nn.one_hot(successors, num_states), axis=-2)
    start = jnp.full(num_states, 1 / num_states, transition.dtype)
    return MDP(transition, jax.random.uniform(reward_key, shape), gamma, start)


def chain(num_states: int = 5, *, slip: float = 0.2, gamma: Number = 0.95) -> MDP:
    """Strens' chain (2000): action 0 moves on, action 1 goes back to the start for a reward of 2.

    Moving on pays 10 in the last of num_states states, and nothing elsewhere. ``slip`` is the
    probability that the other action is performed.

    Raises:
        ValueError: if ``slip`` is not in [0, 1], or gamma not in [0, 1).
    """
    check_gamma(gamma)
    check_share(slip=slip)
    states = np.arange(num_states)
    transition = np.zeros((num_states, 2, num_states))
    transition[states, 0, np.minimum(states + 1, num_states - 1)] = 1
    transition[states, 1, 0] = 1
    reward = np.zeros((num_states, 2))
    reward[-1, 0], reward[:, 1] = 10, 2
    mdp = MDP(jnp.asarray(transition), jnp.asarray(reward), gamma, jnp.eye(num_states)[0])
    return mix_actions(mdp, np.array([[1 - slip, slip], [slip, 1 - slip]]))


def cliff_walk(num_rows: int = 4, num_columns: int = 12, *, gamma: Number = 0.99) -> MDP:
    """Sutton and Barto's cliff (2018, example 6.6): up, right, down, left at a cost of 1 a step.

    The start is the lower left corner of num_rows x num_columns cells. The goal is the lower right
    corner, and absorbing. Between them is the cliff: stepping off costs 100 and leads back to the
    start. States are row-major, top row first.

    Raises:
        ValueError: if the discount gamma is not in [0, 1).
    """
    check_gamma(gamma)
    num_states = num_rows * num_columns
    start, goal = num_states - num_columns, num_states - 1
    transition, reward = np.zeros((num_states, 4, num_states)), np.full((num_states, 4), -1.0)
    for state in range(num_states):
        row, column = divmod(state, num_columns)
        for action, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            target = np.clip(row + down, 0, num_rows - 1) * num_columns
            target += np.clip(column + right, 0, num_columns - 1)
            if start < target < goal:
                target, reward[state, action] = start, -100
            transition[state, action, goal if state == goal else target] = 1
    reward[goal] = 0
    return MDP(jnp.asarray(transition), jnp.asarray(reward), gamma, jnp.eye(num_states)[start])


def mix_actions(mdp: MDP, mixture: np.ndarray | Array) -> MDP:
    """``mdp`` where choosing action a performs action b with probability mixture[a, b]: [A, A]."""
    mixture = jnp.asarray(mixture, mdp.reward.dtype)
    return mdp._replace(
        transition=jnp.einsum("ab,sbx->sax", mixture, mdp.transition),
        reward=jnp.einsum("ab,sb->sa", mixture, mdp.reward),
    )


def check_gamma(gamma: Number) -> None:
    """Refuses a known discount outside [0, 1): at 1, d can't be normalised."""
    require(lambda x: (x >= 0) & (x < 1), "at least 0 and below 1", gamma=gamma)
