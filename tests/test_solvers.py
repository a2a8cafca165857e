"""Conjugate gradient against dense solves, the line search against a numpy loop."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kltrust.solvers import (
    backtracking_line_search,
    conjugate_gradient,
    trust_region_scale,
)

# --- conjugate gradient ----------------------------------------------------------------------


def _matrix(eigenvalues, seed=0):
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.normal(size=(len(eigenvalues), len(eigenvalues))))
    return (q * np.asarray(eigenvalues)) @ q.T


def _rhs(size, seed=1):
    return np.random.default_rng(seed).normal(size=size)


def _solve(a, b, num_iters, **options):
    """Through jit, on arrays of the current precision."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    return jax.jit(lambda a, b: conjugate_gradient(lambda v: a @ v, b, num_iters, **options))(a, b)


def _reference(a, b, num_iters):
    """All iterates of conjugate gradient, as minimisers over explicit Krylov bases."""
    basis, iterates = np.zeros((len(b), 0)), [np.zeros_like(b)]
    for _ in range(num_iters):
        new = b if not basis.size else a @ basis[:, -1]
        for _ in range(2):
            new = new - basis @ (basis.T @ new)
        basis = np.column_stack([basis, new / np.linalg.norm(new)])
        iterates.append(basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ b))
    return iterates


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e4, 1e8])
def test_solves(condition):
    with jax.enable_x64(True):
        a, b = _matrix(np.geomspace(1 / condition, 1, 8)), _rhs(8)
        x, residual = _solve(a, b, 60, rtol=1e-13)
        expected = np.linalg.solve(a, b)
        np.testing.assert_allclose(x, expected, atol=1e-13 * condition * np.abs(expected).max())
        assert residual <= 1e-13 * np.linalg.norm(b)


def test_every_iterate_minimises_over_its_krylov_space():
    with jax.enable_x64(True):
        a, b = _matrix(np.linspace(0.1, 3, 9)), _rhs(9)
        for k, expected in enumerate(_reference(a, b, 7)):
            x, residual = _solve(a, b, k, rtol=0.0)
            np.testing.assert_allclose(x, expected, atol=1e-10)
            np.testing.assert_allclose(x @ a @ x, b @ x, rtol=1e-11)
            np.testing.assert_allclose(residual, np.linalg.norm(b - a @ x), rtol=1e-9)


def test_the_identity_holds_for_these_iterates_only():
    a, b = _matrix(np.linspace(0.1, 3, 9)), _rhs(9)
    x = _reference(a, b, 3)[-1] * 1.01  # the control: a scaled iterate is no minimiser
    assert abs(x @ a @ x / (b @ x) - 1) > 1e-3


def test_clustered_eigenvalues_take_as_many_iterations_as_clusters():
    with jax.enable_x64(True):
        a, b = _matrix([1.0, 1.0, 1.0, 4.0, 4.0, 9.0]), _rhs(6)
        _, residual = _solve(a, b, 3, rtol=0.0)
        assert residual < 1e-12
        _, residual = _solve(a, b, 2, rtol=0.0)
        assert residual > 1e-3  # the control


def test_stops_at_the_tolerance_and_not_before():
    with jax.enable_x64(True):
        a, b = _matrix(np.geomspace(0.3, 1, 20)), _rhs(20)
        norms = [float(_solve(a, b, k, rtol=0.0)[1]) / np.linalg.norm(b) for k in range(6)]
        for rtol in [0.3, 1e-2]:
            first = next(k for k, norm in enumerate(norms) if norm <= rtol)
            x, residual = _solve(a, b, 50, rtol=rtol)
            chex.assert_trees_all_equal(x, _solve(a, b, first, rtol=0.0)[0])
            np.testing.assert_allclose(residual / np.linalg.norm(b), norms[first], rtol=1e-12)


def _count_products(a, b, num_iters, **options):
    calls = []

    def matvec(v):
        jax.debug.callback(lambda _: calls.append(1), v[0])
        return a @ v

    jax.block_until_ready(conjugate_gradient(matvec, b, num_iters, **options))
    jax.effects_barrier()
    return len(calls)


def test_no_product_is_spent_after_convergence():
    a, b = jnp.asarray(_matrix([1.0, 1.0, 2.0, 2.0])), jnp.asarray(_rhs(4))
    assert _count_products(a, b, 20, rtol=1e-4) == 2
    assert _count_products(a, b, 1, rtol=1e-4) == 1
    assert _count_products(a, b, 0) == 0
    assert _count_products(a, 0 * b, 20) == 0
    with jax.debug_nans(True):
        x, residual = _solve(np.eye(3), np.zeros(3), 10)
    np.testing.assert_array_equal([*x, residual], 0)


def test_scaling_by_a_power_of_two_scales_the_bits():
    a, b = _matrix(np.geomspace(0.01, 1, 12)), np.float32(_rhs(12))
    x, _ = _solve(a, b, 40)
    for scale in [2.0**-20, 2.0**20]:
        chex.assert_trees_all_equal(_solve(a, scale * b, 40)[0], scale * x)


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e25, 1e30])
def test_no_square_leaves_the_range_of_floats(scale):
    a, b = _matrix(np.geomspace(0.01, 1, 12)).astype(np.float32), np.float32(_rhs(12))
    x, residual = _solve(a, b, 40)
    x_scaled, residual_scaled = _solve(a, np.float32(scale) * b, 40)
    np.testing.assert_allclose(x_scaled / np.float32(scale), x, rtol=1e-3)
    assert np.abs(x).max() > 1
    assert residual_scaled / scale < 1e-5 > residual
    half, _ = conjugate_gradient(lambda v: 2 * v, jnp.array([1e-4, -1e-4], jnp.float16), 5)
    np.testing.assert_allclose(half, [5e-5, -5e-5], rtol=1e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_that_is_not_finite_enters_x(bad):
    x, residual = _solve(np.eye(3), [1.0, bad, 0.0], 10)
    np.testing.assert_array_equal(x, 0)
    assert not np.isfinite(residual)
    x, residual = _solve(np.full((3, 3), bad), np.ones(3), 10)
    np.testing.assert_array_equal(x, 0)
    np.testing.assert_allclose(residual, np.sqrt(3), rtol=1e-6)


def test_a_step_beyond_the_range_of_floats_is_not_taken():
    """Next to a null direction: x = 1e46 is no float32, and the x before it is kept."""
    a = np.diag(np.float32([1.0, 1e-36]))
    x, residual = _solve(a, np.float32([1e10, 1e10]), 10)
    np.testing.assert_allclose(x, [2e10, 2e10], rtol=1e-6)
    np.testing.assert_allclose(residual, 1e10 * np.sqrt(2), rtol=1e-6)
    x, _ = _solve(a, np.float32([1e-10, 1e-10]), 10)  # where it is one, it is found
    np.testing.assert_allclose(x, [1e-10, 1e26], rtol=1e-6)


def test_negative_curvature_keeps_the_last_iterate():
    with jax.enable_x64(True):
        # The first direction b has positive curvature, the second one does not.
        a, b = np.diag([1.0, 2.0, -1.0]), np.array([1.0, 1.0, 1.5])
        first, _ = _solve(a, b, 1, rtol=0.0)
        last, residual = _solve(a, b, 10, rtol=0.0)
        chex.assert_trees_all_equal(last, first)
        assert np.abs(first).max() > 0
        np.testing.assert_allclose(residual, np.linalg.norm(b - a @ last), rtol=1e-12)
        x, _ = _solve(-np.eye(3), b, 10)
        np.testing.assert_array_equal(x, 0)
        x, _ = _solve(np.zeros((3, 3)), b, 10)
        np.testing.assert_array_equal(x, 0)


def test_singular_but_consistent():
    with jax.enable_x64(True):
        a = _matrix([0.0, 0.0, 1.0, 2.0, 3.0])
        b = a @ _rhs(5)
        x, _ = _solve(a, b, 50, rtol=1e-12)
        np.testing.assert_allclose(x, np.linalg.pinv(a) @ b, atol=1e-11)


def test_pytrees_and_dtypes():
    a, b = jnp.asarray(_matrix(np.linspace(1, 2, 5))), jnp.asarray(_rhs(5))
    flat, _ = _solve(a, b, 10)
    split = lambda v: {"x": v[:2].reshape(2, 1), "y": (v[2:],), "count": jnp.zeros(2, int)}  # noqa: E731
    join = lambda t: jnp.concatenate([t["x"].ravel(), t["y"][0]])  # noqa: E731
    tree, _ = conjugate_gradient(lambda t: split(a @ join(t)), split(b), 10)
    np.testing.assert_allclose(join(tree), flat, rtol=1e-4)
    chex.assert_trees_all_equal_shapes_and_dtypes(tree, split(b))
    half = b.astype(jnp.bfloat16)
    x, residual = conjugate_gradient(lambda v: 2 * v, half, 3)
    assert x.dtype == jnp.bfloat16
    np.testing.assert_allclose(x.astype(float), half.astype(float) / 2, rtol=1e-2)
    assert residual < 1e-2


def test_lanes_equal_single_runs():
    with jax.enable_x64(True):
        # Lanes of different length, one of them zero, one indefinite.
        a = jnp.stack([jnp.asarray(_matrix(np.geomspace(c, 1, 6))) for c in [1.0, 0.1, 1e-3, 1.0]])
        a = jnp.concatenate([a, -a[:1]])
        b = jnp.asarray(_rhs((5, 6))).at[3].set(0)
        rtol = jnp.asarray([1e-6, 1e-1, 1e-9, 1e-6, 1e-6])
        one = lambda a, b, rtol: conjugate_gradient(lambda v: a @ v, b, 12, rtol=rtol)  # noqa: E731
        together = jax.jit(jax.vmap(one))(a, b, rtol)
        single = jax.jit(one)
        for i in range(5):
            lane = jax.tree.map(lambda leaf, i=i: leaf[i], together)
            chex.assert_trees_all_close(lane, single(a[i], b[i], rtol[i]), rtol=1e-9, atol=1e-11)


# --- trust region ----------------------------------------------------------------------------


def test_trust_region_scale_puts_the_quadratic_on_the_bound():
    scale, valid = jax.jit(trust_region_scale)(jnp.float32(8.0), 0.01)
    assert valid
    np.testing.assert_allclose(0.5 * scale**2 * 8.0, 0.01, rtol=1e-6)
    nothing, valid = trust_region_scale(jnp.float32(1.0), 0.0)
    assert valid
    assert nothing == 0


@pytest.mark.parametrize("curvature", [0.0, -1e-3, np.nan, np.inf])
def test_no_step_without_curvature(curvature):
    with jax.debug_nans(not np.isnan(curvature)):
        scale, valid = jax.jit(trust_region_scale)(jnp.float32(curvature), jnp.float32(0.01))
    assert not valid
    assert scale == 0


# --- line search -----------------------------------------------------------------------------

PARAMS = {"w": jnp.array([0.1, -0.7, 1 / 3]), "count": jnp.array([2**25 + 1, 3])}
STEP = {"w": jnp.array([1.0, 2.0, -3.0]), "count": jnp.array([0, 0])}


def _at_most(bound):
    """Accepts steps no longer than ``bound``; aux is the length."""

    def evaluate(candidate):
        length = jnp.abs(candidate["w"] - PARAMS["w"])[0]
        return length <= bound, {"length": length, "sum": jnp.sum(candidate["count"])}

    return evaluate


def _search(**options):
    return backtracking_line_search(_at_most(1.0), PARAMS, STEP, **options)


def _reference_search(bound, shrink, max_backtracks):
    for k in range(max_backtracks + 1):
        if shrink**k <= bound:
            return k, True
    return max_backtracks, False


@pytest.mark.parametrize("bound", [2.0, 0.81, 0.79, 0.3, 0.11, 0.01])
@pytest.mark.parametrize(("shrink", "max_backtracks"), [(0.8, 10), (0.5, 10), (0.8, 0), (0.8, 1)])
def test_takes_the_first_that_is_accepted(bound, shrink, max_backtracks):
    expected, accepted = _reference_search(bound, shrink, max_backtracks)
    found = jax.jit(
        lambda bound: backtracking_line_search(
            _at_most(bound), PARAMS, STEP, shrink=shrink, max_backtracks=max_backtracks
        )
    )(bound)
    assert found.accepted == accepted
    assert found.num_backtracks == expected
    np.testing.assert_allclose(found.aux["length"], shrink**expected, rtol=1e-5)
    moved = shrink**expected if accepted else 0
    np.testing.assert_allclose(found.params["w"], PARAMS["w"] + moved * STEP["w"], rtol=1e-5)
    np.testing.assert_array_equal(found.params["count"], PARAMS["count"])


def test_a_failed_search_restores_every_bit():
    # Adding and subtracting a step loses these.
    odd = {
        "w": jnp.array([1e-30, -0.0, 1 / 3, jnp.inf, 1e-45]),
        "half": jnp.array([0.1], jnp.bfloat16),
        "count": jnp.array([2**25 + 1]),
        "key": jax.random.key(3),
        "none": None,
    }
    step = {
        "w": jnp.full(5, 1e6),
        "half": jnp.array([7.0], jnp.bfloat16),
        "count": jnp.array([0]),
        "key": jnp.zeros(()),
        "none": None,
    }
    search = lambda p: backtracking_line_search(lambda c: (jnp.asarray(False), ()), p, step)  # noqa: E731
    found = jax.jit(search)(odd)
    assert not found.accepted
    assert found.num_backtracks == 10
    for name in ["w", "half", "count"]:
        assert np.asarray(found.params[name]).tobytes() == np.asarray(odd[name]).tobytes()
    assert jax.random.key_data(found.params["key"]).tolist() == [0, 3]
    # The control: arithmetic does not restore.
    assert np.asarray(odd["w"] + step["w"] - step["w"]).tobytes() != np.asarray(odd["w"]).tobytes()


def test_what_is_not_finite_is_never_accepted():
    huge = {"w": jnp.full(3, 3e38), "count": STEP["count"]}
    params = {"w": jnp.full(3, 3e38), "count": PARAMS["count"]}
    always = lambda c: (jnp.asarray(True), ())  # noqa: E731
    found = backtracking_line_search(always, params, huge, shrink=0.5)
    assert found.accepted
    assert found.num_backtracks == 3  # 3e38 (1 + 1/8) is the first below the largest float
    nans = {"w": jnp.full(3, jnp.nan), "count": STEP["count"]}
    found = backtracking_line_search(always, PARAMS, nans)
    assert not found.accepted
    chex.assert_trees_all_equal(found.params, PARAMS)

    def lenient(candidate):  # lets NaN pass
        kl = jnp.where(candidate["w"][0] > 0.5, jnp.nan, 0.0)
        return ~(kl > 0.01), kl

    found = backtracking_line_search(lenient, PARAMS, STEP)
    assert found.accepted
    assert found.num_backtracks > 0
    assert found.aux == 0


def test_no_evaluation_is_spent_after_acceptance():
    calls = []

    def evaluate(candidate):
        jax.debug.callback(lambda w: calls.append(w), candidate["w"])
        return _at_most(0.7)(candidate)

    found = jax.jit(lambda p: backtracking_line_search(evaluate, p, STEP))(PARAMS)
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert len(calls) == int(found.num_backtracks) + 1 == 3
    # What is returned is what was evaluated, to the bit.
    np.testing.assert_array_equal(found.params["w"], calls[-1])


def test_search_lanes_equal_single_runs_to_the_bit():
    bounds = jnp.array([2.0, 0.5, 0.0, 0.25])
    search = lambda bound, shrink: backtracking_line_search(  # noqa: E731
        _at_most(bound), PARAMS, STEP, shrink=shrink
    )
    shrinks = jnp.array([0.8, 0.8, 0.5, 0.3])
    together = jax.jit(jax.vmap(search))(bounds, shrinks)
    assert together.accepted.tolist() == [True, True, False, True]
    for i in range(4):
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        chex.assert_trees_all_equal(lane, jax.jit(search)(bounds[i], shrinks[i]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conjugate_gradient(lambda v: v, jnp.ones(2), -1), "num_iters must be 0 or more"),
        (
            lambda: conjugate_gradient(lambda v: v, jnp.ones(2), 3, rtol=-0.1),
            r"rtol must be at least 0, got -0\.1",
        ),
        (lambda: trust_region_scale(jnp.float32(1.0), -1), "max_kl must be at least 0, got -1"),
        *(
            (functools.partial(_search, shrink=x), "shrink must be in")
            for x in (0.0, 1.0, math.nan)
        ),
        (lambda: _search(max_backtracks=-1), "max_backtracks must be 0 or more, got -1"),
    ],
)
def test_settings_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()
