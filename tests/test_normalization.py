"""Running moments against numpy over all the data; reward scaling against a loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kltrust.rollout.normalization import (
    CLIP,
    Moments,
    init_moments,
    init_reward_scale,
    normalize,
    scale_rewards,
    update_moments,
)


def data(num_rows=60, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "vector": (3.0 + 2.0 * rng.normal(size=(num_rows, 4))).astype(np.float32),
        "scalar": rng.exponential(size=num_rows).astype(np.float32),
        "count": rng.integers(0, 9, size=(num_rows, 2)).astype(np.int32),
    }


def example(samples):
    return jax.tree.map(lambda x: jnp.asarray(x[0]), samples)


def moments_of(parts):
    moments = init_moments(example(parts[0]))
    for part in parts:
        moments = update_moments(moments, part)
    return moments


def split(samples, cuts):
    spans = [slice(i, j) for i, j in itertools.pairwise(cuts)]
    return [jax.tree.map(lambda x, span=span: x[span], samples) for span in spans]


@pytest.mark.parametrize("num_cuts", [0, 1, 3, 59])
def test_any_split_gives_the_moments_of_all(num_cuts):
    samples = data()
    rng = np.random.default_rng(num_cuts)
    cuts = [0, *np.sort(rng.choice(np.arange(1, 60), size=num_cuts, replace=False)), 60]
    moments = moments_of(split(samples, cuts))
    assert moments.num_samples == 60
    for name, x in samples.items():
        x = x.astype(np.float64)
        np.testing.assert_allclose(moments.mean[name], x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(moments.variance[name], x.var(0), rtol=1e-5)


def test_leading_axes_are_all_samples():
    samples = data()
    grid = jax.tree.map(lambda x: x.reshape(5, 12, *x.shape[1:]), samples)
    moments = update_moments(init_moments(example(samples)), grid)
    for a, b in zip(jax.tree.leaves(moments), jax.tree.leaves(moments_of([samples])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_an_array_without_entries_is_not_counted_by():
    samples = {"none": np.zeros((60, 0), np.float32), "vector": data()["vector"]}
    moments = moments_of(split(samples, [0, 20, 60]))
    assert moments.num_samples == 60
    np.testing.assert_allclose(moments.mean["vector"], samples["vector"].mean(0), rtol=1e-5)


def test_a_large_offset_costs_no_digits():
    """What E[x^2] - E[x]^2 would lose in float32."""
    rng = np.random.default_rng(0)
    x = (1e4 + rng.normal(size=(1000, 1))).astype(np.float32)
    moments = moments_of([x[:300], x[300:]])
    np.testing.assert_allclose(moments.variance, x.astype(np.float64).var(0), rtol=1e-2)
    naive = np.mean(x**2, 0, dtype=np.float32) - np.mean(x, 0, dtype=np.float32) ** 2
    assert abs(naive[0] - 1) > 0.1


def test_normalised_is_standardised():
    samples = data()
    moments = moments_of([samples])
    normal = normalize(moments, samples)
    for name in ("vector", "scalar"):
        x = samples[name].astype(np.float64)
        expected = np.clip((x - x.mean(0)) / x.std(0), -10, 10)
        np.testing.assert_allclose(normal[name], expected, atol=1e-4)
        assert normal[name].dtype == jnp.float32
    np.testing.assert_array_equal(normal["count"], samples["count"])
    assert normal["count"].dtype == jnp.int32
    # A single observation and a [T, B] block of them come out alike.
    one = normalize(moments, jax.tree.map(lambda x: x[7], samples))
    block = normalize(moments, jax.tree.map(lambda x: x.reshape(5, 12, *x.shape[1:]), samples))
    np.testing.assert_allclose(one["vector"], normal["vector"][7], rtol=1e-6)
    np.testing.assert_allclose(block["vector"].reshape(60, 4), normal["vector"], rtol=1e-6)


def test_outliers_are_clipped_and_constants_stay_finite():
    moments = Moments(jnp.float32(9), jnp.asarray([0.0, 2.0]), jnp.asarray([1.0, 0.0]))
    x = jnp.asarray([[1e9, 2.0], [-1e9, 3.0], [0.5, -jnp.inf]])
    np.testing.assert_allclose(normalize(moments, x), [[10, 0], [-10, 10], [0.5, -10]])
    assert CLIP == 10


def test_no_moments_and_no_samples_change_nothing():
    x = {"a": jnp.asarray([0.5, -3.0]), "n": jnp.asarray([200])}
    assert normalize(None, x) is x
    fresh = normalize(init_moments(x), x)
    np.testing.assert_allclose(fresh["a"], x["a"], rtol=1e-6)
    np.testing.assert_array_equal(fresh["n"], x["n"])


GAMMA = 0.9


def reward_data(num_steps=40, num_envs=3, seed=0):
    rng = np.random.default_rng(seed)
    reward = (1 + rng.normal(size=(num_steps, num_envs))).astype(np.float32)
    return reward, rng.random(size=(num_steps, num_envs)) < 0.15


def running_returns(reward, done, early=False):
    """(Each step's, what is under way); ``early`` forgets a terminal step before it is counted."""
    returns, running = np.zeros(reward.shape), np.zeros(reward.shape[1])
    for t in range(reward.shape[0]):
        for b in range(reward.shape[1]):
            forgotten = early and done[t, b]
            running[b] = GAMMA * running[b] * (not forgotten) + reward[t, b]
            returns[t, b] = running[b]
            if done[t, b] and not early:
                running[b] = 0.0
    return returns, running


def test_rewards_are_divided_by_the_deviation_of_the_return():
    reward, done = reward_data()
    done[-1, 0] = True  # an end at the border is not carried over
    scale, scaled = scale_rewards(init_reward_scale(3), reward, done, GAMMA)
    returns, running = running_returns(reward, done)
    expected = returns.std()
    np.testing.assert_allclose(scaled, reward / expected, rtol=1e-5)
    np.testing.assert_allclose(scale.moments.variance, expected**2, rtol=1e-5)
    assert scale.moments.num_samples == reward.size
    np.testing.assert_allclose(scale.running_return, running, rtol=1e-5)
    assert scale.running_return[0] == 0
    # Control: to forget the return at the terminal step, not after it, is another number.
    early = running_returns(reward, done, early=True)[0].std()
    assert abs(early / expected - 1) > 0.01


def test_rollouts_go_on_where_the_last_one_ended():
    reward, done = reward_data()
    whole, _ = scale_rewards(init_reward_scale(3), reward, done, GAMMA)
    part, _ = scale_rewards(init_reward_scale(3), reward[:17], done[:17], GAMMA)
    assert np.any(part.running_return != 0)
    both, scaled = scale_rewards(part, reward[17:], done[17:], GAMMA)
    np.testing.assert_allclose(both.moments.variance, whole.moments.variance, rtol=1e-5)
    np.testing.assert_allclose(both.running_return, whole.running_return, rtol=1e-5)
    # The rewards of a rollout are scaled by what is known at its end.
    np.testing.assert_allclose(scaled, reward[17:] / np.sqrt(whole.moments.variance), rtol=1e-5)


def test_scaled_rewards_are_clipped():
    reward = np.zeros((1000, 1), np.float32)  # of which most stay zero
    reward[500] = 1e6
    _, scaled = scale_rewards(
        init_reward_scale(1), jnp.asarray(reward), jnp.ones((1000, 1), bool), GAMMA
    )
    assert scaled.max() == CLIP
    assert scaled.min() == 0
