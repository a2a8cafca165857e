"""An agent: its policy and its value function, with or without a memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from kltrust.types._arrays import Array, Params, PyTree


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
