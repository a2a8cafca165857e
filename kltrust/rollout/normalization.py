"""Running moments: of observations, which become part of the behaviour policy, and of returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kltrust.lowering import scan
from kltrust.types import Array, PyTree, Sequences

CLIP = 10.0
"""The bound on normalised observations and scaled rewards (Engstrom et al. 2020)."""

_EPSILON = 1e-8


class Moments(NamedTuple):
    """Mean and variance of the samples so far.

    Attributes:
        num_samples: [] float32.
        mean: a pytree of [*O].
        variance: likewise; the biased one.
    """

    num_samples: Array
    mean: PyTree
    variance: PyTree


def init_moments(example: PyTree) -> Moments:
    """Mean 0 and variance 1 of no samples: normalising with it only clips.

    Only the shapes of the ``example``, one observation, matter.
    """
    mean = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), example)
    variance = jax.tree.map(lambda x: jnp.ones(x.shape, jnp.float32), example)
    return Moments(jnp.zeros((), jnp.float32), mean, variance)


def update_moments(moments: Moments, samples: PyTree) -> Moments:
    """Adds ``samples`` [*E, *O]: the parallel update of Chan, Golub and LeVeque (1979).

    The ``moments`` so far are float32, whatever the samples are.
    """
    example, mean = jax.tree.leaves(samples)[0], jax.tree.leaves(moments.mean)[0]
    added = jnp.float32(math.prod(example.shape[: example.ndim - mean.ndim]))
    total = moments.num_samples + added
    share = added / total

    def over_samples(statistic: Callable, x: Array, mean: Array) -> Array:
        return statistic(x.astype(jnp.float32), tuple(range(x.ndim - mean.ndim)))

    new_mean = jax.tree.map(partial(over_samples, jnp.mean), samples, moments.mean)
    new_variance = jax.tree.map(partial(over_samples, jnp.var), samples, moments.mean)
    delta = jax.tree.map(jnp.subtract, new_mean, moments.mean)

    def pooled(old: Array, new: Array, d: Array) -> Array:
        return (1 - share) * old + share * new + share * (1 - share) * d**2

    mean = jax.tree.map(lambda old, d: old + share * d, moments.mean, delta)
    return Moments(total, mean, jax.tree.map(pooled, moments.variance, new_variance, delta))


def normalize(moments: Moments | None, x: PyTree) -> PyTree:
    """clip((x - mean) / std, -10, 10) of every float leaf -> like x; without moments x itself.

    x is [*E, *O], or `Sequences` of these, whose carries are left as they are.
    """
    if moments is None:
        return x
    if isinstance(x, Sequences):
        return x._replace(obs=normalize(moments, x.obs))

    def one(x: Array, mean: Array, variance: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        lead = (1,) * (x.ndim - mean.ndim)
        mean, variance = mean.reshape(lead + mean.shape), variance.reshape(lead + mean.shape)
        normal = (x - mean) * jax.lax.rsqrt(variance + _EPSILON)
        return jnp.clip(normal, -CLIP, CLIP).astype(x.dtype)

    return jax.tree.map(one, x, moments.mean, moments.variance)


class RewardScale(NamedTuple):
    """The state of reward scaling by the standard deviation of the running discounted return.

    Attributes:
        moments: of the running return over all environments and steps, scalars.
        running_return: [B].
    """

    moments: Moments
    running_return: Array


def init_reward_scale(num_envs: int) -> RewardScale:
    """The state before any reward, of B = num_envs environments."""
    return RewardScale(init_moments(jnp.zeros(())), jnp.zeros(num_envs, jnp.float32))


def scale_rewards(
    scale: RewardScale, reward: Array, done: Array, gamma: Array | float
) -> tuple[RewardScale, Array]:
    """Counts a rollout's rewards, then scales them (they are no part of the behaviour policy).

    R <- gamma R + r, with R set to 0 *after* the last step of an episode has been counted.
    ``reward`` and ``done``, terminated or truncated, are [T, B]; ``gamma`` is the discount.

    Returns:
        (new ``scale``, clip(reward / std R, -10, 10) [T, B]).
    """

    def step(running: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = xs
        running = gamma * running + reward
        return jnp.where(done, 0.0, running), running

    running_return, returns = scan(step, scale.running_return, (reward, done))
    moments = update_moments(scale.moments, returns)
    scaled = reward * jax.lax.rsqrt(moments.variance + _EPSILON)
    return RewardScale(moments, running_return), jnp.clip(scaled, -CLIP, CLIP)
