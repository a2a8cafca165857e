"""Passes over minibatches against numpy, and what follows the KL between them."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from handmade import (
    FORWARD,
    LOOPS,
    LOSSES,
    NUM_ROWS,
    PENALISED,
    audited,
    build,
    case,
    families,
    flat,
    loss_by_hand,
    max_difference,
    minibatch_orders,
    problem,
    run,
)

from kltrust import algorithms


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
