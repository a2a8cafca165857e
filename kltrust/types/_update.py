"""An update of the policy or of the critic: the batch, the algorithm and its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax

from kltrust.types._agent import Distribution, Policy
from kltrust.types._arrays import Array, Params, PyTree


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
