"""Checks that an environment keeps the contract of `Env`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.checks import as_env, as_space
from kltrust.environments._build import aval, mismatch
from kltrust.networks.masks import allowed_actions, check_masks, mask_of, space_leaves, without_mask
from kltrust.types import (
    Array,
    Box,
    Discrete,
    Env,
    MultiBinary,
    MultiDiscrete,
    Outcome,
    PyTree,
    Space,
)


def check_env(env: Env, key: Array | None = None, *, num_steps: int = 32) -> None:
    """Raises unless the environment can be rolled out, vmapped and scanned as it stands.

    By tracing, it checks:

    - no leaf is weakly typed;
    - a step's state and observation have exactly the shapes and dtypes of a reset's, so that no
      chunk compiles twice;
    - the outcome has the dtypes of `Outcome`, and the observation fits its space.

    On three lanes of num_steps random actions, it checks:

    - ``next_obs`` is ``obs`` while an episode goes on;
    - floats are finite, and integers are within their space;
    - the same keys give the same bits.

    The ``key`` for the episodes of ``env`` is ``jax.random.key(0)`` by default.

    Raises:
        ValueError: names the first broken promise and how to keep it.
    """
    env = as_env(env)
    key = jax.random.key(0) if key is None else key
    _check_types(env, key)
    _check_episodes(env, key, num_steps)


def sample_action(space: Space, key: Array, mask: Array | None = None) -> Array:
    """A random action: uniform over integers; for a Box, standard normals clipped to its bounds.

    ``space`` may be gymnax's. The ``mask`` belongs to one observation, as in `Masked`: only
    allowed actions are drawn.

    Returns:
        One action, drawn by a typed ``key``, with the shape and dtype of ``space``.
    """
    space = as_space(space)
    if mask is not None and isinstance(space, Discrete | MultiDiscrete):
        log_weight = jnp.where(allowed_actions(space, mask), 0.0, -jnp.inf)
        return jax.random.categorical(key, log_weight).astype(jnp.int32)
    if isinstance(space, Box):
        normal = jax.random.normal(key, space.shape, jnp.float32)
        return jnp.clip(normal, space.low, space.high).astype(space.dtype)
    sizes = _cardinality(space)
    return jax.random.randint(key, np.shape(sizes), 0, sizes, jnp.int32)


def _check_types(env: Env, key: Array) -> None:
    state, obs = jax.eval_shape(env.reset, key)
    action = jax.eval_shape(lambda k: sample_action(env.action_space, k), key)
    stepped = jax.eval_shape(env.step, key, state, action)
    if not isinstance(stepped, tuple) or len(stepped) != 3 or not isinstance(stepped[2], Outcome):
        raise ValueError(f"{env.name}: step must return (state, obs, Outcome)")
    next_state, next_obs, outcome = stepped
    _require_same(env, "state", state, next_state)
    _require_same(env, "obs", obs, next_obs)
    _require_same(env, "next_obs", obs, outcome.next_obs)
    expected = {"reward": "float32[]", "terminated": "bool[]", "truncated": "bool[]"}
    for name, kind in expected.items():
        if (found := aval(getattr(outcome, name))) != kind:
            raise ValueError(
                f"{env.name}: {name} is {found}, it must be {kind}; "
                "environments.from_functions casts it"
            )
    _check_observation(env, obs)
    _check_batch(env, (key, state, action))


def _check_batch(env: Env, arguments: PyTree) -> None:
    def of_draws(key: Array, state: PyTree, action: PyTree) -> Any:
        assert env.draw is not None
        return jax.vmap(env.step)(jax.vmap(env.draw)(key), state, action)

    lanes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), arguments)
    expected = jax.tree.map(aval, jax.eval_shape(jax.vmap(env.step), *lanes))
    others = {"step_batch": env.step_batch, "step with draw": env.draw and of_draws}
    for name, step in others.items():
        if step is None:
            continue
        found = jax.tree.map(aval, jax.eval_shape(step, *lanes))
        # States may define their own ==.
        if jax.tree.flatten(expected) != jax.tree.flatten(found):
            raise ValueError(
                f"{env.name}: {name} returns {found} and the vmap of step {expected}; "
                f"{name.split()[-1]}=None takes the vmap"
            )


def _check_observation(env: Env, obs: PyTree) -> None:
    check_masks(env, obs)
    found: Any
    spaces, structure = space_leaves(env.observation_space)
    parts, found = jax.tree.flatten(obs := without_mask(obs))
    if structure != found or not all(map(_fits, spaces, parts)):
        raise ValueError(
            f"{env.name}: the observation is {jax.tree.map(aval, obs)}, and the space "
            f"{without_mask(env.observation_space)}"
        )


def _fits(space: Space, obs: Any) -> bool:
    if isinstance(space, Box):
        return obs.shape == tuple(space.shape) and obs.dtype == np.dtype(space.dtype)
    same_shape = obs.shape == np.shape(_cardinality(space))
    return same_shape and bool(jnp.issubdtype(obs.dtype, jnp.integer))


def _check_episodes(env: Env, key: Array, num_steps: int) -> None:
    lanes = 3
    key_reset, key_steps = jax.random.split(key)
    # map and scan compile their bodies once: this also shows that the environment can be scanned.
    start = jax.lax.map(env.reset, jax.random.split(key_reset, lanes))

    def body(carry: Any, key: Array) -> tuple[Any, Any]:
        key_action, key_step = jax.random.split(key)
        actions = jax.vmap(lambda k, obs: sample_action(env.action_space, k, mask_of(obs)))(
            jax.random.split(key_action, lanes), carry[1]
        )
        state, obs, outcome = jax.vmap(env.step)(
            jax.random.split(key_step, lanes), carry[0], actions
        )
        return (state, obs), (obs, outcome)

    keys = jax.random.split(key_steps, num_steps)
    first, second = (jax.lax.scan(body, start, keys) for _ in range(2))
    if not _equal(first, second):
        raise ValueError(f"{env.name}: the same keys gave different episodes; use only the key")
    obs, outcome = jax.tree.map(np.asarray, first[1])
    going_on = ~(outcome.terminated | outcome.truncated)
    before, after = jax.tree.map(lambda x: x[going_on], (outcome.next_obs, obs))
    if not all(map(_close, jax.tree.leaves(before), jax.tree.leaves(after))):
        raise ValueError(f"{env.name}: next_obs differs from obs where no episode ended")
    values = {"obs of a reset": start[1], "next_obs": outcome.next_obs, "reward": outcome.reward}
    for name, value in values.items():
        for leaf in jax.tree.leaves(value):
            if not np.all(np.isfinite(np.asarray(leaf, np.float64))):
                raise ValueError(f"{env.name}: {name} is not finite")
    spaces, _ = space_leaves(env.observation_space)
    for seen in map(without_mask, (start[1], obs, outcome.next_obs)):
        for space, x in zip(spaces, jax.tree.leaves(seen), strict=True):
            if isinstance(space, Box):
                continue
            if np.any((np.asarray(x) < 0) | (np.asarray(x) >= _cardinality(space))):
                raise ValueError(f"{env.name}: an observation lies outside {space}")


def _cardinality(space: Discrete | MultiDiscrete | MultiBinary) -> Any:
    """The number of values of every entry, in the shape of an element."""
    if isinstance(space, Discrete):
        return space.n
    return np.array(space.nvec) if isinstance(space, MultiDiscrete) else np.full(space.n, 2)


def _require_same(env: Env, what: str, reset: PyTree, step: PyTree) -> None:
    if difference := mismatch(reset, step):
        raise ValueError(
            f"{env.name}: {what}{difference}: a chunk would compile twice; "
            "environments.from_functions keeps dtypes"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(reset):
        if leaf.weak_type:
            raise ValueError(
                f"{env.name}: {what}{jax.tree_util.keystr(path)} is weakly typed: build it with a "
                "dtype (jnp.zeros((), jnp.int32), not 0)"
            )


def _equal(x: PyTree, y: PyTree) -> bool:
    """Bit for bit, so that a NaN equals itself."""

    def bits(leaf: Array) -> bytes:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return all(bits(a) == bits(b) for a, b in pairs)


def _close(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether they agree up to rounding: a compiler may compute one value twice, in two ways."""
    return np.allclose(x, y, rtol=1e-5, atol=1e-5, equal_nan=True)
