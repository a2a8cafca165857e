"""Where the environments stand when a training begins: all at a start, or at different times.

Environments that begin together stay in step for as long as only a time limit ends their episodes:
every batch then holds one stretch of the episode, the same in all of them, and the update forgets
the others.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.rollout.acting import play
from kltrust.rollout.batches import episode_starts, values
from kltrust.rollout.loop import count_episodes
from kltrust.rollout.normalization import normalize
from kltrust.types import ActorCritic, Array, Env


def stagger(env: Env, agent: ActorCritic, state: Any, key: Array, most: int) -> Any:
    """Each environment plays a number of steps by the policy, drawn from 0 to ``most`` - 1.

    ``most`` is static: the time limit, where that is what ends episodes.

    Returns:
        The `LearnerState` with the environments, their episodes' returns and lengths, and what the
        agent remembers of them, after those steps. Nothing is learned from them.
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
        _, _, value_carry = values(agent, *critic)
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
        return state._replace(**tree.where(t < number, after, before)), None

    steps = jnp.arange(most - 1), jax.random.split(key, most - 1)
    return jax.lax.scan(step, state, steps)[0]
