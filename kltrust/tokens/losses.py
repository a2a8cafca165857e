"""Elementwise losses of language models; `reduce_tokens` makes one number of them.

``log_ratio`` comes from `token_log_ratio`: log new(y_t) - log old(y_t) of the tokens, of any
leading shape. This module has only losses that `kltrust.losses` lacks. Popular methods often share
a loss and differ in its arguments:

    GRPO, DAPO   clipped_surrogate_loss(log_ratio, A, 0.2, clip_high=0.28)
    GSPO         clipped_surrogate_loss(sequence_mean(log_ratio, mask), A, 3e-4, clip_high=4e-4)
    GSPO-token   clipped_surrogate_loss(sequence_log_ratio(log_ratio, mask), A, ...)
    GMPO         surrogate_loss(sequence_mean(clipped_log_ratio(log_ratio, A, 0.4), mask), A)
    DPPO         kl_clipped_loss(log_ratio, A, binary_tv(log_old, log_new), 0.15)

Then apply `reduce_tokens`, or a mean over sequences if the loss is already [*E]. To use weights or
masks of `selection`, multiply the loss by them, or give the reduction another mask.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust.checks import check, same_shape
from kltrust.losses import importance_ratio
from kltrust.tokens.sums import sequence_mean
from kltrust.tree import floats, in_float32
from kltrust.types import Array, Number


@jax.custom_jvp
def _with_gradient_of(value: Array, gradient: Array) -> Array:
    return value


@_with_gradient_of.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _with_gradient_of(*primals), tangents[1]


def with_gradient_of(value: Array, gradient: Array) -> Array:
    """The first array with the derivatives of the second ("straight through"): [*E], both.

    It equals ``value`` to the bit, whatever the other holds, and is differentiated as ``gradient``.
    For example, `kl_k3` with the gradient of `kl_k2` is, on policy, an unbiased KL(pi || ref) with
    the gradient of KL(pi || ref). The usual value - stop(value) + ... adds and subtracts, which
    rounds, and is NaN where one of them is infinite.
    """
    same_shape(value=value, gradient=gradient)
    value, gradient = floats(value, gradient)
    return _with_gradient_of(value, gradient)


@in_float32
def clipped_weight_loss(log_ratio: Array, advantage: Array, low: Number, high: Number) -> Array:
    """-clip(r, low, high) A, the clipped ratio held constant: CISPO (arXiv 2506.13585): [*E].

    The gradient is -clip(r, low, high) A grad log new, for every token. A ratio beyond the bounds
    changes its token's weight but does not silence it, in contrast to `clipped_surrogate_loss`.
    Trainers that report -clip(r) A log new have the same gradient, but a value without meaning.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        low: [] or [*E], the lower bound of the ratio itself; 0 for none, as in the paper.
        high: likewise the upper bound; inf for none. The paper tunes it. Trainers write it as
            1 + eps, with eps from 0.2 to 5.

    Raises:
        ValueError: if a bound is concrete and negative.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
    check(low=(low, True), high=(high, True))
    log_ratio, advantage = floats(log_ratio, advantage)
    weight = jax.lax.stop_gradient(jnp.clip(importance_ratio(log_ratio), low, high))
    return with_gradient_of(-weight * advantage, -weight * log_ratio * advantage)


@in_float32
def soft_gate_loss(
    log_ratio: Array, advantage: Array, tau_positive: Number = 1.0, tau_negative: Number = 1.05
) -> Array:
    """-(4 / tau) sigmoid(tau (r - 1)) A: SAPO (arXiv 2511.20347): [*E].

    The gradient is that of -r A at the same r, times 4 s (1 - s), where s is the sigmoid. This
    factor is 1 at r = 1, less elsewhere, and never 0. Without its value at r = 1, -2 A / tau, the
    loss is a smooth clip of (r - 1) A, negated.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        tau_positive: [] or [*E], the temperature tau where A > 0. Both defaults are the paper's.
        tau_negative: likewise, elsewhere.

    Raises:
        ValueError: if a temperature is concrete and not above 0.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
    check(tau_positive=(tau_positive, False), tau_negative=(tau_negative, False))
    tau = jnp.where(advantage > 0, tau_positive, tau_negative)
    return -4 / tau * jax.nn.sigmoid(tau * (importance_ratio(log_ratio) - 1)) * advantage


@in_float32
def clipped_log_ratio(
    log_ratio: Array, advantage: Array, eps: Number, *, eps_high: Number | None = None
) -> Array:
    """The log ratio clipped at -eps or eps, on the side that A asks for: [*E], for GMPO.

    It is log r until that leaves [-eps, eps] in the direction that A asks for. Beyond, it is the
    edge, with no gradient. Its mean over a sequence is the logarithm of the geometric mean of the
    clipped ratios (GMPO, arXiv 2507.20673, which takes 0.4).

    Args:
        log_ratio: [*E].
        advantage: [*E].
        eps: [] or [*E], at least 0, for the *logarithm* of the ratio.
        eps_high: likewise, for A > 0. None takes eps.

    Raises:
        ValueError: if an eps is concrete and negative.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
    eps_high = eps if eps_high is None else eps_high
    check(eps=(eps, True), eps_high=(eps_high, True))
    edge = jnp.where(advantage > 0, eps_high, jnp.negative(eps))
    beyond = jnp.sign(advantage) * (log_ratio - edge) > 0
    return jnp.where(beyond, edge, log_ratio)


@in_float32
def sequence_log_ratio(log_ratio: Array, mask: Array) -> Array:
    """The sequence's mean log ratio, with each token's gradient: [*E, L], for GSPO-token.

    It is the logarithm of s_t = sg(s) new(y_t) / sg(new(y_t)), s = (new(y) / old(y))^(1 / length)
    (arXiv 2507.18071, section 4.3). If all tokens of a sequence have the same advantage, a loss of
    it reduced by ``"sequence_mean"`` has the value and gradient of GSPO's loss, which is the loss
    of `sequence_mean`. ``log_ratio`` and ``mask`` are [*E, L].
    """
    mean = jnp.broadcast_to(sequence_mean(log_ratio, mask)[..., None], log_ratio.shape)
    return with_gradient_of(mean, log_ratio)
