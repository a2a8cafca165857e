"""All algorithms under one table of contracts, and one exact update of each against numpy."""

import dataclasses
import functools
import math
from types import MappingProxyType
from typing import Any, NamedTuple

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.flatten_util import ravel_pytree
from toys import ALGORITHMS, DECLARED, FITTED, KINDS, having

from kltrust import algorithms, tree
from kltrust.audit import log_ratio, measure_update
from kltrust.losses import spo_loss, surrogate_loss
from kltrust.lowering import permutation
from kltrust.types import PolicyBatch, UpdateReport
from kltrust.updates import Optimizer, Sample, mean_change, mean_kl, sample_loss

NUM_ROWS = 24

# --- the table ------------------------------------------------------------------------------------

# Small, and strong enough that every algorithm moves. The solves end by their tolerance.
SMALL = {
    "learning_rate": 0.01,
    "init_learning_rate": 0.01,
    "max_learning_rate": 0.1,
    "target_kl": 0.01,
    "num_epochs": 3,
    "num_minibatches": 4,
    "cg_iters": 100,
}
NATURAL = having("cg_iters")
PENALISED = ("ppo_penalty", "ppo_reverse_kl", "mdpo", "fixpo")
FORWARD = ("ppo_penalty", "fixpo")
LOOPS = tuple(n for n in KINDS if n in FITTED)
LOSSES = tuple(n for n in FITTED if hasattr(getattr(algorithms, n), "losses"))
"""Those that declare the losses of rows: the rest have a loop of their own."""
OWN_LOOPS = tuple(n for n in FITTED if n not in LOSSES)
UPDATES = tuple(
    {getattr(algorithms, n).update: n for n in sorted(KINDS, key="ppo_clip".__eq__)}.values()
)
"""One algorithm for each function that updates: other kinds steer a coefficient beside it."""
DRAWN = (*PENALISED, "trpl")
"""Old is a minimum of their losses, but one that Adam does not hold."""


def options(name: str) -> dict[str, Any]:
    """Every setting of an algorithm with its value here."""
    small = SMALL | ({"learning_rate": 0.1} if name == "vanilla_pg" else {})
    fields = dataclasses.fields(getattr(algorithms, name))
    return {f.name: small.get(f.name, f.default) for f in fields}


def is_traced(value: Any) -> bool:
    return isinstance(value, float)


def numbers(name: str, **changes: float) -> dict[str, jax.Array]:
    """The options that may be traced, all as arrays of the default float dtype."""
    values = {k: v for k, v in options(name).items() if is_traced(v)}
    assert set(changes) <= set(values)
    return {k: jnp.asarray(v, float) for k, v in (values | changes).items()}


def build(name: str, traced: dict[str, Any], **static: Any):
    return getattr(algorithms, name)(**(options(name) | traced | static))


# --- policies by hand -----------------------------------------------------------------------------


def with_one(x):
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], -1)


def outputs(params, obs):
    return with_one(jnp.tanh(with_one(obs) @ params["hidden"])) @ params["out"]


def categorical(params, obs):
    return distrax.Categorical(logits=outputs(params, obs))


def gaussian(params, obs):
    y = outputs(params, obs)
    return distrax.Independent(distrax.Normal(y[..., :3], jnp.exp(0.3 * y[..., 3:])), 1)


def multi_discrete(params, obs):
    y = outputs(params, obs)
    # Two digits of three and two values: the padded logit is -inf.
    logits = y.reshape(*y.shape[:-1], 2, 3)
    exists = jnp.broadcast_to(np.array([[True] * 3, [True, True, False]]), logits.shape)
    return distrax.Independent(distrax.Categorical(logits=jnp.where(exists, logits, -jnp.inf)), 1)


def bernoulli(params, obs):
    return distrax.Independent(distrax.Bernoulli(logits=outputs(params, obs)), 1)


def masked_sequences(params, obs):
    """Two masked digits, by a memory: the sum of what the sequence showed so far."""
    x, allowed = obs
    hidden = jnp.cumsum(jnp.tanh(with_one(x) @ params["hidden"]), axis=-2)
    logits = (with_one(hidden) @ params["out"]).reshape(allowed.shape)
    logits = jnp.where(allowed, logits, -jnp.inf)
    return distrax.Independent(distrax.Categorical(logits=logits), 1)


def of_images(params, obs):
    """A Gaussian whose means and scales are of the state, after a convolution."""
    shape, kernel = obs.shape[:-3], params["hidden"].reshape(2, 2, 1, 5)
    images = obs.reshape(-1, *obs.shape[-3:])
    layout = ("NHWC", "HWIO", "NHWC")
    seen = jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout)
    y = with_one(jnp.tanh(seen).mean((1, 2)).reshape(*shape, 5)) @ params["out"]
    return distrax.Independent(distrax.Normal(y[..., :3], jnp.exp(0.3 * y[..., 3:])), 1)


POLICIES = MappingProxyType(
    {
        "categorical": categorical,
        "gaussian": gaussian,
        "multi_discrete": multi_discrete,
        "bernoulli": bernoulli,
    }
)
SHAPED = MappingProxyType({"masked_sequences": masked_sequences, "of_images": of_images})
"""Observations that are no vectors: sequences with masks [B, T, ...], and images."""
EVERYWHERE = MappingProxyType({**POLICIES, **SHAPED})


class Case(NamedTuple):
    params: Any
    batch: PolicyBatch


def case(policy: str, seed: int = 0, dtype: Any = None) -> Case:
    return _case(policy, seed, jnp.dtype(dtype or jnp.zeros(()).dtype), jax.config.jax_enable_x64)


@functools.cache
def _case(policy: str, seed: int, dtype: Any, x64: bool) -> Case:
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    params = {"hidden": 0.5 * normal(4, 5), "out": 0.5 * normal(6, 6)}
    obs, advantage = normal(NUM_ROWS, 3), normal(NUM_ROWS)
    if policy == "of_images":
        obs = normal(NUM_ROWS, 4, 3, 1)
    if policy == "masked_sequences":
        obs, advantage = obs.reshape(8, 3, 3), advantage.reshape(8, 3)
        allowed = rng.random((8, 3, 2, 3)) < 0.5
        obs = obs, jnp.asarray(allowed | (np.arange(3) == rng.integers(3, size=(8, 3, 2, 1))))
    old = EVERYWHERE[policy](params, obs)
    with jax.numpy_rank_promotion("allow"):  # distrax's Bernoulli promotes when it samples
        action = old.sample(seed=jax.random.key(seed))
    return Case(params, PolicyBatch(obs, action, advantage, old))


@functools.cache
def compiled(policy: str):
    """(algorithm, params, state or None for a fresh one, batch, key) -> (params, state, extra)."""

    def update(algorithm, params, state, batch, key):
        state = algorithm.init(params) if state is None else state
        params, state, report = algorithm.update(EVERYWHERE[policy], params, state, batch, key)
        return params, state, report.extra if isinstance(report, UpdateReport) else report

    return jax.jit(update)


@functools.cache
def audited(policy: str):
    return jax.jit(functools.partial(measure_update, EVERYWHERE[policy]))


def run(name, policy, c, *, key=0, state=None, static=MappingProxyType({}), **changes):
    algorithm = build(name, numbers(name, **changes), **static)
    return compiled(policy)(algorithm, c.params, state, c.batch, jax.random.key(key))


def max_difference(x, y):
    def difference(a, b):
        return np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)))

    return max(jax.tree.leaves(jax.tree.map(difference, x, y)))


every = pytest.mark.parametrize("policy", POLICIES)
each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
each_kind = pytest.mark.parametrize("name", KINDS)
each_update = pytest.mark.parametrize("name", UPDATES)


# --- contracts ------------------------------------------------------------------------------------


# The loops differ from each other in nothing that sees the distribution but their losses, and
# these are all in one program below.
PAIRS = [(n, "categorical") for n in KINDS]
PAIRS += [(n, p) for n in UPDATES for p in SHAPED]
PAIRS += [(n, p) for n in ("ppo_clip", "trpo") for p in ("multi_discrete", "bernoulli")]
each_pair = pytest.mark.parametrize(("name", "policy"), PAIRS)


@each_pair
def test_one_update_in_float32(name, policy):
    """Structure, dtype, finiteness, repeatability, the controls at the start, the bound."""
    c = case(policy)
    before = audited(policy)(c.params, c.batch)
    assert abs(np.log(before["max_ratio"])) <= 1e-6
    assert np.max(np.abs(log_ratio(EVERYWHERE[policy](c.params, c.batch.obs), c.batch))) <= 1e-6
    assert abs(before["kl"]) <= 1e-7

    params, state, extra = run(name, policy, c)
    chex.assert_trees_all_equal_structs(params, c.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, c.params)
    fresh = build(name, numbers(name)).init(c.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, fresh)
    chex.assert_tree_all_finite((params, state, extra))
    assert all(isinstance(x, jax.Array) and x.shape == () for x in extra.values())
    assert all(x.dtype in (jnp.float32, jnp.int32, bool) for x in jax.tree.leaves(extra))

    chex.assert_trees_all_equal((params, state, extra), run(name, policy, c))

    after = audited(policy)(params, c.batch)
    assert after["kl"] > 1e-6
    assert after["surrogate_gain"] > 0
    if name == "trpo":
        assert extra["accepted"]
        assert after["kl"] <= 0.01 * (1 + 1e-5)
        assert after["kl"] > 0.003  # and the region is used


@each_algorithm
def test_float32_stays_float32_where_float64_is_on(name, x64):
    c = case("gaussian", dtype=jnp.float32)
    as_float32 = {k: x.astype(jnp.float32) for k, x in numbers(name).items()}
    as_python = {k: x for k, x in options(name).items() if is_traced(x)}
    for settings in (as_float32, as_python):
        algorithm = build(name, settings)
        params, state, _ = jax.eval_shape(
            lambda c, algorithm=algorithm: algorithm.update(
                gaussian, c.params, algorithm.init(c.params), c.batch, jax.random.key(0)
            ),
            c,
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
        floats = {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)}
        assert floats <= {np.dtype("float32")}


@each_kind
def test_only_the_minibatches_depend_on_the_key(name):
    c = case("categorical")
    first, second = (run(name, "categorical", c, key=key)[0] for key in (0, 1))
    assert (max_difference(first, second) > 0) == (name in FITTED)


@each_pair
def test_no_advantage_no_step(name, policy):
    c = case(policy)
    c = Case(c.params, c.batch._replace(advantage=jnp.zeros_like(c.batch.advantage)))
    params, _, extra = run(name, policy, c)
    if name == "vmpo":
        # Equal advantages are equally good: it fits the actions that were taken.
        assert max_difference(params, c.params) > 1e-3
    elif name in DRAWN:
        # Old is the minimum of the KL, but one that Adam does not hold: learning rate / epsilon
        # times the curvature is far above 2, so that rounding errors grow to its usual step.
        assert audited(policy)(params, c.batch)["kl"] < 0.01
    else:
        chex.assert_trees_all_equal(params, c.params)
    chex.assert_tree_all_finite(extra)
    if name == "trpo":
        assert extra["zero_gradient"]
        assert not extra["accepted"]
    if name == "npg":
        assert not extra["moved"]


@each_kind
def test_a_step_that_was_taken_says_so(name):
    _, _, extra = run(name, "categorical", case("categorical"))
    expected = {
        "npg": {"moved": True},
        "trpo": {"zero_gradient": False, "accepted": True},
        "ppo_clip": {"epochs_applied": 3, "kl_stopped": False},
        "ppo_penalty": {"epochs_applied": 3, "kl_stopped": False, "beta": 1.0},
        "ppo_adaptive_lr": {"epochs_applied": 3, "learning_rate": np.float32(0.01)},
        "ppo": {"epochs_applied": 3, "kl_stopped": False, "factor": 1.0},
        "fixpo": {"epochs_applied": 3, "beta": 1.0, "fixups": 0, "fixed": True},
    }
    for field, value in expected.get(name, {}).items():
        assert extra[field] == value, field


def declared_loss(algorithm, policy, batch):
    """Of the parameters: an algorithm's mean loss, in its first iteration."""
    known = batch._replace(known=algorithm.prepare(batch))

    def loss(params):
        coefficient = None if algorithm.State is None else algorithm.init(params)[1]
        losses = lambda sample: algorithm.losses(sample, coefficient)  # noqa: E731
        return sample_loss(EVERYWHERE[policy], losses, algorithm.entropy_coef)(params, known)

    return loss


@pytest.mark.parametrize("policy", EVERYWHERE)
def test_declarations_at_old_and_away_from_it(policy):
    """All first-order losses in one program: mirror learning, on every distribution."""
    c = case(policy)
    counted = jnp.arange(NUM_ROWS).reshape(c.batch.advantage.shape) < 20
    batch = c.batch._replace(weight=jnp.where(counted, 1.0, 0.0))
    batch = batch._replace(advantage=jnp.where(batch.weight > 0, batch.advantage, jnp.nan))
    moved = jax.tree.map(lambda x: x + 0.3, c.params)
    # What a loss makes of ratios and KLs is the same on every distribution: one for each of these.
    few = ("ppo_clip", "ppo_penalty", "ppo_reverse_kl", "trpl", "trgppo")
    names = LOSSES if policy in SHAPED else few
    chosen = {n: build(n, numbers(n)) for n in names}

    def of_all(chosen, batch):
        def loss(name, params):
            return declared_loss(chosen[name], policy, batch)(params)

        def policy_gradient(params):
            losses = lambda s: surrogate_loss(s.log_ratio, s.advantage)  # noqa: E731
            return sample_loss(EVERYWHERE[policy], losses, 0.0)(params, batch)

        both = jax.tree.map(lambda x, y: jnp.stack([x, y]), c.params, moved)
        found = {n: jax.vmap(jax.value_and_grad(functools.partial(loss, n)))(both) for n in chosen}
        return found, jax.grad(policy_gradient)(c.params)

    found, expected = jax.jit(of_all)(chosen, batch)
    chex.assert_tree_all_finite(found)
    for _, gradients in found.values():
        chex.assert_trees_all_close(tree.take_rows(gradients, 0), expected, atol=1e-6)
    assert len({float(values[1]) for values, _ in found.values()}) > len(found) / 2


@pytest.mark.parametrize("name", DECLARED)
def test_no_number_of_a_declaration_is_closed_over(name):
    c = case("categorical")
    given = numbers(name)

    def losses(algorithm):
        batch = c.batch._replace(known=algorithm.prepare(c.batch))
        old = batch.old
        sample = Sample(jnp.zeros(NUM_ROWS), batch.advantage, old, old, batch)
        return algorithm.losses(sample, jnp.ones(()))

    other = {k: v if jnp.isinf(v) or k == "adaptive" else 0.9 * v for k, v in given.items()}
    programs = {str(jax.make_jaxpr(losses)(build(name, n))) for n in (given, other)}
    assert len(programs) == 1


@pytest.mark.parametrize("form", ["clip", "truly", "rollback"])
def test_forms_of_tr_ppo(form):
    """Each is the loss that it names."""
    c = case("categorical")
    new = categorical(jax.tree.map(lambda x: 1.3 * x, c.params), c.batch.obs)
    sample = Sample(log_ratio(new, c.batch), c.batch.advantage, c.batch.old, new, c.batch)
    ratio, kl = np.exp(sample.log_ratio), np.asarray(sample.kl())
    given = {"clip": {"bound": 0.01}, "truly": {"bound": 0.01, "slope": 4.0}}
    given["rollback"] = {"eps": 0.1, "slope": 0.5}
    drift = oracles.DRIFTS["kl_clip" if form == "clip" else form]
    expected = drift(ratio, np.asarray(c.batch.advantage), kl, **given[form])
    settings = {"state_kl": 0.01, "kl_slope": 4.0, "clip_eps": 0.1, "ratio_slope": 0.5}
    found = algorithms.tr_ppo(form=form, **settings).losses(sample, None)
    assert np.max(expected) > 1e-3
    np.testing.assert_allclose(found + ratio * c.batch.advantage, expected, atol=1e-5)


def test_the_epoch_that_espo_ends_at_stays():
    c = case("categorical")
    whole, _, free = run("espo", "categorical", c)
    first, _, extra = run("espo", "categorical", c, max_change=1e-4)
    assert (free["epochs_applied"], free["kl_stopped"]) == (3, False)
    assert (extra["epochs_applied"], extra["kl_stopped"]) == (1, True)
    assert max_difference(first, c.params) > 1e-3
    assert max_difference(first, whole) > 1e-3
    change = [float(mean_change(categorical, p, c.batch)) for p in (first, whole)]
    by_hand = np.mean(np.abs(np.exp(log_ratio(categorical(first, c.batch.obs), c.batch)) - 1))
    np.testing.assert_allclose(change[0], by_hand, rtol=1e-5)
    # The same measure undoes an epoch of `ppo`.
    params, _, extra = run("ppo", "categorical", c, max_change=0.5 * change[0])
    assert (extra["epochs_applied"], extra["kl_stopped"]) == (0, True)
    chex.assert_trees_all_equal(params, c.params)


def test_what_ppo_steers():
    """Towards tighter where the KL is too large: by factors, and in proportion where it is dual."""
    one, never = jnp.ones(()), jnp.asarray(False)
    for static, above, below in (
        ({}, 0.5, 2.0),
        ({"controller": "learning_rate", "drift": "kl"}, 0.5, 2.0),
        ({"drift": "kl"}, 2.0, 0.5),
        ({"drift": "kl", "controller": "dual"}, 2.0, 0.5),
    ):
        algorithm = algorithms.ppo(target_kl=0.01, **static)
        for kl, factor in ((0.02, above), (0.005, below)):
            np.testing.assert_allclose(
                algorithm.next_coefficient(one, kl * one, never), factor, rtol=1e-6
            )
            off = dataclasses.replace(algorithm, target_kl=math.inf)
            assert off.next_coefficient(one, kl * one, never) == 1
        steers_rate = static.get("controller") == "learning_rate"
        np.testing.assert_allclose(algorithm.rate(0.1 * one), 3e-5 if steers_rate else 3e-4)
        c = case("categorical")
        new = categorical(jax.tree.map(lambda x: 1.3 * x, c.params), c.batch.obs)
        sample = Sample(log_ratio(new, c.batch), c.batch.advantage, c.batch.old, new, c.batch)
        at = [algorithm.losses(sample, factor * one) for factor in (1.0, 0.1)]
        assert (max_difference(*at) == 0) == steers_rate
    with pytest.raises(ValueError, match="controller='dual' steers a weight"):
        algorithms.ppo(controller="dual")
    with pytest.raises(ValueError, match="min_factor must not exceed max_factor"):
        algorithms.ppo(min_factor=2.0, max_factor=1.0)


def test_a_drift_of_ones_own():
    c = case("categorical")
    new = categorical(jax.tree.map(lambda x: 1.3 * x, c.params), c.batch.obs)
    sample = Sample(log_ratio(new, c.batch), c.batch.advantage, c.batch.old, new, c.batch)

    def own(sample, size):
        return spo_loss(sample.log_ratio, sample.advantage, size)

    mine, clip = (algorithms.ppo(drift=d).losses(sample, 1.0) for d in (own, "clip"))
    np.testing.assert_array_equal(mine, algorithms.spo(eps=0.2).losses(sample, None))
    assert max_difference(mine, clip) > 1e-6


def test_trpo_rejects_bit_for_bit():
    c = case("gaussian")
    params, _, extra = run("trpo", "gaussian", c, static={"max_backtracks": 0}, max_kl=20.0)
    assert not extra["accepted"]
    assert not extra["zero_gradient"]
    assert extra["backtracks"] == 0
    chex.assert_trees_all_equal(params, c.params)
    # The same step shortened is accepted: it was the length that was at fault.
    params, _, extra = run("trpo", "gaussian", c, max_kl=20.0, shrink=0.5)
    assert extra["accepted"]
    assert extra["backtracks"] > 0
    assert audited("gaussian")(params, c.batch)["surrogate_gain"] > 0


@pytest.mark.parametrize("max_kl", [1e-6, 1e-4, 0.01, 0.1, 1.0])
@every
def test_trpo_keeps_every_bound(policy, max_kl):
    for seed in range(3):
        c = case(policy, seed)
        params, _, extra = run("trpo", policy, c, max_kl=max_kl)
        after = audited(policy)(params, c.batch)
        # What float32 can resolve of a KL: a few roundings of the log-probabilities.
        assert after["kl"] <= max_kl * (1 + 1e-5) + 1e-9
        if extra["accepted"]:
            assert after["surrogate_gain"] > 0
        else:
            chex.assert_trees_all_equal(params, c.params)


def test_npg_does_not_keep_it():
    """The control: without the search the same bounds are exceeded."""
    c = case("gaussian")
    realised = [
        audited("gaussian")(run("npg", "gaussian", c, target_kl=kl)[0], c.batch)["kl"] / kl
        for kl in (0.01, 1.0, 20.0)
    ]
    assert max(realised) > 1


# --- weights --------------------------------------------------------------------------------------


def padded(c: Case, policy: str) -> tuple[Case, Case]:
    """A batch of which every third row is padding (garbage), and the batch without those rows."""
    kept = np.arange(NUM_ROWS) % 3 != 0
    batch = c.batch
    mask = lambda x: kept.reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
    garbage = PolicyBatch(
        obs=jnp.where(mask(batch.obs), batch.obs, 7.0),
        action=jnp.where(jnp.broadcast_to(mask(batch.action), batch.action.shape), batch.action, 0),
        advantage=jnp.where(kept, batch.advantage, jnp.nan),
        old=POLICIES[policy](c.params, jnp.where(mask(batch.obs), batch.obs, -3.0)),
        weight=jnp.where(kept, 2.0, 0.0),
    )
    return Case(c.params, garbage), Case(c.params, tree.take_rows(batch, np.flatnonzero(kept)))


@each_update
def test_rows_of_weight_zero_are_rows_dropped(name, x64):
    policy = "categorical" if name in FITTED else "gaussian"
    static = {"num_minibatches": 1} if name in FITTED else {}
    with_garbage, without = padded(case(policy), policy)
    a = run(name, policy, with_garbage, static=static)
    b = run(name, policy, without, static=static)
    chex.assert_tree_all_finite(a)
    # Rounding decides at which iteration conjugate gradients meet their tolerance of 1e-5.
    chex.assert_trees_all_close(a[0], b[0], atol=1e-6 if name in NATURAL else 1e-11)
    # And what is left counts by its weight.
    kept = with_garbage.batch.weight > 0
    batch = with_garbage.batch._replace(weight=jnp.where(kept, jnp.linspace(1, 2, NUM_ROWS), 0))
    assert max_difference(run(name, policy, Case(a[0], batch), static=static)[0], b[0]) > 1e-5


def test_the_audit_leaves_padding_out(x64):
    with_garbage, without = padded(case("gaussian"), "gaussian")
    params, _, _ = run("vanilla_pg", "gaussian", case("gaussian"))
    a, b = (audited("gaussian")(params, c.batch) for c in (with_garbage, without))
    chex.assert_trees_all_close(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in UPDATES if n in LOOPS])
def test_minibatches_of_nothing_but_padding(name):
    c = case("categorical")
    nothing = Case(c.params, c.batch._replace(weight=jnp.zeros(NUM_ROWS)))
    params, _, _ = run(name, "categorical", nothing)
    chex.assert_trees_all_equal(params, c.params)


# --- sequences ------------------------------------------------------------------------------------


# --- lanes and compilations -----------------------------------------------------------------------

LANES = 3


RATES_OF_CHANGE = ("beta_increase", "learning_rate_factor", "factor_step")


def swept(name, **static):
    """Declarations in a stack: every traced setting different in every lane."""
    settings = {}
    for option, value in numbers(name).items():
        if option in ("shrink", "beta_decrease", "kl_quantile"):  # within 0 and 1
            lanes = [0.3, 0.5, 0.9]
        elif option == "max_change":  # none that undoes the first epoch
            lanes = [5.0, 10.0, jnp.inf]
        elif "tolerance" in option or option in RATES_OF_CHANGE:
            lanes = [1.2, 1.5, 2.0]
        else:
            near = [0.01, 0.1, jnp.inf] if jnp.isinf(value) else [0.0, 0.01, 0.1]
            lanes = near if value in (0, jnp.inf) else value * np.array([0.5, 1.0, 1.9])
        settings[option] = jnp.asarray(lanes, float)
    each = [build(name, tree.take_rows(settings, lane), **static) for lane in range(LANES)]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)


@pytest.mark.parametrize("name", [*UPDATES, "ppo_adaptive_lr", "trpl"])
def test_a_lane_over_settings_and_keys_is_a_run_alone(name, x64):
    # The usual ten: after many more a solve has amplified its first rounding error.
    static = {"cg_iters": 10} if name in NATURAL else {}
    c, update = case("gaussian"), compiled("gaussian")
    keys = jax.random.split(jax.random.key(3), LANES)
    stack = swept(name, **static)
    lanes = jax.jit(jax.vmap(update.__wrapped__, (0, None, None, None, 0)))
    together, _, _ = lanes(stack, c.params, None, c.batch, keys)
    for lane in range(LANES):
        alone, _, _ = update(tree.take_rows(stack, lane), c.params, None, c.batch, keys[lane])
        chex.assert_trees_all_close(tree.take_rows(together, lane), alone, rtol=1e-12, atol=1e-12)
    assert max_difference(tree.take_rows(together, 0), tree.take_rows(together, 1)) > 1e-4


# --- every option counts --------------------------------------------------------------------------

# option, or option of an algorithm: (its other value, what else must hold for it to matter: traced
# settings, and static ones).
FLIPS = {
    "learning_rate": (0.02, {}),
    "learning_rate of vanilla_pg": (0.2, {}),
    "init_learning_rate": (0.02, {}),
    "optimizer": (Optimizer("sgd"), {}),
    "optimizer of vanilla_pg": (Optimizer("adam"), {}),
    "entropy_coef": (0.1, {}),
    "max_grad_norm": (0.01, {}),
    "damping": (0.5, {}),
    "cg_iters": (1, {}),
    "cg_rtol": (0.9, {}),
    "fisher_stride": (5, {}),
    "fisher_chunks": (4, {}),
    "shrink": (0.5, {"max_kl": 20.0}),
    "max_backtracks": (0, {"max_kl": 20.0}),
    "num_epochs": (1, {}),
    "num_minibatches": (2, {}),
    "clip_eps": (0.02, {}),
    "step_size": (0.1, {}),
    "max_kl": (1e-6, {}),
    "max_kl of trpo": (0.02, {}),
    "target_kl": (10.0, {}),
    "target_kl of npg": (0.02, {}),
    "init_beta": (3.0, {}),
    "adaptive": (False, {"target_kl": 1e-6}),
    "divergence": ("reverse_kl", {}),
    "divergence of ppo_reverse_kl": ("kl", {}),
    "beta_tolerance": (1e6, {"target_kl": 1e-5}),
    "beta_increase": (3.0, {"target_kl": 1e-6}),
    "beta_decrease": (0.7, {"target_kl": 10.0}),
    "min_beta": (0.9, {"target_kl": 10.0}),
    "max_beta": (1.1, {"target_kl": 1e-6}),
    "kl_tolerance": (1e6, {"target_kl": 1e-5}),
    "learning_rate_factor": (2.0, {"target_kl": 1e-6}),
    "min_learning_rate": (0.009, {"target_kl": 1e-6}),
    "max_learning_rate": (0.011, {"target_kl": 10.0}),
    "eps": (0.02, {}),
    "tau": (0.02, {}),
    "drift_alpha": (0.02, {}),
    "drift_beta": (0.02, {}),
    "max_state_kl": (1e-5, {}),
    "max_fixups": (1, {"max_state_kl": 1e-3}),
    "beta_step": (1.0, {}),
    "dual_scale": (1.5, {}),
    "max_change": (1e-3, {}),
    "clip_high": (0.02, {}),
    "dual_clip": (1.01, {}),
    "max_kl of espo": (1e-6, {}),
    "form": ("rollback", {"state_kl": 1e-4}),
    "state_kl": (1e-4, {}),
    "kl_slope": (50.0, {"state_kl": 1e-4}),
    "clip_eps of tr_ppo": (0.02, {}, {"form": "rollback"}),
    "ratio_slope": (2.0, {"clip_eps": 0.02}, {"form": "rollback"}),
    "drift": ("kl", {}),
    "drift_size": (0.02, {}),
    "controller": ("dual", {"target_kl": 10.0}, {"drift": "kl"}),
    "target_kl of ppo": (10.0, {}),
    "tolerance": (1e6, {"target_kl": 1e-5}),
    "factor_step": (3.0, {"target_kl": 1e-6}),
    "min_factor": (0.9, {"target_kl": 1e-6}),
    "max_factor": (1.1, {"target_kl": 10.0}),
    "num_minibatches of mdpo": (2, {}),
    "bounded": ("quantile", {}),
    "kl_quantile": (0.3, {"max_kl": 1e-4}, {"bounded": "quantile"}),
    "boundary_steps": (6, {}),
    "accept_ratio": (0.99, {"max_kl": 1.0}),
    "region_step": (3.0, {"max_kl": 20.0}, {"adaptive": True}),
    "low_ratio": (0.1, {"max_kl": 2.0}, {"adaptive": True}),
    "min_region": (0.9, {"max_kl": 20.0}, {"adaptive": True}),
    "projected_kl": (1e-4, {}),
    "projected_scale_kl": (1e-5, {}),
    "regression_coef": (0.5, {"projected_kl": 1e-4}),
    "state_kl of trgppo": (1e-4, {"clip_eps": 0.01}),
    "center_of_mass": (0.0, {"clip_eps": 0.01}),
    "target_kl of vmpo": (0.1, {}),
    "target_scale_kl": (0.1, {}),
    "temperature_kl": (0.5, {}),
    "init_temperature": (0.3, {}),
    "init_alpha": (5.0, {}),
    "dual_learning_rate": (0.3, {}),
    "min_dual": (2.0, {}),
}


def own_options(name: str) -> list[str]:
    """Of a declaration what it declares; what is of its loop is tested with one that has it."""
    given = vars(getattr(algorithms, name))["__annotations__"]
    whole = name not in LOSSES or name == "ppo_clip"
    # The region begins at its largest: see the test of it.
    later = [("trpo", "adaptive"), ("trpo", "high_ratio")]
    return [o for o in options(name) if (whole or o in given) and (name, o) not in later]


@pytest.mark.parametrize(("name", "option"), [(n, o) for n in ALGORITHMS for o in own_options(n)])
def test_every_option_changes_the_computation(name, option):
    value, others, *static = FLIPS.get(f"{option} of {name}") or FLIPS[option]
    static = static[0] if static else {}
    # The Gaussian's KL grows faster than its quadratic model, so that TRPO's search has work.
    of_gaussians = name in ("trpo", "trpl") or "scale" in option
    policy = "gaussian" if of_gaussians else "categorical"
    c = case(policy)
    base = run(name, policy, c, static=static, **others)
    if is_traced(options(name)[option]):
        flipped = run(name, policy, c, static=static, **(others | {option: value}))
    else:
        flipped = run(name, policy, c, static={**static, option: value}, **others)
    if option == "fisher_chunks":  # another order of summation: the same number, to rounding
        chex.assert_trees_all_close(flipped[0], base[0], atol=1e-5)
        programs = [
            str(compiled(policy).trace(algorithm, c.params, None, c.batch, jax.random.key(0)).jaxpr)
            for algorithm in (build(name, numbers(name), **x) for x in ({}, {option: value}))
        ]
        assert programs[0] != programs[1]
    else:
        # Another optimiser has another state.
        moved = (flipped[0], base[0]) if option == "optimizer" else (flipped, base)
        assert max_difference(*moved) > 1e-5


# --- bad values -----------------------------------------------------------------------------------

BAD = {
    float: [-0.1, math.nan, np.float32(-1.0), True, "3e-4", None],
    int: [-1, 1.5, True],
    bool: [1, None],
}
LIMITS = {
    "trpo": {"max_kl": [0.0, math.inf], "damping": [math.inf], "shrink": [0.0, 1.0]},
    "npg": {"target_kl": [0.0, math.inf]},
    "ppo_clip": {"clip_eps": [0.0], "max_kl": [0.0], "max_grad_norm": [0.0]},
    "ppo_penalty": {"init_beta": [0.0], "beta_tolerance": [0.9], "beta_decrease": [0.0, 1.1]},
    "ppo_adaptive_lr": {"kl_tolerance": [0.9], "min_learning_rate": [0.0]},
    "mdpo": {"step_size": [0.0]},
    "spo": {"eps": [0.0]},
    "ppo_asymmetric": {"dual_clip": [1.0]},
}


@each_algorithm
def test_bad_values_are_refused_at_the_door(name):
    for option, default in options(name).items():
        bad = BAD.get(type(default), [0.5, None]) + LIMITS.get(name, {}).get(option, [])
        for value in bad:
            with pytest.raises(ValueError, match=f"{option} must be"):
                getattr(algorithms, name)(**{option: value})


def test_zero_is_legal_where_it_means_off():
    algorithms.vanilla_pg(learning_rate=0.0)
    algorithms.trpo(damping=0.0, cg_rtol=0.0, max_backtracks=0, fisher_chunks=0)
    algorithms.ppo_penalty(init_beta=0.0, adaptive=False)


def traced_update(name, **static):
    c, algorithm = case("categorical"), build(name, {}, **static)
    return jax.eval_shape(
        lambda c: algorithm.update(
            categorical, c.params, algorithm.init(c.params), c.batch, jax.random.key(0)
        ),
        c,
    )


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        *(
            (n, "num_minibatches", r"=7 does not divide a batch of 24 rows .*, 6 or 8, say")
            for n in LOOPS
        ),
        *((n, "fisher_chunks", "num_chunks=7 must divide") for n in NATURAL),
    ],
)
def test_parts_that_do_not_divide_a_batch_are_refused(name, option, message):
    with pytest.raises(ValueError, match=message):
        traced_update(name, **{option: 7})


def test_a_non_finite_gradient_moves_nothing_under_a_bound():
    """A NaN advantage: TRPO and a PPO with a bound keep the parameters, and NPG its place."""
    c = case("categorical")
    batch = c.batch._replace(advantage=c.batch.advantage.at[0].set(jnp.nan))
    for name, changes in [("trpo", {}), ("ppo_clip", {"max_kl": 1.0})]:
        params, _, extra = run(name, "categorical", Case(c.params, batch), **changes)
        chex.assert_trees_all_equal(params, c.params)
        assert not extra.get("accepted", False)
        assert extra.get("epochs_applied", 0) == 0


# --- one exact update -----------------------------------------------------------------------------

FAMILIES = {"categorical": oracles.Softmax, "gaussian": oracles.Gaussian}
families = pytest.mark.parametrize("policy", FAMILIES)


def flat(params):
    return np.asarray(ravel_pytree(params)[0])


def problem(c: Case, policy: str) -> oracles.Problem:
    return oracles.Problem(
        FAMILIES[policy],
        flat(c.params),
        *(np.asarray(x) for x in (c.batch.obs, c.batch.action, c.batch.advantage)),
    )


@families
def test_the_oracle_sees_the_same_policy(policy, x64):
    c = case(policy)
    moved = jax.tree.map(lambda x: x + 0.1, c.params)
    p, theta = problem(c, policy), flat(moved)
    audit = audited(policy)(moved, c.batch)
    np.testing.assert_allclose(audit["kl"], p.mean_kl(theta), rtol=1e-12)
    np.testing.assert_allclose(audit["kl_reverse"], p.mean_kl(theta, reverse=True), rtol=1e-12)
    np.testing.assert_allclose(audit["entropy"], p.mean_entropy(theta), rtol=1e-12)
    np.testing.assert_allclose(audit["max_ratio"], p.ratio(theta).max(), rtol=1e-12)
    np.testing.assert_allclose(audit["surrogate_gain"], p.gain(theta) - p.gain(p.theta), rtol=1e-11)
    outside = [abs(r - 1) > 0.2 for r in p.ratio(theta)]
    assert 0 < sum(outside) < NUM_ROWS
    np.testing.assert_allclose(audit["clip_fraction"], sum(outside) / NUM_ROWS, rtol=1e-12)
    kls = [p.rows([i]).mean_kl(theta) for i in range(NUM_ROWS)]
    np.testing.assert_allclose(audit["kl_max"], max(kls), rtol=1e-12)


@pytest.mark.parametrize("max_grad_norm", [math.inf, 0.05])
@families
def test_vanilla_pg_is_a_gradient_step(policy, max_grad_norm, x64):
    c = case(policy)
    settings = {"learning_rate": 0.3, "entropy_coef": 0.02, "max_grad_norm": max_grad_norm}
    params, _, extra = run("vanilla_pg", policy, c, **settings)
    p = problem(c, policy)
    np.testing.assert_allclose(flat(params), oracles.vanilla_pg(p, **settings), atol=1e-13)
    gradient = oracles.numerical_gradient(lambda t: p.gain(t, 0.02), p.theta)
    np.testing.assert_allclose(extra["grad_norm"], np.linalg.norm(gradient), rtol=1e-7)
    # Controls: descent instead of ascent; an entropy penalty instead of a bonus.
    for wrong in (settings | {"learning_rate": -0.3}, settings | {"entropy_coef": -0.02}):
        assert max_difference(flat(params), oracles.vanilla_pg(p, **wrong)) > 1e-4


@pytest.mark.parametrize(
    ("policy", "stride"), [("categorical", 1), ("categorical", 5), ("gaussian", 1)]
)
def test_npg_is_the_dense_solve(policy, stride, x64):
    c = case(policy)
    static = {} if stride == 1 else {"fisher_stride": stride}
    settings = {"damping": 0.1, "entropy_coef": 0.02}
    params, _, extra = run(
        "npg", policy, c, static=static, target_kl=0.02, cg_rtol=1e-14, **settings
    )
    p = problem(c, policy)
    expected = p.theta + oracles.natural_step(p, 0.02, stride=stride, **settings)
    np.testing.assert_allclose(flat(params), expected, atol=1e-11)
    assert extra["cg_residual"] < 1e-13
    # Controls: no damping to speak of; the metric of all states for that of some; no metric.
    wrong = p.theta + oracles.natural_step(p, 0.02, stride=6 - stride, **settings)
    assert max_difference(flat(params), wrong) > 1e-4
    wrong = p.theta + oracles.natural_step(p, 0.02, 0.05, 0.02, stride)
    assert max_difference(flat(params), wrong) > 1e-4


@pytest.mark.parametrize("max_kl", [0.01, 1.0, 20.0])
@families
def test_trpo_is_the_dense_solve_and_a_loop(policy, max_kl, x64):
    c = case(policy)
    settings = {"max_kl": max_kl, "damping": 0.1, "shrink": 0.7, "entropy_coef": 0.02}
    params, _, extra = run("trpo", policy, c, cg_rtol=1e-14, **settings)
    p = problem(c, policy)
    expected, backtracks = oracles.trpo(p, max_backtracks=10, **settings)
    assert extra["accepted"]
    assert extra["backtracks"] == backtracks
    np.testing.assert_allclose(flat(params), expected, atol=1e-10)


def test_trpos_oracle_can_fail(x64):
    """A bound on the other KL accepts another candidate."""
    p = problem(case("gaussian"), "gaussian")
    settings = {"damping": 0.1, "shrink": 0.97, "max_backtracks": 200}
    right, other = (
        [oracles.trpo(p, kl, reverse=reverse, **settings) for kl in (0.1, 1.0, 5.0, 20.0)]
        for reverse in (False, True)
    )
    assert any(a[1] != b[1] for a, b in zip(right, other, strict=True))
    assert max(a[1] for a in right) > 0


def minibatch_orders(key, num_epochs, num_minibatches):
    """The rows of each minibatch of each epoch, as the update draws them."""
    if num_minibatches == 1:
        return [[np.arange(NUM_ROWS)]] * num_epochs
    keys = jax.random.split(jax.random.key(key), num_epochs)
    return [np.asarray(permutation(k, NUM_ROWS)).reshape(num_minibatches, -1) for k in keys]


def test_a_fixed_weight_is_a_fixed_step_size(x64):
    """`ppo_reverse_kl` that does not adapt is `mdpo`; `ppo_penalty`, the other KL, is not."""
    c = case("categorical")
    fixed = {"static": {"adaptive": False}, "init_beta": 8.0}
    one, other = (
        run(name, "categorical", c, **fixed)[0] for name in ("ppo_reverse_kl", "ppo_penalty")
    )
    mirror = run("mdpo", "categorical", c, step_size=0.125)[0]
    chex.assert_trees_all_close(mirror, one, rtol=0, atol=1e-14)
    assert max_difference(mirror, other) > 1e-5


# settings here and of the drift by hand, and of a drift that is another.
BY_HAND = {
    "drift_ppo": ("learned", {"drift_alpha": 0.3, "drift_beta": 0.2}, {"alpha": 0.2, "beta": 0.3}),
    "espo": ("free", {"max_change": math.inf}, None),
    "fr_ppo": ("fisher_rao", {"tau": 0.3}, {"tau": 0.6}),
    "ppo_asymmetric": (
        "asymmetric",
        {"clip_eps": 0.05, "clip_high": 0.1},
        {"low": 0.1, "high": 0.1},
    ),
    "spo": ("spo", {"eps": 0.1}, {"eps": 0.2}),
    "spma": ("log", {"step_size": 0.8}, {"eta": 0.6}),
    "tr_ppo": ("truly", {"state_kl": 1e-3, "kl_slope": 5.0}, {"bound": 1e-3, "slope": 9.0}),
}
HAND_NAMES = {
    "clip_eps": "low",
    "clip_high": "high",
    "state_kl": "bound",
    "kl_slope": "slope",
    "step_size": "eta",
    "drift_alpha": "alpha",
    "drift_beta": "beta",
}


def loss_by_hand(name, weight, entropy_coef, reverse=None):
    """(part of a problem, theta) -> loss; the weight is a penalty's, or the clip's half width."""
    reverse = name not in FORWARD if reverse is None else reverse

    def loss(part, theta):
        if name in PENALISED:
            return part.penalty_loss(theta, weight, entropy_coef, reverse)
        return part.clip_loss(theta, weight, entropy_coef)

    return loss


@families
def test_the_losses_of_declarations_by_hand(policy, x64):
    """Every declared loss away from old, and its gradient: drifts of a table of its own, in NumPy.

    Gradients by complex steps; all declarations in one program. What the loop makes of a gradient
    is the test below.
    """
    c, p = case(policy), problem(case(policy), policy)
    moved = jax.tree.map(lambda x: x + 0.1, c.params)
    theta, entropy_coef = flat(moved), 0.02
    chosen, right, wrong = {}, {}, {}
    for name, (kind, given, others) in BY_HAND.items():
        chosen[name] = build(name, numbers(name, entropy_coef=entropy_coef, **given))
        named = {HAND_NAMES.get(k, k): v for k, v in given.items()} if others else {}
        right[name] = drift_by_hand(kind, **named)
        # Another size, and no drift at all.
        free, other = drift_by_hand("free"), drift_by_hand(kind, **(others or {}))
        wrong[name] = [free, other] if others else [drift_by_hand("clip", eps=0.05)]
    for name in PENALISED:
        given = {"step_size": 0.25} if name == "mdpo" else {"init_beta": 4.0}
        chosen[name] = build(name, numbers(name, entropy_coef=entropy_coef, **given))
        right[name] = loss_by_hand(name, 4.0, entropy_coef)
        wrong[name] = [loss_by_hand(name, 4.0, entropy_coef, name in FORWARD)]
    for name in ("ppo", "ppo_clip", "ppo_adaptive_lr"):
        option = "drift_size" if name == "ppo" else "clip_eps"
        chosen[name] = build(name, numbers(name, entropy_coef=entropy_coef, **{option: 0.1}))
        right[name] = loss_by_hand(name, 0.1, entropy_coef)
        wrong[name] = [loss_by_hand(name, 0.2, entropy_coef)]
    bounds = {"projected_kl": 3e-3, "projected_scale_kl": 1e-3, "regression_coef": 2.0}
    chosen["trpl"] = build("trpl", numbers("trpl", entropy_coef=entropy_coef, **bounds))

    def trpl(part, theta, bound=3e-3, scale=1e-3, coefficient=2.0):
        return part.trpl_loss(theta, bound, scale, coefficient, entropy_coef)

    right["trpl"] = trpl
    changed = {"bound": 6e-3}, {"coefficient": 1.0}, *([{"scale": 2e-3}] * (policy == "gaussian"))
    wrong["trpl"] = [functools.partial(trpl, **x) for x in changed]
    low, high = p.family.interval(p.old, p.action, 2e-3)
    edges = {"low": np.maximum(1 - low, 0.05), "high": np.maximum(high - 1, 0.05)}
    given = {"state_kl": 2e-3, "clip_eps": 0.05, "entropy_coef": entropy_coef}
    chosen["trgppo"] = build("trgppo", numbers("trgppo", **given))
    right["trgppo"] = drift_by_hand("asymmetric", **edges)
    wrong["trgppo"] = [drift_by_hand("clip", eps=0.05), drift_by_hand("free")]
    assert set(chosen) == set(LOSSES)

    def of_all(chosen):
        return {n: jax.grad(declared_loss(a, policy, c.batch))(moved) for n, a in chosen.items()}

    found = jax.jit(of_all)(chosen)
    for name, loss in right.items():
        gradient = oracles.complex_gradient(lambda t, f=loss: f(p, t), theta)
        np.testing.assert_allclose(flat(found[name]), gradient, atol=1e-10, err_msg=name)
        for other in wrong[name]:
            gradient = oracles.complex_gradient(lambda t, f=other: f(p, t), theta)
            assert max_difference(flat(found[name]), gradient) > 1e-5, name


def drift_by_hand(kind, **given):
    def loss(part, theta):
        return part.drift_loss(theta, functools.partial(oracles.DRIFTS[kind], **given), 0.02)

    return loss


@families
def test_ppo_ewma_is_a_list_of_parameters(policy, x64):
    c, p = case(policy), problem(case(policy), policy)
    settings = {"learning_rate": 2.0**-6, "clip_eps": 0.05, "max_grad_norm": 0.3}
    settings["center_of_mass"] = 0.25  # of an update with twelve steps: three, decay 0.75
    params, state, extra = run("ppo_ewma", policy, c, key=5, **settings)
    orders = minibatch_orders(5, 3, 4)
    theta, prox = oracles.ppo_ewma(p, orders, 2.0**-6, 0.05, 0.75, 0.3)
    np.testing.assert_allclose(flat(params), theta, atol=1e-10)
    np.testing.assert_allclose(flat(state.proximal), prox, atol=1e-10)
    np.testing.assert_allclose(extra["proximal_mass"], (1 - 0.75**13) / 0.25)
    # Another average, and a policy that is held to old: each is caught.
    for decay in (0.5, 1.0):
        other = oracles.ppo_ewma(p, orders, 2.0**-6, 0.05, decay, 0.3)[0]
        assert max_difference(flat(params), other) > 1e-6
    # What comes next goes on with the average.
    held, fresh = (run("ppo_ewma", policy, c, state=s, **settings)[0] for s in (state, None))
    assert max_difference(held, fresh) > 1e-4


@families
def test_vmpo_fits_the_better_half(policy, x64):
    c, p = case(policy), problem(case(policy), policy)
    settings = {"learning_rate": 2.0**-6, "dual_learning_rate": 0.1, "max_grad_norm": 0.3}
    settings |= {"target_kl": 1e-3, "target_scale_kl": 2e-3, "temperature_kl": 0.05}
    settings |= {"init_alpha": 2.0, "init_temperature": 0.5}
    params, state, _ = run("vmpo", policy, c, key=5, **settings)
    targets, duals, orders = (0.05, 1e-3, 2e-3), (0.5, 2.0, 2.0), minibatch_orders(5, 3, 4)
    theta, reached = oracles.vmpo(p, orders, 2.0**-6, 0.1, targets, duals, 0.3)
    np.testing.assert_allclose(flat(params), theta, atol=1e-10)
    np.testing.assert_allclose(state.duals, reached, atol=1e-10)
    assert np.all(np.abs(reached - duals) > 0.1)
    for wrong in ((0.05, 1e-3, 2e-3), (1.0, 2.0, 2.0)), ((0.5, 0.5, 2e-3), duals):
        other = oracles.vmpo(p, orders, 2.0**-6, 0.1, *wrong, 0.3)[0]
        assert max_difference(flat(params), other) > 1e-7
    # Their floor holds.
    _, state, _ = run("vmpo", policy, c, key=5, **(settings | {"min_dual": 1.9}))
    assert min(state.duals) == 1.9


@pytest.mark.parametrize("name", OWN_LOOPS)
def test_an_undone_epoch_undoes_all_of_it(name, x64):
    c = case("categorical")
    params, state, extra = run(name, "categorical", c, max_kl=1e-9)
    assert (extra["epochs_applied"], extra["kl_stopped"]) == (0, True)
    fresh = build(name, numbers(name)).init(c.params)
    chex.assert_trees_all_equal((params, state), (c.params, fresh))


def test_what_is_projected_is_within(x64):
    """At every state of the batch, however far the acting policy went."""
    c = case("gaussian")
    for bound, scale in ((1e-3, 1e-4), (0.03, 1e-3)):
        changes = {"projected_kl": bound, "projected_scale_kl": scale, "regression_coef": 0.0}
        params, _, extra = run("trpl", "gaussian", c, **changes)
        assert 0.5 * bound < extra["projected_kl_max"] <= (bound + scale) * (1 + 1e-6)
        assert 0 < extra["outside"] <= 1
        reached = audited("gaussian")(params, c.batch)["kl_max"]
        assert reached > 2 * (bound + scale) or bound == 0.03
        held = run("trpl", "gaussian", c, **(changes | {"regression_coef": 50.0}))
        assert audited("gaussian")(held[0], c.batch)["kl_max"] < reached
        assert held[2]["projection_gap"] < extra["projection_gap"]


# --- options of TRPO ------------------------------------------------------------------------------


@families
def test_trpo_to_the_true_boundary(policy, x64):
    """The direction is that of the dense solve, its length by a root finder on the true KL."""
    c, p = case(policy), problem(case(policy), policy)
    settings = {"max_kl": 0.05, "damping": 0.1, "cg_rtol": 1e-14}
    params, _, extra = run("trpo", policy, c, static={"boundary_steps": 50}, **settings)
    step = oracles.natural_step(p, 0.05, 0.1)

    def excess(t):
        return p.mean_kl(p.theta + t * step) - 0.05

    root = oracles.brentq(excess, 0.1, 10, xtol=1e-15, rtol=1e-14)
    np.testing.assert_allclose(flat(params), p.theta + root * step, atol=1e-10)
    assert abs(root - 1) > 1e-3
    assert (extra["accepted"], extra["backtracks"]) == (True, 0)
    assert 0.05 * (1 - 1e-9) < audited(policy)(params, c.batch)["kl"] <= 0.05


def test_trpo_bounds_a_quantile_of_the_states(x64):
    c, p = case("gaussian"), problem(case("gaussian"), "gaussian")
    static = {"bounded": "quantile", "boundary_steps": 40}
    weighted = c.batch._replace(weight=jnp.where(jnp.arange(NUM_ROWS) < 20, 1.0, 0.0))
    for level, batch in ((1.0, c.batch), (0.5, c.batch), (0.75, weighted)):
        counted = Case(c.params, batch)
        params, _, extra = run("trpo", "gaussian", counted, static=static, kl_quantile=level)
        kls = p.family.kl(p.old, oracles.outputs(flat(params), p.obs))
        kls = np.sort(kls[: NUM_ROWS if batch.weight is None else 20])
        reached = kls[math.ceil(level * len(kls)) - 1]
        np.testing.assert_allclose(reached, 0.01, rtol=1e-9)
        assert reached <= 0.01
        assert extra["accepted"]
        np.testing.assert_equal(float(extra["max_kl"]), 0.01 if level == 1 else math.nan)


def test_trpos_region_follows_the_ratio(x64):
    c, p = case("gaussian"), problem(case("gaussian"), "gaussian")
    static, seen = {"adaptive": True}, set()
    rule = {"low_ratio": 0.6, "high_ratio": 0.9, "region_step": 3.0, "min_region": 0.01}
    algorithm = build("trpo", numbers("trpo"), **static)
    half = algorithm.init(c.params)._replace(region=jnp.asarray(0.5))
    for max_kl in (1e-3, 0.3, 20.0):
        params, state, extra = run(
            "trpo", "gaussian", c, static=static, state=half, max_kl=max_kl, **rule
        )
        theta = flat(params)
        slope = oracles.complex_gradient(p.gain, p.theta)
        rho = (p.gain(theta) - p.gain(p.theta)) / (slope @ (theta - p.theta))
        assert extra["accepted"]
        np.testing.assert_allclose(extra["reduction_ratio"], rho, rtol=1e-8)
        grows = rho > 0.9 and extra["backtracks"] == 0
        factor = 1 / 3 if rho < 0.6 else 3.0 if grows else 1.0
        np.testing.assert_allclose(state.region, np.clip(0.5 * factor, 0.01, 1))
        np.testing.assert_allclose(extra["max_kl"], max_kl / 2)
        assert audited("gaussian")(params, c.batch)["kl"] <= max_kl / 2
        seen.add(round(factor, 1))
    assert len(seen) > 1
    # A candidate that realises too little of its model is shortened.
    for least in (0.5, 0.9):
        given = {"max_kl": 5.0, "accept_ratio": least}
        params, _, extra = run("trpo", "gaussian", c, static=static, **given)
        assert extra["reduction_ratio"] >= least
    with pytest.raises(ValueError, match="low_ratio must not exceed high_ratio"):
        algorithms.trpo(low_ratio=0.8, high_ratio=0.5)


def rate_of(name):
    return "init_learning_rate" if name == "ppo_adaptive_lr" else "learning_rate"


CLIP_OR_PENALTY = tuple(n for n in LOOPS if n in LOSSES)
LOOPED = [(n, "categorical", 4) for n in CLIP_OR_PENALTY]
LOOPED += [("ppo_clip", "categorical", 1), ("ppo_clip", "gaussian", 4)]


@pytest.mark.parametrize(("name", "policy", "num_minibatches"), LOOPED)
def test_epochs_of_minibatches_are_adam_by_hand(name, policy, num_minibatches, x64):
    c, p = case(policy), problem(case(policy), policy)
    static = {} if num_minibatches == 4 else {"num_minibatches": num_minibatches}
    option, weight = ("init_beta", 4.0) if name in PENALISED else ("clip_eps", 0.1)
    option = "drift_size" if name == "ppo" else option
    given = {"step_size": 1 / weight} if name == "mdpo" else {option: weight}
    rate = 2.0**-6  # one that float32, in which a state may hold it, has
    settings = {rate_of(name): rate, "entropy_coef": 0.02, "max_grad_norm": 0.3, **given}
    params, _, extra = run(name, policy, c, key=5, static=static, **settings)

    def by_hand(weight=weight, reverse=None, rate=rate, epsilon=1e-5, norm=0.3, rows=None):
        orders = minibatch_orders(5, 3, num_minibatches)
        if rows is not None:
            orders = [[rows[index] for index in epoch] for epoch in orders]
        loss = loss_by_hand(name, weight, 0.02, reverse)
        return oracles.adam_epochs(p, loss, orders, rate, norm, epsilon)[-1][0]

    np.testing.assert_allclose(flat(params), by_hand(), atol=1e-11)
    assert extra["epochs_applied"] == 3
    if (policy, num_minibatches) != ("categorical", 4):
        return
    # Every number was at work, and the rows' order and Adam's epsilon count: each is caught.
    time_major = np.arange(NUM_ROWS).reshape(4, 6).T.reshape(-1)
    wrong = [by_hand(weight=2 * weight), by_hand(rate=1.5 * rate), by_hand(rows=time_major)]
    wrong += [by_hand(norm=math.inf), by_hand(epsilon=1e-8)]
    wrong += [by_hand(reverse=name in FORWARD)] if name in PENALISED else []
    assert min(max_difference(flat(params), other) for other in wrong) > 1e-7


@pytest.mark.parametrize("name", CLIP_OR_PENALTY)
def test_the_epoch_that_leaves_the_region_is_undone(name, x64):
    c, p = case("categorical"), problem(case("categorical"), "categorical")

    rate, bound = 2.0**-7, 0.5
    settings = {rate_of(name): rate, "max_grad_norm": bound}
    loss = loss_by_hand(name, 1.0 if name in PENALISED else 0.2, 0.0)
    trail = oracles.adam_epochs(p, loss, minibatch_orders(0, 3, 4), rate, bound)
    kl = [p.mean_kl(theta) for theta, *_ in trail]
    assert kl[0] < kl[1] < kl[2]
    fresh = build(name, {}).init(c.params)
    for applied, max_kl in enumerate([kl[0] / 2, (kl[0] + kl[1]) / 2, (kl[1] + kl[2]) / 2]):
        params, state, extra = run(name, "categorical", c, max_kl=max_kl, **settings)
        assert extra["epochs_applied"] == applied
        assert extra["kl_stopped"]
        assert audited("categorical")(params, c.batch)["kl"] <= max_kl
        optimizer, start = (getattr(x, "optimizer", x) for x in (state, fresh))
        if applied == 0:
            chex.assert_trees_all_equal(params, c.params)
            chex.assert_trees_all_equal(optimizer, start)
            continue
        theta, first, second = trail[applied - 1]
        np.testing.assert_allclose(flat(params), theta, atol=1e-12)
        (moments,) = [x for x in jax.tree.leaves(optimizer, is_leaf=is_adam) if is_adam(x)]
        assert moments.count == 4 * applied
        np.testing.assert_allclose(flat(moments.mu), first, atol=1e-12)
        np.testing.assert_allclose(flat(moments.nu), second, atol=1e-12)
    whole = run(name, "categorical", c, max_kl=2 * kl[2], **settings)
    assert whole[2]["epochs_applied"] == 3
    assert not whole[2]["kl_stopped"]
    chex.assert_trees_all_equal(whole[0], run(name, "categorical", c, **settings)[0])


def is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


BETA = "beta", {"beta_tolerance": 1.5, "beta_increase": 3.0, "beta_decrease": 0.25}, 3.0, 0.25
RATE = "learning_rate", {"kl_tolerance": 1.5, "learning_rate_factor": 2.0}, 0.5, 2.0
FOLLOWING = {"ppo_penalty": BETA, "ppo_adaptive_lr": RATE}


@pytest.mark.parametrize("name", FOLLOWING)
def test_what_follows_the_kl(name, x64):
    """By the rule whose own table is in test_updates.py, for the next iteration."""
    what, rule, if_above, if_below = FOLLOWING[name]
    c = case("categorical")
    params, _, extra = run(name, "categorical", c, **rule)
    kl, value = float(audited("categorical")(params, c.batch)["kl"]), float(extra[what])
    for changes, factor in (
        ({"target_kl": kl / 1.6}, if_above),
        ({"target_kl": kl / 1.4}, 1.0),
        ({"target_kl": kl * 1.6}, if_below),
        # What is left is small, but an epoch was undone.
        ({"target_kl": kl * 1.6, "max_kl": 0.9 * kl}, if_above),
        ({"target_kl": kl / 1.6, f"max_{what}": 1.1 * value}, min(if_above, 1.1)),
        ({"target_kl": kl * 1.6, f"min_{what}": 0.9 * value}, max(if_below, 0.9)),
    ):
        same, state, extra = run(name, "categorical", c, **rule, **changes)
        np.testing.assert_allclose(getattr(state, what), factor * value, rtol=1e-6)
        assert getattr(state, what).dtype == jnp.float32
        np.testing.assert_allclose(extra[what], value, rtol=1e-6)
        if "max_kl" not in changes:
            chex.assert_trees_all_equal(same, params)


@pytest.mark.parametrize("name", FOLLOWING)
def test_the_kl_that_is_followed_is_that_of_old_to_new(name, x64):
    """With a target between the two KLs, and no tolerance, they ask for opposite steps."""
    c, (what, rule, if_above, if_below) = case("gaussian"), FOLLOWING[name]
    exactly = rule | {next(k for k in rule if "tolerance" in k): 1.0}
    params, _, extra = run(name, "gaussian", c, **exactly)
    audit = audited("gaussian")(params, c.batch)
    assert abs(audit["kl"] / audit["kl_reverse"] - 1) > 1e-3
    target = math.sqrt(audit["kl"] * audit["kl_reverse"])
    _, state, extra = run(name, "gaussian", c, target_kl=target, **exactly)
    factor = if_above if audit["kl"] > target else if_below
    np.testing.assert_allclose(getattr(state, what), factor * extra[what], rtol=1e-6)


def test_a_fixed_penalty_stays():
    c = case("categorical")
    _, state, extra = run(
        "ppo_penalty", "categorical", c, static={"adaptive": False}, target_kl=1e-9
    )
    assert state.beta == extra["beta"] == 1.0


@pytest.mark.parametrize("name", FOLLOWING)
def test_the_next_update_takes_the_states_own(name, x64):
    """Weight or rate, whatever the setting of the first one says."""
    what, c = FOLLOWING[name][0], case("categorical")
    _, state, _ = run(name, "categorical", c)
    other = state._replace(**{what: 4 * getattr(state, what)})
    moved = [run(name, "categorical", c, key=6, state=s) for s in (state, other)]
    assert moved[1][2][what] == 4 * moved[0][2][what]
    assert max_difference(moved[0][0], moved[1][0]) > 1e-3


@pytest.mark.parametrize("name", FOLLOWING)
def test_bounds_in_the_wrong_order(name):
    what = FOLLOWING[name][0]
    with pytest.raises(ValueError, match=f"min_{what} must not exceed max_{what}, got 2.0 and 1.0"):
        getattr(algorithms, name)(**{f"min_{what}": 2.0, f"max_{what}": 1.0})


@families
def test_fixpo_mends_what_is_beyond_its_bound(policy, x64):
    """Against a loop in NumPy: within at once, after some passes, and never."""
    c, p = case(policy), problem(case(policy), policy)
    static = {"num_minibatches": 1, "max_fixups": 40}
    settings = {"learning_rate": 2.0**-5, "max_grad_norm": 0.3}
    free = run("fixpo", policy, c, static=static, max_state_kl=1.0, **settings)[0]
    reached, seen = float(audited(policy)(free, c.batch)["kl_max"]), set()
    for bound in (1.1 * reached, 0.8 * reached, 1e-7):
        params, state, extra = run(
            "fixpo", policy, c, static=static, max_state_kl=bound, **settings
        )
        adam = oracles.Adam(p.theta.size, 2.0**-5, 0.3)
        expected, passes = oracles.fixpo(p, adam, 3, 1.0, bound, 40)
        np.testing.assert_allclose(flat(params), expected, atol=1e-11)
        assert extra["fixups"] == passes
        assert audited(policy)(params, c.batch)["kl_max"] <= bound
        if not extra["fixed"]:
            chex.assert_trees_all_equal(params, c.params)
        seen.add((bool(extra["fixed"]), passes > 0))
        rise = 0.1 * (3 * reached / bound - 1)
        np.testing.assert_allclose(state.beta, max(1 + rise, 0), rtol=1e-5)
    assert seen == {(True, False), (True, True), (False, True)}


def test_the_state_carries_adam(x64):
    """Two updates in a row are not twice the first: moments and their count go on."""
    c = case("categorical")
    fresh, state, _ = run("ppo_clip", "categorical", c)
    steps = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]
    assert [int(x) for x in steps] == [12]
    assert max_difference(run("ppo_clip", "categorical", c, state=state)[0], fresh) > 1e-4


# --- identities of the natural step ---------------------------------------------------------------


@pytest.mark.parametrize("policy", ["categorical", "gaussian"])
def test_the_scale_of_the_advantages_drops_out_of_trpo(policy, x64):
    c = case(policy)
    base = run("trpo", policy, c)[0]
    for factor in (1e-4, 1e4):
        scaled = Case(c.params, c.batch._replace(advantage=factor * c.batch.advantage))
        chex.assert_trees_all_close(run("trpo", policy, scaled)[0], base, atol=1e-6)
        # Control: not with an entropy term.
        with_entropy = [run("trpo", policy, x, entropy_coef=0.1)[0] for x in (c, scaled)]
        assert max_difference(*with_entropy) > 1e-4


@pytest.mark.parametrize("damping", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", NATURAL)
def test_damping_shortens_the_step(name, damping, x64):
    c = case("categorical")
    params, _, _ = run(name, "categorical", c, damping=damping)
    length = tree.norm(tree.add_scaled(params, -1.0, c.params))
    assert length <= math.sqrt(2 * 0.01 / damping)
    # The bound is not idle: for a large damping the step is nearly as long.
    if damping == 10.0:
        assert length > 0.9 * math.sqrt(2 * 0.01 / damping)


@families
def test_the_undamped_model_stays_below_the_bound(policy, x64):
    c = case(policy)
    params, _, _ = run("npg", policy, c, target_kl=1e-6)
    kl = mean_kl(POLICIES[policy], params, c.batch)
    assert 0.2e-6 < kl < 1e-6


def linear_gaussian(params, obs):
    """Means and log scales linear in 12 parameters: the Fisher matrix is regular."""
    mean = with_one(obs) @ params.reshape(4, 3)
    return distrax.Independent(distrax.Normal(mean, jnp.exp(0.3 * mean)), 1)


def test_the_natural_step_does_not_see_the_coordinates(x64):
    rng = np.random.default_rng(1)
    c = case("gaussian")
    transform = jnp.asarray(np.eye(12) + 0.3 * rng.normal(size=(12, 12)))
    offset, theta = jnp.asarray(rng.normal(size=12)), jnp.asarray(rng.normal(size=12))
    moved = jnp.linalg.solve(transform, theta - offset)  # theta = transform @ moved + offset
    batch = c.batch._replace(old=linear_gaussian(theta, c.batch.obs))

    @functools.cache
    def update(name):
        def in_coordinates(traced, transform, offset, theta):
            algorithm = build(name, traced)
            return algorithm.update(
                lambda p, obs: linear_gaussian(transform @ p + offset, obs),
                theta,
                algorithm.init(theta),
                batch,
                jax.random.key(0),
            )[0]

        return jax.jit(in_coordinates)

    def difference(name, **settings):
        traced = numbers(name, **settings)
        new = update(name)(traced, jnp.eye(12), jnp.zeros(12), theta)
        other = update(name)(traced, transform, offset, moved)
        assert max_difference(new, theta) > 1e-3
        return max_difference(transform @ other + offset, new)

    assert difference("npg", damping=0.0, cg_rtol=1e-13) < 1e-9
    assert difference("trpo", damping=0.0, cg_rtol=1e-13) < 1e-9
    # Controls: damping, an unfinished solve and the plain gradient do see them.
    assert difference("npg", damping=0.1, cg_rtol=1e-13) > 1e-3
    assert difference("npg", damping=0.0, cg_rtol=0.5) > 1e-3
    assert difference("vanilla_pg") > 1e-3


# --- a step too large -----------------------------------------------------------------------------


@functools.cache
def gaussian_bandit(name, num_updates):
    """settings -> |m - 2| over updates of N(m, 1) from m = -1 on the reward -(a - 2)^2.

    Gauss-Hermite nodes as actions and their weights as weights make every mean an expectation.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)

    def policy(mean, obs):
        return distrax.Normal(jnp.broadcast_to(mean, obs.shape), jnp.ones_like(obs))

    def distances(settings):
        algorithm = build(name, settings)

        def iterate(mean, _):
            obs = jnp.zeros(nodes.shape)
            action = jnp.broadcast_to(mean, nodes.shape) + nodes
            batch = PolicyBatch(
                obs, action, -jnp.square(action - 2), policy(mean, obs), jnp.asarray(weights)
            )
            mean, _, _ = algorithm.update(
                policy, mean, algorithm.init(mean), batch, jax.random.key(0)
            )
            return mean, jnp.abs(mean - 2)

        return jax.lax.scan(iterate, jnp.asarray(-1.0), length=num_updates)[1]

    return jax.jit(distances)


@pytest.mark.parametrize("learning_rate", [0.1, 0.9, 1.1, 2.0])
def test_a_plain_gradient_step_above_one_diverges(learning_rate, x64):
    """The gradient is 2 (2 - m): each step multiplies the distance by |1 - 2 rate|."""
    distance = gaussian_bandit("vanilla_pg", 10)(numbers("vanilla_pg", learning_rate=learning_rate))
    expected = 3 * np.abs(1 - 2 * learning_rate) ** np.arange(1, 11)
    np.testing.assert_allclose(distance, expected, rtol=1e-8)
    assert (distance[-1] > 3) == (learning_rate > 1)


@pytest.mark.parametrize("max_kl", [0.01, 0.5, 5.0])
def test_a_trust_region_does_not(max_kl, x64):
    distance = gaussian_bandit("trpo", 40)(numbers("trpo", max_kl=max_kl, damping=0.0))
    assert np.all(np.diff(distance) <= 0)
    # KL = (m' - m)^2 / 2: steps of sqrt(2 max_kl), or a shrinkage less, to within one of 2.
    longest = math.sqrt(2 * max_kl)
    assert abs(3 - distance[0]) <= longest * (1 + 1e-12)
    assert abs(3 - distance[0]) >= 0.8 * longest * (1 - 1e-6) or longest > 3
    assert distance[-1] < longest / 2
