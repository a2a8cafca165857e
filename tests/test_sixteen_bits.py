"""Arguments of 16 bits: computed in float32 at least, and returned in 16 bits."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kltrust as K
from kltrust import losses, tokens, tree
from kltrust.advantages import gae
from kltrust.divergences import distribution_log_prob

DTYPES = [jnp.bfloat16, jnp.float16]


def near(a, scale, rng):
    return (a.astype(jnp.float32) + scale * rng.normal(size=a.shape)).astype(a.dtype)


def log_softmax(x):
    x = np.asarray(x.astype(jnp.float32), np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def exact_kl(a, b):
    p, q = log_softmax(a), log_softmax(b)
    return np.sum(np.exp(p) * (np.expm1(q - p) - (q - p)), -1)


@pytest.fixture(params=DTYPES, ids=["bfloat16", "float16"])
def logits(request):
    """Of a vocabulary, over sequences of 64 tokens, and of a policy near it."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(2 * rng.normal(size=(2, 64, 4000)), request.param)
    return a, near(a, 0.05, rng)


def test_a_kl_over_a_vocabulary(logits):
    a, b = logits
    kl = K.categorical_kl_from_logits(a, b)
    assert kl.dtype == a.dtype
    np.testing.assert_allclose(np.float64(kl).mean(), exact_kl(a, b).mean(), rtol=0.01)
    if a.dtype == jnp.float16:
        return
    # The control: the textbook formula at 16 bits.
    p, q = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
    naive = np.float64(jnp.sum(jnp.exp(p) * (p - q), -1)).mean()
    assert abs(naive / exact_kl(a, b).mean() - 1) > 0.05


def test_the_kl_of_two_distributions_takes_their_logits_as_they_are(logits):
    # distrax has rounded them: the KL is that of the rounded ones, to rounding.
    old, new = (distrax.Categorical(logits=x) for x in logits)
    kl = K.kl_divergence(old, new)
    assert kl.dtype == logits[0].dtype
    np.testing.assert_allclose(kl.astype(float), exact_kl(old.logits, new.logits), rtol=0.01)
    inside = K.kl_divergence(distrax.Independent(old, 1), distrax.Independent(new, 1))
    total = exact_kl(old.logits, new.logits).sum(-1)
    np.testing.assert_allclose(inside.astype(float), total, rtol=0.01)


def test_sums_over_tokens(logits):
    a, b = logits
    total = tokens.token_kl_exact(a, b, jnp.ones(a.shape[:2], bool))
    assert total.dtype == a.dtype
    np.testing.assert_allclose(total.astype(float), exact_kl(a, b).sum(-1), rtol=0.01)


def test_log_probabilities_are_float32(logits):
    a, _ = logits
    index = jnp.arange(128).reshape(2, 64)
    want = np.take_along_axis(log_softmax(a), np.asarray(index)[..., None], -1)[..., 0]
    got = tokens.token_log_probs(a, index)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-4)
    got = distribution_log_prob(distrax.Categorical(logits=a), index)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=0.1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_entropies_and_gaussians(dtype):
    rng = np.random.default_rng(1)
    a = jnp.asarray(rng.normal(size=(4, 30_000)), dtype)
    p = log_softmax(distrax.Categorical(logits=a).logits)
    got = K.distribution_entropy(distrax.Categorical(logits=a))
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(float), -np.sum(np.exp(p) * p, -1), rtol=0.005)

    loc = jnp.asarray(rng.normal(size=(4, 500)), dtype)
    moved = near(loc, 0.01, rng)
    scale = jnp.ones_like(loc)
    old, new = (distrax.Independent(distrax.Normal(x, scale), 1) for x in (loc, moved))
    want = 0.5 * np.sum((np.float64(loc) - np.float64(moved)) ** 2, -1)
    np.testing.assert_allclose(K.kl_divergence(old, new).astype(float), want, rtol=0.005)


@pytest.mark.parametrize("dtype", DTYPES)
def test_means_and_inner_products(dtype):
    ones = jnp.ones(70_000, dtype)
    assert losses.weighted_mean(ones) == 1
    assert losses.weighted_mean(ones, ones) == 1
    assert tree.dot({"a": ones}, {"a": ones}) == 70_000
    mask = jnp.ones(70_000, bool)
    assert tokens.sequence_mean(ones, mask) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_surrogates_and_advantages(dtype):
    rng = np.random.default_rng(2)
    ratio, advantage, value = (jnp.asarray(x, dtype) for x in rng.normal(size=(3, 200, 4)) / 4)
    wide = [x.astype(jnp.float32) for x in (ratio, advantage, value)]
    for loss, narrow, full in (
        (losses.clipped_surrogate_loss, (ratio, advantage, 0.2), (*wide[:2], 0.2)),
        (losses.clipped_value_loss, (value, ratio, advantage, 0.2), (wide[2], *wide[:2], 0.2)),
    ):
        got = loss(*narrow)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, loss(*full).astype(dtype))

    never = jnp.zeros((200, 4), bool)

    def estimate(reward, value):
        return gae(reward, value, value, never, never, gamma=0.999, lam=0.99)

    got = estimate(advantage, value)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, estimate(wide[1], wide[2]).astype(dtype))


def test_other_types_stay(x64):
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.linspace(-1, 1, 5, dtype=dtype)
        assert losses.importance_ratio(x).dtype == dtype
        assert K.kl_divergence(distrax.Normal(x, x + 2), distrax.Normal(x, x + 3)).dtype == dtype


def test_python_numbers_take_the_default_type(x64):
    kl = K.kl_divergence(distrax.Normal(0.0, 1.0), distrax.Normal(1.0, 1.6))
    assert kl.dtype == jnp.float64
    np.testing.assert_allclose(kl, np.log(1.6) + 2 / (2 * 1.6**2) - 0.5, rtol=1e-14)
