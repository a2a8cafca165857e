"""Trust region policy optimisation."""

from __future__ import annotations

from math import inf

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.checks import check, check_count, check_range
from kltrust.divergences import kl_divergence
from kltrust.solvers import backtracking_line_search, trust_region_scale
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PolicyUpdate
from kltrust.updates.natural import natural_direction
from kltrust.updates.objectives import surrogate


def trpo(
    *,
    max_kl: Number = 0.01,
    damping: Number = 0.1,
    cg_iters: int = 10,
    cg_rtol: Number = 1e-5,
    shrink: Number = 0.8,
    max_backtracks: int = 10,
    entropy_coef: Number = 0.0,
    fisher_stride: int = 1,
    fisher_chunks: int = 0,
) -> PolicyUpdate:
    """The step that improves the surrogate the most while the mean KL stays within a bound.

    maximise  L(theta) = mean(r A) + entropy_coef * mean entropy
    subject to  mean KL(old || theta) <= max_kl    (Schulman et al. 2015, eq. 14 and appendix C)

    solved to first order in L and second order in the KL: the natural direction x at old, scaled
    to the boundary of the quadratic model, then shortened until the true KL and L both agree. If
    no length does, the parameters stay what they were, bit for bit.

    Args:
        max_kl: hard bound on the mean KL(old || new) over the batch's states, nats.
        damping: added to F's diagonal. It shortens the step: |step| <= sqrt(2 max_kl / damping).
        cg_iters: conjugate-gradient iterations at most (10: the paper).
        cg_rtol: relative residual at which they end early.
        shrink: factor from one candidate length to the next.
        max_backtracks: how often the step is shortened before it is given up.
        entropy_coef: weight of the mean entropy (nats) in L.
        fisher_stride: F over every so-many-th state (10: the paper's 10 % of the data).
        fisher_chunks: F's products in so many parts, to bound memory and, on CPUs, time; 0 leaves
            the number to the library (`fisher.fitting_chunks`).

    Extra:
        - ``max_kl``: the bound in force, nats; a schedule may move it.
        - ``accepted``: 1 if the line search took a step, 0 if the parameters stayed.
        - ``backtracks``: how often the step was shortened.
        - ``cg_residual``: |g - (F + damping I)x| / |g| when the conjugate gradients ended.
        - ``zero_gradient``: 1 if there was no step to try: the gradient was 0, or the step was not
          finite.

    Raises:
        ValueError: on a negative or zero setting that must not be.
    """
    check(
        max_kl=(max_kl, False),
        damping=(damping, True),
        cg_rtol=(cg_rtol, True),
        shrink=(shrink, False),
        entropy_coef=(entropy_coef, True),
    )
    check_range(
        max_kl=(max_kl, 0, inf),
        damping=(damping, 0, inf),
        shrink=(shrink, 0, 1),
        max_backtracks=(max_backtracks, 0, inf),
    )
    check_count(cg_iters=cg_iters, fisher_stride=fisher_stride, fisher_chunks=fisher_chunks or 1)

    def init(params: Params) -> tuple:
        return ()

    def update(
        policy: Policy, params: Params, state: tuple, batch: PolicyBatch, key: Array
    ) -> tuple[Params, tuple, dict[str, Array]]:
        def objective(params: Params) -> tuple[Array, Array]:
            value, new = surrogate(policy, params, batch, entropy_coef)
            return value, tree.weighted_mean(kl_divergence(batch.old, new), batch.weight)

        (old_value, _), gradient = jax.value_and_grad(objective, has_aux=True)(params)
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
        scale, moved = trust_region_scale(natural.curvature, max_kl)

        def acceptable(candidate: Params) -> tuple[Array, Array]:
            value, kl = objective(candidate)
            return (kl <= max_kl) & (value > old_value), kl

        search = backtracking_line_search(
            acceptable,
            params,
            tree.scale(scale, natural.direction),
            shrink=shrink,
            max_backtracks=max_backtracks,
        )
        extra = {
            "max_kl": jnp.asarray(max_kl, natural.curvature.dtype),
            "accepted": search.accepted,
            "backtracks": search.num_backtracks,
            "cg_residual": natural.residual,
            "zero_gradient": ~moved,
        }
        return search.params, state, extra

    return PolicyUpdate(init, update)
