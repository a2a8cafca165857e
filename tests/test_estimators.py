"""k1, k2, k3: what values and gradients estimate, by enumeration and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kltrust.divergences import (
    categorical_kl_from_logits,
    control_variate_coefficient,
    kl_control_variate,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_reverse_k1,
    kl_reverse_k3,
    ratio_weighted,
)

pytestmark = pytest.mark.usefixtures("x64")


def grad(f, *args):
    return jax.jit(jax.grad(f, *args))


def value_and_grad(f):
    return jax.jit(jax.value_and_grad(f))


def hessian(f, *args):
    return jax.jit(jax.hessian(f, *args))


ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def logits(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=4))


def expectation(weights, x):
    return jnp.sum(jax.lax.stop_gradient(weights) * x)


def kl_gradients(theta, other):
    """Gradients in theta of KL(other || theta) and KL(theta || other)."""
    return (
        grad(lambda t: categorical_kl_from_logits(other, t))(theta),
        grad(lambda t: categorical_kl_from_logits(t, other))(theta),
    )


def setting_a(k, theta, old):
    """E_old[k(log new - log old)] as a function of theta."""
    log_old, log_new = jax.nn.log_softmax(old), jax.nn.log_softmax(theta)
    return expectation(jnp.exp(log_old), k(log_new - log_old))


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_a_value_and_gradient_are_those_of_kl_old_new(name):
    old, new = logits(0), logits(1)
    value, gradient = value_and_grad(lambda t: setting_a(ESTIMATORS[name], t, old))(new)
    np.testing.assert_allclose(value, categorical_kl_from_logits(old, new), rtol=1e-12)
    np.testing.assert_allclose(gradient, kl_gradients(new, old)[0], atol=1e-13)
    # And not the other direction's.
    assert np.max(np.abs(gradient - kl_gradients(new, old)[1])) > 0.01


def test_a_k2_is_biased_and_its_gradient_wrong_away_from_old():
    old, new = logits(0), logits(1)
    value, gradient = value_and_grad(lambda t: setting_a(kl_k2, t, old))(new)
    assert abs(value / categorical_kl_from_logits(old, new) - 1) > 0.05
    for direction in kl_gradients(new, old):
        assert np.max(np.abs(gradient - direction)) > 0.01
    np.testing.assert_allclose(grad(lambda t: setting_a(kl_k2, t, old))(old), 0, atol=1e-14)
    fisher = hessian(lambda t: setting_a(kl_k2, t, old))(old)
    np.testing.assert_allclose(fisher, hessian(categorical_kl_from_logits, 1)(old, old), atol=1e-12)


@pytest.mark.parametrize("k", [kl_reverse_k1, kl_reverse_k3])
def test_a_ratio_weighted_ones_are_the_other_direction(k):
    old, new = logits(0), logits(1)
    value, gradient = value_and_grad(lambda t: setting_a(k, t, old))(new)
    np.testing.assert_allclose(value, categorical_kl_from_logits(new, old), rtol=1e-12)
    np.testing.assert_allclose(gradient, kl_gradients(new, old)[1], atol=1e-13)
    assert abs(value / categorical_kl_from_logits(old, new) - 1) > 0.05
    assert np.max(np.abs(gradient - kl_gradients(new, old)[0])) > 0.01


@pytest.mark.parametrize("c", [-1.0, 0.3, 2.0])
def test_a_control_variate_changes_neither_value_nor_gradient(c):
    old, new = logits(0), logits(1)

    def loss(t):
        return setting_a(lambda x: kl_control_variate(x, c), t, old)

    value, gradient = value_and_grad(loss)(new)
    np.testing.assert_allclose(value, categorical_kl_from_logits(old, new), rtol=1e-12)
    np.testing.assert_allclose(gradient, kl_gradients(new, old)[0], atol=1e-13)


def test_a_the_best_coefficient_is_the_one_of_least_variance():
    old, new = logits(0), logits(1)
    p, log_ratio = jax.nn.softmax(old), jax.nn.log_softmax(new) - jax.nn.log_softmax(old)

    def variance(c):
        x = kl_control_variate(log_ratio, c)
        return p @ x**2 - (p @ x) ** 2

    best = control_variate_coefficient(log_ratio, p)
    np.testing.assert_allclose(grad(variance)(best), 0, atol=1e-13)
    assert variance(best) < min(variance(0.0), variance(1.0), variance(best + 0.01))
    # A constant to gradients, 1 at old (k3), and close to 1 near it.
    np.testing.assert_array_equal(grad(lambda x: control_variate_coefficient(x, p))(log_ratio), 0)
    assert control_variate_coefficient(jnp.zeros(3)) == 1
    np.testing.assert_allclose(control_variate_coefficient(1e-3 * log_ratio, p), 1, atol=1e-2)


def setting_b(k, theta, ref):
    """E_pi[k(log ref - log pi)] as a loss: the samples are not differentiated."""
    log_pi, log_ref = jax.nn.log_softmax(theta), jax.nn.log_softmax(ref)
    return expectation(jnp.exp(log_pi), k(log_ref - log_pi))


def setting_b_reward(k, theta, ref):
    """E_pi[stop_gradient(k) log pi]: its gradient is that of k as a cost."""
    log_pi, log_ref = jax.nn.log_softmax(theta), jax.nn.log_softmax(ref)
    return expectation(jnp.exp(log_pi) * k(log_ref - log_pi), log_pi)


def test_b_values():
    pi, ref = logits(2), logits(3)
    kl = categorical_kl_from_logits(pi, ref)
    np.testing.assert_allclose(setting_b(kl_k1, pi, ref), kl, rtol=1e-12)
    np.testing.assert_allclose(setting_b(kl_k3, pi, ref), kl, rtol=1e-12)
    assert abs(setting_b(kl_k2, pi, ref) / kl - 1) > 0.05


def test_b_gradients_as_a_loss_term():
    pi, ref = logits(2), logits(3)
    to_pi, to_ref = kl_gradients(pi, ref)
    gradient = {n: grad(lambda t, k=k: setting_b(k, t, ref))(pi) for n, k in ESTIMATORS.items()}
    np.testing.assert_allclose(gradient["k1"], 0, atol=1e-14)
    np.testing.assert_allclose(gradient["k2"], to_ref, atol=1e-13)
    np.testing.assert_allclose(gradient["k3"], to_pi, atol=1e-13)
    assert np.max(np.abs(to_pi - to_ref)) > 0.01


@pytest.mark.parametrize("c", [0.3, 2.0])
def test_b_a_control_variate_is_not_free_as_a_gradient(c):
    pi, ref = logits(2), logits(3)
    to_pi, to_ref = kl_gradients(pi, ref)
    k = lambda x: kl_control_variate(x, c)  # noqa: E731
    np.testing.assert_allclose(setting_b(k, pi, ref), categorical_kl_from_logits(pi, ref))
    np.testing.assert_allclose(grad(lambda t: setting_b(k, t, ref))(pi), c * to_pi, atol=1e-13)
    as_reward = grad(lambda t: setting_b_reward(k, t, ref))(pi)
    np.testing.assert_allclose(as_reward, to_ref - c * to_pi, atol=1e-13)


@pytest.mark.parametrize("k", [kl_reverse_k1, kl_reverse_k3])
def test_b_reversed_ones_estimate_the_other_value_and_no_gradient(k):
    pi, ref = logits(2), logits(3)
    value = setting_b(k, pi, ref)
    np.testing.assert_allclose(value, categorical_kl_from_logits(ref, pi), rtol=1e-12)
    for setting in (setting_b, setting_b_reward):
        gradient = grad(lambda t, f=setting: f(k, t, ref))(pi)
        for kl in kl_gradients(pi, ref):
            assert np.max(np.abs(gradient - kl)) > 0.01


def test_b_gradients_as_a_detached_reward():
    pi, ref = logits(2), logits(3)

    def gradient(k, theta):
        return grad(lambda t: setting_b_reward(k, t, ref))(theta)

    np.testing.assert_allclose(gradient(kl_k1, pi), kl_gradients(pi, ref)[1], atol=1e-13)
    # Near ref the right pull is of first order in the distance; that of k2 and k3 of second.
    for k, power in ((kl_k1, 1), (kl_k2, 2), (kl_k3, 2)):
        pulls = [np.linalg.norm(gradient(k, ref + h * logits(4))) for h in (1e-2, 1e-3)]
        np.testing.assert_allclose(np.log10(pulls[0] / pulls[1]), power, atol=0.05)


@pytest.mark.parametrize("name", ["k1", "k3"])
@pytest.mark.parametrize("behaviour", [2, 5])
def test_b_with_the_ratio_differentiated_is_right_on_and_off_policy(name, behaviour):
    pi, ref, log_mu = logits(2), logits(3), jax.nn.log_softmax(logits(behaviour))

    def loss(theta):
        log_pi, log_ref = jax.nn.log_softmax(theta), jax.nn.log_softmax(ref)
        estimate = ESTIMATORS[name](log_ref - log_pi)
        return expectation(jnp.exp(log_mu), ratio_weighted(estimate, log_pi - log_mu))

    value, gradient = value_and_grad(loss)(pi)
    np.testing.assert_allclose(value, categorical_kl_from_logits(pi, ref), rtol=1e-12)
    np.testing.assert_allclose(gradient, kl_gradients(pi, ref)[1], atol=1e-12)


def test_b_k2_is_right_on_policy_only():
    pi, ref, log_mu = logits(2), logits(3), jax.nn.log_softmax(logits(5))

    def loss(theta):
        return expectation(
            jnp.exp(log_mu), kl_k2(jax.nn.log_softmax(ref) - jax.nn.log_softmax(theta))
        )

    assert np.max(np.abs(grad(loss)(pi) - kl_gradients(pi, ref)[1])) > 0.01


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0])
def test_gaussian_closed_forms(mu):
    def moments(k):
        # Samples from q = N(0, 1); log p - log q = mu x - mu^2 / 2.
        mean = oracles.gauss_expectation(lambda x: np.asarray(k(mu * x - mu**2 / 2)))
        square = oracles.gauss_expectation(lambda x: np.asarray(k(mu * x - mu**2 / 2)) ** 2)
        return mean, np.sqrt(square - mean**2)

    kl = mu**2 / 2
    mean, std = moments(kl_k1)
    np.testing.assert_allclose(mean, kl, rtol=1e-11)
    np.testing.assert_allclose(std / kl, 2 / mu, rtol=1e-10)
    mean, std = moments(kl_k2)
    np.testing.assert_allclose(mean / kl - 1, mu**2 / 4, rtol=1e-9)
    np.testing.assert_allclose(std / kl, np.sqrt(2 + mu**2), rtol=1e-9)
    mean, std = moments(kl_k3)
    np.testing.assert_allclose(mean, kl, rtol=1e-10)
    expected = 2 * np.sqrt(np.exp(mu**2) - 1 - mu**2) / mu**2
    np.testing.assert_allclose(std / kl, expected, rtol=1e-8)
    # The best multiple of (r - 1) as control variate does no worse than k3's 1.
    best = mu**2 / (np.exp(mu**2) - 1)
    _, std_best = moments(lambda x: kl_control_variate(x, best))
    expected = 2 * np.sqrt(mu**2 - mu**4 / (np.exp(mu**2) - 1)) / mu**2
    np.testing.assert_allclose(std_best / kl, expected, rtol=1e-7)
    assert std_best <= std * (1 + 1e-9)


def exact_k3(x):
    return np.expm1(x) - x, np.expm1(x), 0.5 + x / 6 + x**2 / 24


def exact_reverse_k3(x):
    return x * np.exp(x) - np.expm1(x), x * np.exp(x), 0.5 + x / 3 + x**2 / 8


@pytest.mark.parametrize(
    ("k", "exact", "printed"),
    [
        (kl_k3, exact_k3, lambda x: jnp.exp(x) - 1 - x),
        (kl_reverse_k3, exact_reverse_k3, lambda x: jnp.exp(x) * x - (jnp.exp(x) - 1)),
    ],
)
def test_in_float32_they_are_accurate_and_never_negative(k, exact, printed):
    with jax.enable_x64(False):
        x = np.concatenate([s * np.logspace(-12, 1.5, 2000) for s in (-1, 1)]).astype(np.float32)
        value, slope = jax.vmap(jax.value_and_grad(k))(x)
        expected, slopes, taylor = exact(x.astype(np.longdouble))
        expected = np.where(np.abs(x) < 1e-3, x.astype(np.float64) ** 2 * taylor, expected)
        np.testing.assert_allclose(value, expected.astype(np.float64), rtol=4e-6)
        np.testing.assert_allclose(slope, slopes.astype(np.float64), rtol=4e-6, atol=1e-7)
        assert np.all(value >= 0)
        # The formula as it is printed loses that: a control.
        assert np.min(printed(x)) < 0


@pytest.mark.parametrize(("c", "k"), [(0.0, kl_k1), (1.0, kl_k3)])
def test_the_control_variate_is_k1_and_k3_at_its_ends(c, k):
    x = np.linspace(-3, 3, 101, dtype=np.float32)
    np.testing.assert_array_equal(kl_control_variate(x, c), k(x))


def test_actions_that_the_new_policy_has_given_up():
    never = jnp.asarray(-jnp.inf)
    for k, value in ((kl_reverse_k1, 0), (kl_reverse_k3, 1), (kl_k1, np.inf), (kl_k3, np.inf)):
        assert k(never) == value
    for c in (0.0, 0.3, 1.0, 2.0):
        assert kl_control_variate(never, c) == np.inf
    assert kl_control_variate(jnp.float32(100.0), 0.0) == -100  # where r overflows
    for k in (kl_reverse_k1, kl_reverse_k3):
        assert np.isfinite(grad(k)(never))
    weighted = lambda x: ratio_weighted(kl_k1(-x), x)  # noqa: E731  log ref - log pi = inf
    assert weighted(never) == 0
    assert np.isfinite(grad(weighted)(never))
    with pytest.raises(ValueError, match="is one number"):
        ratio_weighted(jnp.zeros(3), jnp.zeros(()))


def test_shapes_and_dtypes_are_kept():
    for k in (
        *ESTIMATORS.values(),
        kl_reverse_k1,
        kl_reverse_k3,
        lambda x: kl_control_variate(x, 0.5),
        lambda x: ratio_weighted(x, x),
    ):
        for shape in ((), (3,), (2, 3)):
            x = jnp.ones(shape, jnp.float32)
            assert k(x).shape == shape
            assert k(x).dtype == jnp.float32
