"""Operations with a lowering of their own are what the plain ones are."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import kltrust
from kltrust.lowering import (
    _scans,
    argmax,
    choose,
    cpu_shortcut,
    head_product,
    log_softmax,
    permutation,
    quantiles,
    recording_loop,
    recording_scan,
    scan,
    split_rows,
)
from kltrust.networks.modules import Conv
from kltrust.rollout.loop import reset_batch, rollout

# Compiling is what these tests spend their time on.
QUICK = {"xla_backend_optimization_level": 0}

NUM_KEYS = 20_000


@functools.cache
def compiled(draw, size):
    return jax.jit(jax.vmap(lambda key: draw(key, size)), compiler_options=QUICK)


def keys_of(size):
    num_keys = NUM_KEYS if size <= 32 else 1000 if size <= 1000 else 10
    return jax.random.split(jax.random.key(size), num_keys)


@functools.cache
def orders(size, draw=permutation):
    """[num_keys, size], of many keys at once."""
    return np.asarray(compiled(draw, size)(keys_of(size)))


def feistel(round_keys, size):
    """The same walk, one index at a time, in Python integers."""
    bits = max((size - 1).bit_length(), 2)
    low_bits = bits // 2

    def mix(x, key):
        x = (x ^ key) * 0x9E3779B1 % 2**32
        x = (x ^ (x >> 15)) * 0x85EBCA77 % 2**32
        return x ^ (x >> 13)

    def permute(x):
        low, high = x % 2**low_bits, x // 2**low_bits
        for even, odd in zip(round_keys[::2], round_keys[1::2], strict=True):
            low = (low ^ mix(high, even)) % 2**low_bits
            high = (high ^ mix(low, odd)) % 2 ** (bits - low_bits)
        return high * 2**low_bits + low

    def walk(x):
        x = permute(x)
        return x if x < size else walk(x)

    return [walk(i) for i in range(size)]


def test_it_is_a_permutation_at_every_size():
    """All sizes to 300, by the oracle with the library's own round keys."""
    for size in range(1, 301):
        round_keys = [int(k) for k in np.random.default_rng(size).integers(2**32, size=12)]
        assert sorted(feistel(round_keys, size)) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 5, 12, 32, 300, 1000, 10000])
def test_against_integers(size):
    for key, order in zip(keys_of(size)[:3], orders(size), strict=False):
        round_keys = [int(k) for k in jax.random.bits(key, (12,), jnp.uint32)]
        np.testing.assert_array_equal(order, feistel(round_keys, size))
    alone = permutation(keys_of(size)[0], size)
    assert alone.dtype == jnp.int32
    np.testing.assert_array_equal(alone, orders(size)[0])


def test_sizes_without_an_order():
    assert permutation(jax.random.key(0), 0).shape == (0,)
    np.testing.assert_array_equal(permutation(jax.random.key(0), 1), [0])


def test_the_key_decides():
    many = orders(300)
    assert len({tuple(order) for order in many}) == 1000
    np.testing.assert_array_equal(many, compiled(permutation, 300)(keys_of(300)))


def test_float64_does_not_change_it(x64):
    order = compiled(permutation, 24)(jax.random.key(24)[None])
    assert order.dtype == jnp.int32
    round_keys = [int(k) for k in jax.random.bits(jax.random.key(24), (12,), jnp.uint32)]
    np.testing.assert_array_equal(order[0], feistel(round_keys, 24))


# One in a thousand of true permutations would fail; the keys are fixed, so none here does by luck.
RARE = 1e-3


def position_p_values(many):
    """For each place, whether all elements are equally frequent there: chi-square."""
    size = many.shape[1]
    counts = [np.bincount(many[:, place], minlength=size) for place in range(size)]
    return [stats.chisquare(c).pvalue for c in counts]


def adjacency_p_value(many):
    """Whether all ordered pairs are equally frequent as neighbours."""
    size = many.shape[1]
    pairs = many[:, :-1] * size + many[:, 1:]
    counts = np.bincount(pairs.ravel(), minlength=size**2).reshape(size, size)
    return stats.chisquare(counts[~np.eye(size, dtype=bool)]).pvalue


def step_p_value(many):
    """Whether element k + 1 stands anywhere relative to element k, cyclically."""
    size = many.shape[1]
    where = np.argsort(many, -1)
    steps = np.bincount(((where[:, 1] - where[:, 0]) % size), minlength=size)
    return stats.chisquare(steps[1:]).pvalue


@pytest.mark.parametrize("size", [5, 12, 24, 32])
@pytest.mark.parametrize("draw", [permutation, jax.random.permutation])
def test_every_element_everywhere_beside_everyone(draw, size):
    many = orders(size, draw)
    places = position_p_values(many)
    assert min(places) > RARE / size
    assert adjacency_p_value(many) > RARE
    assert step_p_value(many) > RARE


def test_the_statistics_can_fail():
    rng = np.random.default_rng(0)
    rotations = (np.arange(12) + rng.integers(12, size=(NUM_KEYS, 1))) % 12
    assert min(position_p_values(rotations)) > RARE / 12  # each place alone looks right
    assert adjacency_p_value(rotations) < 1e-12
    assert step_p_value(rotations) < 1e-12
    sticky = np.argsort(np.arange(12) + 6 * rng.normal(size=(NUM_KEYS, 12)), -1)
    assert min(position_p_values(sticky)) < 1e-12


@pytest.mark.parametrize("size", [3, 5])
def test_all_permutations_of_few(size):
    many = orders(size)
    _, counts = np.unique(many, axis=0, return_counts=True)
    assert counts.size == math.factorial(size)
    assert counts.max() < 1.5 * NUM_KEYS / math.factorial(size)
    assert counts.min() > 0.5 * NUM_KEYS / math.factorial(size)


def test_minibatch_means_vary_as_those_of_a_random_part():
    """A trend in the data, split into 8 parts of 125: the variance of drawing without return."""
    size, part = 1000, 125
    means = orders(size).reshape(1000, 8, part).mean(-1)
    expected = (size**2 - 1) / 12 / part * (size - part) / (size - 1)
    assert abs(means.var() / expected - 1) < 0.1
    assert abs(means.mean() - (size - 1) / 2) < 1e-9


@pytest.mark.parametrize("size", [1, 2, 6])
def test_heads_are_dense_layers(size):
    x = jax.random.normal(jax.random.key(0), (96, 16))
    ours = nn.Dense(size, dot_general=head_product)
    theirs = nn.Dense(size)
    params = theirs.init(jax.random.key(1), x)

    def outcome(module):
        def loss(params, x):
            y = module.apply(params, x)
            return jnp.mean(jnp.exp(y)), y

        function = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        _, tangent = jax.jvp(lambda p: module.apply(p, x), (params,), (params,))
        return function(params, x), tangent

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6),
        jax.jit(lambda: outcome(ours))(),
        jax.jit(lambda: outcome(theirs))(),
    )
    lead = head_product(x.reshape(4, 24, 16), params["params"]["kernel"])
    theirs = (x @ params["params"]["kernel"]).reshape(4, 24, size)
    np.testing.assert_allclose(lead, theirs, rtol=1e-5, atol=1e-6)


def test_a_convolution_is_flax_s_without_padding(x64):
    ours, theirs = Conv(6), nn.Conv(6, (3, 3), padding="VALID")
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.normal(size=(2, 3, 6, 5, 4)))
    params = jax.jit(ours.init)(jax.random.key(0), images)
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), images)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)

    @jax.jit
    def both(params, images):
        value_and_pull = [jax.vjp(m.apply, params, images) for m in (ours, theirs)]
        return [(value, pull(jnp.cos(value))) for value, pull in value_and_pull]

    one, other = both(params, images)
    for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)
    turned = jax.tree.map(lambda x: x.swapaxes(0, 1) if x.ndim == 4 else x, params)
    assert np.max(np.abs(both(turned, images)[0][0] - one[0])) > 0.1


@pytest.mark.parametrize("index", [1, -1, 3])
def test_choose_takes_one_entry_of_every_row(index):
    rows = np.random.default_rng(0).normal(size=(2, 3, 4))
    rows[..., 2] = -np.inf
    got = jax.jit(choose)(rows, jnp.full((2, 3), index))
    expected = rows[..., index] if 0 <= index < 4 else np.full((2, 3), -np.inf)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_the_gradient_of_a_choice_is_that_of_the_entry():
    """Of an entry of -inf as well, which others may share."""
    gradient = jax.jit(jax.grad(lambda row, index: choose(row, index)))
    row = jnp.array([0.5, -jnp.inf, -jnp.inf])
    for index in range(3):
        np.testing.assert_array_equal(gradient(row, index), np.eye(3)[index])
    np.testing.assert_array_equal(gradient(row, 3), 0)


@pytest.mark.parametrize("reverse", [False, True])
def test_steps_taken_together_are_the_same_bits(reverse, users_options):
    compiled = functools.partial(jax.jit, compiler_options=users_options)

    def step(carry, x):
        carry = 0.9 * carry + x
        return carry, jnp.cos(carry)

    xs = jax.random.normal(jax.random.key(0), (37, 3))  # 16 does not divide 37
    ours = compiled(lambda xs: scan(step, xs[0], xs, reverse=reverse))(xs)
    theirs = compiled(lambda xs: jax.lax.scan(step, xs[0], xs, reverse=reverse))(xs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    together = compiled(lambda xs: jax.lax.scan(step, xs[0], xs, reverse=reverse, unroll=16))(xs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), together, theirs)


def lowered_text(function, platform, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=(platform,))
    return exported(*arguments).mlir_module()


def test_a_condition_is_only_asked_on_a_cpu():
    def function(x):
        return jax.lax.cond(cpu_shortcut(x > 0), lambda: jnp.sin(x), lambda: jnp.cos(x))

    assert float(jax.jit(function)(1.0)) == pytest.approx(math.sin(1))
    x = jax.ShapeDtypeStruct((), jnp.float32)
    assert "stablehlo.compare" in lowered_text(function, "cpu", x)
    assert "stablehlo.compare" not in lowered_text(function, "cuda", x)


def test_sorted_quantiles_are_the_bisected(monkeypatch):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(3, 40)).round(1), jnp.float32)
    levels = (0.0, 0.5, 0.95, 1.0)
    for weight in (None, jnp.asarray(rng.integers(0, 3, size=(3, 40)), jnp.float32)):
        top = x.max() if weight is None else x[weight > 0].max()
        bisected = quantiles(x, weight, levels, top)
        with monkeypatch.context() as patch:
            patch.setattr(jax.lax, "platform_dependent", lambda *x, default, **_: default(*x))
            assert quantiles(x, weight, levels, top) == bisected
        assert len({float(q) for q in bisected}) == len(levels)


def learners():
    """One of first order and one of second, whose Fisher products go in parts on a CPU."""
    env = kltrust.make("CartPole-v1")
    size = {"num_envs": 64, "num_steps": 128}
    for update in (kltrust.ppo_clip(), kltrust.trpo()):
        yield kltrust.make_learner(env, kltrust.actor_critic(env, (8,)), update, **size)


def test_no_variant_of_another_platform_is_exported(monkeypatch):
    """Nor is anybody asked what this machine computes on."""
    real = jax.lax.platform_dependent

    def marked(*operands, default, cpu, **others):
        named = jax.named_scope("made_for_a_cpu")(cpu), jax.named_scope("made_for_others")(default)
        return real(*operands, cpu=named[0], default=named[1], **others)

    monkeypatch.setattr(jax.lax, "platform_dependent", marked)
    monkeypatch.setattr(jax, "default_backend", None)
    marks = "made_for_a_cpu", "made_for_others"
    for learner in learners():
        state = jax.eval_shape(learner.init, jax.random.key(0))
        traced = jax.jit(learner.step).trace(state)
        for platform, there in {"cpu": (True, False), "cuda": (False, True)}.items():
            text = traced.lower(lowering_platforms=(platform,)).as_text(debug_info=True)
            assert tuple(mark in text for mark in marks) == there, platform


@pytest.fixture
def as_on_accelerators(monkeypatch):
    """What is traced takes the lowering of platforms that have none of their own."""
    plain = lambda *operands, default, **_: default(*operands)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", plain)


def test_what_is_recorded_side_by_side_is_the_same_bits(as_on_accelerators, monkeypatch):
    monkeypatch.setattr(_scans, "_STEPS", 1)
    rows = 3

    def step(carry, x):
        carry = carry + x
        outs = {
            "float": jnp.outer(jnp.sin(carry), jnp.arange(5.0)),
            "flag": carry > 2,
            "flags": jnp.outer(carry, jnp.arange(4.0)) > 3,
            "count": jnp.int32(-7) * jnp.arange(rows),
            "of no row": jnp.sum(carry),
            "byte": jnp.arange(rows).astype(jnp.uint8),
            "wide": jnp.outer(x, jnp.ones(200)),
            "of no entry": jnp.zeros((rows, 0)),
            "key": jax.random.split(jax.random.key(0), rows),
            "nan": jnp.where(carry > 2, jnp.nan, -0.0),
        }
        return carry, outs

    xs = jax.random.uniform(jax.random.key(0), (7, rows))
    start = jnp.zeros(rows)
    ours = jax.jit(lambda: recording_scan(step, start, xs, rows))()
    theirs = jax.jit(lambda: jax.lax.scan(step, start, xs))()
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    for key in (ours, theirs):
        key[1]["key"] = jax.random.key_data(key[1]["key"])
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    text = jax.jit(lambda: recording_scan(step, start, xs, rows)).lower().as_text()
    assert text.count("dynamic_update_slice") == 6  # the narrow ones are one of them


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_reductions_by_columns_are_the_plain_ones(size, as_on_accelerators):
    rows = jax.random.normal(jax.random.key(size), (40, size)).round(1)  # with ties
    rows = rows.at[0, -1].set(-jnp.inf if size > 1 else 0)
    np.testing.assert_allclose(log_softmax(rows), jax.nn.log_softmax(rows), rtol=1e-6, atol=1e-6)
    slopes = [jax.grad(lambda x, f=f: jnp.sum(jnp.tanh(f(x)))) for f in REDUCTIONS]
    np.testing.assert_allclose(slopes[0](rows), slopes[1](rows), rtol=1e-5, atol=1e-6)
    rows = rows.at[1, 0].set(jnp.nan).at[2, -1].set(jnp.nan)
    found, expected = argmax(rows), jnp.argmax(rows, -1)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


REDUCTIONS = log_softmax, jax.nn.log_softmax


def test_a_loop_records_the_same_bits_side_by_side(as_on_accelerators):
    def step(carry):
        key = jax.random.key(3)
        outs = jnp.sin(carry), carry > 2, jnp.int32(7), jnp.arange(2) * carry, key, carry - 1
        return carry + 1, outs

    @jax.jit
    def ours(length):
        carry, (*outs, key, last) = recording_loop(step, jnp.float32(0.5), 5, length)
        return carry, *outs, jax.random.key_data(key), last

    def theirs(length):
        carry, found = 0.5, []
        for _ in range(length):
            carry, (*outs, key, last) = step(carry)
            found.append([*outs, jax.random.key_data(key), last])
        rows = [np.stack(x) for x in zip(*found, strict=True)]
        return carry, *(np.concatenate([x, np.zeros((5 - length, *x.shape[1:]))]) for x in rows)

    for length in (3, 5):
        jax.tree.map(np.testing.assert_array_equal, ours(length), theirs(length))
    assert len({leaf.dtype for leaf in ours(3)}) == 4


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_rows_are_those_of_one_split(impl, as_on_accelerators):
    key = jax.random.key(5, impl=impl)
    whole = jax.random.split(key, (4, 6))
    found = jax.jit(lambda key: split_rows(key, 4, 1, 3, 2))(key)
    for ours, theirs in zip(found, jnp.split(whole, (1, 4), 1), strict=True):
        data = jax.random.key_data(ours), jax.random.key_data(theirs)
        jax.tree.map(np.testing.assert_array_equal, *data)


@pytest.mark.parametrize("batched", [True, False])
def test_what_is_drawn_ahead_is_what_steps_draw(batched, monkeypatch):
    env = kltrust.make("Pendulum-v1", max_steps_in_episode=3)
    env = env if batched else env._replace(step_batch=None)
    other = env._replace(draw=lambda key: env.draw(jax.random.fold_in(key, 1)))

    def played(env):
        keys = jax.random.split(jax.random.key(1), 2)
        state, obs = reset_batch(env, keys[0], 4)
        act = lambda obs, key: jax.random.normal(key, (4, 1))  # noqa: E731
        step = jax.jit(lambda: rollout(env, act, state, obs, keys[1], 8)[1], compiler_options=QUICK)
        return step()

    by_steps = played(env)
    chex.assert_trees_all_equal(by_steps, played(other))
    plain = lambda *operands, default, **_: default(*operands)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", plain)
    chex.assert_trees_all_close(by_steps, played(env), rtol=1e-5, atol=1e-6)
    assert by_steps.truncated.any()
    assert np.any(played(other).obs != by_steps.obs)


def test_an_update_is_the_same_in_both_lowerings(monkeypatch):
    """To rounding. The second iteration undoes an epoch."""
    env = kltrust.make("CartPole-v1")
    passes = {"num_epochs": 2, "num_minibatches": 2}
    update, critic = kltrust.ppo_clip(max_kl=2e-6, **passes), kltrust.value_regression(**passes)

    def trained():
        agent = kltrust.actor_critic(env, (8,))
        sizes = {"num_envs": 4, "num_steps": 6}
        learner = kltrust.make_learner(env, agent, update, critic=critic, **sizes)

        def end(key):
            state, metrics = kltrust.train(learner, key, 2)
            return state._replace(key=None), metrics.extra["epochs_applied"]

        return jax.jit(end, compiler_options=QUICK)(jax.random.key(0))

    on_a_cpu, taken = trained(), []

    def plain(*operands, default, **_):
        taken.append(default.__name__)
        return default(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", plain)
    elsewhere = trained()
    assert {"as_vectors", "side_by_side", "plain", "together"} <= set(taken)
    assert np.min(on_a_cpu[1]) < 2
    chex.assert_trees_all_equal_shapes_and_dtypes(on_a_cpu, elsewhere)
    chex.assert_trees_all_close(on_a_cpu, elsewhere, rtol=1e-3, atol=1e-5)
