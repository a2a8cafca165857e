"""Values and gradients of the KL to a reference policy over padded sequences of tokens.

The tokens are y_t ~ pi(. | y_<t), and ref is a reference policy. The KL between the distributions
of whole sequences can be written as a sum over tokens in two ways,

    KL(pi || ref) = E_y[sum_t log pi(y_t | y_<t) - log ref(y_t | y_<t)] = E_y[sum_t KL_t(y_<t)],

where KL_t is the exact KL between the two next-token distributions after a prefix. As *values* all
sums of unbiased token terms are right. As *gradients* they are not: a loss that sums token terms is
differentiated with its prefixes frozen. It has the gradients of the KL_t, but lacks

    E_y[sum_t KL_t(y_<t) grad log pi(y_<t)],

the effect of a token on the KL of later tokens. `token_kl` and `token_kl_exact` are such losses;
`sequence_kl` and `sequence_kl_exact` have the whole gradient. The two agree only if all prefixes
have the same KL ahead of them, or if the policy that wrote the prefixes is not the one being
differentiated (setting A of docs/estimators.md: old wrote them).

A mask [*E, L] is true for the tokens that count. Whether a token counts may depend on the tokens
before it, but not on itself: the token that ends a sequence counts, the padding after it doesn't.
For the value, masked log-probabilities may hold anything. For the gradient they must come from
finite logits, since 0 times NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kltrust.divergences.arrays import categorical_kl_from_logits
from kltrust.divergences.samples import kl_k3
from kltrust.tokens.sums import sequence_sum, token_log_probs, zero_masked
from kltrust.tree import in_float32
from kltrust.types import Array


@in_float32
def token_kl(
    log_p: Array, log_q: Array, mask: Array, estimator: Callable[[Array], Array] = kl_k3
) -> Array:
    """Sum over tokens of an estimate of KL(p || q) at tokens y ~ p: [*E]. Frozen prefixes.

    B. p = pi, q = ref. Value: KL(pi || ref) for k1 and k3. Gradient: for each token as in
       docs/estimators.md, with frozen prefixes: 0 for k1, that of KL(pi || ref) for k2 on policy,
       that of KL(ref || pi) for k3.
    A. p = old, q = new. Value and gradient: those of KL(old || new) for k1 and k3. The gradient is
       the whole one, since old's prefixes are fixed.

    Args:
        log_p: [*E, L] log-probabilities of the tokens under the policy that drew them.
        log_q: [*E, L] those under the other policy.
        mask: [*E, L].
        estimator: an elementwise function of log q - log p: `kl_k1`, `kl_k2`, `kl_k3`, ...
    """
    return sequence_sum(estimator(zero_masked(log_q, mask) - zero_masked(log_p, mask)), mask)


@in_float32
def token_kl_exact(logits_p: Array, logits_q: Array, mask: Array) -> Array:
    """Sum over tokens of the exact KL_t(p || q), prefixes drawn from p: [*E]. Frozen prefixes.

    Value: KL(p || q); its only noise is that of the prefixes. Gradient: the whole one in q, and in
    p the one with frozen prefixes. ``logits_p`` and ``logits_q`` are [*E, L, V], with p the policy
    that drew the tokens. ``mask`` is [*E, L].
    """
    return sequence_sum(categorical_kl_from_logits(logits_p, logits_q), mask)


@in_float32
def sequence_kl(
    log_pi: Array, log_ref: Array, mask: Array, *, log_behaviour: Array | None = None
) -> Array:
    """KL(pi || ref) of whole sequences from their tokens, value and gradient unbiased: [*E].

    It is sum_t (pi(y_<=t) / mu(y_<=t)) stop_gradient(log pi(y_t) - log ref(y_t)), where mu is the
    policy that drew the tokens. On policy the ratios are 1, and the gradient is that of
    `rewards_to_go`. Off policy the variance grows with the length, through products of ratios.

    Args:
        log_pi: [*E, L] log-probabilities of the tokens under pi, differentiated.
        log_ref: [*E, L] those under the reference.
        mask: [*E, L].
        log_behaviour: [*E, L] those under mu; None if pi itself has just drawn the tokens.
    """
    k1 = jax.lax.stop_gradient(zero_masked(log_pi, mask) - zero_masked(log_ref, mask))
    log_ratio = _log_importance(log_pi, log_behaviour, mask)
    return sequence_sum(jnp.exp(jnp.cumsum(log_ratio, axis=-1)) * k1, mask)


@in_float32
def sequence_kl_exact(
    logits: Array,
    ref_logits: Array,
    tokens: Array,
    mask: Array,
    *,
    log_behaviour: Array | None = None,
) -> Array:
    """`sequence_kl` with less noise, from the exact KL after each prefix: [*E].

    It is sum_t (pi(y_<t) / mu(y_<t)) KL_t(y_<t), differentiated through both factors. So it has the
    frozen-prefix gradient and the term which that lacks. Value and gradient are unbiased, on and
    off policy.

    Args:
        logits: [*E, L, V] those of pi, differentiated.
        ref_logits: [*E, L, V] those of the reference.
        tokens: [*E, L] the tokens that were drawn.
        mask: [*E, L].
        log_behaviour: as in `sequence_kl`.
    """
    log_ratio = _log_importance(token_log_probs(logits, tokens), log_behaviour, mask)
    log_prefix = jnp.cumsum(log_ratio, axis=-1) - log_ratio
    return sequence_sum(jnp.exp(log_prefix) * categorical_kl_from_logits(logits, ref_logits), mask)


def _log_importance(log_pi: Array, log_behaviour: Array | None, mask: Array) -> Array:
    """Log pi(y_t) - log mu(y_t), 0 at masked places: [*E, L]."""
    drawn_from = log_pi if log_behaviour is None else log_behaviour
    return zero_masked(log_pi, mask) - jax.lax.stop_gradient(zero_masked(drawn_from, mask))
