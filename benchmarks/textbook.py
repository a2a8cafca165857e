"""The PPO loop of most JAX projects, for comparison: one file, gymnax called directly.

A rollout by `scan`, advantages backwards, epochs over a shuffled batch by `jax.random.permutation`,
one loss for policy and critic, Adam. It measures nothing but the returns.
"""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import common
import distrax
import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of purejaxrl and CleanRL for CartPole."""

    env: str = "CartPole-v1"
    num_envs: int = 4
    num_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_eps: float = 0.2
    entropy_coef: float = 0.01
    value_coef: float = 0.5
    max_grad_norm: float = 0.5


def experiment(settings: Settings) -> dict[str, Any]:
    """The same settings for kltrust."""
    s = settings

    def same(*names: str) -> dict[str, Any]:
        return {name: getattr(s, name) for name in names}

    passes = same("learning_rate", "clip_eps", "max_grad_norm", "num_epochs", "num_minibatches")
    return common.experiment(
        "ppo_clip",
        s.env,
        update=passes | same("entropy_coef"),
        critic=passes,
        network={"hidden": s.hidden, "channels": ()},  # images are flattened
        **same("num_envs", "num_steps", "gamma", "gae_lambda"),
    )


class Network(nn.Module):
    """Two separate tanh networks."""

    num_actions: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[Any, jax.Array]:
        x = y = obs
        for width in self.hidden:
            x = nn.tanh(nn.Dense(width)(x))
            y = nn.tanh(nn.Dense(width)(y))
        logits = nn.Dense(self.num_actions, kernel_init=nn.initializers.normal(0.01))(x)
        return distrax.Categorical(logits=logits), nn.Dense(1)(y)[..., 0]


State = namedtuple("State", "params opt_state env_state obs episode_return key")
Step = namedtuple("Step", "obs action log_prob value reward done ended_return")  # [T, B, ...]


def make(settings: Settings) -> tuple[Callable, Callable]:
    """(init, step); a step returns the sum of returns and the number of ended episodes: [2]."""
    s = settings
    env, env_params = gymnax.make(s.env)
    network = Network(env.action_space(env_params).n, s.hidden)
    optimizer = optax.chain(
        optax.clip_by_global_norm(s.max_grad_norm), optax.adam(s.learning_rate, eps=1e-5)
    )

    def init(key: jax.Array) -> State:
        params_key, reset_key, key = jax.random.split(key, 3)
        obs, env_state = jax.vmap(env.reset, (0, None))(
            jax.random.split(reset_key, s.num_envs), env_params
        )
        params = network.init(params_key, obs)
        returns = jnp.zeros(s.num_envs)
        return State(params, optimizer.init(params), env_state, obs, returns, key)

    def play(carry: State, _: None) -> tuple[State, Step]:
        key, act_key, step_key = jax.random.split(carry.key, 3)
        policy, value = network.apply(carry.params, carry.obs)
        action, log_prob = policy.sample_and_log_prob(seed=act_key)
        obs, env_state, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(step_key, s.num_envs), carry.env_state, action, env_params
        )
        done = terminated | truncated  # time limits as ends, as most have it
        total = carry.episode_return + reward
        out = Step(carry.obs, action, log_prob, value, reward, done, jnp.where(done, total, 0.0))
        after = carry._replace(
            env_state=env_state, obs=obs, episode_return=jnp.where(done, 0.0, total), key=key
        )
        return after, out

    def advantages(steps: Step, last_value: jax.Array) -> jax.Array:
        def backwards(carry: Any, step: Step) -> Any:
            advantage, next_value = carry
            going = 1.0 - step.done
            delta = step.reward + s.gamma * next_value * going - step.value
            advantage = delta + s.gamma * s.gae_lambda * going * advantage
            return (advantage, step.value), advantage

        start = (jnp.zeros_like(last_value), last_value)
        return jax.lax.scan(backwards, start, steps, reverse=True)[1]

    def loss(params: Any, batch: tuple[Step, jax.Array, jax.Array]) -> jax.Array:
        steps, advantage, target = batch
        policy, value = network.apply(params, steps.obs)
        ratio = jnp.exp(policy.log_prob(steps.action) - steps.log_prob)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = jnp.clip(ratio, 1 - s.clip_eps, 1 + s.clip_eps)
        gain = jnp.minimum(ratio * advantage, clipped * advantage).mean()
        near = steps.value + jnp.clip(value - steps.value, -s.clip_eps, s.clip_eps)
        error = jnp.maximum((value - target) ** 2, (near - target) ** 2).mean() / 2
        return -gain + s.value_coef * error - s.entropy_coef * policy.entropy().mean()

    def epoch(carry: Any, key: jax.Array, batch: Any) -> tuple[Any, None]:
        size = s.num_envs * s.num_steps
        order = jax.random.permutation(key, size)

        def parts(x: jax.Array) -> jax.Array:
            flat = x.reshape(size, *x.shape[2:])
            return flat[order].reshape(s.num_minibatches, -1, *x.shape[2:])

        def descend(carry: Any, minibatch: Any) -> tuple[Any, None]:
            params, opt_state = carry
            updates, opt_state = optimizer.update(jax.grad(loss)(params, minibatch), opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(descend, carry, jax.tree.map(parts, batch))

    def step(state: State) -> tuple[State, jax.Array]:
        state, steps = jax.lax.scan(play, state, length=s.num_steps)
        _, last_value = network.apply(state.params, state.obs)
        advantage = advantages(steps, last_value)
        batch = (steps, advantage, advantage + steps.value)
        key, epochs_key = jax.random.split(state.key)
        (params, opt_state), _ = jax.lax.scan(
            lambda carry, k: epoch(carry, k, batch),
            (state.params, state.opt_state),
            jax.random.split(epochs_key, s.num_epochs),
        )
        ended = jnp.stack([steps.ended_return.sum(), steps.done.sum().astype(jnp.float32)])
        return state._replace(params=params, opt_state=opt_state, key=key), ended

    return init, step
