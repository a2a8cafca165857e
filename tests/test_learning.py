"""That the algorithms learn, that the trust region holds while they do, and what happens without.

All on CartPole-v1, whose returns are at most 500: a random policy's are about 20.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kltrust import algorithms, value_regression
from kltrust.environments import make
from kltrust.learner import evaluate, make_learner
from kltrust.networks import actor_critic

pytestmark = pytest.mark.slow

NUM_ITERATIONS = 40  # of 16 * 128 steps: 82 thousand in all
MAX_KL = 0.01
PPO = {"num_epochs": 4, "num_minibatches": 8, "learning_rate": 2.5e-3}


def _train(update, num_seeds, episodes, *, deterministic):
    """Metrics and mean evaluation returns after every iteration, each [num_seeds, iterations]."""
    env = make("CartPole-v1")
    agent = actor_critic(env, (64,))

    @functools.partial(jax.vmap, in_axes=(None, 0))
    def lanes(update, key):
        learner = make_learner(
            env,
            agent,
            update,
            num_envs=16,
            num_steps=128,
            critic=value_regression(num_minibatches=8),
        )
        key, eval_key = jax.random.split(key)

        def step(state, _):
            state, metrics = learner.step(state)
            returns = evaluate(env, agent, state, eval_key, episodes, deterministic)
            return state, (metrics, jnp.mean(returns))

        return jax.lax.scan(step, learner.init(key), length=NUM_ITERATIONS)[1]

    metrics, returns = jax.jit(lanes)(update, jax.random.split(jax.random.key(7), num_seeds))
    return metrics, np.asarray(returns)


@functools.cache
def _trpo():
    """Ten seeds, evaluated by sampled episodes."""
    return _train(algorithms.trpo(max_kl=MAX_KL), 10, 16, deterministic=False)


@pytest.mark.parametrize("factory", [algorithms.ppo_clip, algorithms.ppo_penalty])
def test_ppo_solves_cartpole(factory):
    metrics, returns = _train(factory(**PPO), 3, 10, deterministic=True)
    first = np.sum(metrics.return_sum[:, 0]) / np.sum(metrics.num_episodes[:, 0])
    assert first < 50  # negative control: the policy of the first rollout has it to learn
    assert np.mean(returns[:, -1]) >= 400
    np.testing.assert_array_equal(metrics.nonfinite_update, 0)


def test_trpo_solves_cartpole_within_its_region_and_uses_it():
    metrics, returns = _trpo()
    kl = np.asarray(metrics.kl)
    assert np.all(np.mean(returns[:, -3:], 1) >= 400)
    assert np.all(kl <= MAX_KL * (1 + 1e-5))
    learning = np.cumsum(returns >= 475, 1) == 0  # until a seed has solved it
    assert np.mean(np.asarray(metrics.extra["accepted"])[learning]) >= 0.8
    assert 0.5 <= np.median(kl[learning]) / MAX_KL <= 1
    np.testing.assert_array_equal(metrics.nonfinite_update, 0)


def test_a_step_without_bound_collapses_and_a_trust_region_does_not():
    """A fall below half of a seed's own peak, within 3 updates of a KL ten times TRPO's bound.

    A plain gradient step that is large enough to learn as fast, 8 here, is large enough to
    destroy: no one learning rate is right for every iteration.
    """
    metrics, returns = _train(algorithms.vanilla_pg(learning_rate=8.0), 10, 16, deterministic=False)

    def falls(returns, metrics):
        peak = np.maximum.accumulate(returns, 1)
        far = np.asarray(metrics.kl) > 10 * MAX_KL
        recently = np.stack(
            [far[:, max(0, i - 2) : i + 1].any(1) for i in range(NUM_ITERATIONS)], 1
        )
        fell = (returns < peak / 2) & (peak >= 100)
        return fell.any(1), (fell & recently).any(1)

    _, collapsed = falls(returns, metrics)
    trpo_metrics, trpo_returns = _trpo()
    trpo_fell, trpo_collapsed = falls(trpo_returns, trpo_metrics)
    assert np.mean(collapsed) >= 0.5
    assert not trpo_collapsed.any()
    assert np.mean(trpo_fell) <= 0.2
    # From near the top, for good measure: not the stumbles of a run that has learned nothing.
    assert np.mean(returns.max(1)) > 300
    assert np.mean(trpo_returns[:, -5:]) > np.mean(returns[:, -5:]) + 50
