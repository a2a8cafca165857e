"""An environment: its spaces, its step, and the record of a rollout in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from kltrust.types._arrays import Array, Number, PyTree

Render: TypeAlias = Callable[[Sequence[PyTree]], Iterator[np.ndarray]]
"""``render(states) -> pictures``: one [H, W, 3] of uint8 for each state of an environment. It draws
on the host, so it cannot be compiled."""


class Discrete(NamedTuple):
    """The integers 0 to n - 1."""

    n: int


class MultiDiscrete(NamedTuple):
    """A vector of integers, entry i in 0 to ``nvec[i] - 1``."""

    nvec: tuple[int, ...]


class MultiBinary(NamedTuple):
    """A vector of n bits."""

    n: int


class Box(NamedTuple):
    """Arrays of one shape between two bounds (arrays of that shape; they may be infinite)."""

    low: np.ndarray
    high: np.ndarray
    shape: tuple[int, ...]
    dtype: Any = np.float32

    def __repr__(self) -> str:
        """The shape, the least and the largest bound, as in ``Box([4], -1 to 1)``."""
        low, high = (
            getattr(x, "item", lambda x=x: x)() for x in (np.min(self.low), np.max(self.high))
        )
        return f"Box({list(self.shape)}, {low:.4g} to {high:.4g})"


Space: TypeAlias = Discrete | MultiDiscrete | MultiBinary | Box
"""The set that observations or actions belong to."""


class Masked(NamedTuple):
    """An observation with a mask of the actions that its state allows; its space is `MaskedSpace`.

    Attributes:
        obs: [*O], any pytree of arrays.
        mask: bool, true for an allowed action. It is [n] for Discrete(n), and [k, max(nvec)] for a
            MultiDiscrete of k entries, one row for each. Columns beyond an entry's ``nvec[i]`` are
            ignored. A row that allows nothing is taken to allow everything, and is counted
            (`Metrics.fully_masked`).
    """

    obs: PyTree
    mask: Array


class MaskedSpace(NamedTuple):
    """The space of observations that come with a mask over the environment's actions: `Masked`.

    Attributes:
        obs: the space of ``Masked.obs``.
    """

    obs: Any


class Outcome(NamedTuple):
    """The result of one step of one environment.

    Attributes:
        reward: [] float32.
        terminated: [] bool; the episode ended in a state whose value is zero.
        truncated: [] bool; a time limit cut the episode, so the future still has a value.
        next_obs: [*O] the observation *before* any auto-reset.
    """

    reward: Array
    terminated: Array
    truncated: Array
    next_obs: PyTree


EnvStep: TypeAlias = Callable[[Array, PyTree, PyTree], tuple[PyTree, PyTree, Outcome]]
"""``step(key, state, action) -> (state, obs, Outcome)``."""


class _Env(NamedTuple):
    """The fields of `Env`."""

    reset: Callable[[Array], tuple[PyTree, PyTree]]
    step: EnvStep
    observation_space: Space | MaskedSpace
    action_space: Space
    name: str = "custom"
    max_steps: Number | None = None
    native_action: Callable[[PyTree], PyTree] = lambda action: action
    render: Render | None = None
    step_batch: EnvStep | None = None
    draw: Callable[[Array], PyTree] | None = None


class Env(_Env):
    """One environment as a pair of pure functions over an explicit state.

    Attributes:
        reset: ``reset(key) -> (state, obs)``.
        step: ``step(key, state, action) -> (state, obs, Outcome)``; ``state`` and ``obs`` are
            after auto-reset, ``Outcome.next_obs`` is before it.
        observation_space: the space of ``obs``; a `MaskedSpace` if the state decides which
            actions are allowed.
        action_space: the space of the actions that ``step`` takes. Real-valued actions outside
            a Box are legal: the adapter bounds them.
        name: the name that ``make`` was called with.
        max_steps: the episode's time limit if there is one (it may be traced), else None.
        native_action: maps an action that ``step`` takes to the environment's own action. For a
            bounded Box this is the adapter's mapping of the policy's raw action. Use it to act
            outside kltrust.
        render: draws states, see `Render`; None if the environment cannot be drawn.
        step_batch: a cheaper equivalent of the `vmap` of ``step``; key, state and action are
            [B, ...]. None uses the vmap itself. Rollouts call it in place of ``step``, so it
            belongs to one ``step``: ``_replace(step=...)`` drops it unless given a new one.
        draw: ``draw(key)`` is what a step draws by its key; the step takes it in place of the key.
            None if it takes keys only. On GPUs and TPUs, rollouts draw for all steps at once. Like
            ``step_batch``, it belongs to one ``step``.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """One line: the name, the spaces and the time limit."""
        spaces = f"sees {self.observation_space}, takes {self.action_space}"
        limit = "" if self.max_steps is None else f", at most {self.max_steps} steps"
        return f"Env({self.name}: {spaces}{limit})"

    def _replace(self, **changes: Any) -> Env:
        """The environment with some fields replaced.

        A new ``step`` drops ``step_batch`` and ``draw``, a new ``step_batch`` drops ``draw``.
        """
        if "step" in changes or changes.get("step_batch") is not None:
            changes.setdefault("draw", None)
        if "step" in changes:
            changes.setdefault("step_batch", None)
        return super()._replace(**changes)


class Transition(NamedTuple):
    """The raw record of a rollout, without derived quantities. Leaves are [T, B, ...].

    Attributes:
        obs: [T, B, *O] in the environment's own dtype, not normalised.
        action: [T, B, ...] the policy's own (raw) action, the one that has a density.
        reward, terminated, truncated: [T, B], as in `Outcome`.
        next_obs: [T, B, *O] before auto-reset.
    """

    obs: PyTree
    action: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    next_obs: PyTree
