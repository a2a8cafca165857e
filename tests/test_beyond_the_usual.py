"""Legal and unusual: other families, settings beyond a range, runs beyond a plan."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kltrust as K
from kltrust import environments
from kltrust.rollout.acting import sample_actions
from kltrust.types import Box, Discrete, PolicyBatch


def test_one_hot_actions_are_sampled_as_vectors():
    dist = distrax.OneHotCategorical(logits=jnp.zeros((5, 3)))
    action = sample_actions(dist, jax.random.key(0))
    assert action.shape == dist.mode().shape == (5, 3)
    np.testing.assert_array_equal(action.sum(-1), 1)


@pytest.mark.parametrize(("start", "sign"), [(2.05, -1.0), (-10.05, 1.0)])
def test_a_deviation_beyond_its_range_comes_back(start, sign):
    env, key = K.make("Pendulum-v1"), jax.random.key(0)
    agent = K.actor_critic(env, hidden=(4,))
    params = {**agent.init(key)[0], "log_std": jnp.array([start])}
    obs = jax.random.normal(key, (64, 3))

    def loss(params):  # wants a smaller, a larger deviation
        return -sign * jnp.mean(K.distribution_entropy(agent.policy(params, obs)))

    assert jax.grad(loss)(params)["log_std"][0] * sign < 0


def test_a_schedule_ends_with_its_plan():
    env = K.make("CartPole-v1")
    agent = K.actor_critic(env, hidden=(4,))
    learner = K.make_learner(
        env,
        agent,
        lambda f: K.vanilla_pg(learning_rate=1 - f),
        planned_iterations=2,
        num_envs=4,
        num_steps=8,
        critic=K.value_regression(num_minibatches=1, num_epochs=1),
    )
    kl = jax.jit(lambda key: K.train(learner, key, 4)[1].kl)(jax.random.key(0))
    assert np.all(kl[:2] > 0)
    np.testing.assert_array_equal(kl[2:], 0)  # and not an ascent


def test_integer_actions_are_rounded_to_the_nearest():
    def unused(*args):
        raise AssertionError

    space = Box(np.full(1, -5, np.int32), np.full(1, 5, np.int32), (1,), np.int32)
    env = environments.from_functions(unused, unused, Discrete(2), space, max_steps=1)
    raw = jnp.linspace(-1, 1, 10_001)[:, None]
    action = jax.vmap(environments.bound_actions(env).native_action)(raw)[:, 0]
    values, counts = np.unique(action, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(-5, 6))
    np.testing.assert_allclose(counts[1:-1], 1000, atol=1)


def squashed(params, obs):
    base = distrax.MultivariateNormalDiag(obs @ params, jnp.ones((obs.shape[0], 2)))
    return distrax.Transformed(base, TANH)


TANH = distrax.Block(distrax.Tanh(), 1)


@pytest.mark.parametrize("algorithm", [K.trpo, K.vanilla_pg])
def test_a_policy_without_an_entropy(algorithm):
    obs, params = jax.random.normal(jax.random.key(0), (32, 3)), jnp.zeros((3, 2))
    old = squashed(params, obs)
    advantage = jax.random.normal(jax.random.key(2), (32,))
    batch = PolicyBatch(obs, old.sample(seed=jax.random.key(1)), advantage, old)

    def moved(coef):
        update = algorithm(entropy_coef=coef)
        new = update.update(squashed, params, update.init(params), batch, jax.random.key(0))[0]
        return jnp.mean(K.kl_divergence(old, squashed(new, obs)))

    assert moved(0.0) > 0
    assert jax.jit(moved)(0.0) > 0
    with pytest.raises(ValueError, match="knows no entropy: set entropy_coef=0"):
        moved(0.1)
    # Known at run time only: a line search refuses the step, a gradient step is not finite.
    assert not jax.jit(moved)(0.1) > 0


def triangular(p, obs):
    shape = (obs.shape[0], 2, 2)
    matrix = jnp.stack([jnp.exp(p[0]), 0 * p[0], p[2], jnp.exp(p[1])]).reshape(2, 2)
    return distrax.MultivariateNormalTri(jnp.zeros(shape[:2]), jnp.broadcast_to(matrix, shape))


def low_rank(p, obs):
    shape = (obs.shape[0], 2)
    return distrax.MultivariateNormalDiagPlusLowRank(
        jnp.broadcast_to(p[:2], shape),
        scale_diag=jnp.ones(shape),
        scale_u_matrix=jnp.broadcast_to(p[2], (*shape, 1)),
    )


@pytest.mark.parametrize("policy", [triangular, low_rank])
def test_the_fisher_matrix_of_a_family_with_redundant_leaves(policy, x64):
    obs, at = jnp.zeros((4, 1)), jnp.array([0.3, -0.2, 0.1])
    old = policy(at, obs)
    want = jax.hessian(lambda p: jnp.mean(old.kl_divergence(policy(p, obs))))(at)
    product = K.fisher_vector_product(policy, at, obs)
    np.testing.assert_allclose([product(row) for row in jnp.eye(3)], want, atol=1e-9)
    form = K.fisher_quadratic_form(policy, at, obs, at)
    np.testing.assert_allclose(form, at @ want @ at, rtol=1e-9)
