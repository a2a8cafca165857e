"""The settings with which an update equals another library's, on literal numbers, in float64.

The oracles follow the other libraries' definitions (see docs/howto/porting.md): dense matrices and
`numpy.linalg.solve` in place of products and conjugate gradients.
"""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kltrust
from kltrust.types import PolicyBatch

OBS = np.array([[0.3, -1.0, 0.5], [1.2, 0.4, -0.7], [-0.6, 0.9, 0.1], [0.2, 0.8, 1.5]])
ADVANTAGE = np.array([1.1, -0.4, 0.6, -1.3])
W = np.array([[0.2, -0.1, 0.4], [0.3, 0.5, -0.2], [-0.4, 0.1, 0.3]])


def gaussian(params, obs):
    mean = obs @ params["w"][:, :2]
    std = jnp.broadcast_to(jnp.exp(params["log_std"]), mean.shape)
    return distrax.MultivariateNormalDiag(mean, std)


def categorical(params, obs):
    return distrax.Categorical(logits=obs @ params["w"])


CASES = {
    "gaussian": (
        gaussian,
        {"w": W[:, :2], "log_std": np.array([-0.3, 0.2])},
        np.array([[0.4, -0.8], [-1.1, 0.3], [0.9, 0.2], [0.1, 1.4]]),
    ),
    "categorical": (categorical, {"w": W}, np.array([0, 2, 1, 1])),
}


def setting(name):
    """Policy, parameters and batch."""
    policy, params, action = CASES[name]
    params = jax.tree.map(jnp.asarray, params)
    old = policy(params, jnp.asarray(OBS))
    return policy, params, PolicyBatch(jnp.asarray(OBS), action, jnp.asarray(ADVANTAGE), old)


def kl(p, q):
    """KL(p || q) of every state and action dimension, written out: [N, D], or [N, 1]."""
    if isinstance(p, distrax.Categorical):
        log_p, log_q = jax.nn.log_softmax(p.logits), jax.nn.log_softmax(q.logits)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1, keepdims=True)
    (m, s), (n, t) = ((d.loc, d.scale_diag) for d in (p, q))
    return jnp.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5


def natural_step(name, max_kl, damping, divergence, accept, shrink, tries):
    """A TRPO update by dense algebra: the parameters, and how many candidates it refused.

    divergence: of (old, new), a number. accept: of (its value, the gain).
    """
    policy, params, batch = setting(name)
    flat, restore = jax.flatten_util.ravel_pytree(params)

    def surrogate(x):
        new = policy(restore(x), batch.obs)
        return jnp.mean(jnp.exp(new.log_prob(batch.action) - old_log_prob) * batch.advantage)

    old_log_prob = batch.old.log_prob(batch.action)
    distance = lambda x: divergence(batch.old, policy(restore(x), batch.obs))  # noqa: E731
    matrix = np.asarray(jax.hessian(distance)(flat)) + damping * np.eye(len(flat))
    g = np.asarray(jax.grad(surrogate)(flat))
    x = np.linalg.solve(matrix, g)
    step = np.sqrt(2 * max_kl / (x @ matrix @ x)) * x
    for k in range(tries):
        new = flat + shrink**k * step
        if accept(distance(new), surrogate(new) - surrogate(flat)):
            return restore(new), k
    return params, tries


def update(algorithm, name):
    policy, params, batch = setting(name)
    return algorithm.update(policy, params, algorithm.init(params), batch, jax.random.key(0))


def assert_same(ours, theirs, name):
    new, _, report = ours
    expected, refused = theirs
    for key, before in CASES[name][1].items():
        np.testing.assert_allclose(new[key], expected[key], rtol=0, atol=1e-10)
        assert np.abs(new[key] - before).max() > 1e-3
    assert int(report["backtracks"]) == refused


EXACT = {"cg_iters": 50, "cg_rtol": 1e-14}


@pytest.mark.parametrize(("name", "dimensions"), [("gaussian", 2), ("categorical", 1)])
def test_sb3_contrib_averages_over_action_dimensions(name, dimensions, x64):
    theirs = natural_step(
        name,
        max_kl=0.01,
        damping=0.1,
        divergence=lambda old, new: jnp.mean(kl(new, old)),
        accept=lambda kl, gain: kl < 0.01 and gain > 0,
        shrink=0.8,
        tries=10,
    )
    d = dimensions
    same = kltrust.trpo(max_kl=0.01 * d, damping=0.1 * d, max_backtracks=9, **EXACT)
    assert_same(update(same, name), theirs, name)
    if d > 1:  # at equal names the step is another one
        with pytest.raises(AssertionError):
            assert_same(update(kltrust.trpo(max_kl=0.01, damping=0.1, **EXACT), name), theirs, name)


@pytest.mark.parametrize("name", CASES)
def test_garage_and_its_fifteen_candidates(name, x64):
    theirs = natural_step(
        name,
        max_kl=0.6,  # so far that the quadratic model fails
        damping=1e-5,
        divergence=lambda old, new: jnp.mean(jnp.sum(kl(old, new), -1)),
        accept=lambda kl, gain: kl <= 0.6 and gain > 0,
        shrink=0.8,
        tries=15,
    )
    assert theirs[1] > 0 or name == "categorical"
    same = kltrust.trpo(max_kl=0.6, damping=1e-5, shrink=0.8, max_backtracks=14, **EXACT)
    assert_same(update(same, name), theirs, name)


@pytest.mark.parametrize("name", CASES)
def test_baselines_where_the_first_candidate_is_good(name, x64):
    """It accepts up to 1.5 max_kl, which no setting here does."""
    theirs = natural_step(
        name,
        max_kl=0.01,
        damping=0.1,
        divergence=lambda old, new: jnp.mean(jnp.sum(kl(old, new), -1)),
        accept=lambda kl, gain: kl <= 1.5 * 0.01 and gain >= 0,
        shrink=0.5,
        tries=10,
    )
    same = kltrust.trpo(max_kl=0.01, damping=0.1, shrink=0.5, max_backtracks=9, **EXACT)
    assert_same(update(same, name), theirs, name)


def test_rsl_rls_learning_rate_but_for_a_kl_of_zero(x64):
    """Theirs moves at every minibatch, ours once an iteration; at KL 0 theirs stays."""
    adaptive = kltrust.ppo_adaptive_lr(
        target_kl=0.01,
        init_learning_rate=1e-3,
        kl_tolerance=2.0,
        learning_rate_factor=1.5,
        min_learning_rate=1e-5,
        max_learning_rate=1e-2,
    )
    theirs, rate = 1e-3, jnp.asarray(1e-3)
    for kl in (0.03, 0.0201, 0.02, 0.01, 0.005, 0.0049, 0.001, 0.002, *[0.0001] * 6, *[0.5] * 20):
        if kl > 0.01 * 2:
            theirs = max(1e-5, theirs / 1.5)
        elif 0 < kl < 0.01 / 2:
            theirs = min(1e-2, theirs * 1.5)
        rate = adaptive.next_coefficient(rate, jnp.asarray(kl), jnp.asarray(False))
        assert float(rate) == pytest.approx(theirs, rel=1e-12)
    assert adaptive.next_coefficient(jnp.asarray(1e-3), jnp.asarray(0.0), jnp.asarray(False)) > 1e-3


def test_a_step_of_sb3s_ppo(x64):
    """One minibatch, the same advantages, plain gradient descent: loss and gradient are equal."""
    policy, params, batch = setting("categorical")
    moved = {"w": params["w"] + 0.5 * np.array([[1, -1, 0], [0, 1, -1], [1, 0, -1]])}

    def loss(params):
        new = policy(params, batch.obs)
        log_p = jax.nn.log_softmax(new.logits)
        log_prob = jnp.take_along_axis(log_p, jnp.asarray(batch.action)[:, None], 1)[:, 0]
        ratio = jnp.exp(log_prob - batch.old.log_prob(batch.action))
        clipped = jnp.clip(ratio, 0.8, 1.2) * batch.advantage
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
        return -jnp.mean(jnp.minimum(ratio * batch.advantage, clipped)) - 0.02 * jnp.mean(entropy)

    same = kltrust.ppo_clip(
        learning_rate=0.1,
        clip_eps=0.2,
        entropy_coef=0.02,
        num_epochs=1,
        num_minibatches=1,
        max_grad_norm=jnp.inf,
        optimizer="sgd",
    )
    new, *_ = same.update(policy, moved, same.init(moved), batch, jax.random.key(0))
    expected = moved["w"] - 0.1 * jax.grad(loss)(moved)["w"]
    np.testing.assert_allclose(new["w"], expected, rtol=0, atol=1e-12)
    assert np.abs(new["w"] - moved["w"]).max() > 1e-3


def test_the_critics_loss_is_half_the_squared_error(x64):
    """vf_coef 0.5 of stable-baselines3's mean squared error; cleanrl's and purejaxrl's is half."""
    value, target = jnp.array([0.3, -1.0, 2.0]), jnp.array([0.5, 0.5, 1.5])
    ours = jax.grad(lambda v: jnp.mean(kltrust.losses.value_loss(v, target)))(value)
    np.testing.assert_allclose(ours, jax.grad(lambda v: 0.5 * jnp.mean((v - target) ** 2))(value))
