"""Spectra of symmetric, positive semidefinite matrices that are known only by their products.

It uses only sums and products of small matrices. Under ``vmap``, XLA's CPU backend would hand a
factorisation to LAPACK in batches, which can deadlock on small machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.solvers import conjugate_gradient
from kltrust.tree import dot, norm, not_measured, safe_divide
from kltrust.types import Array, Number

_HIGHEST = jax.lax.Precision.HIGHEST
_SQUARINGS = 40  # eigenvalues that agree to 1 in 1e12 are one eigenvalue, in float64 too

_Pair: TypeAlias = tuple[Array, Array]

Product: TypeAlias = Callable[[Array], Array]
"""``v [n] -> A v [n]``."""


class Estimate(NamedTuple):
    """A number and its error, both [], in the same units."""

    value: Array
    error: Array


def largest_eigenvalue(product: Product, start: Array, num_iters: int) -> Estimate:
    """The largest Ritz value of A over the Krylov space of ``start``, by Lanczos's iteration.

    It is a Rayleigh quotient, so up to rounding it is never above the largest eigenvalue. Every
    new direction is made orthogonal to all earlier ones, twice, since in floating point the
    three-term recurrence alone loses orthogonality as soon as a Ritz value converges.

    ``product`` multiplies by a symmetric, positive semidefinite A. ``start`` [n] must have a part
    along the leading eigenvector: use a random vector. num_iters is static; at most n iterations
    are made.

    Returns:
        The Ritz value, and beta_k |y_k| = |A x - value x| of its Ritz vector x, plus an allowance
        for rounding: some eigenvalue of A is within that distance.
    """
    num_iters = min(num_iters, start.size)
    tridiagonal, last = lanczos(product, start, num_iters)
    value, vector = dominant_eigenpair(tridiagonal)
    rounding = num_iters * jnp.finfo(value.dtype).eps * jnp.abs(value)
    return Estimate(value, last * jnp.abs(vector[-1]) + rounding)


def lanczos(product: Product, start: Array, num_iters: int) -> tuple[Array, Array]:
    """Q'AQ for an orthonormal basis Q of the Krylov space of ``start``: [k, k], tridiagonal.

    Lanczos (1950). After the space is exhausted, rows and columns of zeros follow. The second
    value is beta_k, the norm of the part outside the space of A times the last direction.
    """
    eps = jnp.finfo(start.dtype).eps

    def step(carry: _Pair, index: Array) -> tuple[_Pair, _Pair]:
        basis, direction = carry
        basis = basis.at[index].set(direction)
        image = product(direction)
        diagonal, size = dot(direction, image), norm(image)
        for _ in range(2):
            inside = jnp.matmul(basis, image, precision=_HIGHEST)
            image = image - jnp.matmul(inside, basis, precision=_HIGHEST)
        beta = norm(image)
        beta = jnp.where(beta > eps * size, beta, 0)
        direction = safe_divide(image, beta)
        return (basis, direction), (diagonal, beta)

    carry = jnp.zeros((num_iters, start.size), start.dtype), start / norm(start)
    _, (diagonal, beta) = loops.scan(step, carry, jnp.arange(num_iters))
    beside = jnp.diag(beta[:-1], 1) if num_iters > 1 else jnp.zeros((1, 1), start.dtype)
    return jnp.diag(diagonal) + beside + beside.T, beta[-1]


def dominant_eigenpair(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalue [] and unit eigenvector [k] of the largest modulus, of a small symmetric matrix.

    It uses repeated squaring: A^(2^m), normalised, tends to the projector on the eigenvector.
    """

    def square(_: int, power: Array) -> Array:
        return _unit(jnp.matmul(power, power, precision=_HIGHEST))

    projector = loops.fori_loop(0, _SQUARINGS, square, _unit(matrix))
    vector = _unit(projector[jnp.argmax(jnp.diag(projector))])
    image = jnp.matmul(matrix, vector, precision=_HIGHEST)
    return dot(vector, image), vector


class EffectiveDimension(NamedTuple):
    """An estimate of tr(A (A + damping I)^-1) over random probes; scalars.

    Attributes:
        value: the mean over the probes.
        standard_error: of that mean, over the probes.
        residual: the largest |z - (A + damping I) y| / |z| of the solves. The solves approach from
            one side: if the residual is not small, the value is too large.
    """

    value: Array
    standard_error: Array
    residual: Array


def effective_dimension(
    product: Product,
    damping: Number,
    like: Array,
    key: Array,
    *,
    num_probes: int,
    num_iters: int,
    rtol: Number = 1e-5,
) -> EffectiveDimension:
    """The number of directions, of n, in which A outweighs the damping: tr(A (A + damping I)^-1).

    It is at most n. Hutchinson's estimator (1990) with Rademacher probes z: E[z'(z - damping y)], y
    the solution of (A + damping I) y = z by conjugate gradients. The probes run one after the
    other, in the memory of one.

    Args:
        product: multiplies by a symmetric, positive semidefinite A.
        damping: at 0 the value is the rank of A, which this can't find: NaN.
        like: [n] gives the size and dtype.
        key: draws the probes.
        num_probes: at least 2, static.
        num_iters: iterations of a solve at most, static.
        rtol: relative residual at which a solve ends.
    """

    def probe(key: Array) -> tuple[Array, Array]:
        z = jax.random.rademacher(key, like.shape, like.dtype)
        y, residual = conjugate_gradient(
            lambda v: product(v) + damping * v, z, num_iters, rtol=rtol
        )
        return dot(z, z - damping * y), residual / norm(z)

    values, residuals = jax.lax.map(probe, jax.random.split(key, num_probes))
    standard_error = jnp.std(values, ddof=1) / num_probes**0.5
    known = jnp.asarray(damping) > 0
    value, error = (jnp.where(known, x, not_measured()) for x in (jnp.mean(values), standard_error))
    return EffectiveDimension(value, error, jnp.max(residuals))


def _unit(x: Array) -> Array:
    """The unit vector along x; 0 stays 0."""
    return safe_divide(x, norm(x))
