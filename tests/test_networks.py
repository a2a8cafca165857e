"""Initialisers, features and heads of the networks; networks of one's own in the learner."""

import collections
import dataclasses
import functools
import math

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import pytest
from flax import nnx
from known_envs import nothing
from scipy import stats

from kltrust import tree, value_regression
from kltrust.algorithms import trpo
from kltrust.divergences import distribution_entropy
from kltrust.learner import make_learner
from kltrust.networks import ACTIVATIONS, LOG_STD_RANGE, actor_critic, features
from kltrust.networks.orthogonal import orthogonal
from kltrust.types import ActorCritic, Box, Discrete, MultiBinary, MultiDiscrete

# --- the initialiser ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (5, 1), (1, 5), (8, 8), (64, 64), (17, 64), (64, 3), (3, 3, 4, 16), (2, 2, 1, 32)],
)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_rows_or_columns_are_orthonormal(shape, scale):
    kernel = orthogonal(scale)(jax.random.key(1), shape)
    assert kernel.shape == shape
    assert kernel.dtype == jnp.float32
    q = np.asarray(kernel, np.float64).reshape(-1, shape[-1]) / scale
    gram = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
    np.testing.assert_allclose(gram, np.eye(min(q.shape)), atol=1e-5)


def test_dtype_and_key_count():
    init = orthogonal()
    assert init(jax.random.key(0), (4, 4), jnp.float16).dtype == jnp.float16
    first, second = (init(jax.random.key(k), (4, 4)) for k in (0, 1))
    assert np.max(np.abs(first - second)) > 0.1
    np.testing.assert_array_equal(first, init(jax.random.key(0), (4, 4)))


def test_the_worst_of_many_square_matrices():
    """Nearly singular Gaussian matrices are what the iteration is slowest for."""
    keys = jax.random.split(jax.random.key(0), 2000)
    q = np.asarray(jax.jit(jax.vmap(lambda key: orthogonal()(key, (16, 16))))(keys), np.float64)
    errors = np.abs(np.swapaxes(q, 1, 2) @ q - np.eye(16)).max((1, 2))
    assert errors.max() < 1e-5


@functools.cache
def many(shape):
    keys = jax.random.split(jax.random.key(5), 20_000)
    return np.asarray(jax.jit(jax.vmap(lambda key: orthogonal()(key, shape)))(keys), np.float64)


def test_plane_rotations_are_uniform():
    """In two dimensions Haar means: any angle, and a reflection as often as not."""
    q = many((2, 2))
    angle = np.arctan2(q[:, 1, 0], q[:, 0, 0])
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    reflections = int(np.sum(np.linalg.det(q) < 0))
    assert stats.binomtest(reflections, len(q)).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(3, 3), (4, 2)])
def test_moments_of_the_haar_measure(shape):
    """E q^2 = 1/n, E q^4 = 3/(n (n + 2)), E q_11^2 q_12^2 = 1/(n (n + 2)); odd moments 0."""
    q, n, tolerance = many(shape), max(shape), 5 / math.sqrt(20_000)
    np.testing.assert_allclose(q.mean(0), 0, atol=tolerance)
    np.testing.assert_allclose((q**2).mean(0), 1 / n, atol=tolerance)
    np.testing.assert_allclose((q**4).mean(0), 3 / (n * (n + 2)), atol=tolerance)
    products = (q[:, 0, 0] * q[:, 1, 0]) ** 2
    np.testing.assert_allclose(products.mean(), 1 / (n * (n + 2)), atol=tolerance)
    np.testing.assert_allclose((q[:, 0, 0] * q[:, 1, 1]).mean(), 0, atol=tolerance)


def test_qr_without_its_signs_is_not_haar():
    """The control: a QR whose R may have any diagonal fails the test of the angle."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(20_000, 2, 2)))[0]
    angle = np.arctan2(q[:, 1, 0], q[:, 0, 0])
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue < 1e-12


# --- features -------------------------------------------------------------------------------------


def integers(low, high, *shape):
    return Box(np.full(shape, low), np.full(shape, high), shape, np.int32)


def lead(x, shape=(2, 3)):
    """One observation as a block of [*shape]."""
    return jnp.broadcast_to(x, (*shape, *jnp.shape(x)))


@pytest.mark.parametrize(
    ("space", "obs", "expected"),
    [
        (Discrete(3), jnp.int32(2), [0, 0, 1]),
        (MultiDiscrete((2, 3)), jnp.asarray([1, 0]), [0, 1, 1, 0, 0]),
        (MultiBinary(3), jnp.asarray([True, False, True]), [1, 0, 1]),
        (known_envs.unbounded(2), jnp.asarray([0.5, -7.0]), [0.5, -7.0]),
        (known_envs.unbounded(), jnp.asarray(0.5), [0.5]),
        (integers(0, 4, 2), jnp.asarray([0, 3]), [-1, 0.5]),
        (integers(-2, 2, 1), jnp.asarray([2]), [1]),
        (integers(0, 2, 2, 2), jnp.asarray([[0, 1], [2, 0]]), [-1, 0, 1, -1]),
        (known_envs.unbounded(2, 2), jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), [1, 2, 3, 4]),
    ],
)
def test_features_of_one_space(space, obs, expected):
    for shape in ((), (2, 3)):
        x = features(space, lead(obs, shape))
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, np.broadcast_to(expected, (*shape, len(expected))))


def test_images_keep_their_shape():
    space = Box(np.zeros((4, 4, 2), np.uint8), np.full((4, 4, 2), 255, np.uint8), (4, 4, 2))
    image = jnp.full((4, 4, 2), 255, jnp.uint8).at[0, 0, 0].set(0)
    x = features(space, lead(image))
    assert x.shape == (2, 3, 4, 4, 2)
    assert x.dtype == jnp.float32
    assert x[1, 2, 0, 0, 0] == -1
    assert x[1, 2, 1, 0, 0] == 1


@pytest.mark.parametrize(
    ("low", "high"), [(-(2**31), 2**31 - 1), (0, 2**31 - 1), (-(2**63), 2**63 - 1), (0, 10**9)]
)
def test_neighbours_in_wide_bounds_stay_apart(low, high):
    x = jnp.asarray([[0], [1], [5], [100]])
    wide = Box(np.full(1, low), np.full(1, high), (1,), np.int64)
    np.testing.assert_array_equal(features(wide, x), x)
    far = integers(2**30, 2**30 + 4, 1)  # where float32 counts in steps of 128
    np.testing.assert_array_equal(features(far, jnp.asarray([2**30 + 1])), [-0.5])
    unbounded = Box(np.full(1, -np.inf), np.full(1, np.inf), (1,), np.int32)
    np.testing.assert_array_equal(features(unbounded, jnp.asarray([5])), [5])
    np.testing.assert_array_equal(features(integers(3, 3, 1), jnp.asarray([3])), [3])
    half = Box(np.full(1, -0.5), np.full(1, 3.5), (1,), np.int32)
    np.testing.assert_array_equal(features(half, jnp.asarray([1])), [-0.25])


def test_a_pytree_of_spaces_is_concatenated():
    space = {"image": known_envs.unbounded(2, 2, 1), "mode": Discrete(2), "v": integers(0, 4, 1)}
    obs = {
        "image": jnp.ones((2, 2, 1)),
        "mode": jnp.int32(1),
        "v": jnp.asarray([1]),
    }
    x = features(space, jax.tree.map(lead, obs))
    np.testing.assert_allclose(x, np.broadcast_to([1, 1, 1, 1, 0, 1, -0.5], (2, 3, 7)))
    for other in ({"mode": obs["mode"], "v": obs["v"]}, obs | {"w": obs["v"]}):
        with pytest.raises(ValueError, match="give both one structure"):
            features(space, other)
    # Sorted keys against the order in which they were given.
    with pytest.raises(ValueError, match="give both one structure"):
        features(collections.OrderedDict(reversed(space.items())), obs)


def test_features_are_float32_in_float64_too(x64):
    for space, obs in [
        (Discrete(3), jnp.int32(2)),
        (MultiDiscrete((2, 3)), jnp.asarray([1, 0])),
        (MultiBinary(2), jnp.asarray([1, 0])),
        (integers(0, 4, 2), jnp.asarray([0, 3])),
    ]:
        assert features(space, obs).dtype == jnp.float32


# --- heads ----------------------------------------------------------------------------------------


# With the shape of an action.
SHAPES = {
    "discrete": (Discrete(4), ()),
    "multi_discrete": (MultiDiscrete((3, 2, 4)), (3,)),
    "even_multi_discrete": (MultiDiscrete((3, 3)), (2,)),
    "multi_binary": (MultiBinary(3), (3,)),
    "box": (known_envs.unbounded(2), (2,)),
    "scalar_box": (known_envs.unbounded(), ()),
    "matrix_box": (known_envs.unbounded(2, 2), (2, 2)),
}


@functools.cache
def agent_of(space, **options):
    agent = actor_critic(nothing(SHAPES[space][0]), (8,), **options)
    return agent, *jax.jit(agent.init)(jax.random.key(0))


def block(shape=(2, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


def louder(params, factor=30.0):
    """The same network away from its start, where every policy is alike."""
    return jax.tree.map(lambda x: factor * x, params)


def use(agent, policy_params, value_params, obs, key):
    dist = agent.policy(policy_params, obs)
    action = dist.sample(seed=key)
    return dist, action, dist.mode(), dist.log_prob(action), agent.value(value_params, obs)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
@pytest.mark.parametrize("space", SHAPES)
def test_every_leaf_has_the_full_leading_shape(space, shape):
    agent, *params = agent_of(space)
    dist, action, mode, log_prob, value = jax.eval_shape(
        functools.partial(use, agent), *params, block(shape), jax.random.key(1)
    )
    assert jax.tree.leaves(dist)
    assert all(leaf.shape[: len(shape)] == shape for leaf in jax.tree.leaves(dist))
    assert action.shape == mode.shape == (*shape, *SHAPES[space][1])
    assert log_prob.shape == value.shape == shape
    assert log_prob.dtype == value.dtype == jnp.float32


@pytest.mark.parametrize("space", SHAPES)
def test_a_minibatch_of_a_distribution_is_that_of_its_rows(space):
    agent, *params = agent_of(space)

    @jax.jit
    def both(policy_params, value_params, obs, index, key):
        dist, action, _, log_prob, _ = use(agent, policy_params, value_params, obs, key)
        return tree.take_rows(dist, index).log_prob(action[index]), log_prob[index]

    part, whole = both(*params, block((6,)), jnp.asarray([4, 1]), jax.random.key(1))
    np.testing.assert_allclose(part, whole, rtol=1e-6)


@pytest.mark.parametrize("space", SHAPES)
def test_policies_start_near_uniform_or_near_zero(space):
    agent, params, _ = agent_of(space)
    dist = agent.policy(params, block((6,)))
    entropy = {
        "discrete": math.log(4),
        "multi_discrete": math.log(24),
        "even_multi_discrete": math.log(9),
        "multi_binary": math.log(8),
    }
    if space in entropy:
        np.testing.assert_allclose(distribution_entropy(dist), entropy[space], rtol=1e-3)
    else:
        assert np.max(np.abs(dist.mode())) < 0.1


def std(agent, params, obs):
    return agent.policy(params, obs).distribution.scale


def test_the_standard_deviation_starts_where_it_is_told():
    for options in ({}, {"state_dependent_std": True}):
        agent, params, _ = agent_of("box", init_log_std=-1.0, **options)
        np.testing.assert_allclose(std(agent, params, block()), math.exp(-1), rtol=0.1)


@pytest.mark.parametrize(("end", "sign"), [(LOG_STD_RANGE[0], -1), (LOG_STD_RANGE[1], 1)])
def test_a_standard_deviation_beyond_its_range_grows_no_faster_than_its_parameter(end, sign):
    agent, params, _ = agent_of("box")
    params = params | {"log_std": jnp.full(2, end + sign * 1e4)}
    obs = block((6,))
    want = math.exp(end) * (1 + 1e4) ** sign
    np.testing.assert_allclose(std(agent, params, obs), want, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(agent.policy(p, obs).log_prob(jnp.ones((6, 2))))))
    assert tree.all_finite(gradient(params))


def test_a_state_dependent_standard_deviation_depends_on_the_state():
    fixed, fixed_params, _ = agent_of("box")
    agent, params, _ = agent_of("box", state_dependent_std=True)
    obs = block((6,))
    assert "log_std" in fixed_params
    assert "log_std" not in params
    assert np.ptp(std(fixed, fixed_params, obs), axis=0).max() == 0
    assert np.ptp(std(agent, louder(params), obs), axis=0).min() > 1e-3


# --- options --------------------------------------------------------------------------------------


def shapes(*args, **options):
    return jax.eval_shape(actor_critic(*args, **options).init, jax.random.key(0))


def test_defaults_are_two_layers_of_64_that_share_nothing():
    policy, value = shapes(nothing(Discrete(4)))
    sizes = sorted(x.shape for x in jax.tree.leaves(policy))
    assert sizes == [(3, 64), (4,), (64,), (64,), (64, 4), (64, 64)]
    assert sorted(x.shape for x in jax.tree.leaves(value))[-2:] == [(64, 1), (64, 64)]
    first, second = (p["torso"]["Dense_0"]["kernel"] for p in agent_of("discrete")[1:])
    assert np.max(np.abs(first - second)) > 1e-3


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"tanh"}))
def test_activations_differ(activation):
    tanh, params, _ = agent_of("discrete")
    other = actor_critic(nothing(Discrete(4)), (8,), activation=activation)
    obs = block((4,))
    first, second = (jax.jit(a.policy)(louder(params), obs).logits for a in (tanh, other))
    assert np.max(np.abs(first - second)) > 1e-2


def test_unknown_spaces_are_refused():
    with pytest.raises(ValueError, match=r"no policy head .*: use kltrust's Discrete"):
        actor_critic(nothing(Discrete(2))._replace(action_space={"a": Discrete(2)}))


IMAGES = nothing(Discrete(3), *known_envs.image())


def test_images_go_through_convolutions():
    agent = actor_critic(IMAGES, (8,), channels=(4, 6))
    policy_params, value_params = jax.jit(agent.init)(jax.random.key(0))
    assert set(policy_params["torso"]) == {"Conv_0", "Conv_1", "Dense_0"}
    assert policy_params["torso"]["Dense_0"]["kernel"].shape == (2 * 1 * 6, 8)
    kernels = [x.shape for x in jax.tree.leaves(policy_params) if x.ndim == 4]
    assert kernels == [(3, 3, 2, 4), (3, 3, 4, 6)]
    images = jnp.asarray(np.random.default_rng(0).integers(2, size=(2, 3, 6, 5, 2)), jnp.uint8)
    assert jax.jit(agent.policy)(policy_params, images).logits.shape == (2, 3, 3)
    values = jax.jit(agent.value)(value_params, images)
    assert values.shape == (2, 3)
    assert np.ptp(values) > 0


@pytest.mark.parametrize(("channels", "slow"), [((4, 6), False), (None, True)])
def test_lanes_of_images_are_matrix_products(channels, slow):
    """Grouped convolutions, which CPUs are slow at, are what a `vmap` over nn.Conv would be."""
    images = jnp.zeros((2, 6, 5, 2))
    if channels is None:
        module = nn.Conv(4, (3, 3))
        init, apply = lambda key: module.init(key, images), module.apply
    else:
        agent = actor_critic(IMAGES, (8,), channels=channels)
        init, apply = lambda key: agent.init(key)[1], agent.value
    params = jax.eval_shape(jax.vmap(init), jax.random.split(jax.random.key(0), 3))
    gradients = jax.vmap(jax.grad(lambda params: jnp.sum(apply(params, images))))
    assert ("conv_general_dilated" in str(jax.make_jaxpr(gradients)(params))) is slow


def test_images_too_small_for_the_convolutions_are_refused():
    with pytest.raises(ValueError, match=r"are 3 convolutions, .* has 6 x 5: use fewer, or .*\(\)"):
        actor_critic(IMAGES, channels=(4, 4, 4))
    params, _ = jax.jit(actor_critic(IMAGES, (8,), channels=()).init)(jax.random.key(0))
    assert params["torso"]["Dense_0"]["kernel"].shape == (6 * 5 * 2, 8)


def test_observations_may_be_pytrees():
    space = {"grid": integers(0, 3, 2, 2), "position": known_envs.unbounded(2), "mode": Discrete(3)}
    obs = {
        "grid": jnp.zeros((2, 2), jnp.int32),
        "position": jnp.zeros(2),
        "mode": jnp.int32(1),
    }
    agent = actor_critic(nothing(Discrete(2), space, obs), (8,))
    params, _ = jax.jit(agent.init)(jax.random.key(0))
    assert params["torso"]["Dense_0"]["kernel"].shape == (4 + 2 + 3, 8)
    assert agent.policy(params, jax.tree.map(lead, obs)).logits.shape == (2, 3, 2)


@pytest.mark.parametrize("options", [{}, {"state_dependent_std": True}])
def test_parameters_are_float32_in_float64_too(options, x64):
    leaves = jax.tree.leaves(shapes(nothing(known_envs.unbounded(2)), **options))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


# --- networks of one's own ------------------------------------------------------------------------

NUM_CELLS = 4


def flax_nnx():
    def model(key, size):
        return nnx.Linear(NUM_CELLS, size, rngs=nnx.Rngs(key))

    graphs = [nnx.split(model(jax.random.key(0), size))[0] for size in (2, 1)]

    def init(key):
        keys = jax.random.split(key)
        return tuple(nnx.state(model(k, size)) for k, size in zip(keys, (2, 1), strict=True))

    return ActorCritic(
        init,
        policy=lambda params, obs: distrax.Categorical(logits=nnx.merge(graphs[0], params)(obs)),
        value=lambda params, obs: nnx.merge(graphs[1], params)(obs)[..., 0],
    )


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["name"]
)
@dataclasses.dataclass(frozen=True)
class Linear:
    """A model that is its own pytree of parameters, as Equinox has them."""

    weight: jax.Array
    bias: jax.Array
    name: str

    def __call__(self, x):
        return x @ self.weight + jnp.broadcast_to(self.bias, (*x.shape[:-1], *self.bias.shape))


def dataclasses_of_ones_own():
    def init(key):
        policy = Linear(0.1 * jax.random.normal(key, (NUM_CELLS, 2)), jnp.zeros(2), "policy")
        return policy, Linear(jnp.zeros((NUM_CELLS, 1)), jnp.zeros(1), "value")

    return ActorCritic(
        init,
        policy=lambda model, obs: distrax.Categorical(logits=model(obs)),
        value=lambda model, obs: model(obs)[..., 0],
    )


@pytest.mark.parametrize("make", [flax_nnx, dataclasses_of_ones_own])
def test_networks_of_ones_own_train(make):
    learner = make_learner(
        known_envs.chain(NUM_CELLS),
        make(),
        trpo(cg_iters=3),
        num_envs=2,
        num_steps=16,
        critic=value_regression(num_epochs=1, num_minibatches=1),
    )

    @jax.jit
    def one_step(key):
        state = learner.init(key)
        return state, *learner.step(state)

    before, after, metrics = one_step(jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert metrics.extra["accepted"]
    assert 0 < metrics.kl <= 0.01 * (1 + 1e-5)
    assert metrics.nonfinite_update == 0
    for name in ("policy_params", "value_params"):
        pairs = zip(*(jax.tree.leaves(getattr(s, name)) for s in (before, after)), strict=True)
        assert any(np.any(a != b) for a, b in pairs)
