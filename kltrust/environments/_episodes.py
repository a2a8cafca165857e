"""Wrappers with a memory: time limits, stacked observations, repeated actions.

They keep the inner environment's state in the first place of a pair. The inner environment gets the
keys that it would get alone; a wrapper's own draws come from other keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kltrust import loops, lowering, tree
from kltrust.checks import as_env
from kltrust.environments._pictures import inside
from kltrust.environments._wrappers import array_of, as_space, box_of, with_array
from kltrust.types import Array, Box, Env, MaskedSpace, MultiBinary, Outcome, PyTree, Space

_OWN_KEY = 0x6B6C
"""Folded into a step's key; the inner environment splits the same key."""


def time_limit(env: Env, max_steps: int) -> Env:
    """The environment ``env``, whose episodes are truncated after ``max_steps`` steps.

    If the environment has a shorter limit, that one stays. The last state has a value, and
    ``next_obs`` is the observation before the reset.

    Returns:
        An `Env` of the same spaces; its state is ``(state, steps taken)``.

    Raises:
        ValueError: if ``max_steps`` is below 1.
    """
    env = as_env(env)
    if not isinstance(max_steps, jax.core.Tracer) and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        state, obs = env.reset(key)
        return (state, jnp.zeros((), jnp.int32)), obs

    def limited(steps: Array, outcome: Outcome) -> tuple[Array, Outcome, Array]:
        """Steps, the outcome, and whether the limit cut an episode that would have gone on."""
        ended = outcome.terminated | outcome.truncated
        steps = steps + 1
        cut = (steps >= max_steps) & ~ended
        outcome = outcome._replace(truncated=outcome.truncated | cut)
        return jnp.where(ended | cut, 0, steps), outcome, cut

    def after_reset(key: Array) -> tuple[PyTree, PyTree]:
        return env.reset(jax.random.fold_in(key, _OWN_KEY))

    def step(key: Array, pair: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Outcome]:
        state, obs, outcome = env.step(key, pair[0], action)
        steps, outcome, cut = limited(pair[1], outcome)
        state, obs = tree.where(cut, after_reset(key), (state, obs))
        return (state, steps), obs, outcome

    def step_batch(key: Array, pair: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Outcome]:
        inner = env.step_batch or jax.vmap(env.step)
        state, obs, outcome = inner(key, pair[0], action)
        steps, outcome, cut = limited(pair[1], outcome)
        after = (state, obs)

        def select() -> tuple[PyTree, PyTree]:
            return tree.where(cut, jax.vmap(after_reset)(key), after)

        # As in `AutoReset.batch`: a CPU skips the resets if no episode was cut.
        state, obs = loops.cond(lowering.cpu_shortcut(~jnp.any(cut)), lambda: after, select)
        return (state, steps), obs, outcome

    own = max_steps if env.max_steps is None else env.max_steps
    known = isinstance(own, int) and isinstance(max_steps, int)
    return env._replace(
        reset=reset,
        step=step,
        step_batch=step_batch,
        max_steps=min(max_steps, own) if known else jnp.minimum(max_steps, own),
        render=inside(env.render),
    )


def stack_frames(env: Env, number: int) -> Env:
    """The environment ``env`` that shows the last ``number`` observations along their last axis.

    [*O, C] becomes [*O, number C], the newest observation last. An episode begins with copies of
    its first observation. A mask beside the observation is the newest one's.

    Returns:
        An `Env`; its state is ``(state, frames)``.

    Raises:
        ValueError: if the observation is not one array, or ``number`` is below 1.
    """
    env = as_env(env)
    if number < 1:
        raise ValueError(f"stack_frames takes a number of 1 or more, got {number}")
    space = box_of(env, "stacked")

    def first(obs: PyTree) -> tuple[PyTree, PyTree]:
        frames = jnp.concatenate([array_of(obs)] * number, -1)
        return frames, with_array(obs, frames)

    def after(
        frames: PyTree, action: PyTree, obs: PyTree, outcome: Outcome
    ) -> tuple[PyTree, PyTree, Outcome]:
        newest = array_of(outcome.next_obs)
        frames = jnp.concatenate([frames[..., space.shape[-1] :], newest], -1)
        outcome = outcome._replace(next_obs=with_array(outcome.next_obs, frames))
        ended = outcome.terminated | outcome.truncated
        frames = jnp.where(ended, first(obs)[0], frames)
        return frames, with_array(obs, frames), outcome

    low, high = (
        np.concatenate([np.broadcast_to(b, space.shape)] * number, -1)
        for b in (space.low, space.high)
    )
    shape = (*space.shape[:-1], number * space.shape[-1])
    around = _Around(env, first, lambda key, frames, action: action, after)
    return around.env(observation_space=as_space(env, Box(low, high, shape, space.dtype)))


def sticky_actions(env: Env, probability: float = 0.25) -> Env:
    """The environment ``env`` that repeats its last action with a ``probability``.

    The first action of an episode is the agent's. The default is that of Machado et al.,
    "Revisiting the Arcade Learning Environment" (JAIR 2018). A rollout stores the policy's action,
    so its density is right; the environment is only less predictable.

    Returns:
        An `Env`; its state is ``(state, (last action, whether there is one))``.

    Raises:
        ValueError: if the probability does not lie in [0, 1], or states forbid actions: a repeated
            action may be forbidden by then.
    """
    env = as_env(env)
    if isinstance(env.observation_space, MaskedSpace):
        raise ValueError(f"{env.name}: its states forbid actions, so that none can be repeated")
    if not isinstance(probability, jax.core.Tracer) and not 0 <= probability <= 1:
        raise ValueError(f"a probability lies in [0, 1], got {probability}")

    def first(obs: PyTree) -> tuple[PyTree, PyTree]:
        return (_no_action(env.action_space), jnp.zeros((), jnp.bool_)), obs

    def before(key: Array, extra: PyTree, action: PyTree) -> PyTree:
        last, is_there = extra
        own = jax.random.fold_in(key, _OWN_KEY)
        repeat = is_there & jax.random.bernoulli(own, probability)
        return jax.tree.map(
            lambda a, b: jnp.where(repeat, a.astype(jnp.result_type(b)), b), last, action
        )

    def after(
        extra: PyTree, action: PyTree, obs: PyTree, outcome: Outcome
    ) -> tuple[PyTree, PyTree, Outcome]:
        kept = jax.tree.map(lambda a, b: jnp.asarray(b).astype(a.dtype), extra[0], action)
        return (kept, ~(outcome.terminated | outcome.truncated)), obs, outcome

    return _Around(env, first, before, after).env()


class _Around(NamedTuple):
    """An environment and functions around its steps, with a memory of their own, ``extra``.

    Attributes:
        inner: the environment.
        first: ``first(obs) -> (extra, obs)`` after a reset.
        before: ``before(key, extra, action) -> action`` for the inner environment.
        after: ``after(extra, that action, obs, outcome) -> (extra, obs, outcome)`` after the step.
    """

    inner: Env
    first: Callable[[PyTree], tuple[PyTree, PyTree]]
    before: Callable[[Array, PyTree, PyTree], PyTree]
    after: Callable[[PyTree, PyTree, PyTree, Outcome], tuple[PyTree, PyTree, Outcome]]

    def reset(self, key: Array) -> tuple[PyTree, PyTree]:
        state, obs = self.inner.reset(key)
        extra, obs = self.first(obs)
        return (state, extra), obs

    def step(self, key: Array, pair: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Outcome]:
        state, extra = pair
        action = self.before(key, extra, action)
        state, obs, outcome = self.inner.step(key, state, action)
        extra, obs, outcome = self.after(extra, action, obs, outcome)
        return (state, extra), obs, outcome

    def step_batch(self, key: Array, pair: PyTree, action: PyTree) -> Any:
        assert self.inner.step_batch is not None
        state, extra = pair
        action = jax.vmap(self.before)(key, extra, action)
        state, obs, outcome = self.inner.step_batch(key, state, action)
        extra, obs, outcome = jax.vmap(self.after)(extra, action, obs, outcome)
        return (state, extra), obs, outcome

    def env(self, **changes: Any) -> Env:
        return self.inner._replace(
            reset=self.reset,
            step=self.step,
            step_batch=self.inner.step_batch and self.step_batch,
            render=inside(self.inner.render),
            **changes,
        )


def _no_action(space: Space) -> Array:
    """Zeros of the shape and dtype of an action."""
    if isinstance(space, Box):
        return jnp.zeros(space.shape, jnp.float32)
    shape = (space.n,) if isinstance(space, MultiBinary) else np.shape(space[0])
    return jnp.zeros(shape, jnp.int32)
