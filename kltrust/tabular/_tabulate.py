"""Environments as finite MDPs, from their own transition code."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.environments import make
from kltrust.tabular._mdp import MDP, check_gamma, mix_actions
from kltrust.types import Discrete, Env, Number, PyTree

_WIDTH = 32  # states expanded at once


class Tabulated(NamedTuple):
    """An environment's MDP.

    Attributes:
        mdp: S states in the order in which they were found, the last one the absorbing end.
        obs: [S, *O] the observation of every state, zeros for the end.
    """

    mdp: MDP
    obs: np.ndarray


def tabulate(env: Env, *, gamma: Number, max_states: int = 10_000) -> Tabulated:
    """Explores a deterministic environment breadth-first and writes down what its steps do.

    Every observation of ``env`` must be one array that identifies the state, and there must be one
    start state. The time limit is left out, since it is no property of a state. Add noise
    afterwards by `mix_actions`. The exploration gives up at max_states; ``gamma`` discounts.

    Raises:
        ValueError: if the environment draws at random, observes more than one array, has too many
            states, or has a time limit that cuts the exploration short; if gamma is not in [0, 1).
    """
    check_gamma(gamma)
    if not isinstance(env.action_space, Discrete):
        raise ValueError(f"{env.name} must have a Discrete action space, got {env.action_space}")
    num_actions = env.action_space.n
    actions = jnp.arange(num_actions, dtype=jnp.int32)
    keys = jax.random.split(jax.random.key(0), 2)

    def expand(_: None, state: PyTree) -> tuple[None, Any]:
        return None, jax.vmap(lambda k: jax.vmap(lambda a: env.step(k, state, a))(actions))(keys)

    state, obs = env.reset(keys[0])
    if not isinstance(obs, jax.Array):
        raise ValueError(
            f"{env.name} must have observations of one array, which identifies the state, "
            f"got {type(obs).__name__}: tabulate it without its mask, or with its parts in one row"
        )
    _same(env, obs, env.reset(keys[1])[1])
    index, observations = {np.asarray(obs).tobytes(): 0}, [np.asarray(obs)]
    frontier, edges, done = [state], [], 0
    while done < len(frontier):
        block = frontier[done : done + _WIDTH]
        done += len(block)
        padded = block + block[:1] * (_WIDTH - len(block))
        # One compilation for all blocks: JAX caches a compiled scan by its body.
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded)
        following, _, outcome = jax.tree.map(np.asarray, jax.lax.scan(expand, None, stacked)[1])
        for i in range(len(block)):
            _same(env, *(jax.tree.map(lambda x, k=k, i=i: x[i, k], outcome) for k in (0, 1)))
            for action in range(num_actions):
                reward, terminated, truncated, obs = (x[i, 0, action] for x in outcome)
                if truncated and not terminated:
                    raise ValueError(f"{env.name}: raise its time limit, to explore all states")
                if not terminated and obs.tobytes() not in index:
                    index[obs.tobytes()] = len(observations)
                    observations.append(obs)
                    frontier.append(jax.tree.map(lambda x, i=i, a=action: x[i, 0, a], following))
                edges.append((float(reward), -1 if terminated else index[obs.tobytes()]))
        if len(observations) > max_states:
            raise ValueError(f"{env.name} has more than max_states={max_states} states")
    return _assemble(edges, observations, num_actions, gamma)


def frozen_lake(
    map_name: str = "4x4", *, success_rate: float = 1 / 3, gamma: Number = 0.99
) -> Tabulated:
    """FrozenLake of gymnax: the chosen direction, else one of its two neighbours.

    ``map_name`` is "4x4" or "8x8". success_rate is the probability of the chosen direction, 1 for a
    lake that is not slippery. ``gamma`` discounts.
    """
    lake = tabulate(make("FrozenLake-misc", map_name=map_name, is_slippery=False), gamma=gamma)
    aside = (np.roll(np.eye(4), 1, axis=1) + np.roll(np.eye(4), -1, axis=1)) / 2
    mixture = success_rate * np.eye(4) + (1 - success_rate) * aside
    return lake._replace(mdp=mix_actions(lake.mdp, mixture))


def four_rooms(*, fail_prob: float = 1 / 3, gamma: Number = 0.99) -> Tabulated:
    """FourRooms of gymnax: another direction with probability fail_prob; gamma discounts."""
    rooms = tabulate(make("FourRooms-misc", fail_prob=0.0), gamma=gamma)
    mixture = (1 - fail_prob) * np.eye(4) + fail_prob / 3 * (1 - np.eye(4))
    return rooms._replace(mdp=mix_actions(rooms.mdp, mixture))


def deep_sea(size: int = 8, *, stochastic: bool = False, gamma: Number = 0.99) -> Tabulated:
    """DeepSea of gymnax: a treasure at the right end, each step towards it at a small cost.

    It has ``size`` rows and columns. If ``stochastic``, a step to the right stays in its column
    with probability 1 / size. (gymnax then also adds noise of mean 0 to the last rewards.)
    ``gamma`` discounts.
    """
    sea = tabulate(make("DeepSea-bsuite", size=size), gamma=gamma)
    if not stochastic:
        return sea
    transition = np.array(sea.mdp.transition)
    places = [tuple(np.argwhere(obs)[0]) for obs in sea.obs[:-1]]
    number = {place: state for state, place in enumerate(places)}
    for state, (row, column) in enumerate(places):
        if row == size - 1:
            continue  # either way the episode ends
        columns = [places[np.argmax(transition[state, action])][1] for action in range(2)]
        right = int(np.argmax(columns))
        transition[state, right] *= 1 - 1 / size
        transition[state, right, number[row + 1, column]] += 1 / size
    return sea._replace(mdp=sea.mdp._replace(transition=jnp.asarray(transition)))


def _assemble(
    edges: list[tuple[float, int]], observations: list[np.ndarray], num_actions: int, gamma: Number
) -> Tabulated:
    rewards, targets = (np.array(x).reshape(-1, num_actions) for x in zip(*edges, strict=True))
    num_states = len(observations) + 1
    states, actions = np.indices(targets.shape)
    transition = np.zeros((num_states, num_actions, num_states))
    transition[states, actions, targets] = 1
    transition[-1, :, -1] = 1
    reward = np.concatenate([rewards, np.zeros((1, num_actions))])
    start = np.eye(num_states)[0]
    mdp = MDP(jnp.asarray(transition), jnp.asarray(reward), gamma, jnp.asarray(start))
    return Tabulated(mdp, np.stack([*observations, np.zeros_like(observations[0])]))


def _same(env: Env, first: PyTree, second: PyTree) -> None:
    equal = jax.tree.map(lambda x, y: bool(np.all(np.asarray(x) == np.asarray(y))), first, second)
    if not all(jax.tree.leaves(equal)):
        raise ValueError(f"{env.name} draws at random: switch that off, and mix its actions after")
