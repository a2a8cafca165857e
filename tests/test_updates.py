"""The parts that algorithms are assembled from, on six rows of made-up data."""

import functools
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from kltrust import ppo_penalty, ppo_reverse_kl, tree, vanilla_pg
from kltrust.divergences import kl_divergence
from kltrust.types import PolicyBatch, UpdateReport, Wanted
from kltrust.updates import (
    clipped_loss,
    follow_kl,
    kl_gate,
    mean_kl,
    minibatch_epochs,
    natural_direction,
    outer,
    reverse_kl,
    surrogate,
)

PARAMS = jnp.asarray([[0.3, -0.2, 0.1], [-0.5, 0.4, 0.0]])


def policy(params, obs):
    return distrax.Categorical(logits=obs @ params)


def six_rows(weight=None):
    obs = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5], [0.2, -1.0], [2.0, 0.3]])
    action = jnp.asarray([0, 1, 2, 0, 1, 2])
    advantage = jnp.asarray([1.0, -1.0, 0.5, 2.0, -0.5, 0.3])
    return PolicyBatch(obs, action, advantage, policy(PARAMS, obs), weight)


RULE = {"tolerance": 1.5, "if_above": 2.0, "if_below": 0.5, "low": 0.2, "high": 4.0}


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("value", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("relative_kl", [3.0, 1.6, 1.4, 1.0, 1 / 1.4, 1 / 1.6, 0.0])
def test_a_weight_follows_the_kl(relative_kl, value, stopped):
    kl = jnp.float32(relative_kl * 0.01)
    got = follow_kl(jnp.float32(value), kl, stopped, target_kl=0.01, **RULE)
    expected = oracles.steered(value, relative_kl, stopped, target=1.0, **RULE)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == jnp.float32


def test_the_gate_is_the_mean_kl():
    batch, moved = six_rows(), PARAMS + jnp.asarray([[0.3, 0.0, -0.1], [0.0, 0.2, 0.0]])
    kl = float(mean_kl(policy, moved, batch))
    old, new = (oracles.softmax(batch.obs @ x) for x in (PARAMS, moved))
    np.testing.assert_allclose(kl, np.mean(oracles.rows(oracles.kl, old, new)), rtol=1e-5)
    other_way = np.mean(oracles.rows(oracles.kl, new, old))
    assert abs(kl - other_way) > 1e-2 * kl
    assert kl_gate(policy, 1.01 * kl)(moved, batch)
    assert not kl_gate(policy, 0.99 * kl)(moved, batch)
    assert kl_gate(policy, jnp.inf)(moved, batch)
    # NaN is not within a bound, but without one nothing is looked at.
    assert not kl_gate(policy, 1.0)(moved * jnp.nan, batch)


@functools.partial(jax.jit, static_argnums=(0, 2))
def fit(gate=None, batch=None, num_epochs=3):
    """(params, report) of a few epochs of plain gradient steps."""
    optimizer = optax.sgd(0.1)
    params, _, report = minibatch_epochs(
        clipped_loss(policy, 0.2, 0.0),
        policy,
        PARAMS,
        optimizer.init(PARAMS),
        six_rows() if batch is None else batch,
        jax.random.key(0),
        optimizer=optimizer,
        num_epochs=num_epochs,
        num_minibatches=2,
        gate=gate,
    )
    return params, report


def test_a_gate_of_ones_own_undoes_the_epoch_that_it_refuses():
    twice, _ = fit(num_epochs=1)
    far = float(jnp.max(jnp.abs(twice - PARAMS))) * 1.5

    def near(params, batch):
        return jnp.max(jnp.abs(params - PARAMS)) < far

    _, report = fit(near)
    assert isinstance(report, UpdateReport)
    assert report.path is None
    assert report.extra == {"epochs_applied": 1, "kl_stopped": True}
    free, report = fit()  # no gate: everything stays
    assert report.extra == {"epochs_applied": 3, "kl_stopped": False}
    assert jnp.max(jnp.abs(free - PARAMS)) > far
    never, report = fit(lambda params, batch: jnp.asarray(False))
    np.testing.assert_array_equal(never, PARAMS)
    assert report.extra["epochs_applied"] == 0


def test_the_path_is_recorded_where_the_batch_asks_for_it():
    batch = six_rows()._replace(wanted=Wanted(path=True))
    params, report = fit(batch=batch)
    np.testing.assert_array_equal(params, fit()[0])
    assert report.extra.keys() == {"epochs_applied", "kl_stopped"}
    assert (report.path.minibatch.shape, report.path.epoch.shape) == ((6,), (3,))
    np.testing.assert_allclose(report.path.epoch[-1], mean_kl(policy, params, batch), rtol=1e-4)
    stopped = fit(lambda params, batch: jnp.asarray(False), batch)[1].path
    np.testing.assert_array_equal(np.isnan(stopped.epoch), [False, True, True])
    np.testing.assert_array_equal(np.isnan(stopped.minibatch), [False] * 2 + [True] * 4)
    np.testing.assert_allclose(stopped.epoch[0], report.path.epoch[0], rtol=1e-5)


@functools.partial(jax.jit, static_argnums=1)
def seen_gradients(batch, num_minibatches):
    """[minibatches, ...] of an epoch, by an optimiser that keeps what it is given."""

    def init(params):
        return jnp.zeros((num_minibatches, *PARAMS.shape)), 0

    def update(gradient, state, params=None):
        kept, i = state
        return jnp.zeros_like(gradient), (kept.at[i].set(gradient), i + 1)

    optimizer = optax.GradientTransformation(init, update)
    _, (kept, _), _ = minibatch_epochs(
        clipped_loss(policy, 0.2, 0.01),
        policy,
        PARAMS,
        init(PARAMS),
        batch,
        jax.random.key(0),
        optimizer=optimizer,
        num_epochs=1,
        num_minibatches=num_minibatches,
    )
    return kept


@pytest.mark.parametrize("num_minibatches", [1, 3])
@pytest.mark.parametrize("weight", [[1, 1, 1, 1, 1, 1], [1, 2, 0, 5, 1, 3], [4, 0, 0, 0, 0, 1]])
def test_minibatch_gradients_average_to_that_of_the_weighted_mean(num_minibatches, weight):
    batch = six_rows(jnp.asarray(weight, jnp.float32))
    gradient = jax.jit(jax.grad(clipped_loss(policy, 0.2, 0.01)))
    whole = gradient(PARAMS, batch)
    kept = seen_gradients(batch, num_minibatches)
    np.testing.assert_allclose(kept.mean(0), whole, rtol=1e-5, atol=1e-7)

    # Control: the mean of the minibatches' own weighted means is another gradient.
    if len(set(weight)) > 1 and num_minibatches > 1:
        each = [gradient(PARAMS, tree.take_rows(batch, slice(i, None, 3))) for i in range(3)]
        assert np.max(np.abs(np.mean(each, 0) - whole)) > 1e-3


def test_the_scale_of_the_weights_drops_out():
    weight = jnp.asarray([1.0, 2.0, 0.0, 5.0, 1.0, 3.0])
    one, other = (fit(batch=six_rows(factor * weight))[0] for factor in (1.0, 8.0))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    ones, none = (fit(batch=six_rows(w))[0] for w in (jnp.ones(6), None))
    np.testing.assert_allclose(ones, none, rtol=1e-5)


def test_the_natural_direction_is_the_dense_solve(x64):
    batch, params = six_rows(), PARAMS.astype(float)
    gradient = jax.grad(lambda p: surrogate(policy, p, batch, 0.0)[0])(params)
    natural = natural_direction(
        policy, params, batch, gradient, damping=0.1, cg_iters=50, cg_rtol=1e-12
    )
    p = np.asarray(jax.nn.softmax(batch.obs @ params))
    blocks = np.einsum("ni,ij->nij", p, np.eye(3)) - np.einsum("ni,nj->nij", p, p)
    fisher = np.einsum("na,nb,nij->aibj", batch.obs, batch.obs, blocks).reshape(6, 6) / 6
    expected = np.linalg.solve(fisher + 0.1 * np.eye(6), np.ravel(gradient))
    np.testing.assert_allclose(np.ravel(natural.direction), expected, rtol=1e-9)
    np.testing.assert_allclose(natural.curvature, expected @ np.ravel(gradient), rtol=1e-9)
    assert natural.residual < 1e-9
    with pytest.raises(ValueError, match="damping must be"):
        natural_direction(policy, params, batch, gradient, damping=-1.0)


@functools.partial(jax.jit, static_argnums=0)
def penalised(algorithm):
    state = algorithm.init(PARAMS)
    return algorithm.update(policy, PARAMS, state, six_rows(), jax.random.key(0))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.7])
def test_an_outer_step_is_a_share_of_the_inner_one(sigma):
    algorithm = vanilla_pg(learning_rate=0.3)
    inner, _, report = penalised(algorithm)
    moved, _, extra = penalised(outer(algorithm, optax.sgd(sigma)))
    np.testing.assert_allclose(moved, PARAMS + sigma * (inner - PARAMS), rtol=1e-6)
    np.testing.assert_allclose(extra["grad_norm"], report["grad_norm"], rtol=1e-6)
    # A momentum goes on from one update to the next.
    momentum = outer(algorithm, optax.sgd(sigma, momentum=0.5))
    first, state, _ = penalised(momentum)
    np.testing.assert_allclose(first, moved, rtol=1e-6)
    second, _, _ = momentum.update(policy, PARAMS, state, six_rows(), jax.random.key(0))
    np.testing.assert_allclose(second, PARAMS + 1.5 * sigma * (inner - PARAMS), rtol=1e-5)


FEW = {"num_epochs": 2, "num_minibatches": 2, "learning_rate": 0.1, "init_beta": 5.0}


class Endless(NamedTuple):
    """A distribution whose entropy is infinite."""

    inner: distrax.Categorical

    def log_prob(self, value):
        return self.inner.log_prob(value)

    def entropy(self):
        return jnp.full(6, jnp.inf)


def test_an_entropy_without_weight_is_absent_even_if_it_is_infinite():
    def endless(params, obs):
        return Endless(policy(params, obs))

    plain = six_rows()
    batch = plain._replace(old=Endless(plain.old))
    for coefficient, same in ((0.0, True), (0.1, False)):
        values = [surrogate(p, PARAMS, batch, coefficient)[0] for p in (policy, endless)]
        losses = [clipped_loss(p, 0.2, coefficient)(PARAMS, batch) for p in (policy, endless)]
        assert (values[0] == values[1], losses[0] == losses[1]) == (same, same)
        assert all(map(jnp.isfinite, (values[0], losses[0])))


def test_a_divergence_by_name_and_as_a_function():
    by_class = penalised(ppo_reverse_kl(**FEW))
    by_name = penalised(ppo_penalty(**FEW, divergence="reverse_kl"))
    by_function = penalised(ppo_penalty(**FEW, divergence=reverse_kl))
    own = penalised(ppo_penalty(**FEW, divergence=lambda old, new: kl_divergence(new, old)))
    for other in (by_name, by_function, own):
        jax.tree.map(np.testing.assert_array_equal, by_class, other)
    # Controls: the other direction, and none at all.
    for divergence in ("kl", lambda old, new: 0 * kl_divergence(old, new)):
        other = penalised(ppo_penalty(**FEW, divergence=divergence))
        assert jnp.max(jnp.abs(other[0] - by_class[0])) > 1e-5
