"""Losses of language models, elementwise: what each token asks for, to be reduced by name.

``log_ratio`` is `token_log_ratio`'s: log new(y_t) - log old(y_t) of the tokens, of any leading
shape. Here are the losses that `kltrust.losses` has not; what differs between popular methods is
often not the loss but what it is given:

    GRPO, DAPO   clipped_surrogate_loss(log_ratio, A, 0.2, clip_high=0.28)
    GSPO         clipped_surrogate_loss(sequence_mean(log_ratio, mask), A, 3e-4, clip_high=4e-4)
    GSPO-token   clipped_surrogate_loss(sequence_log_ratio(log_ratio, mask), A, ...)
    GMPO         surrogate_loss(sequence_mean(clipped_log_ratio(log_ratio, A, 0.4), mask), A)
    DPPO         kl_clipped_loss(log_ratio, A, binary_tv(log_old, log_new), 0.15)

followed by `reduce_tokens` (a mean over sequences where the loss is [*E] already). With weights or
masks of `selection`: multiply the loss, or give the reduction another mask.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from kltrust.checks import check
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

    It is ``value`` to the bit, whatever the other holds, and is differentiated as ``gradient``:
    `kl_k3` with the gradient of `kl_k2` is an unbiased KL(pi || ref) whose gradient is that of
    KL(pi || ref), on policy. The usual value - stop(value) + ... adds and subtracts, which rounds,
    and is NaN where one of them is infinite.
    """
    chex.assert_equal_shape([value, gradient])
    value, gradient = floats(value, gradient)
    return _with_gradient_of(value, gradient)


@in_float32
def clipped_weight_loss(log_ratio: Array, advantage: Array, low: Number, high: Number) -> Array:
    """-clip(r, low, high) A with a constant for the clipped ratio: CISPO (arXiv 2506.13585): [*E].

    The gradient is -clip(r, low, high) A grad log new, for every token: a ratio beyond the bounds
    weighs its token less and doesn't silence it, in contrast to `clipped_surrogate_loss`. Trainers
    that report -clip(r) A log new have the same gradient and a value of no meaning.

    ``log_ratio`` and ``advantage`` are [*E]; ``low`` and ``high``, [] or [*E], are bounds of the
    ratio itself, 0 and inf for none. The paper has no lower bound and tunes the upper; as eps of
    1 + eps trainers take 0.2 to 5.

    Raises:
        ValueError: if a bound is concrete and negative.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    check(low=(low, True), high=(high, True))
    log_ratio, advantage = floats(log_ratio, advantage)
    weight = jax.lax.stop_gradient(jnp.clip(importance_ratio(log_ratio), low, high))
    return with_gradient_of(-weight * advantage, -weight * log_ratio * advantage)


@in_float32
def soft_gate_loss(
    log_ratio: Array, advantage: Array, tau_positive: Number = 1.0, tau_negative: Number = 1.05
) -> Array:
    """-(4 / tau) sigmoid(tau (r - 1)) A: SAPO (arXiv 2511.20347): [*E].

    At r = 1 the gradient is that of -r A; away from it it fades, by 4 s (1 - s) <= 1 at the same r,
    and never is 0. Minus the value at r = 1, 2 A / tau, it is a smooth clip of (r - 1) A.

    ``log_ratio`` and ``advantage`` are [*E]; the temperature is ``tau_positive`` where A > 0 and
    ``tau_negative`` elsewhere, [] or [*E]; defaults of the paper.

    Raises:
        ValueError: if a temperature is concrete and not above 0.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    check(tau_positive=(tau_positive, False), tau_negative=(tau_negative, False))
    tau = jnp.where(advantage > 0, tau_positive, tau_negative)
    return -4 / tau * jax.nn.sigmoid(tau * (importance_ratio(log_ratio) - 1)) * advantage


@in_float32
def clipped_log_ratio(
    log_ratio: Array, advantage: Array, eps: Number, *, eps_high: Number | None = None
) -> Array:
    """The log ratio up to -eps or eps, on the side that A asks for: [*E], for GMPO.

    log r until it has left [-eps, eps] in the direction A asks for, the edge and no gradient from
    there on, token by token; its mean over a sequence is the logarithm of the geometric mean of
    ratios (GMPO, arXiv 2507.20673, which takes 0.4).

    ``log_ratio`` and ``advantage`` are [*E]; ``eps`` and ``eps_high``, which replaces it above 0,
    are [] or [*E], at least 0, of the *logarithm* of the ratio.

    Raises:
        ValueError: if an eps is concrete and negative.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    eps_high = eps if eps_high is None else eps_high
    check(eps=(eps, True), eps_high=(eps_high, True))
    edge = jnp.where(advantage > 0, eps_high, jnp.negative(eps))
    beyond = jnp.sign(advantage) * (log_ratio - edge) > 0
    return jnp.where(beyond, edge, log_ratio)


@in_float32
def sequence_log_ratio(log_ratio: Array, mask: Array) -> Array:
    """The mean over the sequence in value, the token's own in gradient: [*E, L], for GSPO-token.

    The logarithm of s_t = sg(s) new(y_t) / sg(new(y_t)), s = (new(y) / old(y))^(1 / length) (arXiv
    2507.18071, section 4.3). With one advantage for all tokens of a sequence, a loss of it by
    ``"sequence_mean"`` has value and gradient of the loss of `sequence_mean`, which is GSPO's.
    ``log_ratio`` and ``mask`` are [*E, L].
    """
    mean = jnp.broadcast_to(sequence_mean(log_ratio, mask)[..., None], log_ratio.shape)
    return with_gradient_of(mean, log_ratio)
