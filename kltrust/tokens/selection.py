"""Which tokens count, and by how much: importance weights, sequence masks, covariances.

All are constants to gradients. They come in three uses: a weight times the loss; a mask that
replaces the reduction's, and so its divisor too; a mask times the loss, which leaves the divisor.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from kltrust.checks import check, check_order, check_share
from kltrust.losses import importance_ratio
from kltrust.tokens.sums import kept
from kltrust.tree import floats, in_float32, weighted_mean
from kltrust.types import Array, Number


@in_float32
def truncated_weight(log_weight: Array, *, low: Number = 0.0, high: Number = 2.0) -> Array:
    """clip(w, low, high), w = exp(log_weight) (truncated importance sampling): [*E].

    For the difference between the engine that drew the tokens and the trainer's own old policy,
    log w = log old - log engine, token by token, or summed or averaged over a sequence and put back
    by ``[..., None]``. ``log_weight`` is [*E]; ``low`` and ``high`` are [] or [*E].

    Raises:
        ValueError: if a bound is concrete and negative, or low is above high.
    """
    check(low=(low, True), high=(high, True))
    check_order(low=low, high=high)
    return jnp.clip(importance_ratio(jax.lax.stop_gradient(log_weight)), low, high)


@in_float32
def masked_weight(log_weight: Array, *, low: Number = 0.5, high: Number = 5.0) -> Array:
    """The weight w = exp(log_weight) within [low, high], 0 outside of it (IcePop): [*E].

    A NaN is outside. Arguments and errors as in `truncated_weight`.
    """
    check(low=(low, True), high=(high, True))
    check_order(low=low, high=high)
    weight = importance_ratio(jax.lax.stop_gradient(log_weight))
    return jnp.where((weight >= low) & (weight <= high), weight, 0)


def within(x: Array, *, low: Number = -jnp.inf, high: Number = jnp.inf) -> Array:
    """Whether low <= x <= high: [*E] bool; of a NaN not.

    Of `sequence_mean`, `sequence_max` or `sequence_sum` it is a sequence mask, to be put to use by
    ``mask & within(...)[..., None]``. With ``x`` [*E] the mean of -log_ratio and ``high`` a KL,
    ``| (advantage >= 0)`` added, it is DeepSeek-V3.2's; with the mean of log w between the
    logarithms of two ratios, a geometric mask. ``low`` and ``high`` are [] or [*E].

    Raises:
        ValueError: if low is above high.
    """
    check_order(low=low, high=high)
    x = jax.lax.stop_gradient(jnp.asarray(x))
    return (x >= low) & (x <= high)


@in_float32
def token_covariance(log_prob: Array, advantage: Array, mask: Array) -> Array:
    """(log pi - its mean) (A - its mean), by the means over tokens that count: [*E, L].

    It is 0 where masked. Its mean over tokens is the covariance of log pi and A: to first order how
    much a natural gradient step lowers the entropy of a tabular softmax (arXiv 2505.22617).
    ``log_prob``, ``advantage`` and ``mask`` are [*E, L].
    """
    chex.assert_equal_shape([log_prob, advantage, mask])
    counted = jnp.asarray(mask, bool)
    log_prob, advantage = floats(log_prob, advantage)
    centred = [jax.lax.stop_gradient(kept(x, mask)) for x in (log_prob, advantage)]
    deviations = [x - weighted_mean(x, counted) for x in centred]
    return kept(deviations[0] * deviations[1], mask)


def kl_cov_tokens(log_prob: Array, advantage: Array, mask: Array, *, share: Number = 2e-4) -> Array:
    """KL-Cov's tokens (arXiv 2505.22617): the ``share`` with the largest covariance: [*E, L] bool.

    They get a KL penalty on top of the surrogate, ``loss + where(chosen, coef * kl, 0)`` with a kl
    such as `kl_k3` of the log ratio (the authors' trainer takes the log ratio's absolute value,
    coef 1); all others are free. At least one token that counts is chosen, and no more than share
    times their number, rounded down. Arguments as in `token_covariance`; share is [] in [0, 1].

    Raises:
        ValueError: if share is concrete and not in [0, 1].
    """
    check_share(share=share)
    covariance = token_covariance(log_prob, advantage, mask)
    return _first(-covariance, jnp.asarray(mask, bool), mask, share)


def clip_cov_tokens(
    key: Array,
    log_prob: Array,
    advantage: Array,
    mask: Array,
    *,
    share: Number = 2e-4,
    low: Number = 1.0,
    high: Number = 5.0,
) -> Array:
    """Clip-Cov's tokens (arXiv 2505.22617): a few with a covariance in (low, high): [*E, L] bool.

    They lose their gradient, ``where(chosen, stop_gradient(loss), loss)``. Drawn by ``key`` without
    replacement, as many as ``share`` of all tokens that count, rounded down, or 1; all candidates
    where there are fewer. Leave out of ``mask`` what a clip has silenced already. The other
    arguments are as in `token_covariance`; ``low`` and ``high`` [] depend on the advantages' scale,
    and these are the authors' trainer's.

    Raises:
        ValueError: if share is concrete and not in [0, 1], or low is above high.
    """
    check_share(share=share)
    check_order(low=low, high=high)
    covariance = token_covariance(log_prob, advantage, mask)
    candidates = (covariance > low) & (covariance < high) & jnp.asarray(mask, bool)
    return _first(jax.random.uniform(key, covariance.shape), candidates, mask, share)


def _first(order: Array, candidates: Array, mask: Array, share: Number) -> Array:
    """The first candidates by ``order``: a share of the tokens that count, at least 1."""
    number = jnp.maximum(jnp.floor(share * jnp.sum(jnp.asarray(mask, bool))), 1)
    order = jnp.where(candidates, order, jnp.inf).ravel()
    rank = jnp.argsort(jnp.argsort(order)).reshape(candidates.shape)
    return candidates & (rank < number)
