"""The audit of the quadratic model against dense matrices: explicit scores, numpy's eigenvalues."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_audit import POLICIES, case

from kltrust import tree
from kltrust.audit import audit_curvature, effective_dimension, largest_eigenvalue
from kltrust.audit._spectrum import dominant_eigenpair
from kltrust.fisher import fisher_vector_product

DAMPING, KEY = 0.05, 7
SETTINGS = {"cg_iters": 3, "cg_rtol": 0.0, "num_lanczos": 25, "num_probes": 12, "probe_iters": 150}


def audited(c, damping=DAMPING, key=KEY):
    return compiled(c.name)(c.old, c.new, c.batch, damping, jax.random.key(key))


@functools.cache
def compiled(name, **options):
    def function(old, new, batch, damping, key):
        settings = {**SETTINGS, **options}
        return audit_curvature(
            POLICIES[name], old, new, batch, damping=damping, key=key, **settings
        )

    return jax.jit(function)


class Dense:
    """F [n, n], whose own oracles are elsewhere, g [n] and L of a case."""

    def __init__(self, c):
        policy, batch = POLICIES[c.name], c.batch
        self.step = np.asarray(c.new - c.old)
        product = fisher_vector_product(policy, c.old, batch.obs, weight=batch.weight)
        self.fisher = np.asarray(jax.jit(jax.vmap(product))(jnp.eye(self.step.size)))

        def gain(theta):
            ratio = jnp.exp(policy(theta, batch.obs).log_prob(batch.action) - before)
            return tree.weighted_mean(ratio * advantage, batch.weight)

        advantage = jnp.where(batch.weight > 0, batch.advantage, 0)
        before = policy(c.old, batch.obs).log_prob(batch.action)
        self.gain = gain(c.new) - gain(c.old)
        self.gradient = np.asarray(jax.jit(jax.grad(gain))(c.old))


def krylov_residual(matrix, b, size):
    """|b - A x| / |b| of the minimiser x of x'Ax / 2 - b'x over span(b, Ab, ...)."""
    basis = np.linalg.qr(np.stack([np.linalg.matrix_power(matrix, k) @ b for k in range(size)], 1))[
        0
    ]
    x = basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)
    return np.linalg.norm(b - matrix @ x) / np.linalg.norm(b)


@pytest.mark.parametrize("name", ["categorical", "multi_discrete", "bernoulli", "gaussian"])
def test_every_field_is_what_the_dense_matrix_says(name, x64):
    c = case(name)
    result, dense = audited(c), Dense(c)
    step, matrix, identity = dense.step, dense.fisher, np.eye(dense.step.size)
    damped = matrix + DAMPING * identity
    rows, weight, _ = c.rows()
    rtol = 1e-8
    for field, expected in {
        "kl": np.average(rows.kl, weights=weight),
        "kl_quadratic": step @ matrix @ step / 2,
        "kl_quadratic_damped": step @ damped @ step / 2,
        "surrogate_gain": dense.gain,
        "surrogate_gain_linear": dense.gradient @ step,
        "gradient_norm": np.linalg.norm(dense.gradient),
        "step_norm": np.linalg.norm(step),
        "curvature": step @ matrix @ step / (step @ step),
        "cg_residual": krylov_residual(damped, dense.gradient, SETTINGS["cg_iters"]),
    }.items():
        np.testing.assert_allclose(getattr(result, field), expected, rtol=rtol, err_msg=field)

    eigenvalues = np.linalg.eigvalsh(matrix)
    top = result.largest_eigenvalue
    np.testing.assert_allclose(top.value, eigenvalues[-1], rtol=1e-6)
    assert top.error < 1e-3 * eigenvalues[-1]

    size = result.effective_dimension
    assert size.residual < 1e-5
    trace = (np.maximum(eigenvalues, 0) / (np.maximum(eigenvalues, 0) + DAMPING)).sum()
    assert abs(size.value - trace) < 4 * size.standard_error
    # The same probes, solved densely: the estimator itself, without its chance.
    keys = jax.random.split(jax.random.split(jax.random.key(KEY))[1], SETTINGS["num_probes"])
    probes = np.stack([jax.random.rademacher(k, step.shape, jnp.float64) for k in keys])
    values = np.einsum("pi,pi->p", probes, np.linalg.solve(damped, matrix @ probes.T).T)
    np.testing.assert_allclose(size.value, values.mean(), rtol=1e-5)
    error = values.std(ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose(size.standard_error, error, rtol=1e-4)

    # The controls: a damping that is ignored, or counted twice, would show.
    other = audited(c, damping=2 * DAMPING)
    assert other.kl_quadratic == result.kl_quadratic
    gap = (other.kl_quadratic_damped - result.kl_quadratic_damped) / (DAMPING * step @ step / 2)
    np.testing.assert_allclose(gap, 1, rtol=1e-8)
    assert other.effective_dimension.value < 0.97 * size.value
    assert abs(other.cg_residual / result.cg_residual - 1) > 0.01


def test_the_model_is_right_for_small_steps_only(x64):
    c = case("categorical")
    errors = []
    for share in (0.5, 1e-3):
        result = audited(c._replace(new=c.old + share * (c.new - c.old)))
        errors.append(abs(result.kl / result.kl_quadratic - 1))
        errors.append(abs(result.surrogate_gain / result.surrogate_gain_linear - 1))
    assert min(errors[:2]) > 0.01
    assert max(errors[2:]) < 0.01
    # L(new) - L(old), whatever drew the actions: the way back is the same with the other sign.
    there, back = audited(c), audited(c._replace(old=c.new, new=c.old))
    np.testing.assert_allclose(back.surrogate_gain, -there.surrogate_gain, rtol=1e-12)


def assert_agree(a, b):
    """To rounding, which where solves stop at 1e-5 is all that the residuals consist of."""
    assert max(x.effective_dimension.residual for x in (a, b)) <= 1e-5
    a, b = (
        x._replace(effective_dimension=x.effective_dimension._replace(residual=0)) for x in (a, b)
    )
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-9)


def test_lanes_and_any_pytree_agree_with_one_alone(x64):
    cases = [case("gaussian", seed) for seed in range(2)]
    alone = [audited(c) for c in cases]
    old, new, batch = jax.tree.map(lambda *x: jnp.stack(x), *(c[1:] for c in cases))
    keys = jnp.stack([jax.random.key(KEY)] * 2)
    together = jax.vmap(compiled("gaussian"), in_axes=(0, 0, 0, None, 0))(
        old, new, batch, DAMPING, keys
    )
    for i, expected in enumerate(alone):
        lane = jax.tree.map(lambda x, i=i: x[i], together)
        assert_agree(lane, expected)

    def split(theta):  # an integer leaf, too, which no update moves
        return {"first": theta[:20].reshape(4, 5), "count": jnp.int32(3), "rest": theta[20:]}

    def policy(params, obs):
        theta = jnp.concatenate([params["first"].ravel(), params["rest"]])
        return POLICIES["gaussian"](theta, obs)

    c = cases[0]
    split_up = jax.jit(
        lambda *args: audit_curvature(policy, *args, damping=DAMPING, key=keys[0], **SETTINGS)
    )
    assert_agree(split_up(split(c.old), split(c.new), c.batch), alone[0])


def test_an_update_that_changes_nothing_and_one_without_a_gradient():
    c = case("categorical", dtype=np.float32)
    batch = c.batch._replace(advantage=jnp.zeros_like(c.batch.advantage))
    still = audited(c._replace(new=c.old, batch=batch))
    chex.assert_tree_all_finite(still)
    assert all(leaf.shape == () and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(still))
    assert abs(still.kl) <= 1e-7
    for x in (still.kl_quadratic_damped, still.surrogate_gain, still.curvature, still.cg_residual):
        assert x == 0
    assert still.largest_eigenvalue.value > 0.01  # F is there all the same


def test_what_is_not_asked_for_is_absent_and_bad_settings_are_refused():
    c = case("categorical", dtype=np.float32)
    lean = compiled("categorical", num_probes=0)
    shape = jax.eval_shape(lean, c.old, c.new, c.batch, 0.1, jax.random.key(0))
    assert shape.effective_dimension is None
    with pytest.raises(ValueError, match="num_probes must be 0 or at least 2"):
        audit_curvature(POLICIES[c.name], *c[1:], key=jax.random.key(0), num_probes=1)
    with pytest.raises(ValueError, match="damping"):
        audit_curvature(POLICIES[c.name], *c[1:], key=jax.random.key(0), damping=-1.0)


def test_lanczos_knows_its_error_and_survives_an_exhausted_space(x64):
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.normal(size=40))
    basis = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    spectrum = np.concatenate([np.linspace(0.9, 1, 20), np.zeros(20)])
    crowded = jnp.asarray(basis @ np.diag(spectrum) @ basis.T)
    value = jax.jit(
        lambda matrix, k: largest_eigenvalue(lambda v: matrix @ v, start, k), static_argnums=1
    )
    for k in (1, 3, 6):
        few = value(crowded, k)
        assert few.value <= 1 + 1e-12
        assert few.error > 1e-4
        # Some eigenvalue is as near as the error says, and that is no empty promise.
        assert np.abs(spectrum - few.value).min() <= few.error
    np.testing.assert_allclose(value(crowded, 60), (1, 0), atol=1e-9)
    # Three different eigenvalues exhaust the space after three steps.
    few_kinds = jnp.diag(jnp.asarray([5.0] * 3 + [2.0] * 17 + [0.0] * 20))
    np.testing.assert_allclose(value(few_kinds, 12), (5, 0), atol=1e-9)
    np.testing.assert_allclose(value(jnp.eye(40), 5), (1, 0), atol=1e-9)
    np.testing.assert_array_equal(value(jnp.zeros((40, 40)), 5), (0, 0))


def test_the_dominant_pair_of_close_eigenvalues():
    matrix = jnp.diag(jnp.array([1.0, 1 - 1e-5, 0.3])).astype(jnp.float32)
    value, vector = dominant_eigenpair(matrix)
    np.testing.assert_allclose(value, 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.abs(vector), [1, 0, 0], atol=1e-5)


def test_solves_that_end_early_say_so_and_err_upwards(x64):
    spectrum = jnp.logspace(-4, 1, 50)
    exact = float((spectrum / (spectrum + 1e-3)).sum())

    @functools.partial(jax.jit, static_argnums=0)
    def estimate(num_iters, damping=1e-3):
        options = {"num_probes": 4, "num_iters": num_iters}
        return effective_dimension(
            lambda v: spectrum * v, damping, spectrum, jax.random.key(0), **options
        )

    early, late = estimate(3), estimate(400)
    # A diagonal matrix has no off-diagonal noise: Rademacher probes are exact.
    np.testing.assert_allclose(late.value, exact, rtol=1e-5)
    assert late.residual <= 1e-5
    assert late.standard_error < 1e-4
    assert early.residual > 0.01
    assert early.value > 1.05 * exact
    assert jnp.isnan(estimate(3, damping=0.0).value)
