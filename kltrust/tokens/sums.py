"""From logits to one number for each token, and from tokens to sequences and a batch.

What a mask leaves out may hold anything, NaN and infinities too, in values and in gradients: it is
replaced before the arithmetic, since 0 times NaN is NaN.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from kltrust.checks import check, check_names
from kltrust.tree import floats, in_float32, over, weighted_mean, widen
from kltrust.types import Array, Number

REDUCTIONS = ("token_mean", "sequence_mean", "sequence_sum", "constant_length")
"""The names that `reduce_tokens` knows."""


def token_log_probs(logits: Array, tokens: Array, mask: Array | None = None) -> Array:
    """Log pi(y_t | y_<t) of the tokens that were chosen: [*E, L], float32 at least.

    The ``logits`` [*E, L, V] at t are what y_t was drawn from (not what follows it); the ``tokens``
    [*E, L] are integers below V, at masked places too. With a ``mask`` [*E, L] the result is 0
    where it is false, and logits there may hold anything.
    """
    chex.assert_equal_shape([logits[..., 0], tokens])
    if mask is not None:
        mask = _as_mask(tokens, mask)
        logits = jnp.where(mask[..., None], logits, 0)
    log_probs = jax.nn.log_softmax(widen(logits), axis=-1)
    chosen = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    return chosen if mask is None else jnp.where(mask, chosen, 0)


def token_log_ratio(log_new: Array, log_old: Array, mask: Array) -> Array:
    """Log new(y_t | y_<t) - log old(y_t | y_<t): [*E, L], float32 at least, 0 where masked.

    What the losses take. ``log_new`` and ``log_old`` [*E, L] are log-probabilities of the tokens,
    of which the latter is a constant to gradients. Where ``mask`` [*E, L] is false they may hold
    anything, and so may what is combined with the result later, advantages say.
    """
    log_new, log_old = floats(widen(log_new), widen(log_old))
    return kept(log_new, mask) - jax.lax.stop_gradient(kept(log_old, mask))


@in_float32
def sequence_sum(x: Array, mask: Array) -> Array:
    """The sum of x over the tokens that count by ``mask``: [*E, L] -> [*E]."""
    return jnp.sum(kept(x, mask), axis=-1)


@in_float32
def sequence_mean(x: Array, mask: Array) -> Array:
    """The mean over each sequence's tokens that count, 0 if none does: [*E, L] -> [*E].

    Of a KL no longer one: a token weighs 1 / the length of its sequence, and the policy can make
    the mean smaller by making sequences longer. Of a log ratio it is the logarithm of GSPO's ratio
    of a sequence, (new(y) / old(y))^(1 / length). Arguments as in `sequence_sum`.
    """
    (x,) = floats(x)
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(x.dtype)
    return sequence_sum(x, mask) / count


@in_float32
def sequence_max(x: Array, mask: Array) -> Array:
    """The largest over each sequence's tokens that count, -inf if none does: [*E, L] -> [*E].

    Arguments as in `sequence_sum`.
    """
    (x,) = floats(x)
    return jnp.max(jnp.where(_as_mask(x, mask), x, -jnp.inf), axis=-1)


@in_float32
def rewards_to_go(x: Array, mask: Array) -> Array:
    """The sum over a token and those after it: [*E, L] -> [*E, L], 0 at masked places.

    With x = log pi - log ref, k1 per token and detached, sum_t rewards_to_go_t grad log pi(y_t) is
    the gradient of `sequence_kl`: k1 as a cost in the reward, with return-to-go. Arguments
    as in `sequence_sum`.
    """
    return kept(jnp.flip(jnp.cumsum(jnp.flip(kept(x, mask), -1), -1), -1), mask)


@in_float32
def reduce_tokens(x: Array, mask: Array, by: str, *, length: Number | None = None) -> Array:
    """One number for a batch of sequences: [*E, L] -> [].

    - ``"token_mean"``: sum over all tokens / how many there are (DAPO, arXiv 2503.14476).
    - ``"sequence_mean"``: mean over sequences of the mean over a sequence's tokens (GRPO, arXiv
      2402.03300). A token of a long sequence weighs less than one of a short.
    - ``"sequence_sum"``: mean over sequences of the sum over a sequence's tokens: the one that is
      an expectation over sequences, so that unbiased terms stay unbiased.
    - ``"constant_length"``: the sum over all tokens / (number of sequences * length), in proportion
      to the former at any mask (Dr. GRPO, arXiv 2503.20783).

    Sequences without a token are padding, and left out of the mean; ``"constant_length"`` counts
    them, its divisor does not depend on what was sampled.

    Args:
        x: [*E, L], a loss for each token.
        mask: [*E, L], true for the tokens that count; ``x`` may hold anything elsewhere. All false
            gives 0.
        by: the name of the reduction, static.
        length: of ``"constant_length"`` alone, above 0: the longest that a sequence can be; None
            for L.

    Raises:
        ValueError: if the name is not known, or a concrete length is not above 0 or is given to
            another reduction.
    """
    check_names("reduction", [by], REDUCTIONS)
    if length is not None and by != "constant_length":
        raise ValueError(f"length={length} is for 'constant_length': leave it out of {by!r}")
    (x,) = floats(x)
    if by == "token_mean":
        return weighted_mean(kept(x, mask), _as_mask(x, mask))
    if by == "constant_length":
        length = x.shape[-1] if length is None else length
        check(length=(length, False))
        return jnp.mean(sequence_sum(x, mask)) / length
    of_sequences = sequence_mean(x, mask) if by == "sequence_mean" else sequence_sum(x, mask)
    return weighted_mean(of_sequences, jnp.any(_as_mask(x, mask), axis=-1))


def token_weights(mask: Array, by: str) -> Array:
    """Weights [*E, L] by which `weighted_mean` is a reduction's value, up to a factor.

    For what takes weights and no reduction, such as `PolicyBatch.weight`: by ``"token_mean"``,
    ``"sequence_sum"`` and ``"constant_length"`` each token of ``mask`` [*E, L] weighs 1, by
    ``"sequence_mean"`` 1 / the number of tokens of its sequence.

    Raises:
        ValueError: if the name ``by`` is not known.
    """
    check_names("reduction", [by], REDUCTIONS)
    (ones,) = floats(jnp.asarray(mask, bool))
    if by != "sequence_mean":
        return ones
    return over(ones, jnp.sum(ones, axis=-1, keepdims=True))


def kept(x: Array, mask: Array) -> Array:
    """``x`` [*E, L] where ``mask`` [*E, L] holds, 0 with no gradient elsewhere."""
    return jnp.where(_as_mask(x, mask), x, 0)


def _as_mask(x: Array, mask: Array) -> Array:
    chex.assert_equal_shape([x, mask])
    return jnp.asarray(mask, bool)
