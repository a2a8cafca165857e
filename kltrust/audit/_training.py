"""Beyond one update: a reference, the normaliser, the path within it and along training."""

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
        to_reference: KL(policy || reference), the one that language models are penalised with.
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

    ``params`` are the current parameters and reference_params the frozen ones, the first of a
    training, say. reference_obs are the observations ``obs`` [*E, *O] as the reference takes them,
    where its normaliser is another one; None takes ``obs``. weight and quantiles are as in
    `audit_states`.
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
    statistics are frozen within an iteration: this movement is between two of them, comes on top
    of the update's and is bound by no trust region.

    ``policy`` with ``params`` takes normalised observations, raw_obs [*E, *O] are as the
    environment gives them, and moments None do not normalise. weight and quantiles are as in
    `audit_states`.
    """
    policy = in_full_precision(policy)
    before = policy(params, normalize(old_normalizer, raw_obs))
    after = policy(params, normalize(new_normalizer, raw_obs))
    return summarise(kl_divergence(before, after), weight, quantiles)


def kl_path(policy: Policy, path: Params, batch: PolicyBatch) -> Array:
    """The whole batch's mean KL(batch.old || .) at every point of a path of parameters: [M], nats.

    What the epochs and minibatches of one update went through: a minibatch step sees the KL of its
    own rows only. The library's own minibatch loop records its path without keeping the parameters:
    see `KLPath`. Here ``path`` holds parameters of ``policy`` whose every leaf is [M, ...].
    """
    return jax.lax.map(lambda params: mean_kl(policy, params, batch), path)


def fisher_rao_length(kl: Array, axis: int = 0) -> Array:
    """The sum of sqrt(2 KL) over the steps of a path of policies: its length, detours included.

    KL(theta || theta + d) = d'Fd / 2 + O(|d|^3), so that a step's sqrt(2 KL) is its length in the
    Fisher-Rao metric to first order, and the sum tends to the length of the path as its steps
    become small. Two caveats:

    - It is to be compared with sqrt(2 KL(first || last)), which is at most the length only in the
      limit of a small distance: the KL has no triangle inequality. What always holds, where all
      KLs are averages over the same states with the same weights, is
      sqrt(mean angle^2) <= sqrt(2) length, with angle = 2 arccos(sum_a sqrt(first last)) of every
      state, the Fisher-Rao distance between two distributions.
    - Along training every KL is an average over its own batch: the metric moves with the states.

    ``kl`` [..., M, ...] is the mean KL of each step, nats; a rounded negative one counts as 0.

    Returns:
        The sum over ``axis``, that of the steps, in square roots of nats.
    """
    return jnp.sum(jnp.sqrt(2 * jnp.maximum(jnp.asarray(kl), 0)), axis=axis)
