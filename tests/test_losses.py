import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kltrust import divergences as dv, losses


def samples(seed=0, shape=(64,)):
    rng = np.random.default_rng(seed)
    return jnp.asarray(0.5 * rng.normal(size=shape)), jnp.asarray(rng.normal(size=shape))


def sum_of(loss):
    return lambda *args: jnp.sum(loss(*args))


@pytest.mark.usefixtures("x64")
def test_surrogates_against_case_by_case():
    x, a = samples()
    np.testing.assert_allclose(losses.surrogate_loss(x, a), -np.exp(x) * a, rtol=1e-14)
    for eps in (0.0, 0.1, 0.2, 1.5):
        expected = [oracles.clipped_surrogate(*row, eps) for row in zip(x, a, strict=True)]
        np.testing.assert_allclose(losses.clipped_surrogate_loss(x, a, eps), expected, rtol=1e-13)
    kl = jnp.abs(a) + 0.1
    penalised = losses.penalty_surrogate_loss(x, a, kl, 3.0)
    np.testing.assert_allclose(penalised, -np.exp(x) * a + 3 * np.asarray(kl), rtol=1e-13)
    np.testing.assert_array_equal(
        losses.penalty_surrogate_loss(x, a, kl, 0.0), losses.surrogate_loss(x, a)
    )
    np.testing.assert_array_equal(
        losses.clipped_surrogate_loss(x, a, jnp.inf), losses.surrogate_loss(x, a)
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eps", [0.0, 0.2, jnp.inf])
def test_at_old_all_surrogates_have_one_gradient(eps):
    _, a = samples()
    zero, kl = jnp.zeros_like(a), jnp.zeros_like(a)
    policy_gradient = -a
    for loss, args in (
        (losses.surrogate_loss, ()),
        (losses.clipped_surrogate_loss, (eps,)),
        (losses.penalty_surrogate_loss, (kl, 1.0)),
    ):
        gradient = jax.grad(sum_of(loss))(zero, a, *args)
        np.testing.assert_array_equal(gradient, policy_gradient)


@pytest.mark.usefixtures("x64")
def test_min_and_clip_would_halve_a_gradient_at_a_tie():
    # The control for the test above, and for the edges.
    def usual(x, a, eps):
        r = jnp.exp(x)
        return -jnp.minimum(r * a, jnp.clip(r, 1 - eps, 1 + eps) * a)

    for x, a, eps in ((0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (math.log(2.0), 1.0, 1.0)):
        args = (jnp.float64(x), jnp.float64(a), eps)
        full = -a * math.exp(x)
        assert jax.grad(usual)(*args) != pytest.approx(full)
        assert jax.grad(losses.clipped_surrogate_loss)(*args) == pytest.approx(full)


@pytest.mark.usefixtures("x64")
def test_clipping_removes_the_gradient_exactly_where_it_should():
    eps = 0.2
    up, down = jnp.log(1.3), jnp.log(0.7)
    gradient = jax.vmap(jax.grad(losses.clipped_surrogate_loss), (0, 0, None))
    x = jnp.array([up, up, down, down, 0.1])
    a = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0])
    np.testing.assert_allclose(gradient(x, a, eps), [0, 1.3, -0.7, 0, -math.exp(0.1)], rtol=1e-12)
    for loss_eps, expected in ((0.2, -0.0), (0.4, -1.3)):
        g = jax.grad(losses.clipped_surrogate_loss)(up, jnp.float64(1.0), loss_eps)
        np.testing.assert_allclose(g, expected, rtol=1e-12)


def test_no_nan_however_far_the_policy_moved():
    x = jnp.array([44.0, 60.0, 89.0, 100.0, 1e4, -1e4, 100.0])
    a = jnp.array([0.0, 0.0, 1.0, 0.0, 1.0, -1.0, -1.0])
    for loss, args in (
        (losses.surrogate_loss, ()),
        (losses.clipped_surrogate_loss, (0.2,)),
        (losses.penalty_surrogate_loss, (jnp.ones_like(a), 0.5)),
    ):
        value, gradient = jax.value_and_grad(sum_of(loss))(x, a, *args)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        # A sample whose ratio must come down still says so.
        assert gradient[-1] > 0
    naive = jax.grad(
        sum_of(lambda x, a: -jnp.minimum(jnp.exp(x) * a, jnp.clip(jnp.exp(x), 0.8, 1.2) * a))
    )
    assert np.any(np.isnan(naive(x, a)))


def test_an_action_that_the_new_policy_rules_out_has_ratio_zero():
    """As a user's mask may rule it out, or a probability that has become 0."""
    gone, a, old = jnp.full(2, -jnp.inf), jnp.array([1.0, -1.0]), jnp.log(1 / 3)
    np.testing.assert_array_equal(losses.importance_ratio(gone), 0)
    np.testing.assert_array_equal(losses.surrogate_loss(gone, a), 0)
    np.testing.assert_allclose(losses.clipped_surrogate_loss(gone, a, 0.2), [0, 0.8], rtol=1e-6)

    def masked(x):
        logits = jnp.where(jnp.array([True, True, False]), x, -jnp.inf)
        return distrax.Categorical(logits[None].repeat(3, 0))

    def vanished(x):
        probs = jax.nn.relu(jnp.array([0.7, 0.3, -0.1]) + x)
        return distrax.Categorical(probs=probs[None].repeat(3, 0))

    for policy in (masked, vanished):

        def loss(x, policy=policy):
            log_ratio = dv.distribution_log_prob(policy(x), jnp.arange(3)) - old
            return losses.clipped_surrogate_loss(log_ratio, jnp.array([1.0, -1.0, 1.0]), 0.2).sum()

        assert np.all(np.isfinite(jax.grad(loss)(jnp.zeros(3))))


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_a_ratio_that_is_nan_is_not_a_clipped_one(advantage):
    """The comparison that it fails is not the one that says "clipped"."""
    bad, a = jnp.array([jnp.nan, 0.5]), jnp.full(2, advantage)
    for loss, args in (
        (losses.surrogate_loss, ()),
        (losses.clipped_surrogate_loss, (0.2,)),
        (losses.penalty_surrogate_loss, (jnp.ones(2), 0.5)),
    ):
        np.testing.assert_array_equal(np.isnan(loss(bad, a, *args)), [True, False])
    for args in ((bad, a, a), (a, bad, a), (a, a, bad)):
        np.testing.assert_array_equal(
            np.isnan(losses.clipped_value_loss(*args, 0.2)), [True, False]
        )


def test_a_penalty_of_weight_zero_is_absent_where_it_is_infinite():
    kl, beta = jnp.array([jnp.inf, jnp.inf, 1.0]), jnp.array([0.0, 1.0, 0.0])
    loss = jax.jit(losses.penalty_surrogate_loss)
    np.testing.assert_array_equal(loss(jnp.zeros(3), jnp.ones(3), kl, beta), [-1, jnp.inf, -1])
    np.testing.assert_array_equal(loss(jnp.zeros(3), jnp.ones(3), kl, 0.0), -1)


def test_importance_ratio_is_exp_and_then_a_line():
    x = jnp.linspace(-100.0, 44.0, 1001)
    np.testing.assert_array_equal(losses.importance_ratio(x), jnp.exp(x))
    far = jnp.array([44.3, 44.4, 50.0, 500.0])
    value, slope = jax.vmap(jax.value_and_grad(losses.importance_ratio))(far)
    assert np.all(np.diff(value) > 0)
    assert np.all(np.diff(slope) >= 0)
    np.testing.assert_allclose(slope[1:], slope[-1], rtol=1e-6)
    np.testing.assert_allclose(slope[-1], math.sqrt(np.finfo(np.float32).max), rtol=1e-4)
    with jax.enable_x64(True):
        y = jnp.array([100.0, 300.0])
        np.testing.assert_array_equal(losses.importance_ratio(y), jnp.exp(y))


def test_kl_constraint():
    kl = jnp.array([0.01, 0.03, jnp.nan])
    weight = jnp.array([1.0, 3.0, 0.0])
    np.testing.assert_allclose(losses.kl_constraint(kl, 0.02, weight=weight), 0.005, rtol=1e-5)
    np.testing.assert_allclose(losses.kl_constraint(kl[:2], 0.02), 0.0, atol=1e-8)
    assert losses.kl_constraint(kl[:2].reshape(2, 1), 0.02).shape == ()
    assert losses.kl_constraint(kl[:2], 0.03) < 0 < losses.kl_constraint(kl[:2], 0.01)
    assert losses.kl_constraint(kl[:2], jnp.inf) == -jnp.inf
    several = losses.kl_constraint(kl[:2], np.array([0.02, 0.01]))
    np.testing.assert_allclose(several, [0.0, 0.01], atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_value_losses():
    clipped = jax.jit(losses.clipped_value_loss)
    rng = np.random.default_rng(1)
    value, old, target = jnp.asarray(rng.normal(size=(3, 200)))
    np.testing.assert_allclose(
        losses.value_loss(value, target),
        [(v - t) ** 2 / 2 for v, t in zip(value, target, strict=True)],
    )
    expected = [
        max((v - t) ** 2, (min(max(v, o - 0.3), o + 0.3) - t) ** 2) / 2
        for v, o, t in np.stack([value, old, target], -1)
    ]
    np.testing.assert_allclose(clipped(value, old, target, 0.3), expected)
    for eps in (jnp.inf, 100.0):
        np.testing.assert_allclose(
            clipped(value, old, target, eps), losses.value_loss(value, target)
        )
    # Before the first step nothing is clipped, whatever eps.
    for eps in (0.0, 0.2, jnp.inf):
        gradient = jax.grad(sum_of(clipped))(old, old, target, eps)
        np.testing.assert_allclose(gradient, old - target, rtol=1e-12)
    # Towards the target by more than eps: nothing left to gain. Past it: a way back.
    gradient = jax.vmap(jax.grad(clipped), (0, None, None, None))
    value = jnp.array([0.1, 0.5, 1.5, 3.0, -0.5])
    moved = gradient(value, jnp.float64(0.0), jnp.float64(1.0), 0.2)
    np.testing.assert_allclose(moved, [-0.9, 0, 0, 2.0, -1.5], atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_entropy_loss():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(5, 3)))
    entropies = oracles.rows(oracles.entropy, oracles.softmax(logits))
    np.testing.assert_allclose(losses.entropy_loss(distrax.Categorical(logits)), -entropies)
    masked = distrax.Categorical(jnp.array([[0.0, 0.0, -jnp.inf]]))
    np.testing.assert_allclose(losses.entropy_loss(masked), -math.log(2))


ELEMENTWISE = {
    "surrogate_loss": (2, ()),
    "clipped_surrogate_loss": (2, (0.2,)),
    "penalty_surrogate_loss": (3, (0.5,)),
    "value_loss": (2, ()),
    "clipped_value_loss": (3, (0.2,)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_over_any_leading_shape(name):
    arrays, settings = ELEMENTWISE[name]
    loss = jax.jit(getattr(losses, name))
    rng = np.random.default_rng(3)
    args = jnp.asarray(rng.normal(size=(arrays, 2, 3)), jnp.float32)
    whole = loss(*args, *settings)
    assert whole.shape == (2, 3)
    assert whole.dtype == jnp.float32
    np.testing.assert_allclose(loss(*args[:, 1, 2], *settings), whole[1, 2], rtol=1e-6)
    with pytest.raises(ValueError, match="the shapes must be equal"):
        loss(*args[:-1], args[-1][:, :1], *settings)
    with pytest.raises(ValueError, match="the shapes must be equal"):
        loss(*args[:-1], args[-1][0], *settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clipped_surrogate_loss", jnp.linspace(0.05, 0.6, 4)),
        ("penalty_surrogate_loss", jnp.linspace(0.0, 2.0, 4)),
        ("clipped_value_loss", jnp.linspace(0.05, 2.0, 4)),
    ],
)
def test_settings_are_traced_and_matter(name, settings):
    arrays, _ = ELEMENTWISE[name]
    args = jnp.asarray(np.random.default_rng(4).normal(size=(arrays, 50)), jnp.float32)
    loss = getattr(losses, name)
    swept = jax.jit(jax.vmap(lambda s: loss(*args, s)))(settings)
    alone = [loss(*args, float(s)) for s in settings]
    np.testing.assert_allclose(swept, alone, rtol=1e-5)
    assert len(np.unique(swept.mean(1))) == 4
    # One for each sample, under jit and without.
    each = jnp.tile(settings, 13)[:50]
    for function in (loss, jax.jit(loss)):
        found = function(*args, each)
        np.testing.assert_allclose(found, swept[jnp.arange(50) % 4, jnp.arange(50)], rtol=1e-5)


def test_bad_settings():
    x, a = samples(shape=(3,))
    with pytest.raises(ValueError, match="clip_eps must be at least 0"):
        losses.clipped_surrogate_loss(x, a, -0.1)
    with pytest.raises(ValueError, match="beta must be at least 0"):
        losses.penalty_surrogate_loss(x, a, a, -1.0)
    with pytest.raises(ValueError, match="max_kl must be at least 0"):
        losses.kl_constraint(a, math.nan)
    with pytest.raises(ValueError, match=r"beta must be at least 0, got -2.0 in an array of shape"):
        losses.penalty_surrogate_loss(x, a, a, jnp.array([1.0, -2.0, -3.0]))
    with pytest.raises(ValueError, match="clip_eps must be at least 0"):
        losses.clipped_value_loss(x, a, a, -0.1)


def test_weights_leave_padding_out():
    x, a = samples(5, (10,))
    weight = jnp.array([1.0] * 7 + [0.0] * 3)

    @jax.jit
    def loss(x, weight=None):
        return losses.weighted_mean(losses.clipped_surrogate_loss(x, a[: len(x)], 0.2), weight)

    np.testing.assert_allclose(loss(x, weight), loss(x[:7]), rtol=1e-5)
    gradient = jax.grad(loss)(x, weight)
    np.testing.assert_allclose(gradient[:7], jax.grad(loss)(x[:7]), rtol=1e-5)
    np.testing.assert_array_equal(gradient[7:], 0)
