r"""The Fisher matrix of a policy's output distributions, as an operator on parameters.

    F = mean over states of J' M J

J is the Jacobian of a state's distribution leaves with respect to the parameters. M is the Fisher
matrix of that distribution with respect to its leaves, in closed form. F is the Hessian of the mean
KL(old || new) at new = old (Schulman et al. 2015, "Trust Region Policy Optimization",
appendix C.1), in nats. It is positive semidefinite at every theta. It is applied as L'L with
L = M^(1/2) J, so that v'Fv = \|L v\|^2 suffers no cancellation.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kltrust import loops
from kltrust.divergences.distributions import _parts
from kltrust.lazy import distrax
from kltrust.tree import leading_size
from kltrust.types import Array, Params, Policy, PyTree

_Linear = Callable[[PyTree], PyTree]

_CHUNK_STATES = 4096


@functools.singledispatch
def fisher_root(dist: Any) -> PyTree:
    """M^(1/2) times the leaves of ``dist``, with M held constant: arrays [*E, ...].

    Only its differential matters: the squared length of a tangent is v'Mv per state. It knows
    Categorical, Bernoulli, Normal, MultivariateNormalDiag, and Independent and Joint of these. For
    any other distribution F is the Hessian of its ``kl_divergence`` with respect to the parameters.
    To register your family::

        @fisher_root.register
        def _(dist: MyDistribution): ...
    """
    known = len(fisher_root.registry)
    _register_families()
    if len(fisher_root.registry) > known:
        return fisher_root(dist)
    raise NotImplementedError(f"no closed-form Fisher matrix for {type(dist).__name__}")


@functools.cache
def _register_families() -> None:
    """Registers distrax's families, with the first distribution, since it imports distrax."""
    for family, root in (
        (distrax.Categorical, _categorical_root),
        (distrax.Bernoulli, _bernoulli_root),
        (distrax.Normal, lambda dist: _gaussian_root(dist.loc, dist.scale)),
        (distrax.MultivariateNormalDiag, lambda dist: _gaussian_root(dist.loc, dist.scale_diag)),
        (distrax.Independent, lambda dist: fisher_root(dist.distribution)),
        (distrax.Joint, lambda dist: [fisher_root(part) for part in _parts(dist)]),
    ):
        if family not in fisher_root.registry:  # a user's root takes precedence
            fisher_root.register(family, root)


def _categorical_root(dist: distrax.Categorical) -> Array:
    # In logits, M = diag(p) - pp' = R'R with R v = sqrt(p) (v - p'v). A masked action has p = 0
    # and the logit -inf, which must stay out of the arithmetic.
    probs = jax.lax.stop_gradient(jax.nn.softmax(dist.logits, axis=-1))
    possible = probs > 0
    if dist._logits is not None:
        logits = jnp.where(possible, dist._logits, 0)
    else:  # d logit = dp / p
        unit = 1 / jnp.where(possible, jax.lax.stop_gradient(dist._probs), 1)
        logits = jnp.where(possible, unit * dist._probs, 0)
    return jnp.sqrt(probs) * (logits - jnp.sum(probs * logits, axis=-1, keepdims=True))


def _bernoulli_root(dist: distrax.Bernoulli) -> Array:
    if dist._logits is not None:
        # p (1 - p) with 1 - p = sigmoid(-logit): the difference would vanish beyond logit 17.
        logits = jax.lax.stop_gradient(dist._logits)
        return jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)) * dist._logits
    probs = jax.lax.stop_gradient(dist._probs)
    inside = (probs > 0) & (probs < 1)
    unit = jax.lax.rsqrt(jnp.where(inside, probs * (1 - probs), 1))
    return jnp.where(inside, unit * dist._probs, 0)


def _gaussian_root(loc: Array, scale: Array) -> tuple[Array, Array]:
    """M = diag(1, 2) / scale^2 in (loc, scale)."""
    unit = 1 / jax.lax.stop_gradient(scale)
    return unit * loc, np.sqrt(2.0).astype(scale.dtype) * unit * scale


class FisherOperator(NamedTuple):
    """F at one theta.

    Attributes:
        product: ``product(v) -> F v``, pytrees like the parameters.
        quadratic_form: ``quadratic_form(v) -> v'Fv``: [], never negative.
    """

    product: _Linear
    quadratic_form: Callable[[PyTree], Array]


def fisher_operator(
    policy: Policy,
    params: Params,
    obs: PyTree,
    *,
    weight: Array | None = None,
    num_chunks: int = 1,
    precision: str | None = "highest",
) -> FisherOperator:
    """F of ``policy`` at ``params``, averaged over the states of ``obs``.

    The policy is linearised once, here; a product then costs one push and one pull through the
    linear map. With chunks the policy is linearised again in every product, chunk by chunk. That
    needs memory for the activations of one chunk only, and costs one more forward pass per product.

    Parameter leaves that are not floats take no part: those of v are ignored, those of F v are
    zero.

    Args:
        policy: ``policy(params, obs) -> distribution`` of batch shape [*E], a pytree.
        params: any pytree.
        obs: any pytree, [*E, *O]; it must be finite in rows of weight 0 too.
        weight: [*E] non-negative; None for all ones.
        num_chunks: static; must divide the leading axis. Rows are dealt out in turn, so that if
            that axis is sharded, every device holds part of every chunk.
        precision: of the matrix products, as in ``jax.default_matmul_precision``. The defaults
            of GPUs and TPUs keep 7 to 10 bits of a float32's mantissa, too few for a conjugate
            gradient solve; CPUs always keep all 23. None keeps the surrounding default.

    Raises:
        ValueError: if ``num_chunks`` does not divide the leading axis, or ``weight`` is not
            of the distribution's batch shape.
    """
    if weight is not None:
        weight = jnp.asarray(weight, jnp.promote_types(jnp.result_type(weight, float), jnp.float32))
        weight = weight / jnp.maximum(jnp.sum(weight), jnp.finfo(weight.dtype).tiny)
    if num_chunks == 1:
        return _linearise(policy, params, obs, weight, 1, precision)

    size = leading_size((obs, weight))
    if num_chunks < 1 or size % num_chunks:
        raise ValueError(
            f"num_chunks={num_chunks} must divide the leading axis of obs, which has {size} rows"
        )

    def over_chunks(apply: Callable[[FisherOperator], PyTree]) -> PyTree:
        def chunk(index: Array | int) -> PyTree:
            rows = jax.tree.map(lambda leaf: _deal(leaf, num_chunks, index), (obs, weight))
            return apply(_linearise(policy, params, rows[0], rows[1], num_chunks, precision))

        def accumulate(index: Array, total: PyTree) -> PyTree:
            return jax.tree.map(jnp.add, total, chunk(index))

        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(chunk, 0))
        return loops.fori_loop(0, num_chunks, accumulate, total)

    return FisherOperator(
        product=lambda v: over_chunks(lambda fisher: fisher.product(v)),
        quadratic_form=lambda v: over_chunks(lambda fisher: fisher.quadratic_form(v)),
    )


def fitting_chunks(size: int, states: int) -> int:
    """The most chunks with at least 4096 states each, which makes `fisher_operator` fast on CPUs.

    A chunk's activations then stay in the cache. That more than pays for the forward pass that each
    product repeats (benchmarks/speed.py). On a GPU or TPU use one chunk. The result divides
    ``size``, the leading axis of ``obs``. ``states`` is the number of states: equal to ``size``
    for rows, larger for sequences.
    """
    most = max(states // _CHUNK_STATES, 1)
    return max(n for n in range(1, most + 1) if size % n == 0)


def fisher_vector_product(policy: Policy, params: Params, obs: PyTree, **options: Any) -> _Linear:
    """``v -> F v``, with the ``options`` of `fisher_operator`; see `fisher_operator`."""
    return fisher_operator(policy, params, obs, **options).product


def fisher_quadratic_form(
    policy: Policy, params: Params, obs: PyTree, v: PyTree, **options: Any
) -> Array:
    r"""The quadratic form v'Fv = mean \|M^(1/2) J v\|^2 >= 0: [].

    The ``options`` are those of `fisher_operator`; see `fisher_operator`.
    """
    return fisher_operator(policy, params, obs, **options).quadratic_form(v)


def _linearise(
    policy: Policy,
    params: Params,
    obs: PyTree,
    weight: Array | None,
    num_chunks: int,
    precision: str | None,
) -> FisherOperator:
    """One chunk's share of the operator; ``weight`` sums to one over all chunks."""

    def root(theta: list[Array]) -> PyTree:
        dist = policy(_with_floats(params, theta), obs)
        share = jnp.sqrt(_share(dist, weight, num_chunks))
        return jax.tree.map(lambda x: _scale_rows(share, x), fisher_root(dist))

    def kl(theta: list[Array]) -> Array:
        old, new = policy(params, obs), policy(_with_floats(params, theta), obs)
        return jnp.sum(_scale_rows(_share(old, weight, num_chunks), old.kl_divergence(new)))

    theta = _floats(params)
    # The linear maps inherit the precision that their matrix products were traced with.
    with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
        try:
            _, push = jax.linearize(root, theta)
        except NotImplementedError:
            # The Hessian is in the parameters, since a distribution may hold one number in several
            # leaves.
            _, push = jax.linearize(jax.grad(kl), theta)
            pull = None
        else:
            pull = jax.linear_transpose(push, theta)

    def image(v: PyTree) -> PyTree:
        moved = _floats(v, like=params)
        pairs = zip(moved, theta, strict=True)
        return push([loops.match_varying(x.astype(leaf.dtype), leaf) for x, leaf in pairs])

    def product(v: PyTree) -> PyTree:
        result = image(v) if pull is None else pull(image(v))[0]
        return _with_floats(jax.tree.map(_no_tangent, params), result)

    def quadratic_form(v: PyTree) -> Array:
        x = image(v)
        other = _floats(v, like=params) if pull is None else x
        squares = jax.tree.map(lambda a, b: jnp.sum(a * b), x, other)
        # A sum of squares, so not negative; with a Hessian only up to rounding.
        return jnp.maximum(functools.reduce(jnp.add, jax.tree.leaves(squares)), 0)

    return FisherOperator(product, quadratic_form)


def _share(dist: Any, weight: Array | None, num_chunks: int) -> Array:
    """Each state's share of the mean: [*E], or [] if all are equal."""
    shape = jax.eval_shape(lambda: dist.kl_divergence(dist)).shape
    if weight is None:
        return jnp.asarray(1 / (num_chunks * max(math.prod(shape), 1)))
    if weight.shape != shape:
        raise ValueError(f"weight has shape {weight.shape}, the policy's batch shape is {shape}")
    return weight


def _scale_rows(scale: Array, leaf: Array) -> Array:
    """The leaf [*E, ...] times scale [*E]; 0 where the scale is 0, whatever the leaf holds."""
    leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    scale = scale.astype(leaf.dtype)
    scale = scale.reshape(scale.shape + (1,) * (leaf.ndim - scale.ndim))
    return scale * leaf if scale.size == 1 else jnp.where(scale > 0, scale * leaf, 0)


def _deal(leaf: Array, num_chunks: int, index: Array | int) -> Array:
    """Rows index, index + num_chunks, ...; a contiguous block could lie on one device."""
    dealt = leaf.reshape(leaf.shape[0] // num_chunks, num_chunks, *leaf.shape[1:])
    return jax.lax.dynamic_index_in_dim(dealt, index, axis=1, keepdims=False)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating)


def _floats(tree: PyTree, like: PyTree = None) -> list[Array]:
    """The leaves of ``tree`` where ``like`` (by default ``tree``) has floats."""
    pattern = jax.tree.leaves(tree if like is None else like)
    leaves = zip(jax.tree.leaves(tree), pattern, strict=True)
    return [jnp.asarray(leaf) for leaf, other in leaves if _is_float(other)]


def _with_floats(tree: PyTree, floats: list[Array]) -> PyTree:
    """``tree`` with its float leaves replaced."""
    remaining = iter(floats)
    return jax.tree.map(lambda leaf: next(remaining) if _is_float(leaf) else leaf, tree)


def _no_tangent(leaf: Any) -> Any:
    """The zero for a leaf without a tangent; a random key has no zero, so a bool stands for it."""
    aval = jax.typeof(leaf)
    is_key = jnp.issubdtype(aval.dtype, jax.dtypes.extended)
    return leaf if _is_float(leaf) else jnp.zeros(aval.shape, bool if is_key else aval.dtype)
