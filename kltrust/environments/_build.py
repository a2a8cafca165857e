"""An `Env` from two plain functions: adds auto-reset, a time limit and steady dtypes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust import loops, lowering, tree
from kltrust.checks import as_space
from kltrust.environments._pictures import inside
from kltrust.types import Array, Env, MaskedSpace, Number, Outcome, PyTree, Render, Space

Reset = Callable[[Array], tuple[PyTree, PyTree]]
Stepped = tuple[PyTree, PyTree, Any, Any, Any]
"""(state, obs, reward, terminated, truncated)."""
Transition = Callable[[Array, PyTree, PyTree], Stepped]


def from_functions(
    reset: Reset,
    transition: Transition,
    observation_space: Space | MaskedSpace,
    action_space: Space,
    *,
    max_steps: Number | None = None,
    name: str = "custom",
    render: Render | None = None,
) -> Env:
    """An environment that resets itself, from two functions that do not.

    ``step`` is an `AutoReset`. States and observations keep the dtypes of ``reset`` and lose weak
    types, so a step's output can be the next step's input without a second compilation.

    Args:
        reset: ``reset(key) -> (state, obs)``.
        transition: ``transition(key, state, action) -> (state, obs, reward, terminated,
            truncated)``, all before any reset; flags and reward may be numbers of any kind.
        observation_space: the space of ``obs``, ours or one of gymnax or gymnasium.
        action_space: the space of ``action``, likewise; see `bound_actions` for a bounded Box.
        max_steps: truncate an episode after this number of steps, None for never. May be traced.
        name: for messages and tables.
        render: draws the states that ``reset`` and ``transition`` return, see `Render`;
            ``kltrust play`` films episodes with it.

    Returns:
        An `Env`; the reward is float32, the flags are bool.

    Raises:
        ValueError: for a concrete max_steps below 1; and when ``step`` is traced, if the
            transition's state or observation has another structure, shape or dtype than reset's.
    """
    if max_steps is not None:
        if not isinstance(max_steps, jax.core.Tracer) and max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        reset, transition = _with_time_limit(reset, transition, max_steps)
        render = inside(render)

    step = AutoReset(reset, transition, name)
    spaces = as_space(observation_space), as_space(action_space)
    env = Env(step.fresh, step, *spaces, name, max_steps, render=render)
    return env._replace(step_batch=step.batch, draw=step.draw)


class Drawn(NamedTuple):
    """What a step draws by its key; it takes this in place of the key.

    Attributes:
        key: the transition's.
        fresh: (state, obs) of a new episode, for the case that this one ends.
    """

    key: Array
    fresh: tuple[PyTree, PyTree]


@dataclasses.dataclass(frozen=True)
class AutoReset:
    """``Env.step`` from functions that do not reset, and ``batch`` for ``Env.step_batch``.

    A step splits its key into one for the transition and one for a reset, and selects the reset
    where the episode ended.

    The fields are as in `from_functions`.
    """

    reset: Reset
    transition: Transition
    name: str

    def __call__(
        self, key: Array | Drawn, state: PyTree, action: PyTree
    ) -> tuple[PyTree, PyTree, Outcome]:
        """A step; each does the same work, so that lanes under `vmap` never wait for each other."""
        state, obs, outcome = self._before_reset(key, state, action)
        done = outcome.terminated | outcome.truncated
        state, obs = tree.where(done, self._after_reset(key), (state, obs))
        return state, obs, outcome

    def draw(self, key: Array) -> Drawn:
        """All that a step draws by its ``key``, computed ahead -> what the step takes instead."""
        return Drawn(jax.random.split(key)[0], self._after_reset(key))

    def batch(
        self, key: Array | Drawn, state: PyTree, action: PyTree
    ) -> tuple[PyTree, PyTree, Outcome]:
        """``vmap`` of the step, the same bits; on a CPU it skips the resets if no episode ended.

        On a CPU a reset and the hashing of its key often cost more than the step itself. Other
        devices would have to tell their host, and wait for it, before they go on.
        """
        state, obs, outcome = jax.vmap(self._before_reset)(key, state, action)
        done = outcome.terminated | outcome.truncated
        after = (state, obs)

        def select() -> tuple[PyTree, PyTree]:
            return tree.where(done, jax.vmap(self._after_reset)(key), after)

        state, obs = loops.cond(lowering.cpu_shortcut(~jnp.any(done)), lambda: after, select)
        return state, obs, outcome

    def fresh(self, key: Array) -> tuple[PyTree, PyTree]:
        """(state, obs) of a new episode, without weak types."""
        return jax.tree.map(strong, self.reset(key))

    def _before_reset(
        self, key: Array | Drawn, state: PyTree, action: PyTree
    ) -> tuple[PyTree, PyTree, Outcome]:
        own = key.key if isinstance(key, Drawn) else jax.random.split(key)[0]
        state, obs, reward, terminated, truncated = _five(
            self.transition(own, state, action), self.name
        )
        fresh = jax.eval_shape(self.fresh, own)
        state = _conform(state, fresh[0], f"{self.name}: state")
        obs = _conform(obs, fresh[1], f"{self.name}: observation")
        ended, cut = (_scalar(flag, jnp.bool_) for flag in (terminated, truncated))
        return state, obs, Outcome(_scalar(reward, jnp.float32), ended, cut, obs)

    def _after_reset(self, key: Array | Drawn) -> tuple[PyTree, PyTree]:
        return key.fresh if isinstance(key, Drawn) else self.fresh(jax.random.split(key)[1])


def _with_time_limit(
    reset: Reset, transition: Transition, max_steps: Number
) -> tuple[Reset, Transition]:
    """Both functions over ``(state, steps taken)``, truncated after max_steps."""

    def timed_reset(key: Array) -> tuple[PyTree, PyTree]:
        state, obs = reset(key)
        return (state, jnp.zeros((), jnp.int32)), obs

    def timed_transition(key: Array, timed: PyTree, action: PyTree) -> Stepped:
        state, steps = timed
        state, obs, reward, terminated, truncated = _five(transition(key, state, action))
        steps = steps + 1
        truncated = _scalar(truncated, jnp.bool_) | (steps >= max_steps)
        return (state, steps), obs, reward, terminated, truncated

    return timed_reset, timed_transition


def _five(stepped: Any, name: str = "") -> Stepped:
    """A transition's results, after a check of their number and kinds."""
    count = len(stepped) if isinstance(stepped, tuple | list) else 1
    if count != 5 or isinstance(stepped[4], dict):
        found = "a dict in place of truncated" if count == 5 else f"{count} results"
        raise ValueError(
            f"{name or 'the environment'}: a transition returns (state, obs, reward, terminated, "
            f"truncated), got {found}"
        )
    return tuple(stepped)


def strong(x: Any) -> Array:
    """``x`` as an array without a weak type. Typed PRNG keys have none and cannot be cast."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    return jax.lax.convert_element_type(x, x.dtype)


def mismatch(reset: PyTree, step: PyTree) -> str:
    """How a step's result differs from a reset's: structure, shape, dtype, weak type; or ""."""
    structures: list[Any] = [jax.tree.structure(reset), jax.tree.structure(step)]
    if structures[0] != structures[1]:
        return f" is {structures[0]} after a reset and {structures[1]} after a step"
    before, after = (jax.tree_util.tree_leaves_with_path(x) for x in (reset, step))
    for (path, x), (_, y) in zip(before, after, strict=True):
        if aval(x) != aval(y):
            where = jax.tree_util.keystr(path)
            return f"{where} is {aval(x)} after a reset and {aval(y)} after a step"
    return ""


def aval(x: Any) -> str:
    """Shape and type, to compare and to print: "float32[3]", "weak int32[]"."""
    return f"{'weak ' if getattr(x, 'weak_type', False) else ''}{x.dtype}{list(x.shape)}"


def _scalar(x: Any, dtype: Any) -> Array:
    return jnp.reshape(jnp.asarray(x).astype(dtype), ())


def _conform(x: PyTree, like: PyTree, what: str) -> PyTree:
    """Strongly typed x, which must agree with reset's in structure, shapes and dtypes.

    A cast would agree too, but silently cut a float to an integer where a reset returned ``0``.
    """
    x = jax.tree.map(strong, x)
    if difference := mismatch(like, x):
        raise ValueError(f"{what}{difference}; return one shape and dtype from both")
    return x
