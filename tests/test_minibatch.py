"""An epoch's minibatches hold every row once, and Adam's gradient is bounded in its norm."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kltrust.lowering import permutation
from kltrust.updates.minibatches import minibatch_epoch


@functools.partial(
    jax.jit, static_argnums=(0,), compiler_options={"xla_backend_optimization_level": 0}
)
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
    np.testing.assert_array_equal(np.sort(parts["row"].ravel()), np.arange(24))
    np.testing.assert_array_equal(parts["pair"][..., 0], 2.0 * parts["row"])  # rows stay together
    assert total == np.arange(48).sum()
    if num_minibatches == 1:  # the order is kept
        np.testing.assert_array_equal(parts["row"][0], np.arange(24))


def test_several_are_drawn_by_the_key():
    rows = [np.asarray(visited(4, key=key)[1]["row"]) for key in (0, 0, 1)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.any(rows[0] != rows[2])
    np.testing.assert_array_equal(rows[0].ravel(), permutation(jax.random.key(0), 24))


@pytest.mark.parametrize(
    ("num_minibatches", "nearest"), [(5, "4 or 6"), (7, "6 or 8"), (25, "12 or 24"), (0, "1 or 2")]
)
def test_what_does_not_divide_names_the_remedy(num_minibatches, nearest):
    with pytest.raises(ValueError, match=rf"24 rows .* choose a divisor of 24, {nearest}, say"):
        visited(num_minibatches)


def mixed(loc, scale):
    part = distrax.MultivariateNormalDiag(loc, scale)
    return distrax.Joint([part, distrax.Independent(distrax.Normal(loc, scale), 1)])


NORMALS = {
    "diag": distrax.MultivariateNormalDiag,
    "one scale": lambda loc, scale: distrax.MultivariateNormalDiag(loc, scale[0]),
    "tri": lambda loc, scale: distrax.MultivariateNormalTri(loc, jax.vmap(jnp.diag)(scale)),
    "upper": lambda loc, scale: distrax.MultivariateNormalTri(
        loc, jax.vmap(jnp.diag)(scale), is_lower=False
    ),
    "full": lambda loc, scale: distrax.MultivariateNormalFullCovariance(
        loc, jax.vmap(jnp.diag)(scale**2)
    ),
    "low rank": lambda loc, scale: distrax.MultivariateNormalDiagPlusLowRank(
        loc, scale, 0.1 * loc[..., None]
    ),
    "joint": mixed,
    "independent": lambda loc, scale: distrax.Independent(
        distrax.MultivariateNormalDiag(loc[:, None], scale[:, None]), 1
    ),
}


@pytest.mark.parametrize("num_blocks", [1, 2])
@pytest.mark.parametrize("name", NORMALS)
def test_multivariate_normals_are_taken_by_rows(name, num_blocks):
    loc = jax.random.normal(jax.random.key(0), (8, 3))
    dist = NORMALS[name](loc, jnp.ones_like(loc) if name == "one scale" else 0.5 + loc**2)
    action = dist.mode()

    def step(carry, part):
        return carry, (part["row"], part["dist"].log_prob(part["action"]))

    data = {"row": jnp.arange(8), "dist": dist, "action": action}
    with jax.numpy_rank_promotion("allow"):
        _, (rows, found) = minibatch_epoch(step, 0, data, jax.random.key(1), 2, num_blocks)
        expected = dist.log_prob(action)
    np.testing.assert_allclose(found, expected[rows], rtol=1e-5)


def test_leaves_that_states_share_are_named():
    dist = distrax.Normal(jnp.zeros((8, 2)), jnp.ones(2))
    with pytest.raises(ValueError, match="broadcast what does not depend on the state"):
        minibatch_epoch(lambda c, part: (c, 0), 0, dist, jax.random.key(0), 2)
