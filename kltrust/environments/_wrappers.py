"""Wrappers without a memory: bounded actions, other observations, other rewards.

The density is that of the policy's own action; the environment gets the bounded one. Hiding
entries of an observation makes tasks that need a memory.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.checks import as_env
from kltrust.types import (
    Array,
    Box,
    Env,
    EnvStep,
    Masked,
    MaskedSpace,
    MultiDiscrete,
    PyTree,
    Space,
)

ActionBound = Literal["clip", "tanh", "none"]
"""How a policy's real-valued action is brought within bounds; see `bound_actions`."""
BOUNDS: tuple[str, ...] = typing.get_args(ActionBound)

# gymnax spells "no bound" as the largest float.
_LARGEST = np.finfo(np.float32).max


def bound_actions(env: Env, how: ActionBound = "clip", *, low: Any = None, high: Any = None) -> Env:
    """The environment in units where raw actions in [-1, 1] span its bounds.

    In every dimension with two finite bounds, with c = (high + low)/2 and h = (high - low)/2,

        "clip":  u = clip(c + h a, low, high)        "tanh":  u = c + h tanh(a)

    Integers are rounded to the nearest. Dimensions without a bound keep their units; one-sided
    bounds clip. The wrapped step takes the raw action a: the policy samples it, the rollout stores
    it, and densities and entropies refer to it. Since tanh is invertible, the KL divergence between
    two policies equals that between their bounded actions; clipping can only lower it. NaN stays
    NaN.

    Args:
        env: an environment; one whose action space is not a bounded Box takes only "none".
        how: "clip", "tanh", or "none": env as it is.
        low: overrides the space's bounds in the map alone; may be traced.
        high: as low.

    Returns:
        An `Env` whose action space is Box(-1, 1) ("clip") or unbounded ("tanh") in the rescaled
        dimensions.

    Raises:
        ValueError: for another ``how``, for actions that have no bounds, or bounds that are
            reversed.
    """
    if how not in BOUNDS:
        raise ValueError(f"action_bound must be one of {', '.join(BOUNDS)}, got {how!r}")
    env = as_env(env)
    if how == "none":
        return env
    space = env.action_space
    if not has_bounds(space):
        raise ValueError(
            f"{env.name}: the actions, {space}, have no bounds: action_bound={how!r} does not apply"
        )
    assert isinstance(space, Box)
    if np.any(space.low > space.high):
        raise ValueError(f"{env.name}: action bounds are reversed: {space.low} > {space.high}")
    low = space.low if low is None else low
    high = space.high if high is None else high
    two_sided = _is_finite(space.low) & _is_finite(space.high)
    edge = 1.0 if how == "clip" else np.inf

    def bounded(raw: Array) -> Array:
        raw = jnp.asarray(raw)
        # Unbounded dimensions get stand-in bounds, so that no infinity meets a product.
        lowest, highest = jnp.where(two_sided, low, -1.0), jnp.where(two_sided, high, 1.0)
        unit = jnp.where(two_sided, jnp.tanh(raw), raw) if how == "tanh" else raw
        # Halves first: the sum of the largest floats overflows.
        action = (highest / 2 + lowest / 2) + (highest / 2 - lowest / 2) * unit
        # Rounding may leave tanh's image by an ulp; one-sided dimensions have their bound here.
        action = jnp.clip(action, low, high)
        # Truncation would map two intervals to 0.
        whole = jnp.issubdtype(space.dtype, jnp.integer)
        return (jnp.round(action) if whole else action).astype(space.dtype)

    def taking_raw(step: EnvStep, of_raw: Callable[[Array], Array]) -> EnvStep:
        return lambda key, state, action: step(key, state, of_raw(action))

    raw_space = Box(
        low=np.where(two_sided, -edge, space.low).astype(np.float32),
        high=np.where(two_sided, edge, space.high).astype(np.float32),
        shape=space.shape,
        dtype=space.dtype,
    )
    return env._replace(
        step=taking_raw(env.step, bounded),
        step_batch=env.step_batch and taking_raw(env.step_batch, jax.vmap(bounded)),
        draw=env.draw,
        action_space=raw_space,
        native_action=lambda action: env.native_action(bounded(action)),
    )


def hide_observations(env: Env, keep: Sequence[int]) -> Env:
    """The environment with only some entries of its observation shown.

    CartPole's velocities are its entries 1 and 3: ``hide_observations(env, keep=(0, 2))`` shows
    positions alone, from which a policy without memory can't tell where the pole is going.

    An observation of ``env`` is a vector, a Box of shape [F]. An observation of the result has
    shape [len(keep)] and holds the entries of ``keep`` in this order.

    Raises:
        ValueError: for another kind of observation, or entries that it does not have.
    """
    env = as_env(env)
    space = env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise ValueError(f"{env.name}: only the entries of a vector can be hidden, not of {space}")
    places = [int(place) for place in keep]
    size = space.shape[0]
    if not places or len(set(places)) < len(places) or not all(0 <= i < size for i in places):
        raise ValueError(
            f"{env.name}: keep must name different entries among 0 to {size - 1}, at least one; "
            f"got {keep!r}"
        )
    low, high = (np.broadcast_to(bound, space.shape)[places] for bound in (space.low, space.high))
    return transform_observations(env, lambda obs: obs[np.asarray(places)], low=low, high=high)


def transform_observations(
    env: Env, function: Callable[[Array], Array], *, low: Any = -np.inf, high: Any = np.inf
) -> Env:
    """The environment whose observations go through a pure ``function`` of one observation.

    Args:
        env: an environment whose observation is one array.
        function: ``function(obs [*O]) -> [*P]``, a floating-point or integer array.
        low: the smallest value of the result, a number or [*P].
        high: the largest.

    Returns:
        An `Env` that shows a Box of the shape and dtype that ``function`` returns.

    Raises:
        ValueError: if the observation is not one array.
    """
    env = as_env(env)
    space = box_of(env, "transformed")
    made = jax.eval_shape(function, jax.ShapeDtypeStruct(space.shape, space.dtype))

    def shown(obs: PyTree) -> PyTree:
        return with_array(obs, function(array_of(obs)))

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return state, shown(obs)

    def showing(step: EnvStep, of: Callable[[PyTree], PyTree]) -> EnvStep:
        def shown_step(key: Array, state: PyTree, action: PyTree) -> Any:
            state, obs, outcome = step(key, state, action)
            return state, of(obs), outcome._replace(next_obs=of(outcome.next_obs))

        return shown_step

    low, high = (np.broadcast_to(np.asarray(b, made.dtype), made.shape) for b in (low, high))
    return env._replace(
        reset=reset,
        step=showing(env.step, shown),
        step_batch=env.step_batch and showing(env.step_batch, jax.vmap(shown)),
        draw=env.draw,
        observation_space=as_space(env, Box(low, high, made.shape, made.dtype)),
    )


def transform_rewards(env: Env, function: Callable[[Array], Array]) -> Env:
    """The environment ``env`` whose reward goes through an elementwise ``function`` -> an `Env`.

    The reported return is then that of the transformed reward, in evaluations, too.
    """
    env = as_env(env)

    def earning(step: EnvStep) -> EnvStep:
        def step_with_reward(key: Array, state: PyTree, action: PyTree) -> Any:
            state, obs, outcome = step(key, state, action)
            reward = jnp.asarray(function(outcome.reward), outcome.reward.dtype)
            return state, obs, outcome._replace(reward=reward)

        return step_with_reward

    batch = env.step_batch and earning(env.step_batch)
    return env._replace(step=earning(env.step), step_batch=batch, draw=env.draw)


def scale_rewards(env: Env, factor: float) -> Env:
    """The environment ``env`` with every reward multiplied by a ``factor`` -> an `Env`."""
    return transform_rewards(env, lambda reward: factor * reward)


def clip_rewards(env: Env, bound: float = 1.0) -> Env:
    """The environment ``env`` with every reward clipped to [-bound, bound] -> an `Env`."""
    return transform_rewards(env, lambda reward: jnp.clip(reward, -bound, bound))


def has_bounds(space: Any) -> bool:
    """Whether it is a Box with a finite bound."""
    return isinstance(space, Box) and bool(np.any(_is_finite(space.low) | _is_finite(space.high)))


def fit_action(name: str, space: Space, action: Any) -> Array:
    """The action in the dtype that other libraries' code expects; refuses another shape."""
    if isinstance(space, Box):
        dtype, shape = space.dtype, tuple(space.shape)
    else:
        dtype, shape = jnp.int32, np.shape(space[0]) if isinstance(space, MultiDiscrete) else ()
    action = jnp.asarray(action)
    if action.shape != shape:
        raise ValueError(f"{name}: an action has shape {shape}, got {action.shape}; vmap over more")
    return action.astype(dtype)


def _is_finite(bound: Any) -> np.ndarray:
    return np.abs(np.asarray(bound, np.float64)) < float(_LARGEST)


def box_of(env: Env, what: str) -> Box:
    space = env.observation_space
    space = space.obs if isinstance(space, MaskedSpace) else space
    if not isinstance(space, Box) or not space.shape:
        raise ValueError(
            f"{env.name}: only observations of one array are {what}, and this is {space}"
        )
    return space


def as_space(env: Env, box: Box) -> Space | MaskedSpace:
    return MaskedSpace(box) if isinstance(env.observation_space, MaskedSpace) else box


def array_of(obs: PyTree) -> Array:
    return obs.obs if isinstance(obs, Masked) else obs


def with_array(obs: PyTree, array: Array) -> PyTree:
    return obs._replace(obs=array) if isinstance(obs, Masked) else array
