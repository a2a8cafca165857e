"""The natural policy gradient, scaled to a given KL."""

from __future__ import annotations

from math import inf

import jax

from kltrust import tree
from kltrust.checks import check, check_count, check_range
from kltrust.solvers import trust_region_scale
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PolicyUpdate
from kltrust.updates.natural import natural_direction
from kltrust.updates.objectives import surrogate


def npg(
    *,
    target_kl: Number = 0.01,
    damping: Number = 0.1,
    cg_iters: int = 10,
    cg_rtol: Number = 1e-5,
    entropy_coef: Number = 0.0,
    fisher_stride: int = 1,
    fisher_chunks: int = 0,
) -> PolicyUpdate:
    """The natural gradient step of a given length, with no line search.

    theta + sqrt(2 target_kl / x'(F + damping I)x) x,  x = (F + damping I)^-1 g  (Kakade 2001; the
    normalised step of Rajeswaran et al. 2017). The KL is that of its quadratic model only: the
    realised one may exceed ``target_kl``.

    Args:
        target_kl: set point of the quadratic model of the mean KL(old || new), nats.
        damping: added to F's diagonal (0.1: the usual value for MLPs).
        cg_iters: conjugate-gradient iterations at most (10: Schulman et al. 2015).
        cg_rtol: relative residual at which they end early.
        entropy_coef: weight of the mean entropy (nats) in the objective.
        fisher_stride: F over every so-many-th state of the batch.
        fisher_chunks: F's products in so many parts, to bound memory and, on CPUs, time; 0 leaves
            the number to the library (`fisher.fitting_chunks`).

    Extra:
        - ``cg_residual``: |g - (F + damping I)x| / |g| when the conjugate gradients ended.
        - ``moved``: 1 if a step was taken, 0 if the gradient was 0 or the step not finite.

    Raises:
        ValueError: on a negative or zero setting that must not be.
    """
    check(
        target_kl=(target_kl, False),
        damping=(damping, True),
        cg_rtol=(cg_rtol, True),
        entropy_coef=(entropy_coef, True),
    )
    check_range(target_kl=(target_kl, 0, inf), damping=(damping, 0, inf))
    check_count(cg_iters=cg_iters, fisher_stride=fisher_stride, fisher_chunks=fisher_chunks or 1)

    def init(params: Params) -> tuple:
        return ()

    def update(
        policy: Policy, params: Params, state: tuple, batch: PolicyBatch, key: Array
    ) -> tuple[Params, tuple, dict[str, Array]]:
        gradient = jax.grad(lambda p: surrogate(policy, p, batch, entropy_coef)[0])(params)
        natural = natural_direction(
            policy,
            params,
            batch,
            gradient,
            damping=damping,
            cg_iters=cg_iters,
            cg_rtol=cg_rtol,
            fisher_stride=fisher_stride,
            fisher_chunks=fisher_chunks,
        )
        scale, moved = trust_region_scale(natural.curvature, target_kl)
        extra = {"cg_residual": natural.residual, "moved": moved}
        return tree.add_scaled(params, scale, natural.direction), state, extra

    return PolicyUpdate(init, update)
