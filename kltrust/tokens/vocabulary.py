"""KLs over a vocabulary: exact in little memory, or bounded from a few entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kltrust.checks import check_count, same_shape
from kltrust.divergences.arrays import categorical_kl
from kltrust.tree import floats, in_float32, leading_size
from kltrust.types import Array, Number, PyTree


def over_chunks(function: Callable[..., PyTree], *tokens: PyTree, chunk: int) -> PyTree:
    """Applies ``function`` to a few tokens at a time, forward and backward, to save memory.

    Intermediate results, such as logits of a large vocabulary, exist for only ``chunk`` tokens at a
    time. They are computed again for the gradients. Gradients also flow to closed-over arrays:

        kl = over_chunks(
            lambda h, g: categorical_kl_from_logits(h @ head, g @ ref_head), hidden, ref, chunk=256
        )

    Args:
        function: maps one token's pytrees, with leaves [...], to a pytree with leaves [...].
        tokens: pytrees with leaves [N, ...]; flatten [*E, L] first.
        chunk: the number of tokens at a time, static; it need not divide N.

    Returns:
        A pytree with leaves [N, ...]. (On a CPU, XLA widens a 16-bit array as a whole when it is
        sliced. There pass hidden states, or 32-bit arrays.)

    Raises:
        ValueError: if ``chunk`` is not a whole number above 0, or leading axes differ.
    """
    check_count(chunk=chunk)
    size = leading_size(tokens)
    mapped = jax.checkpoint(lambda row: function(*row))
    return jax.lax.map(mapped, tokens, batch_size=min(chunk, size))


class PartialKL(NamedTuple):
    """Bounds on a KL from some of the outcomes.

    Attributes:
        kl: [*E] nats, at most the KL over all outcomes.
        left_out: [*E] nats; the KL over all outcomes is at most kl + left_out.
    """

    kl: Array
    left_out: Array


@in_float32
def top_k_kl(log_p: Array, log_q: Array, max_log_ratio: Number = jnp.inf) -> PartialKL:
    """KL(p || q) from the log-probabilities of k outcomes, with a bound on the missing part: [*E].

    All other outcomes, the rest, are merged into one of mass 1 - sum p. Merging outcomes never
    raises a KL, so the result is at most the full KL. It is also at least 0, and 0 if the full KL
    is. With P and Q the masses of the rest, the missing part is P KL(p / P || q / Q) over the rest.
    It is at most P (M - log(P / Q)) if log p - log q <= M for every outcome of the rest.

    ``log_p`` and ``log_q`` [*E, k] are of the same k outcomes, such as p's most probable, and
    normalised over the whole vocabulary. ``max_log_ratio`` is M, [] or [*E]. If M is not known, use
    inf; the bound is then infinite where P > 0. Masses below the rounding of a sum of k
    probabilities count as 0. It is differentiable.
    """
    same_shape(log_p=log_p, log_q=log_q)
    log_p, log_q = floats(log_p, log_q)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    rounding = p.shape[-1] * jnp.finfo(p.dtype).eps

    def rest(x: Array) -> Array:
        mass = 1 - jnp.sum(x, axis=-1)
        return jnp.where(mass > rounding, mass, 0)

    rest_p = rest(p)
    # If rounding hides q's rest but not p's, q's is set to the rounding: kl stays a lower bound.
    rest_q = jnp.where(rest_p > 0, jnp.maximum(rest(q), rounding), rest(q))
    kl = categorical_kl(*(jnp.append(x, r[..., None], -1) for x, r in ((p, rest_p), (q, rest_q))))
    some = rest_p > 0
    rest_log_ratio = jnp.log(jnp.where(some, rest_p, 1)) - jnp.log(jnp.where(some, rest_q, 1))
    bound = jnp.where(some, rest_p * jnp.maximum(max_log_ratio - rest_log_ratio, 0), 0)
    return PartialKL(kl, jax.lax.stop_gradient(bound))


@in_float32
def binary_tv(log_p: Array, log_q: Array) -> Array:
    """abs(p - q) of the one outcome that was drawn: [*E], at most the total variation.

    It is DPPO's binary TV (arXiv 2602.04879): the total variation after all other outcomes are
    merged into one. ``log_p`` and ``log_q`` [*E] are the log-probabilities of the drawn outcome.
    """
    same_shape(log_p=log_p, log_q=log_q)
    log_p, log_q = floats(log_p, log_q)
    return jnp.abs(jnp.exp(log_p) - jnp.exp(log_q))


@in_float32
def binary_kl(log_p: Array, log_q: Array) -> Array:
    """The KL of one outcome against all others: p log(p / q) + (1 - p) log((1 - p) / (1 - q)).

    It is [*E], in nats, and at most the KL. DPPO's binary KL (arXiv 2602.04879) has p = old. It
    keeps its digits at probabilities near 1, where 1 - p has none. Arguments as in `binary_tv`.
    """
    same_shape(log_p=log_p, log_q=log_q)
    log_p, log_q = floats(log_p, log_q)
    p, q = (jnp.stack([jnp.exp(x), -jnp.expm1(x)], axis=-1) for x in (log_p, log_q))
    return categorical_kl(p, q)
