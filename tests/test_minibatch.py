"""The random order is a permutation, and as random as a sort of random numbers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kltrust.updates.minibatches import minibatch_epoch, random_order


@pytest.fixture(autouse=True)
def _strict_ranks(rank_promotion_raise):
    pass


# Compiling is what these tests spend their time on.
QUICK = {"xla_backend_optimization_level": 0}

NUM_KEYS = 20_000


@functools.cache
def compiled(draw, size):
    return jax.jit(jax.vmap(lambda key: draw(key, size)), compiler_options=QUICK)


def keys_of(size):
    num_keys = NUM_KEYS if size <= 32 else 1000 if size <= 1000 else 10
    return jax.random.split(jax.random.key(size), num_keys)


@functools.cache
def orders(size, draw=random_order):
    """[num_keys, size], of many keys at once."""
    return np.asarray(compiled(draw, size)(keys_of(size)))


def assert_permutations(x, size):
    np.testing.assert_array_equal(np.sort(x, -1), np.broadcast_to(np.arange(size), x.shape))


def feistel(round_keys, size):
    """The same walk, one index at a time, in Python integers."""
    bits = max((size - 1).bit_length(), 2)
    low_bits = bits // 2

    def mix(x, key):
        x = (x ^ key) * 0x9E3779B1 % 2**32
        x = (x ^ (x >> 15)) * 0x85EBCA77 % 2**32
        return x ^ (x >> 13)

    def permute(x):
        low, high = x % 2**low_bits, x // 2**low_bits
        for even, odd in zip(round_keys[::2], round_keys[1::2], strict=True):
            low = (low ^ mix(high, even)) % 2**low_bits
            high = (high ^ mix(low, odd)) % 2 ** (bits - low_bits)
        return high * 2**low_bits + low

    def walk(x):
        x = permute(x)
        return x if x < size else walk(x)

    return [walk(i) for i in range(size)]


@pytest.mark.parametrize("size", [2, 3, 5, 12, 24, 32, 300, 1000, 10000])
def test_it_is_a_permutation(size):
    assert_permutations(orders(size), size)


def test_it_is_a_permutation_at_every_size():
    """All sizes to 300, by the oracle with the library's own round keys."""
    for size in range(1, 301):
        round_keys = [int(k) for k in np.random.default_rng(size).integers(2**32, size=12)]
        assert sorted(feistel(round_keys, size)) == list(range(size))


@pytest.mark.parametrize("size", [2, 5, 32, 300])
def test_against_integers(size):
    for key, order in zip(keys_of(size)[:3], orders(size), strict=False):
        round_keys = [int(k) for k in jax.random.bits(key, (12,), jnp.uint32)]
        np.testing.assert_array_equal(order, feistel(round_keys, size))


def test_sizes_without_an_order():
    assert random_order(jax.random.key(0), 0).shape == (0,)
    np.testing.assert_array_equal(random_order(jax.random.key(0), 1), [0])


def test_the_key_decides():
    many = orders(300)
    assert len({tuple(order) for order in many}) == 1000
    np.testing.assert_array_equal(many, compiled(random_order, 300)(keys_of(300)))


def test_a_lane_is_a_draw_alone():
    order = random_order(keys_of(300)[7], 300)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(order, orders(300)[7])


def test_float64_does_not_change_it(x64):
    order = compiled(random_order, 24)(jax.random.key(24)[None])
    assert order.dtype == jnp.int32
    round_keys = [int(k) for k in jax.random.bits(jax.random.key(24), (12,), jnp.uint32)]
    np.testing.assert_array_equal(order[0], feistel(round_keys, 24))


# --- randomness -----------------------------------------------------------------------------------

# One in a thousand of true permutations would fail; the keys are fixed, so none here does by luck.
RARE = 1e-3


def position_p_values(many):
    """For each place, whether all elements are equally frequent there: chi-square."""
    size = many.shape[1]
    counts = [np.bincount(many[:, place], minlength=size) for place in range(size)]
    return [stats.chisquare(c).pvalue for c in counts]


def adjacency_p_value(many):
    """Whether all ordered pairs are equally frequent as neighbours."""
    size = many.shape[1]
    pairs = many[:, :-1] * size + many[:, 1:]
    counts = np.bincount(pairs.ravel(), minlength=size**2).reshape(size, size)
    return stats.chisquare(counts[~np.eye(size, dtype=bool)]).pvalue


def step_p_value(many):
    """Whether element k + 1 stands anywhere relative to element k, cyclically."""
    size = many.shape[1]
    where = np.argsort(many, -1)
    steps = np.bincount(((where[:, 1] - where[:, 0]) % size), minlength=size)
    return stats.chisquare(steps[1:]).pvalue


@pytest.mark.parametrize("size", [5, 12, 24, 32])
@pytest.mark.parametrize("draw", [random_order, jax.random.permutation])
def test_every_element_everywhere_beside_everyone(draw, size):
    many = orders(size, draw)
    places = position_p_values(many)
    assert min(places) > RARE / size
    assert adjacency_p_value(many) > RARE
    assert step_p_value(many) > RARE


def test_the_statistics_can_fail():
    rng = np.random.default_rng(0)
    rotations = (np.arange(12) + rng.integers(12, size=(NUM_KEYS, 1))) % 12
    assert min(position_p_values(rotations)) > RARE / 12  # each place alone looks right
    assert adjacency_p_value(rotations) < 1e-12
    assert step_p_value(rotations) < 1e-12
    sticky = np.argsort(np.arange(12) + 6 * rng.normal(size=(NUM_KEYS, 12)), -1)
    assert min(position_p_values(sticky)) < 1e-12


@pytest.mark.parametrize("size", [3, 5])
def test_all_permutations_of_few(size):
    many = orders(size)
    _, counts = np.unique(many, axis=0, return_counts=True)
    assert counts.size == math.factorial(size)
    assert counts.max() < 1.5 * NUM_KEYS / math.factorial(size)
    assert counts.min() > 0.5 * NUM_KEYS / math.factorial(size)


def test_minibatch_means_vary_as_those_of_a_random_part():
    """A trend in the data, split into 8 parts of 125: the variance of drawing without return."""
    size, part = 1000, 125
    means = orders(size).reshape(1000, 8, part).mean(-1)
    expected = (size**2 - 1) / 12 / part * (size - part) / (size - 1)
    assert abs(means.var() / expected - 1) < 0.1
    assert abs(means.mean() - (size - 1) / 2) < 1e-9


# --- epochs ---------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0,), compiler_options=QUICK)
def epoch(num_minibatches, key):
    data = {"row": jnp.arange(24), "pair": jnp.arange(48.0).reshape(24, 2)}

    def step(carry, part):
        return carry + jnp.sum(part["pair"]), part

    return minibatch_epoch(step, jnp.zeros(()), data, key, num_minibatches)


def visited(num_minibatches, key=0):
    return epoch(num_minibatches, jax.random.key(key))


@pytest.mark.parametrize("num_minibatches", [1, 4, 24])
def test_an_epoch_visits_every_row_once(num_minibatches):
    total, parts = visited(num_minibatches)
    assert parts["row"].shape == (num_minibatches, 24 // num_minibatches)
    assert_permutations(parts["row"].reshape(1, -1), 24)
    np.testing.assert_array_equal(parts["pair"][..., 0], 2.0 * parts["row"])  # rows stay together
    assert total == np.arange(48).sum()


def test_one_minibatch_keeps_the_order():
    np.testing.assert_array_equal(visited(1)[1]["row"][0], np.arange(24))


def test_several_are_drawn_by_the_key():
    rows = [np.asarray(visited(4, key=key)[1]["row"]) for key in (0, 0, 1)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.any(rows[0] != rows[2])
    np.testing.assert_array_equal(
        rows[0].ravel(), compiled(random_order, 24)(jax.random.key(0)[None])[0]
    )


@pytest.mark.parametrize(
    ("num_minibatches", "nearest"), [(5, "4 or 6"), (7, "6 or 8"), (25, "12 or 24"), (0, "1 or 2")]
)
def test_what_does_not_divide_names_the_remedy(num_minibatches, nearest):
    with pytest.raises(ValueError, match=rf"24 rows .* among the divisors of 24, {nearest}, say"):
        visited(num_minibatches)
