"""Pytree algebra: dtypes kept, selections exact, padding left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kltrust import tree


def make(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(rng.normal(size=(3, 2)), dtype),
        "b": [jnp.asarray(rng.normal(size=4), jnp.float16), jnp.asarray(rng.normal(), dtype)],
    }


def flat(x):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(x)])


def dtypes(x):
    return [leaf.dtype for leaf in jax.tree.leaves(x)]


@pytest.mark.parametrize("factor", [0.5, jnp.float32(0.5)])
def test_algebra_against_flat_vectors(factor):
    x, y = make(0), make(1)
    np.testing.assert_allclose(flat(tree.add_scaled(x, factor, y)), flat(x) + 0.5 * flat(y), 1e-3)
    np.testing.assert_allclose(flat(tree.scale(factor, x)), 0.5 * flat(x), 1e-3)
    np.testing.assert_allclose(tree.dot(x, y), flat(x) @ flat(y), rtol=1e-3)
    np.testing.assert_allclose(tree.norm(x), np.linalg.norm(flat(x)), rtol=1e-3)


def test_dtypes_are_those_of_the_first(x64):
    x, y = make(0), make(1, jnp.float64)
    assert dtypes(tree.add_scaled(x, jnp.float64(0.5), y)) == dtypes(x)
    assert dtypes(tree.scale(jnp.float64(0.5), x)) == dtypes(x)
    a = jnp.ones(3, jnp.float32)
    assert tree.dot([a, a], [a, a]).dtype == jnp.float32
    assert tree.weighted_mean(a, jnp.ones(3, jnp.float64)).dtype == jnp.float32


def test_of_nothing():
    assert tree.dot({}, {}) == 0
    assert tree.norm(()) == 0
    assert tree.all_finite(())


def test_where_selects_exactly_and_lets_no_nan_through():
    x, y = {"a": jnp.asarray([1.0, -0.0])}, {"a": jnp.asarray([jnp.nan, jnp.inf])}
    chosen = tree.where(jnp.asarray(True), x, y)["a"]
    assert np.asarray(chosen).tobytes() == np.asarray(x["a"]).tobytes()
    assert np.isnan(tree.where(jnp.asarray(False), x, y)["a"][0])


def test_all_finite():
    good = {"a": jnp.ones(3), "n": jnp.arange(2), "key": jax.random.key(0)}
    assert tree.all_finite(good)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not tree.all_finite(good | {"b": [jnp.ones(3), jnp.asarray([0.0, bad])]})


def test_weighted_mean_is_the_mean_of_repeated_rows():
    x = jnp.asarray([1.0, 4.0, -2.0, 8.0])
    counts = jnp.asarray([2.0, 0.0, 3.0, 1.0])
    np.testing.assert_allclose(tree.weighted_mean(x, counts), (2 - 6 + 8) / 6, rtol=1e-6)
    np.testing.assert_allclose(tree.weighted_mean(x, 100 * counts), 4 / 6, rtol=1e-6)
    np.testing.assert_allclose(tree.weighted_mean(x), 11 / 4, rtol=1e-6)
    np.testing.assert_allclose(tree.weighted_mean(x, jnp.ones(4)), 11 / 4, rtol=1e-6)


@pytest.mark.parametrize("garbage", [jnp.nan, jnp.inf, -jnp.inf])
def test_padding_may_hold_anything(garbage):
    x, weight = jnp.asarray([1.0, garbage, 3.0]), jnp.asarray([1.0, 0.0, 1.0])
    value, gradient = jax.value_and_grad(tree.weighted_mean)(x, weight)
    assert value == 2
    np.testing.assert_array_equal(gradient, [0.5, 0, 0.5])
    # Control: zero times NaN is what it must not compute.
    assert not np.isfinite(jnp.sum(x * weight) / jnp.sum(weight))


def test_a_mean_of_nothing_is_zero():
    value, gradient = jax.value_and_grad(tree.weighted_mean)(jnp.ones(3), jnp.zeros(3))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(3))


@pytest.mark.parametrize("weight", [None, 1.0])
def test_means_of_halves_and_of_integers(weight):
    """The sums, of values or of weights, are beyond what a half holds; an integer has no tiny."""
    for x in (jnp.ones(70_000, jnp.float16), jnp.full(3000, 100.0, jnp.float16)):
        mean = tree.weighted_mean(x, weight and jnp.ones(x.shape))
        assert mean.dtype == x.dtype
        assert mean == x[0]
    assert tree.weighted_mean(jnp.array([1, 2]), weight and jnp.ones(2)) == 1.5


def test_weights_broadcast_over_leading_axes():
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(tree.weighted_mean(x, jnp.asarray([[1.0], [3.0]])), 12 * 2 / 8 * 1)
    with pytest.raises(ValueError, match="broadcast"):
        tree.weighted_mean(x, jnp.ones(3))


def test_leading_size():
    assert tree.leading_size({"a": jnp.ones((4, 2)), "b": jnp.ones(4)}) == 4
    for bad in ({"a": jnp.ones(4), "b": jnp.ones(3)}, {"a": jnp.ones(4), "b": jnp.ones(())}, {}):
        with pytest.raises(ValueError, match="share one leading axis"):
            tree.leading_size(bad)


def test_at_once_is_each_alone_and_computed_once():
    xs = {"a": jnp.asarray([[1.0, 5.0], [2.0, 0.0]]), "b": jnp.asarray([[1, -2], [0, 3]], np.int32)}
    function = lambda x: {"max": jnp.max(x), "sum": jnp.sum(x)}  # noqa: E731
    for got in (
        tree.map_stacked(function, xs),
        jax.jit(lambda xs: tree.map_stacked(function, xs))(xs),
    ):
        for name, x in xs.items():
            for part, value in function(x).items():
                np.testing.assert_array_equal(got[name][part], value)
                assert got[name][part].dtype == x.dtype

    def reductions(function):
        return str(jax.make_jaxpr(function)(xs)).count("reduce_max[")

    assert reductions(lambda xs: tree.map_stacked(jnp.max, xs)) == 1
    assert reductions(lambda xs: jax.tree.map(jnp.max, xs)) == 2  # the control
