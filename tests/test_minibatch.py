"""An epoch's minibatches hold every row once, and Adam's gradient is bounded in its norm."""

import functools

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
