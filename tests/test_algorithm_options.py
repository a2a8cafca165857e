"""Every setting of an algorithm counts, and a bad one is refused."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handmade import (
    LOOPS,
    LOSSES,
    NATURAL,
    Case,
    build,
    case,
    categorical,
    compiled,
    each_algorithm,
    is_traced,
    max_difference,
    numbers,
    options,
    run,
)
from toys import ALGORITHMS

from kltrust import algorithms
from kltrust.updates import Optimizer

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
