"""Measures beyond an update's two ends: a reference, the normaliser, paths of policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kltrust.audit._states import QUANTILES, Summary, summarise, summarise_each
from kltrust.divergences import kl_divergence
from kltrust.rollout.normalization import Moments, normalize
from kltrust.tree import in_full_precision
from kltrust.types import Array, Params, Policy, PolicyBatch, PyTree
from kltrust.updates.objectives import mean_kl


class ReferenceKL(NamedTuple):
    """How far a policy is from a frozen one, per state, in nats.

    Attributes:
        to_reference: KL(policy || reference), the usual penalty for language models.
        from_reference: KL(reference || policy).
    """

    to_reference: Summary
    from_reference: Summary


def reference_kl(
    policy: Policy,
    params: Params,
    reference_params: Params,
    obs: PyTree,
    weight: Array | None = None,
    *,
    reference_obs: PyTree = None,
    quantiles: Sequence[float] = QUANTILES,
) -> ReferenceKL:
    """The exact KL of ``policy`` to itself with frozen parameters, in both directions.

    Args:
        policy: the policy.
        params: the current parameters.
        reference_params: the frozen ones, such as those at the start of training.
        obs: [*E, *O].
        weight: as in `audit_states`.
        reference_obs: the same observations as the reference takes them, if it has another
            normaliser; None takes ``obs``.
        quantiles: as in `audit_states`.
    """
    policy = in_full_precision(policy)
    current = policy(params, obs)
    reference = policy(reference_params, obs if reference_obs is None else reference_obs)
    to = kl_divergence(current, reference)
    both = {"to_reference": to, "from_reference": kl_divergence(reference, current)}
    return ReferenceKL(**summarise_each(both, weight, quantiles))


def normalizer_kl(
    policy: Policy,
    params: Params,
    old_normalizer: Moments | None,
    new_normalizer: Moments | None,
    raw_obs: PyTree,
    weight: Array | None = None,
    *,
    quantiles: Sequence[float] = QUANTILES,
) -> Summary:
    """How far new statistics of the observations moved the policy with no parameter changed.

    KL(policy after old_normalizer || policy after new_normalizer) per state, exact, in nats. The
    statistics are frozen within an iteration: this movement happens between two iterations, adds
    to the update's and is bounded by no trust region.

    Args:
        policy: takes normalised observations.
        params: its parameters.
        old_normalizer: the moments before; None does not normalise.
        new_normalizer: the moments after, likewise.
        raw_obs: [*E, *O] as the environment gives them.
        weight: as in `audit_states`.
        quantiles: as in `audit_states`.
    """
    policy = in_full_precision(policy)
    before = policy(params, normalize(old_normalizer, raw_obs))
    after = policy(params, normalize(new_normalizer, raw_obs))
    return summarise(kl_divergence(before, after), weight, quantiles)


def kl_path(policy: Policy, path: Params, batch: PolicyBatch) -> Array:
    """The whole batch's mean KL(batch.old || .) at every point of a path of parameters: [M], nats.

    It shows the KL along the epochs and minibatches of an update; a minibatch step itself sees only
    its own rows. The library's minibatch loop records its path without keeping the parameters, see
    `KLPath`. Here ``path`` holds parameters of ``policy`` with leaves [M, ...].
    """
    return jax.lax.map(lambda params: mean_kl(policy, params, batch), path)


def fisher_rao_length(kl: Array, axis: int = 0) -> Array:
    """The sum of sqrt(2 KL) over the steps of a path of policies: its length, detours included.

    KL(theta || theta + d) = d'Fd / 2 + O(|d|^3). So a step's sqrt(2 KL) is its length in the
    Fisher-Rao metric to first order. The sum tends to the length of the path as its steps become
    small. There are two caveats:

    - You may compare it with sqrt(2 KL(first || last)). That is at most the length only in the
      limit of a small distance, since the KL has no triangle inequality. Let all KLs be averages
      over the same states with the same weights. Then always sqrt(mean angle^2) <= sqrt(2) length,
      where angle = 2 arccos(sum_a sqrt(first last)) is the Fisher-Rao distance between the two
      distributions at a state.
    - Along training every KL is an average over its own batch: the metric moves with the states.

    ``kl`` [..., M, ...] is the mean KL of each step, nats; a rounded negative one counts as 0.

    Returns:
        The sum over ``axis``, the axis of the steps, in square roots of nats.
    """
    return jnp.sum(jnp.sqrt(2 * jnp.maximum(jnp.asarray(kl), 0)), axis=axis)
