"""The Fisher operator against Hessians of the mean KL: scores are in test_action_spaces."""

import functools
import json
import re
import textwrap
from typing import Any

import chex
import distrax
import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from toys import output

from kltrust.fisher import (
    fisher_operator,
    fisher_quadratic_form,
    fisher_root,
    fisher_vector_product,
    fitting_chunks,
)
from kltrust.networks import actor_critic
from kltrust.types import Discrete

NUM_STATES, NUM_INPUTS, NUM_OUTPUTS = 12, 3, 6
MASK = np.array([True, False, True, True, False, True])


# --- families: what the network's outputs y [*E, 6] become ----------------------------------


def _pair(y):
    return y[..., :3], jnp.exp(y[..., 3:] / 2)


def _scalar_normal(y):
    return distrax.Normal(y[..., 0], jnp.exp(y[..., 1]))


def _positive(y):
    return 0.5 + jax.nn.softplus(y[..., :3]), 0.5 + jax.nn.softplus(y[..., 3:])


def _masked(y):
    return jnp.where(jnp.broadcast_to(MASK, y.shape), y, -jnp.inf)


def _grid(y):
    return y.reshape(*y.shape[:-1], 2, 3)


def _joint(y):
    return distrax.Joint(
        {
            "which": distrax.Categorical(logits=y[..., :3]),
            "where": distrax.Independent(distrax.Normal(y[..., 3:5], jnp.exp(y[..., 4:])), 1),
        }
    )


def _half_unknown(y):
    a, b = _positive(y)
    return distrax.Joint(
        [distrax.Categorical(logits=y), distrax.Independent(distrax.Gamma(a, b), 1)]
    )


@jax.tree_util.register_pytree_node_class
class Poisson:
    """A distribution of nobody's library, with an integer leaf."""

    def __init__(self, rate, count):
        self.rate, self.count = rate, count

    def kl_divergence(self, other):
        return self.rate * jnp.log(self.rate / other.rate) - self.rate + other.rate

    def tree_flatten(self):
        return (self.rate, self.count), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def _poisson(y):
    rate = jnp.exp(y[..., 0])
    return Poisson(rate, jnp.arange(rate.size).reshape(rate.shape))


FAMILIES = {
    "categorical": lambda y: distrax.Categorical(logits=y),
    "masked": lambda y: distrax.Categorical(logits=_masked(y)),
    "categorical probs": lambda y: distrax.Categorical(probs=jax.nn.softmax(y)),
    "masked probs": lambda y: distrax.Categorical(probs=jax.nn.softmax(_masked(y))),
    "multi-discrete": lambda y: distrax.Independent(distrax.Categorical(logits=_grid(y)), 1),
    "bernoulli": lambda y: distrax.Independent(distrax.Bernoulli(logits=y), 1),
    "bernoulli probs": lambda y: distrax.Independent(distrax.Bernoulli(probs=jax.nn.sigmoid(y)), 1),
    "normal": _scalar_normal,
    "independent normal": lambda y: distrax.Independent(distrax.Normal(*_pair(y)), 1),
    "normal diag": lambda y: distrax.MultivariateNormalDiag(*_pair(y)),
    "joint": _joint,
    "poisson": _poisson,
    "beta": lambda y: distrax.Independent(distrax.Beta(*_positive(y)), 1),
    "joint with gamma": _half_unknown,
}
# The same distribution, where distrax's own KL has NaN derivatives.
ORACLES = FAMILIES | {"masked probs": FAMILIES["masked"]}
over_families = pytest.mark.parametrize("name", FAMILIES)
# A plain one, one with -inf among its leaves, and one that goes by the Hessian of its KL.
over_some_families = pytest.mark.parametrize("name", ["independent normal", "masked", "poisson"])


def _params(key=0):
    random = np.random.default_rng(key)
    shapes = {"w0": (NUM_INPUTS, 4), "b0": (4,), "w1": (4, NUM_OUTPUTS), "b1": (NUM_OUTPUTS,)}
    return {name: jnp.asarray(0.7 * random.normal(size=shape)) for name, shape in shapes.items()}


def _obs(*lead):
    lead = lead or (NUM_STATES,)
    return jnp.asarray(np.random.default_rng(7).normal(size=(*lead, NUM_INPUTS)))


def _row(bias, like):
    return jnp.broadcast_to(bias, like.shape)


def _outputs(params, obs):
    x = obs @ params["w0"]
    x = jnp.tanh(x + _row(params["b0"], x))
    y = x @ params["w1"]
    return y + _row(params["b1"], y)


def _policy(family):
    return lambda params, obs: family(_outputs(params, obs))


def _dense(apply, params):
    """The matrix of a linear map on pytrees, column by column."""
    flat, unravel = ravel_pytree(params)
    columns = jax.vmap(lambda v: ravel_pytree(apply(unravel(v)))[0])(jnp.eye(flat.size))
    return columns.T


@functools.cache
def _double(name):
    """Dense matrix and quadratic forms of the vectors `_vectors`, in x64."""
    with jax.enable_x64(True):
        params, obs, policy = _params(), _obs(), _policy(FAMILIES[name])

        def compute(params, vectors):
            fisher = fisher_operator(policy, params, obs)
            unravel = ravel_pytree(params)[1]
            forms = jax.vmap(lambda v: fisher.quadratic_form(unravel(v)))(vectors)
            return _dense(fisher.product, params), forms

        return jax.device_get(jax.jit(compute)(params, _vectors(params)))


def _vectors(params):
    size = sum(leaf.size for leaf in params.values())
    return jnp.asarray(np.random.default_rng(5).normal(size=(3, size)))


def _both(policy, params, obs, v, **options):
    """F v and v'Fv, compiled as users do."""

    def compute(params, obs, v, weight):
        fisher = fisher_operator(policy, params, obs, weight=weight, **options)
        return fisher.product(v), fisher.quadratic_form(v)

    return jax.jit(compute)(params, obs, v, options.pop("weight", None))


def _mean_kl(policy, params, obs, weight=None):
    flat, unravel = ravel_pytree(params)
    old = policy(params, obs)

    def kl(v):
        per_state = old.kl_divergence(policy(unravel(v), obs))
        return jnp.mean(per_state) if weight is None else jnp.average(per_state, weights=weight)

    return kl, flat


# --- the matrix ------------------------------------------------------------------------------


@over_families
def test_product_is_the_hessian_of_the_mean_kl(name):
    dense, _ = _double(name)
    with jax.enable_x64(True):
        kl, flat = _mean_kl(_policy(ORACLES[name]), _params(), _obs())
        hessian = jax.jit(jax.hessian(kl))(flat)  # forward over reverse
    np.testing.assert_allclose(dense, hessian, atol=1e-10, rtol=0)
    assert np.abs(dense).max() > 1e-2


@over_families
def test_quadratic_form_and_semidefiniteness(name):
    dense, forms = _double(name)
    np.testing.assert_allclose(dense, dense.T, atol=1e-14)
    assert np.linalg.eigvalsh(dense).min() > -1e-13
    with jax.enable_x64(True):
        vectors = np.asarray(_vectors(_params()))
    np.testing.assert_allclose(forms, [v @ dense @ v for v in vectors], rtol=1e-10)


def test_away_from_old_the_hessian_is_another_matrix():
    with jax.enable_x64(True):
        kl, flat = _mean_kl(_policy(FAMILIES["categorical"]), _params(), _obs())
        hessian = jax.jit(jax.hessian(kl))
        elsewhere = ravel_pytree(_params(1))[0]
        assert np.linalg.eigvalsh(hessian(flat)).min() > -1e-13
        assert np.linalg.eigvalsh(hessian(elsewhere)).min() < -1e-3  # indefinite, unlike F


def test_matrix_in_leaves_that_are_not_normalised():
    # Doubled log-probabilities are logits, but no longer log-probabilities.
    sharpen = lambda dist: jax.tree.map(lambda leaf: 2 * leaf, dist)  # noqa: E731
    policy = lambda p, obs: sharpen(distrax.Categorical(logits=_outputs(p, obs)))  # noqa: E731
    twice = lambda p, obs: distrax.Categorical(logits=2 * _outputs(p, obs))  # noqa: E731
    with jax.enable_x64(True):
        params, obs = _params(), _obs()
        v = _params(4)
        chex.assert_trees_all_close(
            _both(policy, params, obs, v), _both(twice, params, obs, v), atol=1e-13
        )


# --- numbers at the edge ---------------------------------------------------------------------


@over_families
def test_float32_and_no_nan_anywhere(name):
    dense, forms = _double(name)
    # The point and the vector of the x64 matrix, rounded.
    with jax.enable_x64(True):
        params, obs = jax.tree.map(lambda x: np.asarray(x, np.float32), (_params(), _obs()))
        vector = np.asarray(_vectors(_params()))[0]
    _, unravel = ravel_pytree(params)
    with jax.debug_nans(True):
        product, form = _both(_policy(FAMILIES[name]), params, obs, unravel(np.float32(vector)))
    chex.assert_trees_all_equal_dtypes(product, params)
    expected = dense @ vector
    np.testing.assert_allclose(
        ravel_pytree(product)[0], expected, atol=1e-5 * np.abs(expected).max()
    )
    np.testing.assert_allclose(form, forms[0], rtol=1e-5)


def test_quadratic_form_is_never_negative_near_the_null_space():
    params, policy = _params(), _policy(FAMILIES["categorical"])
    # The same shift of all logits changes no probability.
    shift = np.random.default_rng(0).normal(size=(500, 4, 1)).astype(np.float32)
    null = np.broadcast_to(shift, (500, 4, NUM_OUTPUTS))

    def forms(null):
        v = {name: jnp.zeros_like(leaf) for name, leaf in params.items()} | {"w1": null}
        product, form = _both(policy, params, _obs(), v)
        return form, jnp.vdot(null, product["w1"])

    form, naive = jax.jit(jax.vmap(forms))(null)
    assert (form >= 0).all()
    assert form.max() < 1e-10
    assert naive.min() < 0  # what the factor form is for


def test_saturated_outputs_keep_their_curvature():
    bernoulli = lambda p, obs: distrax.Bernoulli(logits=p + obs)  # noqa: E731
    form_at = jax.jit(lambda p: fisher_quadratic_form(bernoulli, p, jnp.zeros(1), jnp.float32(1)))
    for logit in [-30.0, -10.0, 10.0, 30.0]:
        form = form_at(jnp.float32(logit))
        expected = np.exp(-abs(np.float64(logit))) / (1 + np.exp(-abs(np.float64(logit)))) ** 2
        np.testing.assert_allclose(form, expected, rtol=1e-5)


@pytest.mark.parametrize("probs", [0.0, 1.0])
def test_certain_outcomes_are_no_nan(probs):
    def bernoulli(p, obs):
        return distrax.Bernoulli(probs=jnp.where(obs > 0, jax.nn.sigmoid(p + obs), probs))

    def categorical(p, obs):
        p = jax.nn.sigmoid(p + obs)
        return distrax.Categorical(probs=jnp.stack([p, 1 - p, jnp.zeros_like(p)], -1))

    for policy in [bernoulli, categorical]:
        with jax.debug_nans(True):
            product, form = _both(policy, jnp.float32(0.3), np.float32([-1, 1]), jnp.float32(1))
        assert 0 < product < 1
        np.testing.assert_allclose(product, form, rtol=1e-6)


# --- which states, and in how many parts -----------------------------------------------------


@over_some_families
def test_rows_of_weight_zero_are_rows_left_out(name):
    with jax.enable_x64(True):
        params, obs, policy, v = _params(), _obs(), _policy(FAMILIES[name]), _params(4)
        keep = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1])
        garbage = jnp.where(keep[:, None] > 0, obs, 1e3)
        expected = _both(policy, params, obs[keep.nonzero()[0]], v)
        for weight in [keep, keep.astype(bool), 0.125 * keep]:
            left_out = _both(policy, params, garbage, v, weight=weight)
            chex.assert_trees_all_close(left_out, expected, rtol=1e-12, atol=1e-12)
        unweighted, _ = _both(policy, params, obs, v)
        assert not np.allclose(unweighted["w1"], expected[0]["w1"], rtol=1e-3)


@over_some_families
def test_weights_are_those_of_the_mean_kl(name):
    with jax.enable_x64(True):
        params, obs, policy = _params(), _obs(), _policy(FAMILIES[name])
        weight = jnp.arange(float(NUM_STATES))
        kl, flat = _mean_kl(policy, params, obs, weight)
        v = _vectors(params)[0]
        product, _ = _both(policy, params, obs, ravel_pytree(params)[1](v), weight=weight)
        expected = jax.jit(lambda v: jax.jvp(jax.grad(kl), (flat,), (v,))[1])(v)
        np.testing.assert_allclose(ravel_pytree(product)[0], expected, atol=1e-10)


def test_a_batch_of_nothing_has_no_curvature():
    params, v, policy = _params(), _params(1), _policy(FAMILIES["joint"])
    product, form = _both(policy, params, _obs(), v, weight=np.zeros(NUM_STATES))
    chex.assert_trees_all_equal(product, jax.tree.map(jnp.zeros_like, params))
    assert form == 0


@over_some_families
def test_chunks_and_leading_shapes_change_nothing(name):
    with jax.enable_x64(True):
        params, obs, policy, v = _params(), _obs(), _policy(FAMILIES[name]), _params(4)
        weight = jnp.arange(12.0)
        sequences, lead = obs.reshape(6, 2, NUM_INPUTS), (6, 2)
        whole = _both(policy, params, obs, v)
        parts = _both(policy, params, sequences, v, num_chunks=3)
        chex.assert_trees_all_close(parts, whole, atol=1e-12, rtol=1e-12)
        whole = _both(policy, params, sequences, v, weight=weight.reshape(lead))
        parts = _both(policy, params, obs, v, weight=weight, num_chunks=6)
        chex.assert_trees_all_close(parts, whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["rows", "patches"])
def test_chunks_bound_the_memory(kind):
    params, obs, policy = _params(), _obs(8192), _policy(FAMILIES["categorical"])
    if kind == "patches":  # of images, for a convolution
        policy, params, obs = _images(1024)

    def memory(num_chunks):
        def product(obs):
            return fisher_vector_product(policy, params, obs, num_chunks=num_chunks)(params)

        with jax.numpy_rank_promotion("allow"):
            compiled = jax.jit(product).lower(obs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(16) < memory(1) / 4


def test_the_library_chooses_chunks_that_divide_and_are_not_small():
    for size in (7, 2048, 8192, 16384, 50_000, 65_536):
        chunks = fitting_chunks(size, size)
        assert size % chunks == 0
        assert chunks == 1 or size // chunks >= 4096
    assert fitting_chunks(4096, 4096) == 1
    assert fitting_chunks(16_384, 16_384) == 4
    assert fitting_chunks(64, 64 * 128) == 2  # sequences are not cut
    assert fitting_chunks(99_991, 99_991) == 1  # a prime


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"num_chunks": n}, f"num_chunks={n} must divide .* 12 rows") for n in (5, 24, 0, -1)),
        *(
            ({"weight": jnp.ones(shape)}, r"weight has shape .* batch shape is \(12,\)")
            for shape in ((NUM_STATES, 1), (1,), (NUM_STATES - 1,))
        ),
    ],
)
def test_chunks_must_divide_and_weights_have_the_batch_shape(options, message):
    with pytest.raises(ValueError, match=message):
        fisher_vector_product(_policy(FAMILIES["normal"]), _params(), _obs(), **options)


def test_sequences_of_a_recurrent_policy():
    def policy(params, obs):
        carry, y = jnp.zeros_like(obs[:, 0]), []
        for t in range(obs.shape[1]):
            y.append(_outputs(params, obs[:, t] + carry))
            carry = jnp.tanh(y[-1][:, :NUM_INPUTS])
        return distrax.Independent(distrax.Categorical(logits=_grid(jnp.stack(y, 1))), 1)

    with jax.enable_x64(True):
        params, obs = _params(), _obs(4, 3)
        weight = np.random.default_rng(3).uniform(size=(4, 3))
        weight[:, 1] = 0
        kl, flat = _mean_kl(policy, params, obs, weight)

        @jax.jit
        def dense(params):
            return _dense(
                fisher_vector_product(policy, params, obs, weight=weight, num_chunks=2), params
            )

        np.testing.assert_allclose(dense(params), jax.jit(jax.hessian(kl))(flat), atol=1e-10)


# --- pytrees ---------------------------------------------------------------------------------


@chex.dataclass
class Weights:
    kernel: Any
    calls: Any
    key: Any
    nothing: Any = None


def test_leaves_that_are_not_floats_take_no_part():
    params, obs, v = _params(), _obs(), _params(4)
    plain = _policy(FAMILIES["joint"])
    policy = lambda p, obs: plain(p.kernel, obs)  # noqa: E731
    odd = Weights(kernel=params, calls=jnp.arange(3), key=jax.random.key(0))
    expected, _ = _both(plain, params, obs, v)
    for tangent, num_chunks in [
        (Weights(kernel=v, calls=jnp.ones(3, int), key=jax.random.key(1)), 1),
        (Weights(kernel=v, calls=np.zeros(3), key=jnp.zeros(())), 2),
    ]:
        product, _ = _both(policy, odd, obs, tangent, num_chunks=num_chunks)
        chex.assert_trees_all_close(product.kernel, expected, rtol=1e-5, atol=1e-6)
        assert product.calls.dtype == odd.calls.dtype
        assert not product.calls.any()
        assert not product.key.any()


def test_observations_may_be_any_pytree():
    params, obs, v = _params(), _obs(), _params(4)
    plain = _policy(FAMILIES["categorical"])
    tree = {"half": obs / 2, "index": jnp.arange(NUM_STATES), "rest": (obs / 2,)}
    policy = lambda p, o: plain(p, o["half"] + o["rest"][0])  # noqa: E731
    expected, _ = _both(plain, params, obs, v)
    for chunks in [1, 4]:
        product, _ = _both(policy, params, tree, v, num_chunks=chunks)
        chex.assert_trees_all_close(product, expected, rtol=1e-5, atol=1e-6)


@jax.tree_util.register_pytree_node_class
class RegisteredPoisson(Poisson):
    pass


def test_a_family_of_ones_own():
    calls = []

    @fisher_root.register
    def _(dist: RegisteredPoisson):
        calls.append(dist)
        return dist.rate * jax.lax.stop_gradient(jax.lax.rsqrt(dist.rate))

    def policy(params, obs):
        dist = _poisson(_outputs(params, obs))
        return RegisteredPoisson(dist.rate, dist.count)

    with jax.enable_x64(True):
        params, obs, v = _params(), _obs(), _params(4)
        by_hessian = _both(_policy(FAMILIES["poisson"]), params, obs, v)
        assert not calls
        by_root = _both(policy, params, obs, v)
        assert calls
        chex.assert_trees_all_close(by_hessian, by_root, atol=1e-12, rtol=1e-12)


def _images(num_states):
    """A policy with a convolution, parameters that are not at its near-uniform start, images."""
    env = known_envs.nothing(Discrete(3), *known_envs.image())
    agent = actor_critic(env, (8,), activation="relu", channels=(4,))
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape)),
        jax.eval_shape(agent.init, jax.random.key(0))[0],
    )
    obs = jnp.asarray(rng.integers(2, size=(num_states, 6, 5, 2)), jnp.uint8)
    return agent.policy, params, obs


def test_convolutions_chunk_by_chunk():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        policy, params, obs = _images(NUM_STATES)
        v = jax.tree.map(jnp.cos, params)
        old = policy(params, obs)
        kl = lambda p: jnp.mean(old.kl_divergence(policy(p, obs)))  # noqa: E731
        hessian = jax.jit(lambda v: jax.jvp(jax.grad(kl), (params,), (v,))[1])(v)
        assert jnp.max(jnp.abs(hessian["torso"]["Conv_0"]["kernel"])) > 1e-3
        for chunks in [1, 4]:
            product, form = _both(policy, params, obs, v, num_chunks=chunks)
            chex.assert_trees_all_close(product, hessian, atol=1e-10, rtol=1e-10)
            expected = ravel_pytree(v)[0] @ ravel_pytree(hessian)[0]
            np.testing.assert_allclose(form, expected, rtol=1e-10)


# --- compilation -----------------------------------------------------------------------------


def test_a_product_is_one_push_and_one_pull():
    params, obs, v = _params(), _obs(), _params(4)
    for name in ["categorical", "independent normal", "beta"]:
        policy = _policy(FAMILIES[name])
        jaxpr = str(jax.make_jaxpr(fisher_vector_product(policy, params, obs))(v))
        assert not re.search(r"\b(tanh|exp|log|logistic|while|scan|lgamma|digamma)\b", jaxpr)
        # Two layers: the first pushes its kernel's tangent only, and pulls to its kernel only.
        # A Hessian in the parameters also pulls through both layers' tangents.
        assert jaxpr.count("dot_general[") == (8 if name == "beta" else 3 + 3)
        chunked = fisher_vector_product(policy, params, obs, num_chunks=2)
        assert "tanh" in str(jax.make_jaxpr(chunked)(v))  # linearised again, as it says


def test_precision_is_chosen():
    params, obs, v, policy = _params(), _obs(), _params(4), _policy(FAMILIES["normal"])

    def precisions(**options):
        jaxpr = str(jax.make_jaxpr(fisher_vector_product(policy, params, obs, **options))(v))
        return set(re.findall(r"precision=(\(?[\w.]+)", jaxpr))

    assert precisions() == {"(Precision.HIGHEST"}
    assert precisions(num_chunks=2) == {"(Precision.HIGHEST"}
    assert precisions(precision="high") == {"(Precision.HIGH"}
    assert precisions(precision=None) == set()
    with jax.default_matmul_precision("high"):
        assert precisions() == {"(Precision.HIGHEST"}
        assert precisions(precision=None) == {"(Precision.HIGH"}


SHARDED = """
    import json, re
    import distrax, jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from kltrust.fisher import fisher_quadratic_form, fisher_vector_product
    from kltrust.solvers import conjugate_gradient

    assert jax.device_count() == 4
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    key = jax.random.key(0)
    shapes = dict(w0=(5, 16), b0=(16,), w1=(16, 16), b1=(16,), w2=(16, 3), b2=(3,), log_std=(3,))
    params = {k: jax.random.normal(jax.random.fold_in(key, i), s) / s[0] ** 0.5
              for i, (k, s) in enumerate(shapes.items())}
    v = jax.tree.map(lambda x: jax.random.normal(key, x.shape), params)
    obs = jax.random.normal(key, (64, 5))
    weight = jnp.arange(64.0) % 3

    def policy(p, x):
        for i in "01":
            x = jnp.tanh(x @ p["w" + i] + p["b" + i])
        loc = x @ p["w2"] + p["b2"]
        scale = jnp.broadcast_to(jnp.exp(p["log_std"]), loc.shape)
        return distrax.Independent(distrax.Normal(loc, scale), 1)

    def product(obs, weight, v, chunks=1):
        return fisher_vector_product(policy, params, obs, weight=weight, num_chunks=chunks)(v)

    def solve(obs, weight, v):
        f = fisher_vector_product(policy, params, obs, weight=weight)
        return conjugate_gradient(
            lambda u: jax.tree.map(lambda a, b: a + 0.1 * b, f(u), u), v, 10, rtol=0.0)[0]

    def collectives(compiled):
        kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
        pattern = "= (?:[(].*[)]|[^ ]*) (" + kinds + ")(?:-start)?[(]"
        return re.findall(pattern, compiled.as_text())

    result = {}
    for name, f, w in [
        ("product", product, None),
        ("weighted", product, weight),
        ("chunked", lambda *a: product(*a, chunks=4), weight),
        ("solve", solve, None),
    ]:
        place = lambda x: jax.device_put(x, NamedSharding(mesh, P("data")))
        sharded = place(obs), None if w is None else place(w), v
        compiled = jax.jit(f).lower(*sharded).compile()
        alone = jax.jit(f)(obs, w, v)
        error = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()),
            jax.device_get(compiled(*sharded)), jax.device_get(alone))
        result[name] = dict(error=max(jax.tree.leaves(error)), collectives=collectives(compiled))
    print(json.dumps(result))
"""


def test_sharded_states_take_one_all_reduce_per_product():
    result = json.loads(output("-c", textwrap.dedent(SHARDED), devices=4).splitlines()[-1])
    for name, part in result.items():
        # Ten iterations amplify the rounding of ten products.
        assert part["error"] < (1e-3 if name == "solve" else 1e-5), (name, part)
    assert result["product"]["collectives"] == ["all-reduce"]
    # The loop's body holds the one product; nothing is gathered, before it or in it.
    assert result["solve"]["collectives"] == ["all-reduce"]
    # The sum of the weights is the other one, once for all products.
    assert result["weighted"]["collectives"] == ["all-reduce"] * 2
    assert result["chunked"]["collectives"] == ["all-reduce"] * 2
