"""The quadratic model behind natural gradients, compared with what an update really did."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from kltrust import loops
from kltrust.audit._spectrum import (
    EffectiveDimension,
    Estimate,
    effective_dimension,
    largest_eigenvalue,
)
from kltrust.checks import check, check_count
from kltrust.divergences import kl_divergence
from kltrust.fisher import _floats, _with_floats, fisher_operator
from kltrust.losses import importance_ratio
from kltrust.solvers import conjugate_gradient
from kltrust.tree import dot, in_full_precision, norm, safe_divide, weighted_mean
from kltrust.types import Array, Number, Params, Policy, PolicyBatch
from kltrust.updates.objectives import log_ratio


class CurvatureAudit(NamedTuple):
    """The model at old_params of the step s = new_params - old_params, and the outcome; scalars.

    F is the Fisher matrix at old_params averaged over the batch's states, g the gradient at
    old_params of L = mean(r A), r = new(a|s) / batch.old(a|s).

    Attributes:
        kl: the realised mean of KL(old || new), nats.
        kl_quadratic: s'Fs / 2, the model's prediction of ``kl``.
        kl_quadratic_damped: s'(F + damping I)s / 2, which TRPO sets equal to its bound.
        surrogate_gain: the realised L(new) - L(old), in units of the advantage.
        surrogate_gain_linear: g's, the model's prediction of ``surrogate_gain``.
        gradient_norm: |g|.
        step_norm: |s|, in units of the parameters.
        curvature: s'Fs / s's, nats per squared unit of the parameters; 0 for s = 0.
        cg_residual: |g - (F + damping I)x| / |g| of the x that ``cg_iters`` conjugate-gradient
            iterations find, from one more product, not from CG's own recursion; 0 for g = 0.
        largest_eigenvalue: F's, by Lanczos's iteration, with the norm of its residual.
        effective_dimension: tr(F (F + damping I)^-1), by Hutchinson's estimator, with the
            standard error over the probes; NaN at damping = 0, None without probes.
    """

    kl: Array
    kl_quadratic: Array
    kl_quadratic_damped: Array
    surrogate_gain: Array
    surrogate_gain_linear: Array
    gradient_norm: Array
    step_norm: Array
    curvature: Array
    cg_residual: Array
    largest_eigenvalue: Estimate
    effective_dimension: EffectiveDimension | None


def audit_curvature(
    policy: Policy,
    old_params: Params,
    new_params: Params,
    batch: PolicyBatch,
    *,
    key: Array,
    damping: Number = 0.1,
    cg_iters: int = 10,
    cg_rtol: Number = 1e-5,
    num_lanczos: int = 16,
    num_probes: int = 8,
    probe_iters: int = 50,
    fisher_chunks: int = 1,
) -> CurvatureAudit:
    """How well the quadratic model of the KL and the linear model of the gain fitted an update.

    It costs at most some cg_iters + num_lanczos + num_probes * probe_iters Fisher products (some
    430 by default, 30 without probes): use it on request, not in every iteration. Leaves of the
    parameters that are not floats take no part.

    Args:
        policy: the policy.
        old_params: before the update.
        new_params: after it, from any algorithm.
        batch: the one that the update saw, or another one.
        key: gives Lanczos's start and the probes.
        damping: added to F's diagonal; pass the algorithm's own to compare with it. Traced.
        cg_iters: conjugate-gradient iterations at most, for ``cg_residual``.
        cg_rtol: relative residual at which they end.
        num_lanczos: iterations for the largest eigenvalue.
        num_probes: random probes for the effective dimension, 0 (not estimated) or at least 2.
        probe_iters: conjugate-gradient iterations of each probe at most.
        fisher_chunks: computes F's products in this many parts, to bound memory.

    Raises:
        ValueError: on a bad setting.
    """
    check(damping=(damping, True), cg_rtol=(cg_rtol, True))
    check_count(cg_iters=cg_iters, num_lanczos=num_lanczos)
    check_count(probe_iters=probe_iters, fisher_chunks=fisher_chunks)
    if num_probes < 0 or num_probes == 1:
        raise ValueError(
            f"num_probes must be 0 or at least 2, got {num_probes}: a standard error takes two"
        )
    policy, weight = in_full_precision(policy), batch.weight
    old_params, new_params = loops.match_varying((old_params, new_params))
    fisher = fisher_operator(policy, old_params, batch.obs, weight=weight, num_chunks=fisher_chunks)
    theta, restore = flatten_floats(old_params)
    step = flatten_floats(new_params)[0] - theta

    def product(v: Array) -> Array:
        return flatten_floats(fisher.product(restore(v)))[0]

    def damped(v: Array) -> Array:
        return product(v) + damping * v

    advantage = batch.advantage if weight is None else jnp.where(weight > 0, batch.advantage, 0)

    def ratio(theta: Array) -> Array:
        return importance_ratio(log_ratio(policy(restore(theta), batch.obs), batch))

    gradient = jax.grad(lambda t: weighted_mean(ratio(t) * advantage, weight))(theta)
    # L(new) - L(old) sample by sample: the difference of the two means would lose its digits.
    change = ratio(flatten_floats(new_params)[0]) - ratio(theta)
    curvature, length = fisher.quadratic_form(restore(step)), dot(step, step)
    x, _ = conjugate_gradient(damped, gradient, cg_iters, rtol=cg_rtol)
    lanczos_key, probe_key = jax.random.split(key)
    start = jax.random.normal(lanczos_key, theta.shape, theta.dtype)
    kl = kl_divergence(policy(old_params, batch.obs), policy(new_params, batch.obs))
    dimension = None
    if num_probes:
        dimension = effective_dimension(
            product, damping, theta, probe_key, num_probes=num_probes, num_iters=probe_iters
        )
    return CurvatureAudit(
        kl=weighted_mean(kl, weight),
        kl_quadratic=curvature / 2,
        kl_quadratic_damped=(curvature + damping * length) / 2,
        surrogate_gain=weighted_mean(change * advantage, weight),
        surrogate_gain_linear=dot(gradient, step),
        gradient_norm=norm(gradient),
        step_norm=norm(step),
        curvature=safe_divide(curvature, length),
        cg_residual=safe_divide(norm(gradient - damped(x)), norm(gradient)),
        largest_eigenvalue=largest_eigenvalue(product, start, num_lanczos),
        effective_dimension=dimension,
    )


def flatten_floats(params: Params) -> tuple[Array, Callable[[Array], Params]]:
    """The float leaves as one vector [n], and the way back, with the other leaves as they are."""
    vector, split = ravel_pytree(_floats(params))
    return vector, lambda vector: _with_floats(params, split(vector))
