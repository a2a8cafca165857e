"""KLs over a vocabulary: exact in little memory, and from the few entries that one is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from kltrust.checks import check_count
from kltrust.divergences.arrays import categorical_kl
from kltrust.tree import floats, in_float32, leading_size
from kltrust.types import Array, Number, PyTree


def over_chunks(function: Callable[..., PyTree], *tokens: PyTree, chunk: int) -> PyTree:
    """``function`` of some tokens at a time, forward and backward, in place of all at once.

    What the function makes on its way, logits of a large vocabulary say, is there for ``chunk``
    tokens only, and made again when gradients are taken, of what it closes over too:

        kl = over_chunks(
            lambda h, g: categorical_kl_from_logits(h @ head, g @ ref_head), hidden, ref, chunk=256
        )

    Args:
        function: of one token, pytrees with leaves [...] -> a pytree with leaves [...].
        tokens: pytrees whose leaves have one leading axis [N, ...]; flatten [*E, L] first.
        chunk: how many at a time, static; it need not divide N.

    Returns:
        A pytree of leaves [N, ...]. (On a CPU, XLA widens a whole array of 16 bits that is sliced:
        there hand over hidden states, or 32 bits.)

    Raises:
        ValueError: if the chunk is no whole number above 0, or leading axes differ.
    """
    check_count(chunk=chunk)
    size = leading_size(tokens)
    mapped = jax.checkpoint(lambda row: function(*row))
    return jax.lax.map(mapped, tokens, batch_size=min(chunk, size))


class PartialKL(NamedTuple):
    """A KL from some of the outcomes.

    Attributes:
        kl: [*E] nats, at most the KL over all outcomes.
        left_out: [*E], and at least that less this.
    """

    kl: Array
    left_out: Array


@in_float32
def top_k_kl(log_p: Array, log_q: Array, max_log_ratio: Number = jnp.inf) -> PartialKL:
    """KL(p || q) from the log-probabilities of k outcomes, with a bound on what is left out: [*E].

    The other outcomes are taken as one, of mass 1 - sum p. That is the KL after a look that can't
    tell them apart, so it is at most the whole one, and it has the whole one's sign and its zero.
    What it lacks, with P and Q the masses of the rest, is P KL(p / P || q / Q) there, which is at
    most P (M - log(P / Q)) if log p - log q <= M for every outcome of the rest.

    The k outcomes of ``log_p`` and ``log_q`` [*E, k] are the same, p's most probable, say; they are
    normalised over the whole vocabulary. ``max_log_ratio`` M, [] or [*E], is known from elsewhere,
    or not: inf, and then the bound is infinite where P > 0. Masses below the rounding of a sum of
    k probabilities are 0. Differentiable.
    """
    chex.assert_equal_shape([log_p, log_q])
    log_p, log_q = floats(log_p, log_q)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    rounding = p.shape[-1] * jnp.finfo(p.dtype).eps

    def rest(x: Array) -> Array:
        mass = 1 - jnp.sum(x, axis=-1)
        return jnp.where(mass > rounding, mass, 0)

    rest_p = rest(p)
    # Where p has a rest that q's rounding hides, q's is that rounding: the KL is a lower bound.
    rest_q = jnp.where(rest_p > 0, jnp.maximum(rest(q), rounding), rest(q))
    kl = categorical_kl(*(jnp.append(x, r[..., None], -1) for x, r in ((p, rest_p), (q, rest_q))))
    some = rest_p > 0
    rest_log_ratio = jnp.log(jnp.where(some, rest_p, 1)) - jnp.log(jnp.where(some, rest_q, 1))
    bound = jnp.where(some, rest_p * jnp.maximum(max_log_ratio - rest_log_ratio, 0), 0)
    return PartialKL(kl, jax.lax.stop_gradient(bound))


@in_float32
def binary_tv(log_p: Array, log_q: Array) -> Array:
    """abs(p - q) of the one outcome that was drawn: [*E], at most the total variation.

    DPPO's binary TV (arXiv 2602.04879): the total variation after a look that tells this outcome
    from all others. ``log_p`` and ``log_q`` [*E] are its log-probabilities.
    """
    chex.assert_equal_shape([log_p, log_q])
    log_p, log_q = floats(log_p, log_q)
    return jnp.abs(jnp.exp(log_p) - jnp.exp(log_q))


@in_float32
def binary_kl(log_p: Array, log_q: Array) -> Array:
    """The KL of one outcome against all others: p log(p / q) + (1 - p) log((1 - p) / (1 - q)).

    In nats, [*E], and at most the KL. DPPO's binary KL (arXiv 2602.04879) has p = old. It keeps its
    digits at probabilities near 1, where 1 - p has none left. Arguments as in `binary_tv`.
    """
    chex.assert_equal_shape([log_p, log_q])
    log_p, log_q = floats(log_p, log_q)
    p, q = (jnp.stack([jnp.exp(x), -jnp.expm1(x)], axis=-1) for x in (log_p, log_q))
    return categorical_kl(p, q)
