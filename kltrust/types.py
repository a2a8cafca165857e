"""The types that flow between the parts of the library.

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
"""Arrays in nested tuples, dicts and any other container that JAX can flatten."""
Params: TypeAlias = Any
"""Parameters: a pytree of arrays. Its float leaves are trained. All others are constants: no update
moves them, and no gradient is taken with respect to them."""
Number: TypeAlias = float | int | jax.Array
"""A setting. It may be a tracer, so that one compilation serves every value of it."""
Render: TypeAlias = Callable[[Sequence[PyTree]], Iterator[np.ndarray]]
"""``render(states) -> pictures``: one [H, W, 3] of uint8 for each state of an environment. It draws
on the host, so it cannot be compiled."""


class Distribution(Protocol):
    """The methods that a policy's distribution must have. Every distrax distribution has them.

    A distribution over actions is a pytree. Every leaf has the full leading shape ``*E``, because
    minibatches index the leaves. (Multivariate normals are an exception: see `updates.rows`.)
    """

    def log_prob(self, value: Any, /) -> Array:
        """Log density of a value of the batch shape: [*E]."""

    def kl_divergence(self, other_dist: Any, /) -> Array:
        """KL(self || other_dist), nats: [*E]."""

    def entropy(self) -> Array:
        """Nats: [*E]."""

    def sample(self, *, seed: Any) -> Any:
        """One value for each entry of the batch, drawn with the typed key ``seed``: [*E, ...]."""

    def mode(self) -> Any:
        """The most probable value: [*E, ...]."""


Policy: TypeAlias = Callable[[Params, PyTree], Distribution]
"""``policy(params, obs [*E, *O]) -> Distribution`` of batch shape ``*E``. A recurrent policy
takes `Sequences` and returns a distribution of batch shape [B, T]."""


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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Blocks:
    """The number of equal, contiguous parts that the rows of a batch are split into; static.

    If a run's environments are spread over devices, every device holds whole blocks.
    """

    number: int = 1


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Wanted:
    """What an update should record in addition to its result; static.

    Attributes:
        path: the mean KL along the update, see `KLPath`. Algorithms without such a path ignore
            it.
    """

    path: bool = False


class PolicyBatch(NamedTuple):
    """Everything that an algorithm may use. The leading axis counts independent units.

    The units are N = B T rows. For a recurrent policy they are B sequences: obs is then
    `Sequences`, and every [N, ...] below is [B, T, ...]. A language model is treated the same way:
    obs is the text, [B, T] in whatever form the policy takes, and the weight is
    `tokens.token_weights` of the tokens that count.

    Attributes:
        obs: [N, *O] as the policy takes it (normalised, if the run normalises).
        action: [N, ...] drawn from ``old``.
        advantage: [N].
        old: the behaviour policy's distribution at ``obs``, every leaf [N, ...].
        weight: [N] non-negative, or None for all ones. Rows of weight 0 are padding: their
            advantage may hold anything, but their obs and action must be finite.
        blocks: every minibatch takes the same number of units from each block.
        wanted: what the update should record.
        known: [N, ...] values that the algorithm computes for each row before its epochs, for use
            in its losses. None in the batch that the algorithm receives.
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

    Exact for every state; NaN in epochs that were not run. An epoch that was undone still appears,
    with its values before it was undone.

    Attributes:
        minibatch: [E * M] just before each step, over the states of that step's minibatch only.
            It scatters around the whole batch's mean, since minibatches differ.
        epoch: [E] after each epoch, over all states of the batch.
    """

    minibatch: Array
    epoch: Array


class UpdateReport(NamedTuple):
    """What an update reports about itself.

    Attributes:
        extra: scalar arrays by name; they become columns of the metrics.
        path: the KL along the update if the batch asks for it, else None.
    """

    extra: dict[str, Array]
    path: KLPath | None = None


class PolicyUpdate(Protocol):
    """An algorithm: any object with these two pure functions. It says how a batch moves the policy.

    ``UpdatePair(init, update)`` makes an algorithm of two plain functions.
    """

    def init(self, params: Params, /) -> PyTree:
        """The algorithm's own state (an optimiser's, say) before the first update."""

    def update(
        self, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array, /
    ) -> tuple[Params, PyTree, UpdateReport | dict[str, Array]]:
        """The parameters and the state after one update, and the algorithm's report."""


class UpdatePair(NamedTuple):
    """An algorithm as a pair of functions; see `PolicyUpdate`."""

    init: Callable[[Params], PyTree]
    update: Callable[..., tuple[Params, PyTree, UpdateReport | dict[str, Array]]]


class CriticBatch(NamedTuple):
    """The data that a critic learns from. The leading axis is that of `PolicyBatch`.

    Attributes:
        obs: [N, *O] as the critic takes it.
        value: [N] the critic's values when the data was collected.
        target: [N] the values to learn.
        blocks: as in `PolicyBatch`.
    """

    obs: PyTree
    value: Array
    target: Array
    blocks: Blocks = Blocks()


class Critic(Protocol):
    """How the critic learns: the counterpart of `PolicyUpdate` for value functions."""

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
    """The input of a recurrent policy or value function, in place of observations.

    Attributes:
        obs: [B, T, *O].
        start: [B, T] bool; an episode begins here, so this step starts from the initial carry.
        carry: [B, ...] the carry before the first step, a constant.
    """

    obs: PyTree
    start: Array
    carry: PyTree


class Memory(NamedTuple):
    """How a recurrent agent takes one step. Policy and critic have separate memories.

    A carry is any pytree of arrays; () remembers nothing. The steps need not handle resets: at the
    start of an episode they are given the initial carry.

    Attributes:
        policy_step: ``policy_step(params, carry [*E, ...], obs [*E, *O]) -> (carry, dist [*E])``.
        value_step: ``value_step(params, carry [*E, ...], obs [*E, *O]) -> (carry, value [*E])``.
        policy_carry: the policy's carry at the start of an episode, for one environment.
        value_carry: likewise, the critic's.
        value_on_sequences: ``value_on_sequences(params, Sequences) -> (carries, value)`` of shapes
            [B, T, ...] and [B, T]: a faster equivalent of ``value_step``, for GPUs and TPUs. None
            uses the steps.
    """

    policy_step: Callable[[Params, PyTree, PyTree], tuple[PyTree, Distribution]]
    value_step: Callable[[Params, PyTree, PyTree], tuple[PyTree, Array]]
    policy_carry: PyTree
    value_carry: PyTree
    value_on_sequences: Callable[[Params, Sequences], tuple[PyTree, Array]] | None = None


class ActorCritic(NamedTuple):
    """A policy and a value function, with separate parameters.

    Attributes:
        init: ``init(key) -> (policy_params, value_params)``.
        policy: ``policy(params, obs [*E, *O]) -> Distribution`` of batch shape ``*E``. With a
            memory it takes `Sequences` instead, and the batch shape is [B, T].
        value: ``value(params, obs [*E, *O]) -> [*E]``. With a memory it takes `Sequences` instead,
            and returns [B, T].
        memory: None, or the single steps that ``policy`` and ``value`` repeat along a sequence;
            `recurrent.recurrent_agent` makes both functions from the steps.
    """

    init: Callable[[Array], tuple[Params, Params]]
    policy: Policy
    value: Callable[[Params, PyTree], Array]
    memory: Memory | None = None
