"""The objectives that algorithms optimise, and the two measures of a step, on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.checks import same_shape
from kltrust.divergences import distribution_entropy, distribution_log_prob, kl_divergence
from kltrust.losses import clipped_surrogate_loss, penalty_surrogate_loss, surrogate_loss
from kltrust.types import Array, Distribution, Number, Params, Policy, PolicyBatch

Divergence = Callable[[Distribution, Distribution], Array]
"""``divergence(old, new) -> [N]``, one per state, exact."""


def log_ratio(new: Distribution, batch: PolicyBatch) -> Array:
    """Log new(a|s) - log old(a|s) at the batch's actions: [N]."""
    old = jax.lax.stop_gradient(distribution_log_prob(batch.old, batch.action))
    return distribution_log_prob(new, batch.action) - old


def mean_kl(policy: Policy, params: Params, batch: PolicyBatch) -> Array:
    """Mean over the batch's states of KL(batch.old || policy(params)), nats: [].

    The matrix products of ``policy`` are in full precision, see `tree.in_full_precision`.
    """
    new = tree.in_full_precision(policy)(params, batch.obs)
    return tree.weighted_mean(kl_divergence(batch.old, new), batch.weight)


def mean_change(policy: Policy, params: Params, batch: PolicyBatch) -> Array:
    """Mean over the batch's rows of abs(r - 1), r the ratio at the actions that were taken: [].

    In expectation over old's actions it is twice the total variation between ``batch.old`` and
    ``policy`` at ``params``.
    """
    change = jnp.abs(jnp.expm1(log_ratio(policy(params, batch.obs), batch)))
    return tree.weighted_mean(change, batch.weight)


def reverse_kl(old: Distribution, new: Distribution) -> Array:
    """KL(new || old) per state, nats: [N]."""
    return kl_divergence(new, old)


def surrogate(
    policy: Policy, params: Params, batch: PolicyBatch, entropy_coef: Number
) -> tuple[Array, Distribution]:
    """The objective to be maximised, mean r A + entropy_coef * mean entropy.

    ``policy`` and ``params`` give the new distribution at the states of ``batch``;
    ``entropy_coef`` [] is at least 0.

    Returns:
        (objective [], the new distribution).
    """
    new = policy(params, batch.obs)
    losses = surrogate_loss(log_ratio(new, batch), known_advantage(batch))
    return -_less_entropy(losses, new, batch, entropy_coef), new


class Sample(NamedTuple):
    """A batch's rows with what their losses need.

    Attributes:
        log_ratio: [N] log new(a|s) - log old(a|s).
        advantage: [N], 0 in rows of weight 0.
        old, new: the distributions at the N states.
        batch: the rows themselves, for anything else.
    """

    log_ratio: Array
    advantage: Array
    old: Distribution
    new: Distribution
    batch: PolicyBatch

    def kl(self) -> Array:
        """KL(old || new) per state, exact, nats: [N]."""
        return kl_divergence(self.old, self.new)


def sample_loss(
    policy: Policy, losses: Callable[[Sample], Array], entropy_coef: Number
) -> Callable[[Params, PolicyBatch], Array]:
    """``loss(params, batch) -> []``: mean of the losses of the rows - entropy_coef * mean entropy.

    `minibatch_epochs` takes it. ``policy`` is differentiated through its parameters;
    ``losses(sample) -> [N]``, see `Sample`; ``entropy_coef`` [] is at least 0.
    """

    def loss(params: Params, batch: PolicyBatch) -> Array:
        new = policy(params, batch.obs)
        sample = Sample(log_ratio(new, batch), known_advantage(batch), batch.old, new, batch)
        rows = losses(sample)
        same_shape(losses=rows, advantage=sample.advantage)
        return _less_entropy(rows, new, batch, entropy_coef)

    return loss


def clipped_loss(
    policy: Policy, clip_eps: Number, entropy_coef: Number
) -> Callable[[Params, PolicyBatch], Array]:
    """``loss(params, batch) -> []``: mean clipped surrogate - entropy_coef * mean entropy.

    ``clip_eps`` [] is the half-width of the interval of ratios; ``policy`` and ``entropy_coef`` are
    as in `sample_loss`.
    """

    def losses(sample: Sample) -> Array:
        return clipped_surrogate_loss(sample.log_ratio, sample.advantage, clip_eps)

    return sample_loss(policy, losses, entropy_coef)


def penalised_loss(
    policy: Policy, divergence: Divergence, beta: Number, entropy_coef: Number
) -> Callable[[Params, PolicyBatch], Array]:
    """``loss(params, batch) -> []``: mean(-r A + beta divergence) - entropy_coef * mean entropy.

    ``divergence(old, new)`` is per state and ``beta`` [] is its weight; ``policy`` and
    ``entropy_coef`` are as in `sample_loss`.
    """

    def losses(sample: Sample) -> Array:
        distance = divergence(sample.old, sample.new)
        return penalty_surrogate_loss(sample.log_ratio, sample.advantage, distance, beta)

    return sample_loss(policy, losses, entropy_coef)


def _less_entropy(
    losses: Array, new: Distribution, batch: PolicyBatch, entropy_coef: Number
) -> Array:
    loss = tree.weighted_mean(losses, batch.weight)
    try:
        entropy = tree.weighted_mean(distribution_entropy(new), batch.weight)
    except NotImplementedError as error:
        if not isinstance(entropy_coef, jax.core.Tracer) and entropy_coef != 0:
            raise ValueError(
                f"entropy_coef={entropy_coef}, but {type(new).__name__} knows no entropy: set "
                "entropy_coef=0, or let the policy return the base distribution and bound the "
                "actions in the environment"
            ) from error
        # The coefficient is only known at run time: NaN, in the gradient too, unless it is 0.
        leaves = [x for x in jax.tree.leaves(new) if tree.is_float(x)]
        return loss + jnp.where(entropy_coef == 0, 0, jnp.nan) * jnp.sum(leaves[0])
    return loss - tree.weighted(entropy_coef, entropy)


def known_advantage(batch: PolicyBatch) -> Array:
    """The advantages, 0 in rows of weight 0.

    A weight of 0 keeps a NaN in these rows out of a mean, but not out of its gradient, 0 * NaN.
    """
    if batch.weight is None:
        return batch.advantage
    return jnp.where(batch.weight > 0, batch.advantage, 0)


def mean_entropy(distribution: Distribution, weight: Array | None) -> Array:
    """Mean entropy of a ``distribution`` [*E] by ``weight`` [*E], None for all ones, nats: [].

    It is NaN if the distribution knows no entropy.
    """
    try:
        return tree.weighted_mean(distribution_entropy(distribution), weight)
    except NotImplementedError:
        return jnp.full((), tree.not_measured())
