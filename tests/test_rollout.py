"""The rollout against loops that step one environment at a time, and its counts against numpy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import pytest

from kltrust import tree
from kltrust.environments import make
from kltrust.rollout import (
    count_episodes,
    count_nonfinite,
    episode_returns,
    reset_batch,
    rollout,
)
from kltrust.types import Discrete, Transition

ENVS = {  # short episodes, so that a few steps see ends of both kinds
    "CartPole-v1": lambda: make("CartPole-v1", max_steps_in_episode=7),
    "Pendulum-v1": lambda: make("Pendulum-v1", max_steps_in_episode=5),
    "reward_one": lambda: known_envs.reward_one(4, termination=0.2),
    "chain": lambda: known_envs.chain(4),
}


@functools.cache
def _known(name):
    """An environment and its compiled step."""
    env = ENVS[name]()
    return env, jax.jit(env.step)


def _noisy_actor(env):
    """Depends on the observation of each row and on the key."""

    @jax.jit
    def act(obs, key):
        score = jnp.sum(obs, -1) + jax.random.normal(key, obs.shape[:1])
        if isinstance(env.action_space, Discrete):
            return (score > 0.5).astype(jnp.int32)
        return score[:, None]

    return act


def _by_hand(step, act, state, obs, step_keys):
    """A list of transitions of numpy arrays; ``step_keys(t)`` gives the actor's and B more."""
    num_envs = obs.shape[0]
    states = [tree.take_rows(state, i) for i in range(num_envs)]
    t, transitions = 0, []
    while (keys := step_keys(t)) is not None:
        action = act(obs, keys[0])
        results = [step(keys[1 + i], states[i], action[i]) for i in range(num_envs)]
        states = [r[0] for r in results]
        outcome = jax.tree.map(lambda *x: np.stack(x), *[r[2] for r in results])
        transitions.append(Transition(np.asarray(obs), np.asarray(action), *outcome))
        obs = jnp.stack([r[1] for r in results])
        t += 1
    return states, obs, transitions


@pytest.fixture(scope="module", params=ENVS)
def rolled(request):
    env, step = _known(request.param)
    act = _noisy_actor(env)
    state, obs = jax.jit(lambda key: reset_batch(env, key, 3))(jax.random.key(1))
    key = jax.random.key(2)
    final, transition = jax.jit(lambda s, o: rollout(env, act, s, o, key, 12))(state, obs)
    keys = jax.random.split(key, (12, 4))
    hand = _by_hand(step, act, state, obs, lambda t: keys[t] if t < 12 else None)
    return final, transition, hand


def test_rollout_is_a_loop_over_steps_and_environments(rolled):
    (state, obs), transition, (states, hand_obs, transitions) = rolled
    expected = jax.tree.map(lambda *x: np.stack(x), *transitions)
    for name, got, want in zip(Transition._fields, transition, expected, strict=True):
        assert got.dtype == want.dtype, name
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(obs, hand_obs, rtol=1e-6, atol=1e-6)
    for i, one in enumerate(states):
        for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(one), strict=True):
            if not jnp.issubdtype(got.dtype, jax.dtypes.prng_key):
                np.testing.assert_allclose(got[i], want, rtol=1e-6, atol=1e-6)


def test_next_obs_is_the_one_before_the_reset(rolled):
    (_, obs), transition, _ = rolled
    done = np.asarray(transition.terminated | transition.truncated)
    assert done.any()
    assert not done.all()
    following = np.concatenate([transition.obs[1:], obs[None]])
    np.testing.assert_array_equal(following[~done], np.asarray(transition.next_obs)[~done])
    if transition.obs.shape[-1] > 1:  # reward_one observes a constant
        assert (following[done] != np.asarray(transition.next_obs)[done]).any(-1).all()


def test_record_says_what_is_kept():
    env = known_envs.chain(4)
    act = _noisy_actor(env)
    state, obs = reset_batch(env, jax.random.key(0), 3)

    def collect(**keywords):
        return rollout(env, act, state, obs, jax.random.key(1), 9, **keywords)

    everything, full = collect()
    same, kept = collect(record=lambda t: {"twice": 2 * t.reward, "cell": jnp.argmax(t.obs, -1)})
    np.testing.assert_array_equal(kept["twice"], 2 * full.reward)
    np.testing.assert_array_equal(kept["cell"], np.argmax(full.obs, -1))
    assert set(kept) == {"twice", "cell"}
    jax.tree.map(np.testing.assert_array_equal, everything, same)
    assert collect(record=lambda t: ())[1] == ()
    # What is not recorded is not stacked either: no array of [T, B, *O] comes out of the scan.
    jaxpr = jax.make_jaxpr(lambda: collect(record=lambda t: t.reward))()
    assert "f32[9,3,4]" not in str(jaxpr)
    assert "f32[9,3,4]" in str(jax.make_jaxpr(collect)())


@pytest.mark.parametrize("name", ENVS)
def test_episode_returns_are_those_of_a_loop(name):
    env, step = _known(name)
    act = _noisy_actor(env)
    key, limit = jax.random.key(5), 6
    returns, lengths = jax.jit(lambda key: episode_returns(env, act, key, 4, limit))(key)

    reset_key, step_key = jax.random.split(key)
    state, obs = reset_batch(env, reset_key, 4)
    _, _, transitions = _by_hand(
        step,
        act,
        state,
        obs,
        lambda t: jax.random.split(jax.random.fold_in(step_key, t), 5) if t < limit else None,
    )
    for i in range(4):
        total, length = 0.0, 0
        for transition in transitions:
            total += float(transition.reward[i])
            length += 1
            if transition.terminated[i] or transition.truncated[i]:
                break
        np.testing.assert_allclose(returns[i], total, rtol=1e-5)
        assert lengths[i] == length
    assert lengths.dtype == jnp.int32


def test_episodes_are_cut_at_max_steps_and_count_only_themselves():
    def act(obs, key):
        return jnp.ones(obs.shape[0], jnp.int32)

    @jax.jit
    def returns(max_steps):
        return episode_returns(known_envs.reward_one(10), act, jax.random.key(0), 3, max_steps)

    for max_steps in (1, 4, 10, 25):  # one compilation: the limit may be traced
        total, length = returns(max_steps)
        np.testing.assert_array_equal(total, [min(max_steps, 10)] * 3)
        np.testing.assert_array_equal(length, [min(max_steps, 10)] * 3)
    assert returns._cache_size() == 1


def _count_by_hand(returns, lengths, reward, done):
    ended = []
    returns, lengths = list(map(float, returns)), list(map(int, lengths))
    for t in range(reward.shape[0]):
        for b in range(reward.shape[1]):
            returns[b] += float(reward[t, b])
            lengths[b] += 1
            if done[t, b]:
                ended.append((returns[b], lengths[b]))
                returns[b], lengths[b] = 0.0, 0
    return returns, lengths, ended


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_count_episodes_is_a_loop(rate):
    rng = np.random.default_rng(0)
    returns, lengths = np.zeros(3, np.float32), np.zeros(3, np.int32)
    hand = returns, lengths
    for _ in range(3):  # what is under way at the end of one batch goes on in the next
        reward = rng.normal(size=(8, 3)).astype(np.float32)
        done = rng.random((8, 3)) < rate
        returns, lengths, sums = count_episodes(
            jnp.asarray(returns), jnp.asarray(lengths), jnp.asarray(reward), jnp.asarray(done)
        )
        *hand, ended = _count_by_hand(*hand, reward, done)
        np.testing.assert_allclose(returns, hand[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(lengths, hand[1])
        assert sums["num_episodes"] == len(ended) == done.sum()
        assert sums["length_sum"] == sum(length for _, length in ended)
        np.testing.assert_allclose(sums["return_sum"], sum(r for r, _ in ended), atol=1e-5)
        assert sums["num_episodes"].dtype == sums["length_sum"].dtype == jnp.int32


def test_a_return_beyond_2_to_the_24_still_grows():
    """Rewards of 1 vanish one by one beside it, their sum does not; whatever episode they end."""
    big, steps = 2.0**24, jnp.ones((64, 2))
    done = jnp.zeros((64, 2), bool).at[63, 0].set(True)
    returns, _, sums = count_episodes(jnp.full(2, big), jnp.zeros(2, jnp.int32), steps, done)
    assert sums["return_sum"] == big + 64
    np.testing.assert_array_equal(returns, [0, big + 64])
    assert np.float32(big) + np.float32(1) == big  # the control


def _transition(**leaves):
    zeros = jnp.zeros((4, 3), jnp.float32)
    flags = jnp.zeros((4, 3), bool)
    obs = jnp.zeros((4, 3, 2), jnp.float32)
    return Transition(obs, flags.astype(jnp.int32), zeros, flags, flags, obs)._replace(**leaves)


def test_count_nonfinite_counts_rewards_transitions_and_updates():
    fine = {"w": jnp.ones(3), "n": jnp.arange(3)}

    def counts(params=fine, **leaves):
        got = count_nonfinite(_transition(**leaves), params)
        assert all(x.dtype == jnp.int32 and x.shape == () for x in got.values())
        order = ("nonfinite_rewards", "nonfinite_observations", "nonfinite_update")
        return tuple(int(got[name]) for name in order)

    zeros = np.zeros((4, 3, 2), np.float32)
    assert counts() == (0, 0, 0)
    reward = np.zeros((4, 3), np.float32)
    reward[0, 0], reward[3, 1], reward[2, 2] = np.nan, np.inf, -np.inf
    assert counts(reward=jnp.asarray(reward)) == (3, 0, 0)

    bad = zeros.copy()
    bad[1, 2] = np.nan  # two bad entries of one observation are one bad transition
    bad[2, 0, 1] = np.inf
    assert counts(obs=jnp.asarray(bad)) == (0, 2, 0)
    assert counts(next_obs=jnp.asarray(bad)) == (0, 2, 0)
    other = zeros.copy()
    other[1, 2, 0] = other[0, 1, 0] = np.nan
    assert counts(obs=jnp.asarray(bad), next_obs=jnp.asarray(other)) == (0, 3, 0)

    pytree = {"image": jnp.zeros((4, 3, 2, 2), jnp.uint8), "vector": jnp.asarray(bad)}
    assert counts(obs=pytree, next_obs=pytree) == (0, 2, 0)
    pytree["none"] = jnp.zeros((4, 3, 0))
    assert counts(obs=pytree, next_obs=pytree) == (0, 2, 0)
    scalars = jnp.zeros((4, 3), jnp.float32).at[0, 0].set(jnp.nan)
    assert counts(obs=scalars, next_obs=scalars) == (0, 1, 0)
    assert counts({"w": jnp.array([1.0, jnp.nan])}) == (0, 0, 1)
