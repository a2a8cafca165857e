"""Distributions as exponential families: mixtures of two, and the farthest that a KL allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.divergences import distribution_log_prob, kl_divergence
from kltrust.lazy import distrax
from kltrust.types import Array, Distribution, Number, PyTree

_HALVINGS = 24
"""Halvings that reduce an interval of length 1 to a rounding of float32."""


def kl_parts(old: Distribution, new: Distribution) -> tuple[Array, Array]:
    """KL(old || new) with new's location and old's scale, and the other way round: both [*E], nats.

    For Gaussians these are |mean - mean'|^2 / 2 in units of old's deviations, and the KL between
    the scales alone. Other distributions have no scale: their whole KL is the first part, and the
    second is 0. ``old`` and ``new`` are as `geodesic` takes them.
    """
    return (
        kl_divergence(old, _swapped(new, old)),
        kl_divergence(old, _swapped(old, new)),
    )


def geodesic(old: Distribution, new: Distribution, share: Array) -> Distribution:
    """The geometric mixture old^(1 - share) new^share / Z, in the same family: [*E].

    ``old`` and ``new`` are both categorical (masked too), Bernoulli, diagonal Gaussian, or
    Independent or Joint of these; the ``share`` is [*E], in [0, 1]. A mixture of Gaussians averages
    the precisions, and weighs the means by them.

    Raises:
        ValueError: for any other distribution.
    """
    if isinstance(old, distrax.Independent):
        dims = old.reinterpreted_batch_ndims
        within = share.reshape(*share.shape, *[1] * dims)
        inner = geodesic(old.distribution, new.distribution, within)  # type: ignore[attr-defined]
        return distrax.Independent(inner, dims)
    if isinstance(old, distrax.Joint):
        return distrax.Joint(_of_parts(lambda o, n: geodesic(o, n, share), old, new))
    if isinstance(old, distrax.Categorical):
        ours, theirs, share = old.logits, new.logits, share[..., None]  # type: ignore[attr-defined]
        possible = jnp.isfinite(ours) & jnp.isfinite(theirs)
        mixed = (1 - share) * jnp.where(possible, ours, 0) + share * jnp.where(possible, theirs, 0)
        return distrax.Categorical(logits=jnp.where(possible, mixed, -jnp.inf))
    if isinstance(old, distrax.Bernoulli):
        return distrax.Bernoulli(logits=(1 - share) * old.logits + share * new.logits)  # type: ignore[attr-defined]
    (loc, scale), (new_loc, new_scale) = _normal(old), _normal(new)
    share = share.reshape(*share.shape, *[1] * (loc.ndim - share.ndim))
    weights = (1 - share) / jnp.square(scale), share / jnp.square(new_scale)
    precision = weights[0] + weights[1]
    mean = loc + weights[1] / precision * (new_loc - loc)
    return _normal_like(old, mean, jax.lax.rsqrt(precision))


def project(
    old: Distribution, new: Distribution, max_kl: Number, max_scale_kl: Number
) -> Distribution:
    """The distribution nearest to ``new`` whose KL from ``old`` is within bounds, state by state.

    It is the q with the least KL(q || new) subject to KL(q || old) <= ``max_kl``, nats, [] or [*E].
    By the Lagrangian, q is a `geodesic` mixture of the two. The KL grows along the geodesic, so a
    single root gives the share (Otto et al. 2021). For Gaussians the means are bounded by max_kl
    and the scales by ``max_scale_kl``, one after the other, so that KL(q || old) is at most the
    sum. Where ``new`` is within the bounds, q is ``new``. The result is differentiable in all
    arguments, on both sides of the bounds: through the root by the implicit function theorem.

    Raises:
        ValueError: for distributions that `geodesic` does not know.
    """
    moved = _shortened(old, _swapped(new, old), max_kl)
    if not _has_scale(old):
        return moved
    return _shortened(moved, _swapped(moved, new), max_scale_kl)


def ratio_interval(old: Distribution, action: PyTree, kl: Number) -> tuple[Array, Array]:
    """The smallest and the largest log ratio of an action that a KL(old || new) allows: two [*E].

    They are taken at the ``action``, over all new of old's family with KL(old || new) <= ``kl``,
    nats, [] or [*E]. By the Lagrangian, the optimum has the moments of
    (1 - w) old + w (a point mass at the action), with w > 0 for the largest and w < 0 for the
    smallest ratio. The KL grows with abs(w), so each w is a single root. A probability p becomes
    p + w (1 - p), and the others keep their proportions. For a Gaussian, with z the action in units
    of its deviation, the mean moves by w z deviations and the variance is multiplied by
    (1 - w)(1 + w z^2). ``old`` is as `geodesic` takes it.

    Raises:
        ValueError: for distributions that `geodesic` does not know.
    """
    leaves = _at_action(old, action)

    def moved(share: Array, of: int) -> Array:
        """The sum over leaves of the log ratio, 0, or the KL, 1, at w."""
        total = jnp.zeros(share.shape, share.dtype)
        for kind, x in leaves:
            within = share.reshape(*share.shape, *[1] * (x.ndim - share.ndim))
            value = _moved_leaf(kind, x, within)[of]
            total = total + jnp.sum(value, axis=tuple(range(share.ndim, x.ndim)))
        return total

    ndim = len(old.batch_shape)  # type: ignore[attr-defined]
    limit = jnp.full(old.batch_shape, jnp.inf, leaves[0][1].dtype)  # type: ignore[attr-defined]
    for kind, x in leaves:
        tiny = jnp.finfo(x.dtype).tiny
        inverse = -jnp.expm1(x) / jnp.exp(x) if kind == "discrete" else jnp.square(x)
        nearest = 1 / jnp.maximum(jnp.max(inverse, axis=tuple(range(ndim, x.ndim))), tiny)
        limit = jnp.minimum(limit, nearest)
    found = []
    for end in (-limit, jnp.ones_like(limit)):

        def kl_at(share: Array, end: Array = end) -> Array:
            return moved(share * end, 1)

        share = _bisect(kl_at, kl, jnp.ones_like(limit))
        found.append(moved(share * end, 0))
    return found[0], found[1]


def _moved_leaf(kind: str, x: Array, w: Array) -> tuple[Array, Array]:
    """(log ratio at the action, KL(old || new)) with the moments of (1 - w) old + w action."""
    if kind == "discrete":  # x = log p
        p = jnp.exp(x)
        log_ratio = jnp.log1p(w * -jnp.expm1(x) / p)
        return log_ratio, -p * log_ratio + jnp.expm1(x) * jnp.log1p(-w)
    square = jnp.square(x)  # of z
    growth = jnp.log1p(-w) + jnp.log1p(w * square)
    log_ratio = 0.5 * (square - square * (1 - w) / (1 + w * square) - growth)
    variance = (1 - w) * (1 + w * square)
    return log_ratio, 0.5 * (growth + (1 + jnp.square(w) * square) / variance - 1)


def _at_action(old: Any, action: Any) -> list[tuple[str, Array]]:
    """For every leaf of a distribution its kind and the action's log p, or its z: [*E, ...]."""
    if isinstance(old, distrax.Independent):
        return _at_action(old.distribution, action)
    if isinstance(old, distrax.Joint):
        parts, structure = jax.tree.flatten(old.distributions, is_leaf=_is_distribution)
        of_parts: Any = structure
        pairs = zip(parts, of_parts.flatten_up_to(action), strict=True)
        return [leaf for part, value in pairs for leaf in _at_action(part, value)]
    if isinstance(old, distrax.Categorical | distrax.Bernoulli):
        return [("discrete", jnp.maximum(distribution_log_prob(old, action), -60.0))]
    loc, scale = _normal(old)
    return [("normal", (action - loc) / scale)]


def _shortened(old: Distribution, new: Distribution, bound: Number) -> Distribution:
    """The farthest point on the geodesic from old to new whose KL from old is within the bound."""

    def kl_at(share: Array, new: Distribution) -> Array:
        return kl_divergence(geodesic(old, new, share), old)

    fixed = jax.lax.stop_gradient(new)
    whole = jax.lax.stop_gradient(kl_divergence(new, old))
    ones = jnp.ones_like(whole)
    within = whole <= bound
    root = jax.lax.stop_gradient(_bisect(lambda t: kl_at(t, fixed), bound, ones))
    slope = jax.jvp(lambda t: kl_at(t, fixed), (root,), (ones,))[1]
    slope = jax.lax.stop_gradient(jnp.where(within | ~(slope > 0), 1, slope))
    # One step of Newton: it has the derivative of the implicit root, and squares the error.
    miss = jnp.where(within, 0, kl_at(root, new) - bound)
    share = jnp.where(within, 1, jnp.clip(root - miss / slope, 0, 1))
    return geodesic(old, new, share)


def _bisect(kl_at: Callable[[Array], Array], bound: Number, ones: Array) -> Array:
    """The largest share in [0, 1), rounded down, that keeps a growing KL within the bound: [*E]."""
    floats = jnp.finfo(ones.dtype)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        within = kl_at(middle) <= bound
        return jnp.where(within, middle, low), jnp.where(within, high, middle)

    halvings = _HALVINGS if floats.bits <= 32 else 2 * _HALVINGS
    ends = loops.fori_loop(0, halvings, halve, (0 * ones, (1 - floats.eps) * ones))
    return ends[0]


def _swapped(located: Any, scaled: Any) -> Any:
    """The first distribution with the scales of the second, if it has scales."""
    if isinstance(located, distrax.Independent):
        inner = _swapped(located.distribution, scaled.distribution)
        return distrax.Independent(inner, located.reinterpreted_batch_ndims)
    if isinstance(located, distrax.Joint):
        return distrax.Joint(_of_parts(_swapped, located, scaled))
    if isinstance(located, distrax.Categorical | distrax.Bernoulli):
        return located
    return _normal_like(located, _normal(located)[0], _normal(scaled)[1])


def _has_scale(dist: Any) -> bool:
    if isinstance(dist, distrax.Independent):
        return _has_scale(dist.distribution)
    if isinstance(dist, distrax.Joint):
        parts = jax.tree.leaves(dist.distributions, is_leaf=_is_distribution)
        return any(map(_has_scale, parts))
    return not isinstance(dist, distrax.Categorical | distrax.Bernoulli)


def _normal(dist: Any) -> tuple[Array, Array]:
    if isinstance(dist, distrax.Normal):
        return dist.loc, dist.scale
    if isinstance(dist, distrax.MultivariateNormalDiag):
        return dist.loc, dist.scale_diag
    raise ValueError(
        f"{type(dist).__name__} is none of the families whose KL ball is known here, categorical, "
        "Bernoulli, diagonal Gaussian, Independent and Joint of these: let the policy return one, "
        "or take an algorithm that needs no such ball, fixpo or trpo"
    )


def _normal_like(dist: Any, loc: Array, scale: Array) -> Any:
    return type(dist)(loc, scale)


def _of_parts(function: Callable, joint: Any, other: Any) -> Any:
    parts = joint.distributions, other.distributions
    return jax.tree.map(function, *parts, is_leaf=_is_distribution)


def _is_distribution(x: Any) -> bool:
    return isinstance(x, distrax.Distribution)
