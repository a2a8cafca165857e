"""One exact update of each algorithm against numpy."""

import functools
import math

import chex
import jax
import numpy as np
import oracles
import pytest
from handmade import (
    BY_HAND,
    FORWARD,
    HAND_NAMES,
    LOSSES,
    NUM_ROWS,
    OWN_LOOPS,
    PENALISED,
    audited,
    build,
    case,
    declared_loss,
    families,
    flat,
    loss_by_hand,
    max_difference,
    minibatch_orders,
    numbers,
    problem,
    run,
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
