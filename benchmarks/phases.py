"""Where the time of an iteration goes: its phases, each compiled and timed alone by speed.py.

PPO-clip at the settings of benchmarks/textbook.py, which are purejaxrl's. Every phase of
`make_learner`'s iteration is called by itself on what a run under way would give it, in turns with
whole iterations one after the other in one program, as a training has them. There the compiler
saves what a call costs and the copies from phase to phase: the parts add up to more than the whole.
Beside them the least that any implementation does: as many gradients as the passes take, of policy
and critic together, on one minibatch at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import textbook
from common import built, made
from timing import at_once, ready

from kltrust import learner as learners
from kltrust.advantages import gae, standardize
from kltrust.audit import audit_by_default, measure_update
from kltrust.critic import measure_critic
from kltrust.losses import clipped_value_loss
from kltrust.rollout import acting, batches as experience, count_episodes, count_nonfinite
from kltrust.types import CriticBatch
from kltrust.updates import clipped_loss

CASES = {
    "CartPole-v1, 4 x 128": textbook.Settings(num_envs=4),
    "CartPole-v1, 64 x 128": textbook.Settings(num_envs=64),
    "Breakout-MinAtar, 64 x 128": textbook.Settings(env="Breakout-MinAtar", num_envs=64),
}


def phases(settings: textbook.Settings, warm_up: int, calls: int) -> dict[str, Callable[[], None]]:
    """A round of each phase, from a state after ``warm_up`` iterations."""
    s = settings
    experiment = textbook.experiment(s)
    env, agent, learner = built(experiment)
    algorithm, regression = made(experiment).update, made(experiment).critic
    key = jax.random.key(0)
    state, _ = jax.jit(lambda key: learners.train(learner, key, warm_up))(key)
    policy_loss = clipped_loss(agent.policy, s.clip_eps, s.entropy_coef)

    def rollout(state: Any) -> Any:
        return acting.play(env, agent, state, key, s.num_steps)

    def advantages(state: Any, transition: Any) -> Any:
        value, next_value, _ = experience.value_estimates(
            agent, state.value_params, transition.obs, transition.next_obs, None, ()
        )
        ends = transition.terminated, transition.truncated
        advantage = gae(
            transition.reward, value, next_value, *ends, gamma=s.gamma, lam=s.gae_lambda
        )
        return standardize(advantage), value, advantage + value

    def old_policy(state: Any, transition: Any, advantage: Any) -> Any:
        of = transition.obs, transition.action, advantage
        return experience.make_batch(agent.policy, state.policy_params, *of)

    def policy(state: Any, batch: Any) -> Any:
        return algorithm.update(agent.policy, state.policy_params, state.update_state, batch, key)

    def critic(state: Any, data: Any) -> Any:
        return regression.update(agent.value, state.value_params, state.value_state, data, key)

    def measurement(
        state: Any, new: Any, batch: Any, transition: Any, value: Any, target: Any
    ) -> Any:
        done = transition.terminated | transition.truncated
        audited = audit_by_default(agent.policy, new, batch)
        return (
            audited,
            measure_update(agent.policy, new, batch, audited.update),
            measure_critic(value, target),
            count_episodes(state.episode_return, state.episode_length, transition.reward, done),
            count_nonfinite(transition, new),
        )

    def gradients(state: Any, batch: Any, data: Any) -> Any:
        """The passes' number of gradients, one after the other, without steps or shuffling."""

        def loss(params: Any) -> Any:
            now = agent.value(params[1], data.obs)
            fit = clipped_value_loss(now, data.value, data.target, s.clip_eps)
            return policy_loss(params[0], batch) + jnp.mean(fit)

        def again(params: Any, _: None) -> Any:
            gradient = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 1e-6 * g, params, gradient), None

        number = s.num_epochs * s.num_minibatches
        return jax.lax.scan(again, (state.policy_params, state.value_params), length=number)

    _, transition = jax.jit(rollout)(state)
    advantage, value, target = jax.jit(advantages)(state, transition)
    batch = jax.jit(old_policy)(state, transition, advantage)
    data = CriticBatch(*experience.to_units(transition.obs, None, (), value, target))
    new = jax.jit(policy)(state, batch)[0]
    rows = batch.advantage.size // s.num_minibatches
    minibatch, of_data = jax.tree.map(lambda x: x[:rows], (batch, data))
    parts: dict[str, tuple] = {
        "rollout": (rollout, state),
        "values, advantages": (advantages, state, transition),
        "old policy": (old_policy, state, transition, advantage),
        "policy's passes": (policy, state, batch),
        "critic's passes": (critic, state, data),
        "measurement": (measurement, state, new, batch, transition, value, target),
        "gradients alone": (gradients, state, minibatch, of_data),
    }
    return at_once({name: partial(ready, *part, calls=calls) for name, part in parts.items()})
