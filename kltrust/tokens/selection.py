"""Which tokens count, and by how much: importance weights, sequence masks, covariances.

All are constants to gradients. There are three ways to use them. Multiply the loss by a weight.
Give the reduction another mask, which changes its divisor, too. Or multiply the loss by a mask,
which leaves the divisor alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust.checks import check, check_order, check_share, same_shape
from kltrust.losses import importance_ratio
from kltrust.tokens.sums import zero_masked
from kltrust.tree import floats, in_float32, weighted_mean
from kltrust.types import Array, Number


@in_float32
def truncated_weight(log_weight: Array, *, low: Number = 0.0, high: Number = 2.0) -> Array:
    """clip(w, low, high), w = exp(log_weight) (truncated importance sampling): [*E].

    It corrects for the difference between the engine that drew the tokens and the trainer's old
    policy: log w = log old - log engine. Take it for each token, or sum or average it over a
    sequence and broadcast it back with ``[..., None]``. ``log_weight`` is [*E]. ``low`` and
    ``high`` are [] or [*E].

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
    """Whether low <= x <= high: [*E] bool; false for NaN.

    With ``x`` from `sequence_mean`, `sequence_max` or `sequence_sum` it is a sequence mask, to be
    applied as ``mask & within(...)[..., None]``. If x [*E] is the mean of -log_ratio, ``high`` a
    KL, and you add ``| (advantage >= 0)``, it is the mask of DeepSeek-V3.2. If x is the mean of
    log w, and the bounds are logarithms of two ratios, it is a geometric mask. ``low`` and ``high``
    are [] or [*E].

    Raises:
        ValueError: if low is above high.
    """
    check_order(low=low, high=high)
    x = jax.lax.stop_gradient(jnp.asarray(x))
    return (x >= low) & (x <= high)


@in_float32
def token_covariance(log_prob: Array, advantage: Array, mask: Array) -> Array:
    """(log pi - its mean) (A - its mean), with means over the tokens that count: [*E, L].

    It is 0 where masked. Its mean over tokens is the covariance of log pi and A. To first order
    this is how much a natural gradient step lowers the entropy of a tabular softmax (arXiv
    2505.22617).
    ``log_prob``, ``advantage`` and ``mask`` are [*E, L].
    """
    same_shape(log_prob=log_prob, advantage=advantage, mask=mask)
    counted = jnp.asarray(mask, bool)
    log_prob, advantage = floats(log_prob, advantage)
    centred = [jax.lax.stop_gradient(zero_masked(x, mask)) for x in (log_prob, advantage)]
    deviations = [x - weighted_mean(x, counted) for x in centred]
    return zero_masked(deviations[0] * deviations[1], mask)


def kl_cov_tokens(log_prob: Array, advantage: Array, mask: Array, *, share: Number = 2e-4) -> Array:
    """KL-Cov's tokens (arXiv 2505.22617): the ``share`` with the largest covariance: [*E, L] bool.

    Add a KL penalty to their surrogate, ``loss + where(chosen, coef * kl, 0)``, with a kl such as
    `kl_k3` of the log ratio. (The authors' trainer takes the log ratio's absolute value, coef 1.)
    The other tokens get no penalty. The number chosen is share times the number of tokens that
    count, rounded down, but at least one. ``share`` is [] in [0, 1]; other arguments
    as in `token_covariance`.

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

    Drop their gradient with ``where(chosen, stop_gradient(loss), loss)``. They are drawn at random
    without replacement from the candidates, the tokens with a covariance in (low, high).

    Args:
        key: typed.
        log_prob: as in `token_covariance`.
        advantage: likewise.
        mask: likewise; leave out tokens that a clip has already silenced.
        share: [] in [0, 1]. The number drawn is this share of all tokens that count, rounded down,
            but at least 1; all candidates if there are fewer.
        low: [] in units of the advantages' scale; the defaults are those of the authors' trainer.
        high: likewise.

    Raises:
        ValueError: if share is concrete and not in [0, 1], or low is above high.
    """
    check_share(share=share)
    check_order(low=low, high=high)
    covariance = token_covariance(log_prob, advantage, mask)
    candidates = (covariance > low) & (covariance < high) & jnp.asarray(mask, bool)
    return _first(jax.random.uniform(key, covariance.shape), candidates, mask, share)


def _first(order: Array, candidates: Array, mask: Array, share: Number) -> Array:
    """The first candidates by ``order``: a share of the tokens that count, or at least 1."""
    number = jnp.maximum(jnp.floor(share * jnp.sum(jnp.asarray(mask, bool))), 1)
    order = jnp.where(candidates, order, jnp.inf).ravel()
    rank = jnp.argsort(jnp.argsort(order)).reshape(candidates.shape)
    return candidates & (rank < number)
