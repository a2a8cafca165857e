"""Log-probabilities of tokens from logits, and reductions over tokens, sequences and a batch.

Masked entries may hold anything, even NaN and infinities, in values and in gradients. They are
replaced before the arithmetic, since 0 times NaN is NaN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust.checks import check, check_names, same_shape
from kltrust.tree import floats, in_float32, safe_divide, weighted_mean, widen
from kltrust.types import Array, Number

REDUCTIONS = ("token_mean", "sequence_mean", "sequence_sum", "constant_length")
"""The names that `reduce_tokens` knows."""


def token_log_probs(logits: Array, tokens: Array, mask: Array | None = None) -> Array:
    """Log pi(y_t | y_<t) of the tokens that were chosen: [*E, L], float32 at least.

    The ``logits`` [*E, L, V] at t are those that y_t was drawn from (not those of the next token).
    The ``tokens`` [*E, L] are integers below V, at masked places too. Where a ``mask`` [*E, L] is
    false the result is 0, and the logits may hold anything.
    """
    same_shape(logits=logits[..., 0], tokens=tokens)
    if mask is not None:
        mask = _as_mask(tokens, mask)
        logits = jnp.where(mask[..., None], logits, 0)
    log_probs = jax.nn.log_softmax(widen(logits), axis=-1)
    chosen = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    return chosen if mask is None else jnp.where(mask, chosen, 0)


def token_log_ratio(log_new: Array, log_old: Array, mask: Array) -> Array:
    """Log new(y_t | y_<t) - log old(y_t | y_<t): [*E, L], float32 at least, 0 where masked.

    This is the input of the losses. ``log_new`` and ``log_old`` [*E, L] are log-probabilities of
    the tokens; log_old is a constant to gradients. Where ``mask`` [*E, L] is false they may hold
    anything. So may arrays that you combine with the result later, such as advantages.
    """
    log_new, log_old = floats(widen(log_new), widen(log_old))
    return zero_masked(log_new, mask) - jax.lax.stop_gradient(zero_masked(log_old, mask))


@in_float32
def sequence_sum(x: Array, mask: Array) -> Array:
    """The sum of x over the tokens that count by ``mask``: [*E, L] -> [*E]."""
    return jnp.sum(zero_masked(x, mask), axis=-1)


@in_float32
def sequence_mean(x: Array, mask: Array) -> Array:
    """The mean over each sequence's tokens that count, 0 if none does: [*E, L] -> [*E].

    The mean of KL terms is no longer a KL: a token weighs 1 / the length of its sequence, so the
    policy can lower the mean by making sequences longer. The mean of a log ratio is the logarithm
    of GSPO's sequence ratio, (new(y) / old(y))^(1 / length). Arguments as in `sequence_sum`.
    """
    (x,) = floats(x)
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(x.dtype)
    return sequence_sum(x, mask) / count


@in_float32
def sequence_max(x: Array, mask: Array) -> Array:
    """The largest x of each sequence's tokens that count, -inf if none does: [*E, L] -> [*E].

    Arguments as in `sequence_sum`.
    """
    (x,) = floats(x)
    return jnp.max(jnp.where(_as_mask(x, mask), x, -jnp.inf), axis=-1)


@in_float32
def rewards_to_go(x: Array, mask: Array) -> Array:
    """The sum of x over a token and all later tokens: [*E, L] -> [*E, L], 0 at masked places.

    With x = log pi - log ref, which is k1 per token, detached, sum_t rewards_to_go_t
    grad log pi(y_t) is the gradient of `sequence_kl`. That is k1 as a cost in the reward, with
    return-to-go. Arguments as in `sequence_sum`.
    """
    return zero_masked(jnp.flip(jnp.cumsum(jnp.flip(zero_masked(x, mask), -1), -1), -1), mask)


@in_float32
def reduce_tokens(x: Array, mask: Array, by: str, *, length: Number | None = None) -> Array:
    """One number for a batch of sequences: [*E, L] -> [].

    - ``"token_mean"``: sum over all tokens / how many there are (DAPO, arXiv 2503.14476).
    - ``"sequence_mean"``: mean over sequences of the mean over a sequence's tokens (GRPO, arXiv
      2402.03300). A token of a long sequence weighs less than a token of a short one.
    - ``"sequence_sum"``: mean over sequences of the sum over a sequence's tokens. This one is an
      expectation over sequences, so unbiased terms stay unbiased.
    - ``"constant_length"``: sum over all tokens / (number of sequences * length), proportional to
      ``"sequence_sum"`` at any mask (Dr. GRPO, arXiv 2503.20783).

    Sequences without a token are padding, and left out of the mean. ``"constant_length"`` counts
    them: its divisor does not depend on the sampled sequences.

    Args:
        x: [*E, L], a loss for each token.
        mask: [*E, L], true for the tokens that count; elsewhere ``x`` may hold anything. If all is
            false the result is 0.
        by: the name of the reduction, static.
        length: for ``"constant_length"`` only, above 0: the maximum length of a sequence. None
            takes L.

    Raises:
        ValueError: if the name is unknown, a concrete length is not above 0, or a length is given
            to another reduction.
    """
    check_names("reduction", [by], REDUCTIONS)
    if length is not None and by != "constant_length":
        raise ValueError(f"length={length} is for 'constant_length': leave it out of {by!r}")
    (x,) = floats(x)
    if by == "token_mean":
        return weighted_mean(zero_masked(x, mask), _as_mask(x, mask))
    if by == "constant_length":
        length = x.shape[-1] if length is None else length
        check(length=(length, False))
        return jnp.mean(sequence_sum(x, mask)) / length
    of_sequences = sequence_mean(x, mask) if by == "sequence_mean" else sequence_sum(x, mask)
    return weighted_mean(of_sequences, jnp.any(_as_mask(x, mask), axis=-1))


def token_weights(mask: Array, by: str) -> Array:
    """Weights [*E, L] with which `weighted_mean` computes a reduction, up to a factor.

    Use them where weights are taken and not reductions, such as `PolicyBatch.weight`. By
    ``"sequence_mean"`` each token of ``mask`` [*E, L] weighs 1 / the number of tokens in its
    sequence. By all other reductions it weighs 1.

    Raises:
        ValueError: if the name ``by`` is unknown.
    """
    check_names("reduction", [by], REDUCTIONS)
    (ones,) = floats(jnp.asarray(mask, bool))
    if by != "sequence_mean":
        return ones
    return safe_divide(ones, jnp.sum(ones, axis=-1, keepdims=True))


def zero_masked(x: Array, mask: Array) -> Array:
    """``x`` [*E, L] where ``mask`` [*E, L] holds, 0 with no gradient elsewhere."""
    return jnp.where(_as_mask(x, mask), x, 0)


def _as_mask(x: Array, mask: Array) -> Array:
    same_shape(x=x, mask=mask)
    return jnp.asarray(mask, bool)
