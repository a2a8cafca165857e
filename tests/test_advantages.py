import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kltrust.advantages import gae, standardize


def trajectory(steps=12, envs=5, seed=0):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, steps, envs))
    terminated, truncated = rng.random(size=(2, steps, envs)) < 0.2
    truncated[3, 0] = terminated[3, 0] = True  # Both at once.
    return reward, value, next_value, terminated, truncated


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0), (0.0, 0.5)])
def test_gae_against_explicit_sums(gamma, lam):
    data = trajectory()
    expected = np.stack(
        [oracles.gae(*(x[:, b] for x in data), gamma, lam) for b in range(5)], axis=1
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(gae(*data, gamma=gamma, lam=lam), expected, rtol=1e-12)
    single = gae(
        *(jnp.asarray(x, bool if x.dtype == bool else jnp.float32) for x in data),
        gamma=gamma,
        lam=lam,
    )
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)


def test_lam_one_is_the_return_and_lam_zero_the_temporal_difference():
    reward = np.array([1.0, 2.0, 3.0])
    value, next_value = np.array([10.0, 20.0, 30.0]), np.array([20.0, 30.0, 40.0])
    never = np.zeros(3, bool)
    args = (reward, value, next_value, never, never)
    returns = [1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 40, 2 + 0.5 * 3 + 0.25 * 40, 3 + 0.5 * 40]
    np.testing.assert_allclose(gae(*args, gamma=0.5, lam=1.0) + value, returns, rtol=1e-6)
    np.testing.assert_allclose(
        gae(*args, gamma=0.5, lam=0.0), reward + 0.5 * next_value - value, rtol=1e-6
    )


def test_ends_and_time_limits():
    reward, value, next_value = jnp.ones(3), jnp.zeros(3), jnp.full(3, 100.0)
    off, at = jnp.zeros(3, bool), jnp.array([False, True, False])

    def first_two(terminated, truncated):
        return gae(reward, value, next_value, terminated, truncated, gamma=0.5, lam=1.0)[:2]

    np.testing.assert_allclose(first_two(at, off), [51.5, 1.0])  # No future value.
    np.testing.assert_allclose(first_two(off, at), [76.5, 51.0])  # Its own future value.
    np.testing.assert_allclose(first_two(at, at), [51.5, 1.0])  # Terminated wins.
    # The control: neither flag, and the next episode's rewards leak in.
    np.testing.assert_allclose(first_two(off, off), [89.25, 76.5])


def test_what_follows_an_end_does_not_matter():
    reward, value, next_value, terminated, truncated = map(np.copy, trajectory(seed=1))
    terminated[:], truncated[:] = False, False
    terminated[5, :2], truncated[5, 2:] = True, True
    kwargs = {"gamma": 0.99, "lam": 0.95}
    before = gae(reward, value, next_value, terminated, truncated, **kwargs)
    reward[6:] += 100
    value[6:] -= 100
    next_value[5, :2] = np.nan  # A critic's opinion of a terminal state.
    after = gae(reward, value, next_value, terminated, truncated, **kwargs)
    np.testing.assert_array_equal(before[:6], after[:6])
    assert np.all(before[6:] != after[6:])


def test_forever_reward_with_a_time_limit():
    # Reward 1 for ever, cut every 10 steps: with the true value no advantage anywhere; a critic
    # that takes the cut for an end believes in less, and the true one then looks wrong to it.
    steps, gamma = 40, 0.9
    value = jnp.full(steps, 1 / (1 - gamma))
    cut = jnp.arange(steps) % 10 == 9
    never = jnp.zeros(steps, bool)
    args = (jnp.ones(steps), value, value)
    np.testing.assert_allclose(gae(*args, never, cut, gamma=gamma, lam=0.95), 0, atol=1e-4)
    assert gae(*args, cut, never, gamma=gamma, lam=0.95)[9] == pytest.approx(-9.0, rel=1e-5)


def test_gae_shapes_settings_and_dtypes():
    data = trajectory()
    whole = gae(*data, gamma=0.99, lam=0.95)
    np.testing.assert_allclose(
        gae(*(x[:, 2] for x in data), gamma=0.99, lam=0.95), whole[:, 2], rtol=1e-5, atol=1e-6
    )
    deep = gae(*(x.reshape(12, 1, 5) for x in data), gamma=0.99, lam=0.95)
    np.testing.assert_array_equal(deep[:, 0], whole)
    # Values of any dtype are numbers, and so are rewards and flags.
    zero = np.zeros_like(data[0])
    expected = gae(data[0], zero, zero, *data[3:], gamma=0.99, lam=0.95)
    flags = [x.astype(np.float32) for x in data[3:]]
    for dtype in (np.int32, np.int16, bool):
        zeros = np.zeros(zero.shape, dtype)
        found = gae(data[0], zeros, zeros, *flags, gamma=0.99, lam=0.95)
        np.testing.assert_array_equal(found, expected)
    ones = np.ones((12, 5), np.int32)
    np.testing.assert_array_equal(
        gae(ones, *data[1:], gamma=0.99, lam=0.95),
        gae(ones.astype(np.float32), *data[1:], gamma=0.99, lam=0.95),
    )
    # Traced settings: one compilation, the same numbers, and both matter.
    swept = jax.jit(jax.vmap(lambda g, lam: gae(*data, gamma=g, lam=lam)))(
        jnp.array([0.99, 0.9, 0.99]), jnp.array([0.95, 0.95, 0.5])
    )
    np.testing.assert_allclose(swept[0], whole, rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(swept[0] - swept[1])) > 0.1
    assert np.max(np.abs(swept[0] - swept[2])) > 0.1
    with pytest.raises(ValueError, match="the shapes must be equal"):
        gae(data[0][:, :1], *data[1:], gamma=0.99, lam=0.95)
    with pytest.raises(ValueError, match="gamma must be between 0 and 1"):
        gae(*data, gamma=1.01, lam=0.95)
    with pytest.raises(ValueError, match=r"lam must be between 0 and 1, got -0\.1"):
        gae(*data, gamma=0.99, lam=-0.1)


def test_a_discount_and_a_trace_for_each_step():
    reward, value, next_value, terminated, truncated = data = trajectory()
    gamma, lam = np.random.default_rng(1).random((2, 12, 5))
    expected, later = np.zeros((12, 5)), np.zeros(5)
    for t in reversed(range(12)):
        delta = reward[t] + np.where(terminated[t], 0, gamma[t] * next_value[t]) - value[t]
        later = delta + np.where(terminated[t] | truncated[t], 0, gamma[t] * lam[t] * later)
        expected[t] = later
    for function in (gae, jax.jit(gae)):
        found = function(*data, gamma=gamma, lam=lam)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        steps = function(*data, gamma=gamma[:, :1], lam=0.5)
        np.testing.assert_array_equal(
            steps, function(*data, gamma=np.tile(gamma[:, :1], 5), lam=np.full((12, 5), 0.5))
        )
        # One number for each environment, if there were as many steps as these.
        with pytest.raises(AssertionError, match="rank"):
            function(*data, gamma=gamma[0], lam=0.5)
    gamma[7, 2] = 1.5
    with pytest.raises(ValueError, match=r"gamma must be .*, got 1\.5 in an array"):
        gae(*data, gamma=gamma, lam=0.5)


def test_standardize():
    x = np.random.default_rng(2).normal(3.0, 2.0, size=(7, 9))
    with jax.enable_x64(True):
        np.testing.assert_allclose(standardize(x), (x - x.mean()) / (x.std() + 1e-8), rtol=1e-12)
        np.testing.assert_allclose(
            standardize(x, epsilon=0.5), (x - x.mean()) / (x.std() + 0.5), rtol=1e-12
        )
        # The unbiased deviation, or the variance, would be seen.
        assert np.max(np.abs(standardize(x) - (x - x.mean()) / x.std(ddof=1))) > 1e-3
        np.testing.assert_allclose(standardize(5 * x + 3), standardize(x), rtol=1e-7)


def test_standardize_of_integers_is_that_of_floats():
    x = np.arange(6)
    np.testing.assert_array_equal(standardize(x), standardize(x.astype(np.float32)))


def test_standardize_with_weights():
    x = np.random.default_rng(3).normal(size=10)
    with jax.enable_x64(True):
        padded = np.concatenate([x, [np.nan, 1e9]])
        weight = np.array([1.0] * 10 + [0.0] * 2)
        got = standardize(padded, weight)
        np.testing.assert_allclose(got[:10], standardize(x), rtol=1e-12)
        np.testing.assert_array_equal(got[10:], 0)
        # A weight of 2 is an entry twice.
        twice = standardize(np.append(x, x[-1]))
        double = np.array([1.0] * 9 + [2.0])
        np.testing.assert_allclose(standardize(x, double), twice[:10], rtol=1e-12)
        np.testing.assert_array_equal(standardize(x, np.zeros(10)), 0)


@pytest.mark.parametrize("constant", [0.0, 0.1, -0.1, 1e6 / 3, 1e-6 / 3, 1e30 / 3])
def test_a_batch_without_variance_gives_zeros(constant):
    x = jnp.full((10_007,), constant, jnp.float32)
    np.testing.assert_array_equal(standardize(x), 0)
    np.testing.assert_array_equal(standardize(x, jnp.linspace(0, 1, 10_007)), 0)
    np.testing.assert_array_equal(standardize(x[:1]), 0)


def test_rounding_noise_is_not_variance_but_small_variance_is():
    rng = np.random.default_rng(4)
    ulps = np.float32(0.1) + np.float32(7.45e-9) * rng.integers(0, 2, 1000).astype(np.float32)
    assert np.std(ulps.astype(np.float64)) > 0
    np.testing.assert_array_equal(standardize(ulps), 0)
    small = (1e-4 * rng.normal(size=1000)).astype(np.float32)
    np.testing.assert_allclose(np.std(standardize(small)), 1, rtol=1e-3)
    offset = (1000 + rng.normal(size=100_000)).astype(np.float32)
    got = np.asarray(standardize(offset), np.float64)
    np.testing.assert_allclose([got.mean(), got.std()], [0, 1], atol=1e-4)
