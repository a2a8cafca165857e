"""The ball of a KL around a distribution, against a generic constrained optimiser."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.optimize import minimize

from kltrust.divergences import kl_divergence
from kltrust.updates import families

RNG = np.random.default_rng(0)
STATES = 3
MASK = np.array([True, True, False, True])


def of(kind, x):
    """A distribution of a family from outputs [..., 4]."""
    if kind == "categorical":
        return distrax.Categorical(logits=x)
    if kind == "masked":
        return distrax.Categorical(logits=jnp.where(MASK, x, -jnp.inf))
    if kind == "digits":
        return distrax.Independent(distrax.Categorical(logits=x.reshape(*x.shape[:-1], 2, 2)), 1)
    if kind == "bits":
        return distrax.Independent(distrax.Bernoulli(logits=x), 1)
    mean, scale = x[..., :2], jnp.exp(0.5 * x[..., 2:])
    if kind == "gaussian":
        return distrax.Independent(distrax.Normal(mean, scale), 1)
    if kind == "diagonal":
        return distrax.MultivariateNormalDiag(mean, scale)
    return distrax.Joint((distrax.Categorical(logits=x), of("gaussian", x[..., ::-1])))


# What the family knows of its own: a KL of outputs by definition, and probabilities of outcomes.
def kl(kind, x, y):
    if kind in ("gaussian", "diagonal"):
        x, y = (np.concatenate([v[:2], np.exp(0.5 * np.asarray(v[2:]))]) for v in (x, y))
        return float(oracles.normal_kl(x[:2], x[2:], y[:2], y[2:]).sum())
    return sum(oracles.kl(p, q) for p, q in zip(tables(kind, x), tables(kind, y), strict=True))


def tables(kind, x):
    if kind == "digits":
        return oracles.softmax(x.reshape(2, 2))
    if kind == "bits":
        return oracles.softmax(np.stack([x, np.zeros(4)], -1))
    return [oracles.softmax(x[MASK] if kind == "masked" else x)]


KINDS = ("categorical", "masked", "digits", "bits", "gaussian", "diagonal", "joint")
SLOPED = ("masked", "digits", "gaussian")
OLD, NEW = RNG.normal(size=(2, STATES, 4))
ACTIONS = {
    "categorical": np.array([0, 1, 3]),
    "masked": np.array([0, 1, 3]),
    "digits": np.array([[0, 1], [1, 1], [0, 0]]),
    "bits": np.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]]),
    "gaussian": RNG.normal(size=(STATES, 2)),
}
ACTIONS["diagonal"] = ACTIONS["gaussian"]
ACTIONS["joint"] = (ACTIONS["categorical"], ACTIONS["gaussian"])


@pytest.fixture(scope="module")
def found():
    """All families in one program: projections and intervals at a few bounds, and a gradient."""

    def of_all(old, new):
        made = {}
        for kind in KINDS:
            p, q, action = of(kind, old), of(kind, new), jax.tree.map(jnp.asarray, ACTIONS[kind])
            bounds = {b: families.project(p, q, b, s) for b, s in ((0.02, 0.01), (50.0, 50.0))}
            kls = {b: (kl_divergence(x, p), kl_divergence(x, q)) for b, x in bounds.items()}

            def gap(x, p=p, kind=kind):
                projected = families.project(p, of(kind, x), 0.02, 0.01)
                return jnp.sum(kl_divergence(p, projected))

            intervals = families.ratio_interval(p, action, 0.03)
            gradient = jax.grad(gap)(new) if kind in SLOPED else None
            made[kind] = bounds, kls, gradient, intervals, families.kl_parts(p, q)
        return made

    with jax.enable_x64(True):
        return jax.device_get(jax.jit(of_all)(jnp.asarray(OLD), jnp.asarray(NEW)))


def solved(objective, constraint, start):
    """The least objective subject to constraint >= 0, by SLSQP from a point inside."""
    options = {"ftol": 1e-14, "maxiter": 500}
    inside = {"type": "ineq", "fun": constraint}
    return minimize(objective, start, method="SLSQP", constraints=[inside], options=options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_projection_is_the_nearest_of_the_ball(kind, found):
    _, kls, _, _, _ = found[kind]
    (inner, gap), (_, none) = kls[0.02], kls[50.0]
    np.testing.assert_allclose(none, 0, atol=1e-12)  # inside it is new itself
    if kind == "joint":  # by its own bound for the scales: no one ball to compare with
        assert np.all(inner <= 0.03 * (1 + 1e-9))
        assert np.all(inner > 0.02)
        return
    scaled = kind in ("gaussian", "diagonal")
    for i, (old, new) in enumerate(zip(OLD, NEW, strict=True)):
        if not scaled:
            best = solved(
                lambda x, new=new: kl(kind, x, new), lambda x, old=old: 0.02 - kl(kind, x, old), old
            )
            np.testing.assert_allclose(inner[i], 0.02, rtol=1e-9)
            np.testing.assert_allclose(gap[i], best.fun, rtol=1e-5)
            continue
        # The means at the old scales, then the scales at the means that were found.
        means = solved(
            lambda m, old=old, new=new: kl(kind, [*m, *old[2:]], [*new[:2], *old[2:]]),
            lambda m, old=old: 0.02 - kl(kind, [*m, *old[2:]], old),
            old[:2],
        )
        scales = solved(
            lambda s, m=means.x, new=new: kl(kind, [*m, *s], [*m, *new[2:]]),
            lambda s, m=means.x, old=old: 0.01 - kl(kind, [*m, *s], [*m, *old[2:]]),
            old[2:],
        )
        expected = np.array([*means.x, *scales.x])
        np.testing.assert_allclose(inner[i], kl(kind, expected, old), rtol=1e-4)
        np.testing.assert_allclose(gap[i], kl(kind, expected, new), rtol=1e-4)
        assert inner[i] <= 0.03 * (1 + 1e-9)


@pytest.mark.parametrize("kind", SLOPED)
def test_the_gradient_goes_through_the_projection(kind, found):
    """By central differences of the projection; what is masked has no gradient."""
    gradient = found[kind][2]

    with jax.enable_x64(True):

        def gap(x):
            projected = families.project(of(kind, jnp.asarray(OLD)), of(kind, x), 0.02, 0.01)
            return jnp.sum(kl_divergence(of(kind, jnp.asarray(OLD)), projected))

        gap = jax.jit(gap)
        numerical = oracles.numerical_gradient(lambda x: float(gap(jnp.asarray(x))), NEW, 1e-5)
    np.testing.assert_allclose(gradient, numerical, atol=1e-8)
    assert np.max(np.abs(gradient)) > 1e-4


def log_prob(kind, x, action):
    if kind in ("gaussian", "diagonal"):
        z = (action - x[:2]) / np.exp(0.5 * x[2:])
        return float((-0.5 * z**2 - 0.5 * x[2:]).sum())
    if kind == "bits":
        return float(sum(np.log(p[0] if a else p[1]) for p, a in zip(tables(kind, x), action)))  # noqa: B905
    logits = np.where(MASK, x, -np.inf) if kind == "masked" else x
    rows = zip(np.reshape(logits, (-1, 2 if kind == "digits" else 4)), np.ravel(action))  # noqa: B905
    return float(sum(np.log(oracles.softmax(row)[a]) for row, a in rows))


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_of_ratios_is_what_the_ball_allows(kind, found):
    low, high = found[kind][3]
    if kind == "joint":  # a part may use all of the ball
        alone = found["categorical"][3]
        assert np.all(low < alone[0])
        assert np.all(high > alone[1])
        return
    for i, old in enumerate(OLD):
        action = jax.tree.map(lambda x, i=i: np.asarray(x[i]), ACTIONS[kind])
        taken = log_prob(kind, old, action)
        for sign, end in ((-1, high[i]), (1, low[i])):
            best = solved(
                lambda x, sign=sign, action=action, taken=taken: (
                    sign * (log_prob(kind, x, action) - taken)
                ),
                lambda x, old=old: 0.03 - kl(kind, old, x),
                old,
            )
            np.testing.assert_allclose(end, sign * best.fun, rtol=2e-5)
    assert np.all(low < 0)
    assert np.all(high > 0)


def test_the_parts_of_a_kl(found):
    """Of a Gaussian two, of which the second keeps the means; of anything else the whole and 0."""
    for kind in ("categorical", "masked", "digits", "bits"):
        whole, none = found[kind][4]
        expected = [kl(kind, old, new) for old, new in zip(OLD, NEW, strict=True)]
        np.testing.assert_allclose(whole, expected, rtol=1e-12)
        np.testing.assert_array_equal(none, 0)
    for kind in ("gaussian", "diagonal"):
        means, scales = found[kind][4]
        for i, (old, new) in enumerate(zip(OLD, NEW, strict=True)):
            np.testing.assert_allclose(means[i], kl(kind, old, [*new[:2], *old[2:]]), rtol=1e-12)
            np.testing.assert_allclose(scales[i], kl(kind, old, [*old[:2], *new[2:]]), rtol=1e-12)


def test_in_float32_the_ball_is_kept():
    """Small and large bounds, one action that is certain, and equal distributions."""

    def of_all(old, new, bound):
        p, q = of("categorical", old), of("categorical", new)
        low, high = families.ratio_interval(p, jnp.argmax(old, -1), bound)
        projected = families.project(p, q, bound, bound)
        gradient = jax.grad(
            lambda x: jnp.sum(
                families.project(p, of("categorical", x), bound, bound).log_prob(jnp.array([0] * 4))
            )
        )(new)
        return kl_divergence(projected, p), low, high, gradient

    certain = np.array([[0.0, -np.inf, -np.inf, -np.inf], [300.0, 0.0, 0.0, 0.0]])
    old = np.concatenate([OLD[:2], certain]).astype(np.float32)
    new = np.concatenate([OLD[:1], NEW[:1], certain]).astype(np.float32)
    run = jax.jit(of_all)
    for bound in (1e-6, 1e-2, 3.0):
        reached, low, high, gradient = run(old, new, jnp.float32(bound))
        assert np.all(reached <= bound * (1 + 1e-4) + 1e-9)
        for x in (low, high, gradient):
            assert np.all(np.isfinite(x))
        assert np.all(low <= 0)
        assert np.all(high >= 0)
        np.testing.assert_array_equal(high[2:], 0)


def test_a_family_that_is_not_known_is_refused():
    def make(scale):
        return distrax.Laplace(jnp.zeros(2), scale * jnp.ones(2))

    with pytest.raises(ValueError, match=r"Laplace is none of the families .* fixpo or trpo"):
        jax.eval_shape(lambda: families.project(make(1), make(2), 0.1, 0.1).loc)
    with pytest.raises(ValueError, match="Laplace is none of the families"):
        jax.eval_shape(lambda: families.ratio_interval(make(1), jnp.zeros(2), 0.1))
    with pytest.raises(ValueError, match="Laplace is none of the families"):
        jax.eval_shape(lambda: families.kl_parts(make(1), make(2)))
