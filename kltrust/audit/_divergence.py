"""Exact quantities of two distributions beyond their KL."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from kltrust.divergences import kl_divergence, total_variation
from kltrust.divergences.distributions import _is_distribution, _parts
from kltrust.lazy import distrax
from kltrust.types import Array, Distribution


def bretagnolle_huber_bound(kl: Array) -> Array:
    """sqrt(1 - exp(-kl)) >= TV(p, q), with the KL in either direction: [*E] -> [*E].

    The bound is below 1 at every finite KL, in nats. Pinsker's bound, sqrt(KL / 2), is the lower of
    the two up to KL = 1.59 and says nothing from 2 on. Bretagnolle and Huber (1979), "Estimation
    des densites: risque minimax".
    """
    return jnp.sqrt(-jnp.expm1(-jnp.asarray(kl)))


def gaussian_kl_parts(old: Distribution, new: Distribution) -> tuple[Array, Array] | None:
    """KL(old || new) between diagonal Gaussians as (part of the means, part of the scales).

    With mid = N(mean of old, scale of new) the two add up exactly:

        KL(old || new) = KL(mid || new) + KL(old || mid)
        KL(mid || new) = 1/2 sum_i ((m_i - m'_i) / s'_i)^2
        KL(old || mid) = sum_i (u_i^2 / 2 + u_i - log(1 + u_i)),  u_i = s_i / s'_i - 1

    ``old`` and ``new`` are Normal, MultivariateNormalDiag, or Independent or Joint of these, both
    of one kind and batch shape.

    Returns:
        Two arrays of that batch shape, in nats; None, known statically, for other distributions.
    """
    mid = _rescaled(old, new)
    return None if mid is None else (kl_divergence(mid, new), kl_divergence(old, mid))


def exact_total_variation(
    old: Distribution, new: Distribution, *, max_outcomes: int = 1024
) -> Array | None:
    """TV(old, new) = sup over events |old - new|, if it has a closed form.

    - Distributions over finitely many joint outcomes (Categorical, Bernoulli, and Independent or
      Joint of these): 1/2 sum over the outcomes |p - q|, by listing them all. The total
      variation of independent components is not a sum over components.
    - Gaussians of one dimension: |P - Q| between the points where the densities cross.

    ``old`` and ``new`` are of one kind and batch shape [...]. More joint outcomes than the static
    max_outcomes are not listed.

    Returns:
        [...] in [0, 1], up to a few roundings of 1; None, known statically, without a closed form.
    """
    p, q = (_outcomes(dist, max_outcomes) for dist in (old, new))
    if p is not None and q is not None:
        return total_variation(p, q)
    ours, theirs = _scalar_gaussian(old), _scalar_gaussian(new)
    if ours is not None and theirs is not None:
        return normal_total_variation(*ours, *theirs)
    return None


def normal_total_variation(loc: Array, scale: Array, new_loc: Array, new_scale: Array) -> Array:
    """TV(N(loc, scale^2), N(new_loc, new_scale^2)), all [...]: [...].

    In units of the old scale new is N(m, s^2). The log densities are equal at the roots of
    (s^2 - 1) x^2 + 2 m x - (m^2 + 2 s^2 log s) = 0, which are always real; between the roots one
    density is the larger throughout. For equal scales one crossing is m / 2, the other is at
    infinity, and the closed form is erf(|m| / sqrt(8)).
    """
    m = (new_loc - loc) / scale
    excess = (new_scale - scale) / scale
    s, log_s = 1 + excess, jnp.log1p(excess)
    a = excess * (2 + excess)  # s^2 - 1 without cancellation
    half_gap = s * jnp.sqrt(jnp.square(m) + 2 * a * log_s)
    # -m +- half_gap with the sign that does not cancel; the other root from their product.
    far = -(m + jnp.where(m < 0, -half_gap, half_gap))
    moved = far != 0
    near_root = -(jnp.square(m) + 2 * jnp.square(s) * log_s) / jnp.where(moved, far, 1)
    far_root = jnp.where(a != 0, far / jnp.where(a != 0, a, 1), jnp.inf)

    def lead(x: Array) -> Array:  # old's distribution function minus new's
        return jax.scipy.special.ndtr(x) - jax.scipy.special.ndtr((x - m) / s)

    return jnp.where(moved, jnp.abs(lead(near_root) - lead(far_root)), 0)


def _rescaled(old: Any, new: Any) -> Any:
    """Old's means with new's scales, or None if the two are not both diagonal Gaussians."""

    def both(kind: type) -> bool:
        return isinstance(old, kind) and isinstance(new, kind)

    if both(distrax.Normal):
        return distrax.Normal(old.loc, new.scale)
    if both(distrax.MultivariateNormalDiag):
        return distrax.MultivariateNormalDiag(old.loc, new.scale_diag)
    if both(distrax.Independent):
        inner = _rescaled(old.distribution, new.distribution)
        if inner is None:
            return None
        return distrax.Independent(inner, old.reinterpreted_batch_ndims)
    if both(distrax.Joint):
        members = [_rescaled(*pair) for pair in zip(_parts(old), _parts(new), strict=True)]
        structure = jax.tree.structure(old.distributions, is_leaf=_is_distribution)
        known = all(member is not None for member in members)
        return distrax.Joint(jax.tree.unflatten(structure, members)) if known else None
    return None


def _outcomes(dist: Any, max_outcomes: int) -> Array | None:
    """The probabilities of all joint outcomes, [..., K], if K is finite and not too large."""
    if isinstance(dist, distrax.Categorical):
        return dist.probs if dist.probs.shape[-1] <= max_outcomes else None
    if isinstance(dist, distrax.Bernoulli):
        return jnp.stack([1 - dist.probs, dist.probs], axis=-1)
    if isinstance(dist, distrax.Joint):
        return _product([_outcomes(part, max_outcomes) for part in _parts(dist)], max_outcomes)
    if isinstance(dist, distrax.Independent):
        each = _outcomes(dist.distribution, max_outcomes)
        if each is None:
            return None
        batch_ndims = each.ndim - 1 - dist.reinterpreted_batch_ndims
        factors = each.reshape(*each.shape[:batch_ndims], -1, each.shape[-1])
        return _product(list(jnp.moveaxis(factors, -2, 0)), max_outcomes)
    return None


def _product(factors: list[Any], max_outcomes: int) -> Array | None:
    """The outer product of independent distributions [..., K_i]: [..., prod K_i]."""
    known = all(factor is not None for factor in factors)
    if not known or math.prod(factor.shape[-1] for factor in factors) > max_outcomes:
        return None

    def outer(p: Array, q: Array) -> Array:
        return (p[..., :, None] * q[..., None, :]).reshape(*p.shape[:-1], -1)

    return functools.reduce(outer, factors)


def _scalar_gaussian(dist: Any) -> tuple[Array, Array] | None:
    """(mean, scale), of the batch shape, of a Gaussian over events of one number."""
    if isinstance(dist, distrax.Normal):
        return dist.loc, dist.scale
    if isinstance(dist, distrax.MultivariateNormalDiag) and dist.loc.shape[-1] == 1:
        return dist.loc[..., 0], dist.scale_diag[..., 0]
    if isinstance(dist, distrax.Independent) and isinstance(dist.distribution, distrax.Normal):
        parameters = dist.distribution.loc, dist.distribution.scale
        shape = jnp.broadcast_shapes(*(x.shape for x in parameters))
        batch_ndims = len(shape) - dist.reinterpreted_batch_ndims
        if math.prod(shape[batch_ndims:]) == 1:
            loc, scale = (jnp.broadcast_to(x, shape) for x in parameters)
            return loc.reshape(shape[:batch_ndims]), scale.reshape(shape[:batch_ndims])
    return None
