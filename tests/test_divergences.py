import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings, strategies as st

from kltrust import divergences as dv
from kltrust.divergences import numerics


def random_probs(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


def perturbed(eps, shape=(512, 5), seed=0):
    """Float32 logits eps apart, and the KL of exactly these inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    y = (x + eps * rng.normal(size=shape)).astype(np.float32)
    return x, y


def exact_kl(x, y):
    x, y = (np.asarray(z).astype(np.longdouble) for z in (x, y))
    x, y = (z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in (x, y))
    return np.sum(np.exp(x) * (x - y), axis=-1).astype(np.float64)


# --- probability arrays ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["categorical_kl:kl", "cross_entropy", "total_variation", "entropy"]
)
def test_against_definitions(name):
    ours, oracle = (name.split(":") * 2)[:2]
    rng = np.random.default_rng(1)
    p, q = random_probs(rng, 3, 4, 5), random_probs(rng, 3, 4, 5)
    args = (p,) if name == "entropy" else (p, q)
    with jax.enable_x64(True):
        got = getattr(dv, ours)(*args)
        assert got.shape == (3, 4)
        np.testing.assert_allclose(got, oracles.rows(getattr(oracles, oracle), *args), rtol=1e-13)


def test_kl_near_and_far_meet():
    # Where the series hand over to the logarithm, at log ratios of 0.25 and 0.5, both directions.
    steps = np.linspace(-0.6, 0.6, 121)[:, None]
    p = np.broadcast_to([0.4, 0.6], (121, 2))
    q = p * (1 + steps * [1, -2 / 3])
    with jax.enable_x64(True):
        for a, b in ((p, q), (q, p)):
            expected = exact_kl(np.log(a), np.log(b))
            np.testing.assert_allclose(dv.categorical_kl(a, b), expected, rtol=1e-11, atol=1e-18)
            logs = dv.categorical_kl_from_logits(np.log(a), np.log(b))
            np.testing.assert_allclose(logs, expected, rtol=1e-9, atol=1e-18)


def test_kl_is_cross_entropy_minus_entropy_and_not_symmetric():
    rng = np.random.default_rng(2)
    p, q = random_probs(rng, 50, 6), random_probs(rng, 50, 6)
    with jax.enable_x64(True):
        kl = dv.categorical_kl(p, q)
        np.testing.assert_allclose(kl, dv.cross_entropy(p, q) - dv.entropy(p), rtol=1e-12)
        np.testing.assert_allclose(
            kl, dv.categorical_kl_from_logits(np.log(p) + 3.0, np.log(q) - 7.0), rtol=1e-11
        )
        assert np.all(np.abs(kl - dv.categorical_kl(q, p)) > 1e-6)


def test_zeros():
    p, q = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.25, 0.5])
    np.testing.assert_allclose(dv.categorical_kl(p, q), math.log(2), rtol=1e-6)
    assert dv.categorical_kl(q, p) == jnp.inf
    assert dv.cross_entropy(q, p) == jnp.inf
    assert dv.categorical_kl(p, p) == 0
    np.testing.assert_allclose(dv.entropy(p), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(dv.cross_entropy(p, q), math.log(4), rtol=1e-6)
    one = jnp.array([0.0, 1.0])
    assert dv.entropy(one) == 0
    functions = (
        dv.categorical_kl,
        dv.cross_entropy,
        dv.total_variation,
        dv.jensen_shannon,
        lambda a, b: sum(dv.renyi(a, b, alpha) for alpha in (0.0, 0.5, 1.0, 2.0, jnp.inf)),
        lambda a, b: dv.categorical_kl_from_logits(*map(numerics.safe_log, (a, b))),
    )
    corner = jnp.array([0.0, 1.0, 0.0]), jnp.array([1.0, 0.0, 0.0])
    for f in functions:
        gradient = jax.jit(jax.grad(f, argnums=(0, 1)))
        for a, b in ((p, q), (q, p), (p, p), corner):
            for g in gradient(a, b):
                assert np.all(np.isfinite(g))


@jax.jit
def several_kls(x, y):
    categorical, bernoulli = distrax.Categorical, distrax.Bernoulli
    return (
        dv.categorical_kl_from_logits(x, y),
        dv.categorical_kl(jax.nn.softmax(x), jax.nn.softmax(y)),
        dv.kl_divergence(categorical(x), categorical(y)),
        dv.kl_divergence(bernoulli(x), bernoulli(y)),
        dv.kl_divergence(distrax.Normal(x, jnp.exp(x / 10)), distrax.Normal(y, jnp.exp(y / 10))),
    )


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(*[st.floats(-60, 60, width=32)] * 2), min_size=4, max_size=4),
    st.sampled_from([1.0, 1e-2, 1e-4, 1e-7]),
)
def test_float32_kl_is_never_negative(rows, eps):
    x, z = np.array(rows, np.float32).T
    y = (x + eps * z).astype(np.float32)
    for kl in several_kls(x, y):
        assert np.all(kl >= 0)


@pytest.mark.parametrize(("eps", "rtol"), [(1e-1, 1e-5), (1e-3, 2e-3), (2e-5, 2e-2)])
def test_small_float32_kl_keeps_its_digits(eps, rtol):
    x, y = perturbed(eps)
    exact = exact_kl(x, y)
    # Three rounded quantities a row, unbiased: what a trust region uses is their mean.
    for kl in several_kls(x, y)[:3]:
        assert np.median(np.abs(kl / exact - 1)) < rtol
        np.testing.assert_allclose(np.mean(kl), np.mean(exact), rtol=1e-3)
    # What the inputs determine exactly is exact: no rounding of a normalisation in between.
    logit, new_logit, scale, new_scale = x[:, 0], y[:, 0], np.exp(x[:, 1]), np.exp(y[:, 1])
    bernoulli = dv.kl_divergence(distrax.Bernoulli(logit), distrax.Bernoulli(new_logit))
    expected = exact_kl(*(np.stack([z, np.zeros_like(z)], -1) for z in (logit, new_logit)))
    keep = expected > 1e-13  # Below it the oracle's own cancellation shows.
    np.testing.assert_allclose(np.asarray(bernoulli)[keep], expected[keep], rtol=1e-5)
    normal = dv.kl_divergence(distrax.Normal(logit, scale), distrax.Normal(new_logit, new_scale))
    expected = oracles.normal_kl(logit, scale, new_logit, new_scale)
    keep = expected > 1e-13
    np.testing.assert_allclose(np.asarray(normal)[keep], expected[keep].astype(float), rtol=1e-5)


def test_the_usual_form_would_fail_that():
    x, y = perturbed(2e-5)
    log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    naive = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    assert np.min(naive) < 0
    assert abs(np.mean(naive) / np.mean(exact_kl(x, y)) - 1) > 0.1


def test_kl_gradients():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=5), rng.normal(size=5)

    def from_probs(x, y):
        return dv.categorical_kl(jax.nn.softmax(x), jax.nn.softmax(y))

    with jax.enable_x64(True):
        for kl in (from_probs, dv.categorical_kl_from_logits):
            gradient = jax.jit(jax.grad(kl, (0, 1)))
            for target in (y, x + 1e-3 * y, x + 0.3 * y):
                g_old, g_new = gradient(x, target)
                p, q = oracles.softmax(x), oracles.softmax(target)
                np.testing.assert_allclose(g_new, q - p, atol=1e-12)
                d = np.log(p / q)
                np.testing.assert_allclose(g_old, p * (d - np.sum(p * d)), atol=1e-12)
            p = oracles.softmax(x)
            for argnum in (0, 1):
                hessian = jax.jit(jax.hessian(kl, argnum))(x, x)
                np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-12)


def test_underflow_is_not_a_nan():
    x, y = jnp.array([0.0, -150.0]), jnp.array([-150.0, 0.0])
    value, gradients = jax.value_and_grad(dv.categorical_kl_from_logits, (0, 1))(x, y)
    np.testing.assert_allclose(value, 150.0, rtol=1e-6)
    assert np.all(np.isfinite(gradients))
    probs = jnp.array([1.0, 2e-38]), jnp.array([2e-38, 1.0])
    assert np.all(np.isfinite(jax.grad(dv.categorical_kl, (0, 1))(*probs)))


def test_jensen_shannon():
    rng = np.random.default_rng(4)
    p, q = random_probs(rng, 20, 4), random_probs(rng, 20, 4)
    with jax.enable_x64(True):
        js = dv.jensen_shannon(p, q)
        m = (p + q) / 2
        np.testing.assert_allclose(
            js, dv.entropy(m) - (dv.entropy(p) + dv.entropy(q)) / 2, rtol=1e-11
        )
        np.testing.assert_allclose(js, dv.jensen_shannon(q, p), rtol=1e-12)
        apart = dv.jensen_shannon(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        np.testing.assert_allclose(apart, math.log(2))


renyi = jax.jit(dv.renyi)


def test_renyi():
    rng = np.random.default_rng(5)
    p, q = random_probs(rng, 20, 4), random_probs(rng, 20, 4)
    with jax.enable_x64(True):
        kl = dv.categorical_kl(p, q)
        for alpha in (0.3, 0.5, 0.9, 1.1, 2.0, 7.0):
            expected = oracles.rows(lambda a, b, alpha=alpha: oracles.renyi(a, b, alpha), p, q)
            np.testing.assert_allclose(renyi(p, q, alpha), expected, rtol=1e-10)
        np.testing.assert_allclose(renyi(p, q, 1.0), kl, rtol=1e-14)
        np.testing.assert_allclose(renyi(p, q, 1 + 1e-9), kl, rtol=1e-6)
        np.testing.assert_allclose(renyi(p, q, jnp.inf), np.log((p / q).max(-1)), rtol=1e-12)
        np.testing.assert_allclose(renyi(p, q, 1e4), np.log((p / q).max(-1)), rtol=1e-2)
        orders = jnp.array([0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 50.0, jnp.inf])
        increasing = jax.vmap(renyi, (None, None, 0))(p, q, orders)  # A traced order.
        assert np.all(np.diff(increasing, axis=0) >= 0)
        np.testing.assert_allclose(increasing[0], 0, atol=1e-12)
    half = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.25, 0.5])
    np.testing.assert_allclose(renyi(*half, 0.0), math.log(2), rtol=1e-6)
    assert renyi(*half[::-1], 1.0) == jnp.inf
    assert renyi(*half[::-1], 2.0) == jnp.inf
    assert renyi(*half[::-1], jnp.inf) == jnp.inf
    # 1/2 sum of sqrt(0.125) twice, squared: -2 log of the Bhattacharyya coefficient.
    np.testing.assert_allclose(renyi(*half[::-1], 0.5), math.log(2), rtol=1e-6)
    apart = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    for alpha in (0.0, 0.5, 1.0, 3.0, jnp.inf):
        assert renyi(*apart, alpha) == jnp.inf
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        dv.renyi(*apart, -0.5)


@pytest.mark.parametrize("far", [0.0, 1e-3])
def test_renyi_of_near_distributions_keeps_its_digits_in_float32(far):
    """Also beside an outcome that is rare and not near."""
    p = np.array([0.5, 0.5 - 1e-4 - far, 1e-4, far], np.float32)
    q = np.array([0.5 + 1e-4, 0.5 - 2e-4 - 0.7 * far, 1e-4, 0.7 * far], np.float32)
    wide = [x.astype(np.longdouble) / x.astype(np.longdouble).sum() for x in (p, q)]
    orders = np.array([0.1, 0.5, 0.99, 1.0, 1.01, 2.0, 5.0])
    found = jax.vmap(renyi, (None, None, 0))(p, q, jnp.asarray(orders))
    assert np.all(np.diff(found) > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(wide[0] > 0, np.log(wide[0] / wide[1]), 0)
    for alpha, value in zip(orders, found, strict=True):
        excess = alpha - 1
        # Less excess times sum (p - q), which is 0.
        terms = np.expm1(excess * x) + excess * np.expm1(-x) if excess else x + np.expm1(-x)
        total = np.sum(wide[0] * terms)
        exact = np.log1p(total) / excess if excess else total
        np.testing.assert_allclose(value, float(exact), rtol=2e-2)


def test_renyi_in_float32_near_one_and_far_from_it():
    x, y = perturbed(1.0, seed=6)
    p, q = jax.nn.softmax(x), jax.nn.softmax(y)
    kl = dv.categorical_kl(p, q)
    np.testing.assert_allclose(renyi(p, q, 1 + 1e-5), kl, rtol=1e-3)
    np.testing.assert_allclose(renyi(p, q, 1 - 1e-5), kl, rtol=1e-3)
    assert np.all(np.isfinite(renyi(p, q, 500.0)))
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda p: dv.renyi(p, q, 500.0).sum()))(p)))


def test_pinsker():
    rng = np.random.default_rng(7)
    p, q = random_probs(rng, 200, 3), random_probs(rng, 200, 3)
    with jax.enable_x64(True):
        tv, kl = dv.total_variation(p, q), dv.categorical_kl(p, q)
        assert np.all(tv <= dv.pinsker_bound(kl))
        # The constant is tight: 1.01 times smaller and the closest pairs violate it.
        near = np.array([0.5, 0.5]), np.array([0.501, 0.499])
        tv, kl = dv.total_variation(*near), dv.categorical_kl(*near)
        assert dv.pinsker_bound(kl) / 1.01 < tv <= dv.pinsker_bound(kl)


def test_shapes_are_checked():
    p = jnp.full((3, 4), 0.25)
    for f in (dv.categorical_kl, dv.cross_entropy, dv.total_variation, dv.jensen_shannon):
        with pytest.raises(AssertionError, match="rank"):
            f(p, p[0])
        with pytest.raises(AssertionError, match="suffix"):
            f(p, p[:, :1])
    # Of one rank they broadcast: all pairs.
    assert dv.categorical_kl(p[:, None], p[None]).shape == (3, 3)


# --- masks ----------------------------------------------------------------------------------------


def test_masked_logits_rule():
    logits = jnp.arange(6.0).reshape(2, 3)
    mask = jnp.array([[True, False, True], [False, False, False]])
    masked = dv.masked_logits(logits, mask)
    np.testing.assert_array_equal(masked, [[0, -np.inf, 2], [3, 4, 5]])
    assert masked.dtype == logits.dtype
    np.testing.assert_array_equal(dv.masked_logits(logits, mask.astype(jnp.int32)), masked)
    with pytest.raises(ValueError, match=r"logits \[2, 3\], mask \[3\]"):
        dv.masked_logits(logits, mask[0])


@pytest.mark.parametrize(
    "measure",
    [
        dv.kl_divergence,
        lambda old, new: dv.distribution_entropy(new),
        lambda old, new: new.log_prob(jnp.zeros(7, int)) - old.log_prob(jnp.zeros(7, int)),
    ],
    ids=["kl", "entropy", "log ratio"],
)
def test_masked_categorical_equals_the_smaller_one(measure):
    x, y = jnp.asarray(np.random.default_rng(8).normal(size=(2, 7, 5)))
    mask = jnp.tile(jnp.array([True, False, True, True, False]), (7, 1))
    legal = np.array([0, 2, 3])

    def of(view):
        def total(x, y):
            found = measure(distrax.Categorical(view(x)), distrax.Categorical(view(y)))
            return jnp.sum(found), found

        return total

    masked, small = of(lambda z: dv.masked_logits(z, mask)), of(lambda z: z[:, legal])
    (whole, full), (part, rest) = (
        jax.jit(jax.grad(f, (0, 1), has_aux=True))(x, y) for f in (masked, small)
    )
    np.testing.assert_allclose(full, rest, rtol=2e-5, atol=1e-6)
    for g, s in zip(whole, part, strict=True):
        np.testing.assert_allclose(g, s, atol=2e-6)
        np.testing.assert_array_equal(np.delete(g, legal, axis=1), 0)
    slope = jax.grad(lambda x, y: masked(x, y)[0], 1)
    assert np.all(np.isfinite(jax.jit(lambda x, y: jax.jvp(slope, (x, y), (y, x))[1])(x, y)))


def test_mask_mismatch_is_infinite_with_finite_gradients():
    x = jnp.array([[0.1, 0.2, 0.3]])
    wide, narrow = jnp.array([[True, True, True]]), jnp.array([[True, True, False]])

    @jax.jit
    def kl(x, y, a, b):
        old, new = (distrax.Categorical(dv.masked_logits(*z)) for z in ((x, a), (y, b)))
        return dv.kl_divergence(old, new)[0]

    assert kl(x, x, wide, narrow) == jnp.inf
    np.testing.assert_allclose(
        kl(x, x, narrow, wide),
        oracles.kl([*oracles.softmax(x[0, :2]), 0.0], oracles.softmax(x[0])),
        rtol=1e-5,
    )
    gradient = jax.jit(jax.grad(kl, (0, 1)))
    for a, b in ((wide, narrow), (narrow, wide), (narrow, narrow)):
        assert np.all(np.isfinite(gradient(x, x, a, b)))
    # The usual -1e9 calls a forbidden action merely expensive.
    soft = dv.categorical_kl_from_logits(x, jnp.where(narrow, x, -1e9))
    assert np.isfinite(soft)


# --- distributions --------------------------------------------------------------------------------


def independent(kind):
    return lambda *parameters: distrax.Independent(kind(*parameters), 1)


def bernoulli_from_probs(z):
    return distrax.Bernoulli(probs=jax.nn.sigmoid(z))


def full_covariance(loc, scale):
    return distrax.MultivariateNormalFullCovariance(
        loc, jax.vmap(lambda s: jnp.eye(3) + jnp.outer(s, s))(scale)
    )


def joint(logits, loc, scale):
    move, aim = distrax.Categorical(logits), independent(distrax.Normal)(loc, scale)
    return distrax.Joint({"move": move, "aim": aim})


BUILD = {
    "categorical": (distrax.Categorical, "logits"),
    "probs": (lambda s: distrax.Categorical(probs=s), "scale"),
    "one_hot": (distrax.OneHotCategorical, "logits"),
    "multi_discrete": (independent(distrax.Categorical), "many_logits"),
    "bernoulli": (distrax.Bernoulli, "scalar"),
    "bernoulli_probs": (bernoulli_from_probs, "scalar"),
    "multi_binary": (independent(distrax.Bernoulli), "loc"),
    "normal": (distrax.Normal, "scalar positive"),
    "log_stddev_normal": (distrax.LogStddevNormal, "scalar scalar"),
    "gaussian": (independent(distrax.Normal), "loc scale"),
    "mvn_diag": (distrax.MultivariateNormalDiag, "loc scale"),
    "mvn_full": (full_covariance, "loc scale"),
    "beta": (distrax.Beta, "positive positive"),
    "joint": (joint, "logits loc scale"),
}


def raw(name, seed):
    """Parameters of six distributions."""
    rng = np.random.default_rng(seed)
    shapes = {"logits": (4,), "many_logits": (3, 4), "scalar": (), "loc": (3,)}
    shapes |= {"scale": (3,), "positive": ()}
    draws = []
    for kind in BUILD[name][1].split():
        z = rng.normal(size=(6, *shapes[kind]))
        draws.append(jnp.asarray(np.exp(z) if kind in ("scale", "positive") else z))
    return draws


def pair(name):
    return tuple(BUILD[name][0](*raw(name, seed)) for seed in (9, 10))


@pytest.mark.parametrize("name", BUILD)
def test_distributions_against_distrax_and_themselves(name):
    with jax.enable_x64(True):
        old, new = pair(name)
        kl_divergence = jax.jit(lambda *both: dv.kl_divergence(*both))
        kl = dv.kl_divergence(old, new)
        assert kl.shape == (6,)
        np.testing.assert_allclose(kl, old.kl_divergence(new), rtol=1e-10)
        np.testing.assert_allclose(kl_divergence(old, new), kl, rtol=1e-12)
        np.testing.assert_allclose(kl_divergence(old, old), 0, atol=1e-14)
        assert np.all(kl_divergence(new, old) > 0)
        entropy = dv.distribution_entropy(old)
        assert entropy.shape == (6,)
        np.testing.assert_allclose(entropy, old.entropy(), rtol=1e-12)


def test_distribution_kl_by_enumeration_and_oracle():
    with jax.enable_x64(True):
        for name, actions in (
            ("categorical", [[i] * 6 for i in range(4)]),
            ("bernoulli", [[i] * 6 for i in range(2)]),
            ("multi_binary", [[[i & 1, i >> 1 & 1, i >> 2]] * 6 for i in range(8)]),
            ("multi_discrete", [[[i % 4, i // 4 % 4, i // 16]] * 6 for i in range(64)]),
        ):
            old, new = pair(name)
            logs = [(old.log_prob(a), new.log_prob(a)) for a in map(jnp.asarray, actions)]
            expected = sum(jnp.exp(p) * (p - q) for p, q in logs)
            np.testing.assert_allclose(sum(jnp.exp(p) for p, _ in logs), 1, rtol=1e-12)
            np.testing.assert_allclose(dv.kl_divergence(old, new), expected, rtol=1e-11)
        old, new = pair("mvn_diag")
        expected = oracles.normal_kl(old.loc, old.scale_diag, new.loc, new.scale_diag).sum(-1)
        np.testing.assert_allclose(
            dv.kl_divergence(old, new), expected.astype(np.float64), rtol=1e-12
        )


@pytest.mark.parametrize("name", BUILD)
def test_distribution_gradients(name):
    build = BUILD[name][0]
    with jax.enable_x64(True):
        old, new = raw(name, 9), raw(name, 10)
        near = jax.tree.map(lambda a, b: a + 1e-3 * (b - a), old, new)
        for point in (new, near):
            ours, theirs = (
                jax.jit(jax.grad(lambda a, b, kl=kl: kl(build(*a), build(*b)).sum(), (0, 1)))(
                    old, point
                )
                for kl in (dv.kl_divergence, lambda a, b: a.kl_divergence(b))
            )
            jax.tree.map(lambda g, r: np.testing.assert_allclose(g, r, atol=1e-9), ours, theirs)


def test_gradients_of_gaussians_of_any_scale():
    """In log deviations from -60 to 60: right where it is a float, infinite beyond, never NaN."""

    def kl(log_scale, new_log_scale, gap):
        scale, new_scale = jnp.exp(log_scale), jnp.exp(new_log_scale)
        return dv.kl_divergence(distrax.Normal(0.0, scale), distrax.Normal(gap * scale, new_scale))

    ends = np.linspace(-60, 60, 25, dtype=np.float32)
    old, new, gap = (x.ravel() for x in np.meshgrid(ends, ends, np.float32([0, 0.5])))
    got = jax.jit(jax.vmap(jax.grad(kl, (0, 1))))(old, new, gap)
    ratio, both = np.exp(2 * np.float64(old - new)), 1 + np.float64(gap) ** 2
    for ours, true in zip(got, (both * ratio - 1, 1 - both * ratio), strict=True):
        assert not np.any(np.isnan(ours))
        # The derivative in the scale itself, e^60 times as large at most, has to be a float, too.
        known = (np.abs(true) < 1e20) & (np.minimum(old, new) > -40)
        assert known.sum() > 500
        np.testing.assert_allclose(ours[known], true[known], rtol=1e-3, atol=1e-4)


def test_saturated_bernoulli():
    x = jnp.array([200.0, -200.0, 0.0, jnp.inf])
    y = jnp.array([-200.0, 200.0, 1e-4, jnp.inf])
    kl = dv.kl_divergence(distrax.Bernoulli(x), distrax.Bernoulli(y))
    np.testing.assert_allclose(kl, [200, 200, 1.25e-9, 0], rtol=1e-4)
    assert dv.kl_divergence(distrax.Bernoulli(0.0), distrax.Bernoulli(jnp.inf)) == jnp.inf

    def total(x, y):
        return dv.kl_divergence(distrax.Bernoulli(x), distrax.Bernoulli(y)).sum()

    assert np.all(np.isfinite(jax.jit(jax.grad(total, (0, 1)))(x[:3], y[:3])))

    @jax.jit
    def from_probs(p, q):
        return dv.kl_divergence(distrax.Bernoulli(probs=p), distrax.Bernoulli(probs=q)).sum()

    edges = jnp.array([0.0, 1.0, 0.5])
    assert from_probs(edges, edges) == 0
    assert from_probs(edges, edges[::-1]) == jnp.inf
    assert np.all(np.isfinite(jax.jit(jax.grad(from_probs, (0, 1)))(edges, edges[::-1])))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda d: d.entropy(), dv.distribution_entropy),
        (lambda d: d.log_prob(0), lambda d: dv.distribution_log_prob(d, 0)),
    ],
)
def test_gradients_where_distrax_has_none(theirs, ours):
    p = jnp.array([0.5, 0.5, 0.0])
    of = lambda f: jax.grad(lambda p: f(distrax.Categorical(probs=p)))(p)  # noqa: E731
    assert np.any(np.isnan(of(theirs)))
    assert np.all(np.isfinite(of(ours)))


def test_pairs_that_do_not_fit():
    normal = distrax.Normal(jnp.zeros((4, 3)), jnp.ones((4, 3)))
    categorical = distrax.Categorical(jnp.zeros((4, 3)))
    with pytest.raises(NotImplementedError):
        dv.kl_divergence(normal, categorical)
    with pytest.raises(ValueError, match="event dimensions"):
        dv.kl_divergence(distrax.Independent(normal, 1), distrax.Independent(normal, 2))
    with pytest.raises(AssertionError, match="suffix"):
        dv.kl_divergence(categorical, distrax.Categorical(jnp.zeros((4, 1))))
    with pytest.raises(AssertionError, match="rank"):
        dv.kl_divergence(normal, distrax.Normal(jnp.zeros(3), jnp.ones(3)))
    with pytest.raises(ValueError, match="structure"):
        dv.kl_divergence(distrax.Joint([categorical]), distrax.Joint((categorical,)))


def test_transformed_only_with_the_same_bijector():
    def squashed(loc, bijector):
        return distrax.Transformed(distrax.Normal(loc, jnp.ones(4)), bijector)

    def shift(by):
        return distrax.Lambda(lambda x: x + by)

    loc = jnp.arange(4.0)
    base = dv.kl_divergence(distrax.Normal(loc, jnp.ones(4)), distrax.Normal(loc + 1, jnp.ones(4)))
    old, new = squashed(loc, distrax.Tanh()), squashed(loc + 1, distrax.Tanh())
    np.testing.assert_allclose(dv.kl_divergence(old, new), base)
    shared = shift(jnp.full(4, 2.0))
    np.testing.assert_allclose(
        dv.kl_divergence(squashed(loc, shared), squashed(loc + 1, shared)), base
    )
    # distrax compares the text of the two programs, from which captured arrays are missing.
    old, new = (squashed(loc, shift(jnp.full(4, by))) for by in (0.0, 2.0))
    np.testing.assert_array_equal(old.kl_divergence(new), 0)
    for a, b in ((old, new), (old, distrax.Normal(loc, jnp.ones(4)))):
        with pytest.raises(NotImplementedError, match="share one bijector"):
            dv.kl_divergence(a, b)
    wrapped = [distrax.Independent(d, 1) for d in (old, new)]
    with pytest.raises(NotImplementedError, match="share one bijector"):
        dv.kl_divergence(*wrapped)


def test_an_unknown_distribution_brings_its_own():
    class Own:
        def kl_divergence(self, other):
            return jnp.array([42.0])

    assert dv.kl_divergence(Own(), Own())[0] == 42


def test_wasserstein2():
    with jax.enable_x64(True):
        for name in ("normal", "gaussian", "mvn_diag"):
            old, new = pair(name)
            w = dv.wasserstein2(old, new)
            assert w.shape == (6,)
            # Between Gaussians on one line the optimal map is monotone: E|x - T(x)|^2.
            if name == "normal":
                for i in range(6):
                    m, s, n, t = (float(z[i]) for z in (old.loc, old.scale, new.loc, new.scale))
                    cost = oracles.gauss_expectation(
                        lambda z, m=m, s=s, n=n, t=t: (m + s * z - n - t * z) ** 2
                    )
                    np.testing.assert_allclose(w[i] ** 2, cost, rtol=1e-10)
        np.testing.assert_allclose(
            dv.wasserstein2(*pair("gaussian")), dv.wasserstein2(*pair("mvn_diag"))
        )
        old, _ = pair("gaussian")
        np.testing.assert_array_equal(dv.wasserstein2(old, old), 0)
        assert np.isfinite(
            jax.grad(lambda m: dv.wasserstein2(distrax.Normal(m, 1.0), distrax.Normal(0.0, 1.0)))(
                0.0
            )
        )
        with pytest.raises(ValueError, match="diagonal Gaussians"):
            dv.wasserstein2(*pair("categorical"))


# --- quadrature -----------------------------------------------------------------------------------


def log_normal_density(loc, scale):
    return lambda x: -0.5 * jnp.square((x - loc) / scale) - jnp.log(scale * math.sqrt(2 * math.pi))


def test_quadrature_of_gaussians():
    p = log_normal_density(0.3, 0.7)
    expected = float(oracles.normal_kl(0.3, 0.7, -0.2, 1.1))

    def estimate(new_loc, num_points):
        q = log_normal_density(new_loc, 1.1)
        return dv.quadrature_kl(p, q, -12.0, 12.0, num_points)

    compiled = jax.jit(jax.value_and_grad(estimate), static_argnums=1)
    with jax.enable_x64(True):
        results = [compiled(-0.2, n) for n in (140, 180, 400)]
        errors = [abs(value - expected) for value, _ in results]
        assert errors[0] > 10 * errors[1] > 100 * errors[2]
        value, gradient = results[-1]
        assert value.shape == ()
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        np.testing.assert_allclose(gradient, (-0.2 - 0.3) / 1.1**2, rtol=1e-9)
    np.testing.assert_allclose(compiled(-0.2, 400)[0], expected, rtol=1e-5)


def test_quadrature_with_infinite_ends():
    with jax.enable_x64(True):
        old, new = distrax.Beta(0.5, 0.5), distrax.Beta(2.0, 3.0)
        kl = dv.quadrature_kl(old.log_prob, new.log_prob, 0.0, 1.0, 200)
        np.testing.assert_allclose(kl, old.kl_divergence(new), atol=1e-5)


def test_quadrature_where_a_density_vanishes():
    def uniform(low, high):
        return lambda x: jnp.where((x > low) & (x < high), -jnp.log(high - low), -jnp.inf)

    with jax.enable_x64(True):
        narrow, wide = uniform(0.0, 1.0), uniform(-1.0, 3.0)
        args = (-1.0, 3.0, 4001)
        kl = dv.quadrature_kl(narrow, wide, *args, mass_tol=1e-2)
        np.testing.assert_allclose(kl, math.log(4), rtol=1e-2)
        assert dv.quadrature_kl(wide, narrow, *args, mass_tol=1e-2) == jnp.inf


def test_quadrature_checks_the_masses():
    p, q = log_normal_density(0.0, 1.0), log_normal_density(0.5, 2.0)
    good = (-20.0, 20.0, 400)
    assert dv.quadrature_kl(p, q, *good) > 0
    for args in ((-2.0, 2.0, 400), (-20.0, 20.0, 20)):
        with pytest.raises(ValueError, match="widen the interval"):
            dv.quadrature_kl(p, q, *args)
    unnormalised = lambda x: q(x) + 0.1  # noqa: E731
    with pytest.raises(ValueError, match="masses"):
        dv.quadrature_kl(p, unnormalised, *good)
    with pytest.raises(ValueError, match="masses"):
        dv.quadrature_kl(unnormalised, q, *good)
    loose = dv.quadrature_kl(p, unnormalised, *good, mass_tol=0.2)
    np.testing.assert_allclose(loose, dv.quadrature_kl(p, q, *good), rtol=1e-4)
    traced = jax.jit(lambda low: dv.quadrature_kl(p, q, low, 20.0, 400))
    assert np.isnan(traced(-2.0))
    assert np.isfinite(traced(-20.0))


@pytest.mark.parametrize("num_outcomes", [1, 2, 5])
def test_log_probabilities_are_those_of_distrax(num_outcomes):
    """To the bit, with an outcome that is impossible, and values that are none of the outcomes."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(7, num_outcomes)), jnp.float32)
    if num_outcomes > 2:
        logits = logits.at[:3, 1].set(-jnp.inf)
    value = jnp.asarray(rng.integers(-1, num_outcomes + 1, size=7))
    value = value.at[:2].set(min(1, num_outcomes - 1))
    weight = jnp.asarray(rng.normal(size=7), jnp.float32)

    def outcome(log_prob):
        def total(logits):
            found = log_prob(distrax.Categorical(logits=logits), value)
            return jnp.sum(jnp.where(jnp.isfinite(found), found * weight, 0)), found

        return jax.grad(total, has_aux=True)(logits)

    def unmasked(log_prob):
        return jax.grad(lambda x: jnp.sum(log_prob(distrax.Categorical(logits=x), value)))(logits)

    if num_outcomes > 2:  # the first two values are impossible: a loss decides what comes of these
        ours, theirs = unmasked(dv.distribution_log_prob), unmasked(lambda d, v: d.log_prob(v))
        np.testing.assert_allclose(ours[:2], theirs[:2], rtol=1e-6)
    ours, theirs = outcome(dv.distribution_log_prob), outcome(lambda d, v: d.log_prob(v))
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6, atol=1e-7)

    both = distrax.Independent(distrax.Categorical(logits=jnp.stack([logits] * 2, 1)), 1)
    pairs = jnp.stack([value, value], 1)
    np.testing.assert_array_equal(dv.distribution_log_prob(both, pairs), both.log_prob(pairs))
    alone = distrax.Categorical(logits=logits[-1])  # values of another shape than the batch's
    with jax.numpy_rank_promotion("allow"):
        found = dv.distribution_log_prob(alone, value)
        np.testing.assert_array_equal(found, alone.log_prob(value))
