"""The natural step: the options of TRPO, identities, and a step too large."""

import functools
import math

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from handmade import (
    NATURAL,
    NUM_ROWS,
    POLICIES,
    Case,
    audited,
    build,
    case,
    families,
    flat,
    max_difference,
    numbers,
    problem,
    run,
    with_one,
)

from kltrust import algorithms, tree
from kltrust.types import PolicyBatch
from kltrust.updates import mean_kl

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
