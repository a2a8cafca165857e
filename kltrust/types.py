"""The vocabulary of the library: what flows between its parts.

Axes, used in every docstring: T steps, B parallel environments, N = B * T rows flattened
environment-major, A actions, ``*O`` an observation's shape, ``*E`` any leading shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
"""An array, or a tracer of one."""
PyTree: TypeAlias = Any
"""Arrays in nested tuples, dicts, and whatever else JAX knows the leaves of."""
Params: TypeAlias = Any
"""Parameters: a pytree of arrays. Its float leaves are trained; others are constants, which no
update moves and no gradient is taken of."""
Number: TypeAlias = float | int | jax.Array
"""A setting. It may be a tracer, so that one compilation serves every value of it."""
Render: TypeAlias = Callable[[Sequence[PyTree]], Iterator[np.ndarray]]
"""``render(states) -> pictures``: one [H, W, 3] of uint8 for each state of an environment. It draws
on the host and is not to be compiled."""


class Distribution(Protocol):
    """What the core asks of a policy's distribution: a distrax distribution has all of it.

    A distribution over actions is a pytree whose every leaf has the full leading shape ``*E``:
    minibatches index the leaves. (Those of multivariate normals have not: `updates.rows`.)
    """

    def log_prob(self, value: Any, /) -> Array:
        """Log density of a value of the batch shape: [*E]."""

    def kl_divergence(self, other_dist: Any, /) -> Array:
        """KL(self || other_dist), nats: [*E]."""

    def entropy(self) -> Array:
        """Nats: [*E]."""

    def sample(self, *, seed: Any) -> Any:
        """One value for each entry of the batch, by the typed key ``seed``: [*E, ...]."""

    def mode(self) -> Any:
        """The most probable value: [*E, ...]."""


Policy: TypeAlias = Callable[[Params, PyTree], Distribution]
"""``policy(params, obs [*E, *O]) -> Distribution`` of batch shape ``*E``; a recurrent one takes
`Sequences` and returns a batch shape of [B, T]."""


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
        """With the least and the largest bound, as in ``Box([4], -1 to 1)``."""
        low, high = (
            getattr(x, "item", lambda x=x: x)() for x in (np.min(self.low), np.max(self.high))
        )
        return f"Box({list(self.shape)}, {low:.4g} to {high:.4g})"


Space: TypeAlias = Discrete | MultiDiscrete | MultiBinary | Box
"""What observations and actions are taken from."""


class Masked(NamedTuple):
    """An observation, and which actions its state allows: what a `MaskedSpace` holds.

    Attributes:
        obs: [*O], any pytree of arrays.
        mask: bool, true for an allowed action: [n] of Discrete(n), [k, max(nvec)] of a
            MultiDiscrete of k entries, each with a row of its own; what lies beyond an entry's
            ``nvec[i]`` is not looked at. A row that allows nothing allows everything, and is
            counted (`Metrics.fully_masked`).
    """

    obs: PyTree
    mask: Array


class MaskedSpace(NamedTuple):
    """Observations of a space beside a mask over the environment's actions: `Masked`.

    Attributes:
        obs: the space of ``Masked.obs``.
    """

    obs: Any


class Outcome(NamedTuple):
    """What a step brings about, for one environment.

    Attributes:
        reward: [] float32.
        terminated: [] bool; the episode ended in a state whose value is zero.
        truncated: [] bool; a time limit cut the episode: the future still has a value.
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


class Env(_Env):
    """One environment as a pair of pure functions over an explicit state.

    Attributes:
        reset: ``reset(key) -> (state, obs)``.
        step: ``step(key, state, action) -> (state, obs, Outcome)``; ``state`` and ``obs`` are
            after auto-reset, ``Outcome.next_obs`` is before it.
        observation_space: the space of ``obs``; a `MaskedSpace` where the state decides which
            actions there are.
        action_space: the space of the actions that ``step`` takes. Real-valued actions outside
            a Box are legal: the adapter bounds them.
        name: what ``make`` was called with.
        max_steps: the episode's time limit if there is one (it may be traced), else None.
        native_action: the environment's own action for one that ``step`` takes: what a bounded
            Box's adapter makes of the policy's raw action. For acting elsewhere.
        render: draws states, see `Render`; None where nothing does.
        step_batch: the `vmap` of ``step`` by cheaper means, key, state and action [B, ...]; None
            for the vmap itself. Rollouts take it in place of ``step``, so it belongs to one
            ``step``: ``_replace(step=...)`` drops it unless it is given a new one.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """One line: the name and what it sees and takes."""
        spaces = f"sees {self.observation_space}, takes {self.action_space}"
        limit = "" if self.max_steps is None else f", at most {self.max_steps} steps"
        return f"Env({self.name}: {spaces}{limit})"

    def _replace(self, **changes: Any) -> Env:
        """The environment with other values in some fields, see ``step_batch``."""
        if "step" in changes:
            changes.setdefault("step_batch", None)
        return super()._replace(**changes)


class Transition(NamedTuple):
    """What a rollout records, and nothing derived. Leaves are [T, B, ...].

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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Blocks:
    """The number of equal parts that the rows of a batch fall into, one after the other; static.

    Where the environments of a run are spread over devices, every device holds whole blocks.
    """

    number: int = 1


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Wanted:
    """What an update is asked to record beside its result; static.

    Attributes:
        path: the mean KL along the update, see `KLPath`. An algorithm that has no such path
            ignores it.
    """

    path: bool = False


class PolicyBatch(NamedTuple):
    """All that an algorithm may look at. The leading axis counts independent units.

    They are N = B T rows or, of a recurrent policy, B sequences: then obs is `Sequences`, and every
    [N, ...] below is [B, T, ...]. Of a language model likewise: obs is the text, [B, T] whatever
    the policy takes, and the weight is `tokens.token_weights` of the tokens that count.

    Attributes:
        obs: [N, *O] as the policy takes it (normalised, if it is).
        action: [N, ...] drawn from ``old``.
        advantage: [N].
        old: the behaviour policy's distribution at ``obs``, every leaf [N, ...].
        weight: [N] non-negative, or None for all ones: rows of weight 0 are padding. Their
            advantage may hold anything; their obs and action must be finite.
        blocks: every minibatch takes the same number of units from each block.
        wanted: what the update is to record.
        known: [N, ...] what the algorithm itself has worked out of each row before its epochs, for
            its losses; None of a batch that it is given.
    """

    obs: PyTree
    action: PyTree
    advantage: Array
    old: Distribution
    weight: Array | None = None
    blocks: Blocks = Blocks()
    wanted: Wanted = Wanted()
    known: PyTree = None


class KLPath(NamedTuple):
    """Mean KL(old || .) along the E epochs of M minibatches of one update, nats.

    Exact for every state; NaN in epochs that were not run. An epoch that was undone is in it, as
    it was before it was undone.

    Attributes:
        minibatch: [E * M] just before each step, over the states of that step's minibatch only:
            around the whole batch's mean by how minibatches differ.
        epoch: [E] after each epoch, over all states of the batch.
    """

    minibatch: Array
    epoch: Array


class UpdateReport(NamedTuple):
    """What an update says of itself.

    Attributes:
        extra: scalar arrays by name; they become columns of the metrics.
        path: the KL along the update, where the batch asks for it; else None.
    """

    extra: dict[str, Array]
    path: KLPath | None = None


class PolicyUpdate(Protocol):
    """An algorithm: how a batch moves the policy. Any object with these two pure functions is one.

    A pair of functions is an algorithm, too: ``UpdatePair(init, update)``.
    """

    def init(self, params: Params, /) -> PyTree:
        """The algorithm's own state (an optimiser's, say) before the first update."""

    def update(
        self, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array, /
    ) -> tuple[Params, PyTree, UpdateReport | dict[str, Array]]:
        """The parameters and the state after one update, and the algorithm's own report."""


class UpdatePair(NamedTuple):
    """An algorithm as a pair of functions; see `PolicyUpdate`."""

    init: Callable[[Params], PyTree]
    update: Callable[..., tuple[Params, PyTree, UpdateReport | dict[str, Array]]]


class CriticBatch(NamedTuple):
    """What a critic learns from. The leading axis is that of `PolicyBatch`.

    Attributes:
        obs: [N, *O] as the critic takes it.
        value: [N] its values when the data was collected.
        target: [N] what they should have been.
        blocks: as in `PolicyBatch`.
    """

    obs: PyTree
    value: Array
    target: Array
    blocks: Blocks = Blocks()


class Critic(Protocol):
    """How the critic learns: the mirror of a `PolicyUpdate`."""

    def init(self, params: Params, /) -> PyTree:
        """The critic's own state before the first update."""

    def update(
        self,
        value: Callable[[Params, PyTree], Array],
        params: Params,
        state: PyTree,
        batch: CriticBatch,
        key: Array,
        /,
    ) -> tuple[Params, PyTree]:
        """The parameters and the state after one update."""


class Sequences(NamedTuple):
    """What a recurrent policy or value function takes where others take observations.

    Attributes:
        obs: [B, T, *O].
        start: [B, T] bool; an episode begins here: the carry is the initial one before this step.
        carry: [B, ...] before the first step, a constant.
    """

    obs: PyTree
    start: Array
    carry: PyTree


class Memory(NamedTuple):
    """How a recurrent agent takes one step; policy and critic remember apart.

    A carry is any pytree of arrays, () where nothing is remembered. Resets are not the steps'
    business: at the start of an episode they are given the initial carry.

    Attributes:
        policy_step: ``policy_step(params, carry [*E, ...], obs [*E, *O]) -> (carry, dist [*E])``.
        value_step: ``value_step(params, carry [*E, ...], obs [*E, *O]) -> (carry, value [*E])``.
        policy_carry: the policy's carry at the start of an episode, of one environment.
        value_carry: the critic's.
    """

    policy_step: Callable[[Params, PyTree, PyTree], tuple[PyTree, Distribution]]
    value_step: Callable[[Params, PyTree, PyTree], tuple[PyTree, Array]]
    policy_carry: PyTree
    value_carry: PyTree


class ActorCritic(NamedTuple):
    """A policy and a value function, with separate parameters.

    Attributes:
        init: ``init(key) -> (policy_params, value_params)``.
        policy: ``policy(params, obs [*E, *O]) -> Distribution`` of batch shape ``*E``; with a
            memory, of `Sequences`: batch shape [B, T].
        value: ``value(params, obs [*E, *O]) -> [*E]``; with a memory, of `Sequences`: [B, T].
        memory: None, or the steps that ``policy`` and ``value`` go through along a sequence;
            `recurrent.recurrent_agent` makes these two of the steps.
    """

    init: Callable[[Array], tuple[Params, Params]]
    policy: Policy
    value: Callable[[Params, PyTree], Array]
    memory: Memory | None = None
