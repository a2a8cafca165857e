"""What an adapter of another library's environments has to keep, checked beside the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from kltrust import tree
from kltrust.environments import sample_action
from kltrust.environments._build import strong
from kltrust.networks.masks import mask_of
from kltrust.types import Env, Outcome

LANES, STEPS = 3, 24


class Raw(NamedTuple):
    """The library's own environment: no reset by itself, no time limit of ours.

    ``reset(key) -> (state, obs)``; ``step(key, state, action) -> (state, obs, reward, done)``.
    """

    reset: Callable
    step: Callable


class Step(NamedTuple):
    """A step of the adapter, and what the library made of the same key, state and action."""

    obs: Any
    outcome: Outcome
    fresh: Any
    """What a reset by the second half of the step's key gives."""
    raw: tuple[Any, Any, Any]
    """The library's own obs, reward and end."""


def check_contract(
    make: Callable[[Any], Env],
    raw: Raw,
    *,
    limit: int,
    ends: bool = True,
) -> None:
    """Plays two chunks by one compiled program, and once more with the lanes in another order.

    Args:
        make: the environment for a time limit, which is traced.
        raw: what it adapts.
        limit: episodes are cut after so many steps, some of them at least.
        ends: whether random actions end an episode before that now and then.
    """
    traces = []

    def step(carry, key, limit):
        env = make(limit)
        state, obs, raw_state = carry
        key_action, key_step = jax.random.split(key)
        action = sample_action(env.action_space, key_action, mask_of(obs))
        # As documented: one half of the key for the transition, the other for a reset.
        key_transition, key_reset = jax.random.split(key_step)
        fresh_state, fresh = raw.reset(key_reset)
        raw_state, *seen = raw.step(key_transition, raw_state, action)
        state, obs, outcome = env.step(key_step, state, action)
        raw_state = tree.where(
            outcome.terminated | outcome.truncated,
            *jax.tree.map(strong, (fresh_state, raw_state)),
        )
        return (state, obs, raw_state), Step(obs, outcome, fresh, tuple(seen))

    @jax.jit
    def chunk(carry, keys, limit):
        traces.append(limit)
        steps = jax.vmap(step, (0, 0, None))
        return jax.lax.scan(lambda carry, key: steps(carry, key, limit), carry, keys)

    @jax.jit
    @jax.vmap
    def start(key):
        state, obs = make(limit).reset(key)
        raw_state, raw_obs = raw.reset(key)
        return (state, obs, jax.tree.map(strong, raw_state)), raw_obs

    first, own = start(jax.random.split(jax.random.key(1), LANES))
    _assert_close(first[1], own, "the first observation is the library's")
    keys = jax.random.split(jax.random.key(2), (2, STEPS, LANES))
    between, one = chunk(first, keys[0], limit)
    _, two = chunk(between, keys[1], limit)
    assert len(traces) == 1, "a step's result is a step's argument: nothing compiles twice"
    _, again = chunk(first, keys[0], limit)
    _assert_equal(one, again, "the same keys give the same bits")
    backwards = jax.tree.map(lambda x: x[::-1], first)
    _, others = chunk(backwards, keys[0][:, ::-1], limit)
    _assert_close(one, jax.tree.map(lambda x: x[:, ::-1], others), "lanes are independent")
    steps = jax.tree.map(lambda *x: np.concatenate(x), one, two)
    check_steps(steps, limit)
    assert steps.outcome.terminated.any() == ends, "random actions end an episode"


def check_steps(steps: Step, limit: int) -> None:
    """Of arrays [T, B, ...]: terminal observations, ends, fresh starts."""
    outcome, (raw_obs, raw_reward, raw_done) = steps.outcome, steps.raw
    _assert_close(outcome.next_obs, raw_obs, "next_obs is the library's, before any reset")
    _assert_close(outcome.reward, raw_reward, "reward")
    np.testing.assert_array_equal(outcome.terminated, raw_done > 0, "terminated is the library's")

    done = outcome.terminated | outcome.truncated
    length, at_limit = np.zeros(done.shape[1], int), np.zeros(done.shape, bool)
    for t in range(len(done)):
        length = length + 1
        at_limit[t] = length >= limit
        length = np.where(done[t], 0, length)
    np.testing.assert_array_equal(outcome.truncated, at_limit, "truncated at the limit, only there")
    assert (outcome.truncated & ~outcome.terminated).any(), "an episode is cut: lower the limit"
    assert not done.all()

    _assert_close(_at(steps.obs, done), _at(steps.fresh, done), "a reset by the key where it ends")
    _assert_equal(_at(steps.obs, ~done), _at(outcome.next_obs, ~done), "no reset where it goes on")
    starts = [x.reshape(done.sum(), -1) for x in _floats(_at(steps.obs, done))]
    assert len(np.unique(np.concatenate(starts, 1), axis=0)) > 1, "episodes start differently"


def _at(x: Any, where: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[where], x)


def _floats(x: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x)]


def _assert_equal(x: Any, y: Any, what: str) -> None:
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_array_equal(a, b, what)


def _assert_close(x: Any, y: Any, what: str) -> None:
    """Up to rounding: one computation, twice in a program, may be compiled in two ways."""
    for a, b in zip(_floats(x), _floats(y), strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5, err_msg=what)
