"""The natural gradient direction."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.fisher import fisher_operator, fitting_chunks
from kltrust.solvers import conjugate_gradient
from kltrust.types import Array, Number, Params, Policy, PolicyBatch


class NaturalDirection(NamedTuple):
    """x = (F + damping I)^-1 g.

    Attributes:
        direction: x, a pytree like the parameters.
        curvature: x'(F + damping I)x, [].
        residual: |g - (F + damping I)x| / |g|, [].
    """

    direction: Params
    curvature: Array
    residual: Array


def natural_direction(
    policy: Policy,
    params: Params,
    batch: PolicyBatch,
    gradient: Params,
    *,
    damping: Number,
    cg_iters: int,
    cg_rtol: Number,
    fisher_stride: int,
    fisher_chunks: int,
) -> NaturalDirection:
    """The damped natural gradient by conjugate gradient on Fisher-vector products.

    Args:
        policy: the policy.
        params: where F is taken.
        batch: its states are averaged over, every ``fisher_stride``-th of them.
        gradient: g, a pytree like ``params``.
        damping: added to F's diagonal.
        cg_iters: conjugate-gradient iterations at most.
        cg_rtol: the residual, relative to |g|, at which they end.
        fisher_stride: 1 takes all states; 10 is the 10 % of the data of Schulman et al. (2015).
        fisher_chunks: the product in so many parts; 0: `fitting_chunks`.
    """
    obs, weight = jax.tree.map(lambda x: x[::fisher_stride], (batch.obs, batch.weight))
    states = batch.advantage[::fisher_stride].size // batch.blocks.number
    chunks = fisher_chunks or fitting_chunks(tree.leading_size(obs), states)
    fisher = fisher_operator(policy, params, obs, weight=weight, num_chunks=chunks)

    def damped_fisher(v: Params) -> Params:
        return tree.add_scaled(fisher.product(v), damping, v)

    x, residual = conjugate_gradient(damped_fisher, gradient, cg_iters, rtol=cg_rtol)
    # Equal to g'x for conjugate gradients from 0; as a sum of squares it can't be negative.
    curvature = fisher.quadratic_form(x) + damping * tree.dot(x, x)
    size = tree.norm(gradient)
    return NaturalDirection(x, curvature, jnp.where(size > 0, residual / size, 0.0))
