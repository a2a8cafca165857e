"""Trainings of a small learner with one fault each: knobs of two compiled programs, and tables.

Every fault is a number that the program takes as an argument, so that all of them share its
compilation.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from toys import gaussian_start

import kltrust
from kltrust.divergences import kl_divergence
from kltrust.environments import from_functions
from kltrust.types import Box, Discrete

ITERATIONS, ENVS, STEPS = 40, 8, 16
LINE = 6


def corridor(reward_scale, broken):
    """Walk right along a line from random starts; three steps in ten go the other way."""

    def seen(position):
        return jax.nn.one_hot(position, LINE)

    def reset(key):
        position = jax.random.randint(key, (), 0, LINE - 1)
        return position, seen(position)

    def transition(key, position, action):
        slip, fail = jax.random.split(key)
        action = jnp.where(jax.random.uniform(slip) < 0.3, 1 - action, action)
        position = jnp.clip(position + 2 * action - 1, 0, LINE - 1)
        arrived = position == LINE - 1
        reward = reward_scale * (arrived - 0.1)
        reward = jnp.where(jax.random.uniform(fail) < broken, jnp.nan, reward)
        return position, seen(position), reward, arrived, False

    low, high = np.zeros(LINE, np.float32), np.ones(LINE, np.float32)
    return from_functions(reset, transition, Box(low, high, (LINE,)), Discrete(2), max_steps=12)


def moved(start, factor, end):
    """From the start by a factor of the way to the end, which a factor of 1 reaches to the bit."""
    return jax.tree.map(lambda x, y: y + (factor - 1) * (y - x), start, end)


class Altered(NamedTuple):
    """An algorithm that is given a changed batch, or whose result is changed."""

    algorithm: object
    advantage: object = 1.0
    gradient: object = 1.0
    stretch: object = 1.0

    def init(self, params):
        return self.algorithm.init(params)

    def update(self, policy, params, state, batch, key):
        def altered(params, obs):
            # The same policy, whose gradient is another: value p, gradient times the factor.
            fixed = jax.lax.stop_gradient(params)
            turned = moved(fixed, self.gradient, params)
            return policy(turned, obs)

        batch = batch._replace(advantage=self.advantage * batch.advantage)
        new, state, report = self.algorithm.update(altered, params, state, batch, key)
        return moved(params, self.stretch, new), state, report


FITTED = {
    "advantage": 1.0,
    "stretch": 1.0,
    "flip_after": 2.0,
    "learning_rate": 3e-3,
    "penalty_gradient": 1.0,
    "set_point": 0.01,
    "beta": 1.0,
    "factor": 2.0,
    "ceiling": 1e4,
    "bound": np.inf,
    "entropy": 0.1,
    "critic_rate": 3e-3,
    "value_clip": np.inf,
    "reward_scale": 1.0,
    "broken": 0.0,
}
"""The knobs of a penalised learner, at their healthy values."""
SEARCHED = {
    "advantage": 1.0,
    "gradient": 1.0,
    "stretch": 1.0,
    "bound": 0.01,
    "damping": 0.1,
}
"""The knobs of a learner with a line search."""

FITTED_FAULTS = {
    "healthy": ({}, None, False),
    "loss of the wrong sign": ({"advantage": -1.0}, "update_against_advantages", True),
    "KL without gradient": (
        {"penalty_gradient": 0.0, "learning_rate": 1e-2, "set_point": 1e-4},
        "penalty_without_hold",
        True,
    ),
    "learning rate of 0": ({"learning_rate": 0.0}, "kl_always_zero", True),
    "learning rate a thousand times too large": ({"learning_rate": 3.0}, "entropy_collapsed", True),
    "penalty at its ceiling": (
        {"ceiling": 2e-3, "beta": 1e-3, "learning_rate": 3e-2, "set_point": 1e-3},
        "beta_at_clamp",
        False,
    ),
    "bound below the first epoch": ({"bound": 1e-7}, "no_epoch_kept", False),
    "entropy of the wrong sign": ({"entropy": -3.0, "advantage": 0.0}, "entropy_collapsed", True),
    "critic without learning rate": ({"critic_rate": 0.0}, "critic_learns_nothing", True),
    "critic of a huge learning rate": ({"critic_rate": 2.0}, "critic_learns_nothing", False),
    "value clip of another scale": (
        {"value_clip": 1e-3},
        "value_clip_freezes",
        True,
    ),
    "rewards of a million": ({"reward_scale": 1e6}, "reward_scale", False),
    "rewards of NaN": ({"broken": 2e-3}, "environment_not_finite", True),
    "unlearning": (
        {"flip_after": 0.5, "learning_rate": 4e-2, "entropy": 0.02},
        "curve_fell",
        False,
    ),
}
SEARCHED_FAULTS = {
    "healthy": ({}, None, False),
    "gradient of the wrong sign": ({"gradient": -1.0}, "line_search_fails", True),
    "advantages that do not arrive": ({"advantage": 0.0}, "gradient_zero", True),
    "damping of a thousand": ({"damping": 1e3}, "bound_never_used", False),
    "step applied three times": ({"stretch": 3.0}, "bound_exceeded", True),
}


def fitted(knobs, key):
    """The metrics of a learner with a penalty."""
    k = dict(zip(FITTED, knobs, strict=True))

    def penalty(old, new):
        kl, held = kl_divergence(old, new), k["penalty_gradient"]
        return held * kl + (1 - held) * jax.lax.stop_gradient(kl)

    def update(fraction):
        sign = jnp.where(fraction >= k["flip_after"], -1.0, 1.0)
        algorithm = kltrust.ppo_penalty(
            learning_rate=k["learning_rate"],
            target_kl=k["set_point"],
            init_beta=k["beta"],
            beta_increase=k["factor"],
            beta_decrease=1 / k["factor"],
            max_beta=k["ceiling"],
            divergence=penalty,
            max_kl=k["bound"],
            entropy_coef=k["entropy"],
            num_epochs=4,
            num_minibatches=2,
        )
        return Altered(algorithm, advantage=sign * k["advantage"], stretch=k["stretch"])

    critic = kltrust.value_regression(
        learning_rate=k["critic_rate"], clip_eps=k["value_clip"], num_epochs=4, num_minibatches=2
    )
    return trained(corridor(k["reward_scale"], k["broken"]), update, critic, key)


def searched(knobs, key):
    """The metrics of a learner with a line search."""
    k = dict(zip(SEARCHED, knobs, strict=True))
    algorithm = kltrust.trpo(max_kl=k["bound"], damping=k["damping"], cg_iters=6)
    update = Altered(algorithm, k["advantage"], k["gradient"], k["stretch"])
    critic = kltrust.value_regression(num_epochs=4, num_minibatches=2)
    return trained(corridor(1.0, 0.0), update, critic, key)


def trained(env, update, critic, key):
    agent = gaussian_start(kltrust.actor_critic(env, hidden=(4,)), 0.5)
    sizes = {"num_envs": ENVS, "num_steps": STEPS, "gamma": 0.95}
    if callable(update):
        sizes["planned_iterations"] = ITERATIONS
    learner = kltrust.make_learner(env, agent, update, critic=critic, **sizes)
    return kltrust.train(learner, key, ITERATIONS)[1]


@functools.cache
def lanes(which):
    """{fault: (metrics of its lane, what it claims to keep to, the finding, public)}."""
    run, neutral, faults = {
        "fitted": (fitted, FITTED, FITTED_FAULTS),
        "searched": (searched, SEARCHED, SEARCHED_FAULTS),
    }[which]
    program = jax.jit(run)
    made = {}
    for name, (change, finding, public) in faults.items():
        s = {**neutral, **change}
        knobs = tuple(jnp.float32(s[knob]) for knob in neutral)
        lane = jax.tree.map(np.asarray, program(knobs, jax.random.key(3)))
        claims = {"bound": s["bound"], "set point": s.get("set_point", np.inf)}
        claims |= {"ceiling": s.get("ceiling", np.inf), "value clip": s.get("value_clip", np.inf)}
        claims |= {"floor": 1e-4} if which == "fitted" else {}
        made[name] = lane, claims, finding, public
    return made


# --- tables ---------------------------------------------------------------------------------------

_N = 40
_T = np.arange(_N)
_ONES = np.ones(_N)
TABLES = {
    "statistics of the observations that forget": (
        {"kl": 0.01 * _ONES, "audit.normalizer.mean": 0.05 * _ONES},
        "normaliser_moves_more",
        True,
    ),
    "a minibatch of eight rows": (
        {
            "kl": 0.01 * _ONES,
            "audit.path.epoch": np.full((_N, 2), 0.01),
            "audit.path.minibatch": np.tile([0, 0, 0, 0, 0.001, 0.09, 0.0, 0.05], (_N, 1)),
        },
        "minibatch_kl_scatters",
        False,
    ),
    "damping of ten times the curvature": (
        {
            "kl": 0.01 * _ONES,
            "audit.curvature.kl_quadratic": 0.001 * _ONES,
            "audit.curvature.kl_quadratic_damped": 0.01 * _ONES,
        },
        "damping_decides",
        False,
    ),
    "a step beyond the quadratic model": (
        {
            "kl": 0.5 * _ONES,
            "audit.curvature.kl": 0.5 * _ONES,
            "audit.curvature.kl_quadratic": 0.1 * _ONES,
        },
        "quadratic_model_off",
        False,
    ),
    "parameters of NaN": (
        {"kl": 0.01 * _ONES, "nonfinite_update": (_T == 30) * 1},
        "parameters_not_finite",
        True,
    ),
    "a learning rate that can't fall further": (
        {"kl": 0.2 * _ONES, "extra.learning_rate": 1e-5 * _ONES},
        "learning_rate_at_clamp",
        True,
    ),
    "fix-ups that mend too little": (
        {"kl": 0.0 * _ONES, "extra.fixed": (_T % 3 > 0) * 1},
        "bound_not_mended",
        False,
    ),
    "a temperature of nothing": (
        {"kl": 0.01 * _ONES, "extra.temperature": 1e-8 * _ONES},
        "temperature_at_floor",
        False,
    ),
    "a projection that nothing follows": (
        {
            "kl": 0.5 * _ONES,
            "extra.projected_kl": 0.03 * _ONES,
            "extra.projection_gap": 0.4 * _ONES,
        },
        "projection_left_behind",
        False,
    ),
    "a set point out of reach": ({"kl": 0.1 * _ONES}, "set_point_missed", False),
    "too many epochs on one batch": (
        {"kl": 0.3 * _ONES, "clip_fraction": 0.7 * _ONES},
        "clip_share_large",
        True,
    ),
    "nothing to clip": ({"kl": 1e-5 * _ONES, "clip_fraction": 0 * _ONES}, "clip_never_used", False),
    "a few samples have the weight": (
        {"kl": 0.4 * _ONES, "audit.update.effective_sample_size": 0.05 * _ONES},
        "sample_size_small",
        False,
    ),
    "a solver that stops at once": (
        {"kl": 0.01 * _ONES, "extra.cg_residual": 0.9 * _ONES},
        "cg_not_converged",
        False,
    ),
    "a controller of huge factors": (
        {"kl": np.where(_T % 2, 1e-4, 0.3), "extra.beta": np.where(_T % 2, 1e3, 0.1)},
        "beta_oscillates",
        True,
    ),
    "a bound below the last epoch": (
        {"kl": 0.01 * _ONES, "extra.kl_stopped": _ONES, "extra.epochs_applied": 2 * _ONES},
        "early_stop_always",
        True,
    ),
    "a model that is good for short steps only": (
        {"kl": 0.01 * _ONES, "extra.backtracks": 3 * _ONES, "extra.accepted": _ONES},
        "line_search_always_shortens",
        False,
    ),
    "a critic that is measured by other targets": (
        {"kl": 0.01 * _ONES, "explained_variance": -4 * _ONES, "value_loss": _ONES},
        "critic_worse_than_constant",
        True,
    ),
    "a policy that fell over": (
        {
            "kl": np.where(_T == 23, 0.4, 0.01),
            "num_episodes": 10 * _ONES,
            "return_sum": 10 * np.where(_T < 24, 20 + 15 * _T, 40 + _T % 3),
        },
        "curve_fell",
        True,
    ),
    "a learning rate of another scale": ({"kl": 2 * _ONES}, "step_too_long", True),
    "what was rare became common": (
        {"kl": 0.2 * _ONES, "max_ratio": 1e4 * _ONES},
        "ratio_huge",
        True,
    ),
    "a learning rate of 1e-8": ({"kl": 1e-8 * _ONES}, "step_too_short", False),
    "an optimiser that was reset": (
        {"kl": np.where(_T == 25, 3.0, 0.01)},
        "kl_spike",
        True,
    ),
    "one state takes it all": ({"kl": 0.01 * _ONES, "kl_max": 5 * _ONES}, "few_states_move", False),
    "a deviation that jumps": (
        {"kl": 0.2 * _ONES, "kl_reverse": 1.5 * _ONES},
        "directions_differ",
        False,
    ),
    "a batch of other states": (
        {"kl": 0.01 * _ONES, "audit.fresh.kl.mean": 0.2 * _ONES},
        "fresh_states_move_more",
        False,
    ),
    "sums for means": (
        {"kl": 0.01 * _ONES, "extra.grad_norm": 900 * _ONES},
        "gradient_always_bounded",
        False,
    ),
    "an entropy bonus without end": (
        {"kl": 0.01 * _ONES, "entropy": 1.4 + 0.1 * _T},
        "entropy_grows",
        True,
    ),
    "advantages without signal": (
        {"kl": 1e-7 * _ONES, "entropy": np.full(_N, 0.693)},
        "entropy_unmoved",
        False,
    ),
    "returns of thousands": (
        {"kl": 0.01 * _ONES, "value_loss": 1e6 * _ONES},
        "critic_targets_large",
        True,
    ),
    "rollouts shorter than an episode": (
        {"kl": 0.01 * _ONES, "num_episodes": 0 * _ONES, "return_sum": 0 * _ONES},
        "no_episode_ends",
        False,
    ),
    "environments in step": (
        {"kl": 0.01 * _ONES, "num_episodes": np.where(_T % 8 == 7, 16, 0)},
        "episodes_in_step",
        True,
    ),
    "a reward that says nothing": (
        {"kl": 0.01 * _ONES, "num_episodes": 4 * _ONES, "return_sum": -800 * _ONES},
        "return_constant",
        True,
    ),
}
"""Metrics with one fault: (columns, the finding, public)."""
CLAIMS = {"set point": 0.01, "floor": 1e-5, "ceiling": 1e-2, "clip": 0.2, "gradient bound": 0.5}
