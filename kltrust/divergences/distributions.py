"""Divergences between two distrax distributions, or two densities: exact, in nats."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from kltrust.checks import kind_of
from kltrust.divergences.arrays import categorical_kl_from_logits
from kltrust.divergences.numerics import (
    kl_terms,
    log_series,
    over_scale,
    phi_series,
    rows,
    safe_log,
)
from kltrust.lazy import distrax
from kltrust.lowering import choose
from kltrust.tree import floats, in_float32, widen
from kltrust.types import Array, Distribution, Number, PyTree


@in_float32
def kl_divergence(old: Distribution, new: Distribution) -> Array:
    """KL(old || new) = E_{a ~ old}[log old(a) - log new(a)], in nats, summed over event dimensions.

    Categorical (masked too), Bernoulli, Normal, MultivariateNormalDiag, and Independent and Joint
    of these have closed forms here, accurate in float32. All others use distrax's. Two Transformed
    distributions have the KL of their bases if they provably have the same bijector. (distrax
    compares the text of the bijectors' programs. It therefore takes bijectors that differ only in
    captured arrays for equal, and returns 0.)

    Returns:
        [...], the batch shape of both; inf where old has mass and new has none.

    Raises:
        ValueError: if the distributions can't be paired (events or structures differ).
        NotImplementedError: if no exact KL is known.
    """
    return _kl(old, new)


def _kl(old: Any, new: Any) -> Array:
    for given in (old, new):
        if not hasattr(given, "kl_divergence"):
            raise TypeError(
                f"kl_divergence takes two distributions, got {kind_of(given)}: make one "
                f"of logits by "
                "distrax.Categorical(logits=logits), or call categorical_kl_from_logits; of means "
                "and standard deviations, distrax.MultivariateNormalDiag(mean, std)"
            )

    def both(kind: type) -> bool:
        return isinstance(old, kind) and isinstance(new, kind)

    if both(distrax.Categorical):
        log_p, log_q = rows(_categorical_log_probs(old), _categorical_log_probs(new))
        return jnp.sum(kl_terms(log_p, log_q), axis=-1)
    if both(distrax.Bernoulli):
        return _bernoulli_kl(old, new)
    if both(distrax.Normal):
        return _normal_kl(old.loc, old.scale, new.loc, new.scale)
    if both(distrax.MultivariateNormalDiag):
        return jnp.sum(_normal_kl(old.loc, old.scale_diag, new.loc, new.scale_diag), axis=-1)
    if both(distrax.Independent):
        return _sum_last(_kl(old.distribution, new.distribution), _event_ndims(old, new))
    if both(distrax.Joint):
        return sum(map(_kl, *_paired_parts(old, new)), start=jnp.zeros(()))
    if _is_transformed(old) or _is_transformed(new):
        if not both(distrax.Transformed) or not _same_bijector(old.bijector, new.bijector):
            raise NotImplementedError(
                "KL between transformed distributions whose bijectors can't be shown to be equal: "
                "share one bijector object between old and new, or let the policy return the base "
                "distribution and squash actions in the environment (the KL is the same)"
            )
        return _kl(old.distribution, new.distribution)
    return _widened(old).kl_divergence(_widened(new))


@in_float32
def distribution_entropy(dist: Distribution) -> Array:
    """H(dist) = -E[log dist(a)], in nats, summed over event dimensions: [*E], the batch shape.

    distrax's own, except that gradients stay finite where a categorical's ``probs`` hold zeros.
    """
    return _entropy(dist)


def _entropy(dist: Any) -> Array:
    if isinstance(dist, distrax.Categorical):
        log_p = _categorical_log_probs(dist)
        p = jnp.exp(log_p)
        return -jnp.sum(p * jnp.where(p > 0, log_p, 0), axis=-1)
    if isinstance(dist, distrax.Independent):
        return _sum_last(_entropy(dist.distribution), dist.reinterpreted_batch_ndims)
    if isinstance(dist, distrax.Joint):
        return sum(map(_entropy, _parts(dist)), start=jnp.zeros(()))
    return _widened(dist).entropy()


def distribution_log_prob(dist: Distribution, value: PyTree) -> Array:
    """Log dist(value) for events [*E, ...], in nats, summed over event dimensions: [*E].

    distrax's own, to the bit, except that gradients stay finite where a categorical's ``probs``
    hold zeros. Impossible events get -inf. The result is at least float32: at 16 bits the
    difference of two log-probabilities near -16 would be off by 0.1.
    """
    return _log_prob(dist, value)


def _log_prob(dist: Any, value: Any) -> Array:
    if isinstance(dist, distrax.Independent):
        inner = _log_prob(dist.distribution, value)
        return _sum_last(inner, dist.reinterpreted_batch_ndims)
    if not isinstance(dist, distrax.Categorical) or jnp.shape(value) != dist.batch_shape:
        return _widened(dist).log_prob(value)
    return choose(_categorical_log_probs(dist), value)


@in_float32
def wasserstein2(old: Distribution, new: Distribution) -> Array:
    """W_2 = sqrt(|mean - mean'|^2 + |std - std'|^2) of diagonal Gaussians, in action units: [*E].

    old and new are both Normal, MultivariateNormalDiag or Independent(Normal), of batch shape
    [*E]. Where they coincide the gradient is 0, not NaN.

    Raises:
        ValueError: for any other distribution.
    """
    square = _wasserstein2_squared(old, new)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def quadrature_kl(
    log_p: Callable[[Array], Array],
    log_q: Callable[[Array], Array],
    low: Number,
    high: Number,
    num_points: int,
    *,
    mass_tol: Number = 1e-3,
) -> Array:
    """KL(p || q) = integral of p (log p - log q) over [low, high], for densities on the line.

    It uses tanh-sinh quadrature (Takahasi and Mori, 1974), which never evaluates the ends, so a
    density may be infinite there. The result is the KL between the two discretised densities, each
    divided by its computed mass. If a mass differs from 1 by more than mass_tol, [low, high] is too
    narrow, num_points is too small, or a density is not normalised.

    Args:
        log_p: the log density of p, a function [num_points] -> [num_points].
        log_q: likewise of q.
        low: [] the lower end, finite.
        high: [] the upper end, finite.
        num_points: the number of points, static. They are densest at the ends.
        mass_tol: [] how far a mass may be from 1.

    Returns:
        [] in nats. Under jit, vmap or grad, NaN if a mass is off.

    Raises:
        ValueError: if a mass is off, outside of such transformations.
    """
    low, high, mass_tol = floats(low, high, mass_tol)
    # s runs over (0, 1), with both tails cut where s or 1 - s is two roundings.
    reach = jnp.arcsinh(-jnp.log(2 * jnp.finfo(low.dtype).eps) / jnp.pi)
    t = jnp.linspace(-reach, reach, num_points, dtype=low.dtype)
    z = jnp.pi * jnp.sinh(t)
    x = low + (high - low) * jax.nn.sigmoid(z)
    log_slope = jnp.log(jnp.pi * jnp.cosh(t)) + jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)
    log_weight = log_slope + jnp.log((high - low) * 2 * reach / (num_points - 1))
    log_masses = [log_density(x) + log_weight for log_density in (log_p, log_q)]
    mass_p, mass_q = (jnp.exp(jax.nn.logsumexp(m)) for m in log_masses)
    good = (jnp.abs(mass_p - 1) <= mass_tol) & (jnp.abs(mass_q - 1) <= mass_tol)
    if not isinstance(good, jax.core.Tracer) and not good:
        raise ValueError(
            f"the masses of p and q on [{low}, {high}] come to {mass_p} and {mass_q} instead of 1: "
            "widen the interval, raise num_points or normalise the densities"
        )
    return jnp.where(good, categorical_kl_from_logits(*log_masses), jnp.nan)


def _categorical_log_probs(dist: distrax.Categorical) -> Array:
    # distrax keeps the logits or probs it was given, normalised. Its log of probs has NaN gradients
    # at 0.
    wide = _widened(dist)
    log_probs = wide.logits if dist._probs is None else safe_log(wide.probs)
    # Rounded to 16 bits, they no longer sum to one.
    return log_probs if wide is dist else jax.nn.log_softmax(log_probs)


def _widened(dist: Any) -> Any:
    """The distribution with leaves of at least float32; the same object if it has them."""
    leaves, structure = jax.tree.flatten(dist)
    wide = [widen(x) for x in leaves]
    return dist if all(map(operator.is_, leaves, wide)) else jax.tree.unflatten(structure, wide)


def _bernoulli_kl(old: distrax.Bernoulli, new: distrax.Bernoulli) -> Array:
    if old._logits is None or new._logits is None:
        p, q = _paired(old.probs, new.probs)
        return kl_terms(safe_log(p), safe_log(q)) + kl_terms(safe_log(1 - p), safe_log(1 - q))
    x, y = _paired(old.logits, new.logits)
    terms = [kl_terms(jax.nn.log_sigmoid(s * x), jax.nn.log_sigmoid(s * y)) for s in (1, -1)]
    near = jnp.abs(y - x) < 0.2
    step = jnp.where(near, y - x, 0)
    # q/p - 1 for either outcome, from the difference of the logits.
    growth = step + phi_series(step)
    p0, p1 = jax.nn.sigmoid(-x), jax.nn.sigmoid(x)
    u = growth / (1 + p1 * growth)
    close = p1 * log_series(p0 * u) + p0 * log_series(-p1 * u)
    return jnp.where(near, close, terms[0] + terms[1])


def _normal_kl(loc: Array, scale: Array, new_loc: Array, new_scale: Array) -> Array:
    """u^2/2 + u - log(1 + u) + ((loc - new_loc)/new_scale)^2/2, u = scale/new_scale - 1."""
    loc, new_loc = _paired(loc, new_loc)
    scale, new_scale = _paired(scale, new_scale)
    u = over_scale(scale - new_scale, new_scale)
    near = jnp.abs(u) < 0.25
    far = u - (jnp.log(scale) - jnp.log(new_scale))
    excess = jnp.where(near, log_series(jnp.where(near, u, 0)), far)
    return excess + 0.5 * jnp.square(u) + 0.5 * jnp.square(over_scale(loc - new_loc, new_scale))


def _wasserstein2_squared(old: Any, new: Any) -> Array:
    def gap(loc: Array, scale: Array, new_loc: Array, new_scale: Array) -> Array:
        (loc, new_loc), (scale, new_scale) = _paired(loc, new_loc), _paired(scale, new_scale)
        return jnp.square(loc - new_loc) + jnp.square(scale - new_scale)

    if isinstance(old, distrax.Normal) and isinstance(new, distrax.Normal):
        return gap(old.loc, old.scale, new.loc, new.scale)
    mvn = distrax.MultivariateNormalDiag
    if isinstance(old, mvn) and isinstance(new, mvn):
        return jnp.sum(gap(old.loc, old.scale_diag, new.loc, new.scale_diag), axis=-1)
    if isinstance(old, distrax.Independent) and isinstance(new, distrax.Independent):
        inner = _wasserstein2_squared(old.distribution, new.distribution)
        return _sum_last(inner, _event_ndims(old, new))
    raise ValueError(
        f"wasserstein2 takes two diagonal Gaussians, got {type(old).__name__} and "
        f"{type(new).__name__}"
    )


def _paired(x: Array, y: Array) -> tuple[Array, ...]:
    """The parameters in one dtype, checked to have the same rank (scalars pass)."""
    x, y = map(widen, floats(x, y))
    if x.ndim and y.ndim:
        chex.assert_equal_rank([x, y])
    return x, y


def _sum_last(x: Array, ndims: int) -> Array:
    return jnp.sum(x, axis=tuple(range(-ndims, 0)))


def _event_ndims(old: distrax.Independent, new: distrax.Independent) -> int:
    if old.reinterpreted_batch_ndims != new.reinterpreted_batch_ndims:
        raise ValueError(
            f"old sums over {old.reinterpreted_batch_ndims} event dimensions, new over "
            f"{new.reinterpreted_batch_ndims}: give both Independents the same number"
        )
    return old.reinterpreted_batch_ndims


def _is_distribution(x: Any) -> bool:
    return isinstance(x, distrax.Distribution)


def _parts(joint: distrax.Joint) -> list[Any]:
    return jax.tree.leaves(joint.distributions, is_leaf=_is_distribution)


def _paired_parts(old: distrax.Joint, new: distrax.Joint) -> tuple[list[Any], list[Any]]:
    structure: Any = functools.partial(jax.tree.structure, is_leaf=_is_distribution)
    ours, theirs = structure(old.distributions), structure(new.distributions)
    if ours != theirs:
        raise ValueError(
            f"both Joint distributions must have the same structure: {ours} and {theirs}"
        )
    return _parts(old), _parts(new)


def _is_transformed(dist: Any) -> bool:
    # In distrax a multivariate normal is an affine transform, but with its own exact KL.
    return isinstance(dist, distrax.Transformed) and not isinstance(
        dist, distrax.MultivariateNormalFromBijector
    )


def _same_bijector(old: Any, new: Any) -> bool:
    return old is new or old.same_as(new)
