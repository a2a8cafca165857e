"""All algorithms under one table of contracts."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from handmade import (
    DRAWN,
    EVERYWHERE,
    LOOPS,
    LOSSES,
    NATURAL,
    NUM_ROWS,
    POLICIES,
    SHAPED,
    UPDATES,
    Case,
    audited,
    build,
    case,
    categorical,
    compiled,
    declared_loss,
    each_algorithm,
    each_kind,
    each_update,
    every,
    gaussian,
    is_traced,
    max_difference,
    numbers,
    options,
    run,
)
from toys import DECLARED, FITTED, KINDS

from kltrust import algorithms, tree
from kltrust.audit import log_ratio
from kltrust.losses import spo_loss, surrogate_loss
from kltrust.types import PolicyBatch
from kltrust.updates import Sample, mean_change, sample_loss

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
