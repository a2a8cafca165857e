"""The natural gradient direction."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust import loops, tree
from kltrust.fisher import fisher_operator, fitting_chunks
from kltrust.settings import setting, settings
from kltrust.solvers import conjugate_gradient
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree
from kltrust.updates.fields import ENTROPY_COEF
from kltrust.updates.vectors import as_tree, as_vector, is_uniform


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


@settings
class NaturalStep:
    """The settings of a natural gradient step, for algorithms to inherit."""

    damping: Number = setting(
        0.1,
        "Added to the Fisher matrix's diagonal. |step| <= sqrt(2 KL / damping).",
        at_least=0,
        role="fisher damping",
        usual="1e-5 (garage) to 0.1 (most)",
    )
    cg_iters: int = setting(
        10,
        "Maximum number of conjugate-gradient iterations.",
        at_least=1,
        at_most=10**4,
        usual="5 to 20; 10 (Schulman et al. 2015)",
        common=True,
    )
    cg_rtol: Number = setting(
        1e-5,
        "Conjugate gradients end early at this residual, relative to the gradient's norm.",
        at_least=0,
        usual="1e-10 to 1e-3; relative here, absolute in most",
    )
    entropy_coef: Number = setting(0.0, **ENTROPY_COEF)
    fisher_stride: int = setting(
        1,
        "The Fisher matrix averages over every fisher_stride-th state.",
        at_least=1,
        at_most=2**24,
        usual="1; 5 (baselines) to 10 (Schulman et al. 2015)",
    )
    fisher_chunks: int = setting(
        0,
        "Number of parts of a Fisher product, to bound memory; 0 leaves it to the library.",
        at_least=0,
        at_most=2**24,
        usual="0, the library's choice; more to bound memory",
    )

    def direction(
        self, policy: Policy, params: Params, batch: PolicyBatch, gradient: Params
    ) -> NaturalDirection:
        """The damped natural gradient by conjugate gradient on Fisher-vector products.

        F is taken at ``params`` of ``policy`` and averaged over the states of ``batch``; the
        ``gradient`` g is a pytree like ``params``.
        """
        obs, weight = jax.tree.map(lambda x: x[:: self.fisher_stride], (batch.obs, batch.weight))
        states = batch.advantage[:: self.fisher_stride].size // batch.blocks.number
        chunks = self.fisher_chunks or fitting_chunks(tree.leading_size(obs), states)

        def solve(num_chunks: int, strung: bool, g: Params) -> NaturalDirection:
            fisher = fisher_operator(policy, params, obs, weight=weight, num_chunks=num_chunks)
            like = g
            tree_of = partial(as_tree, like=like) if strung else lambda x: x
            g = as_vector(g) if strung else g

            def damped_fisher(v: PyTree) -> PyTree:
                product = fisher.product(tree_of(v))
                product = as_vector(product) if strung else product
                return tree.add_scaled(product, self.damping, v)

            x, residual = conjugate_gradient(damped_fisher, g, self.cg_iters, rtol=self.cg_rtol)
            # Equal to g'x for conjugate gradients from 0; as a sum of squares it can't be negative.
            curvature = fisher.quadratic_form(tree_of(x)) + self.damping * tree.dot(x, x)
            size = tree.norm(g)
            relative = jnp.where(size > 0, residual / size, 0.0)
            return NaturalDirection(tree_of(x), curvature, relative)

        # On a GPU or TPU one vector, since the steps of conjugate gradients on a tree would be a
        # separate kernel for every leaf; and no chunks.
        elsewhere = partial(solve, self.fisher_chunks or 1, is_uniform(gradient))
        return loops.platform_dependent(
            gradient, cpu=partial(solve, chunks, False), default=elsewhere
        )


def natural_direction(
    policy: Policy, params: Params, batch: PolicyBatch, gradient: Params, **step: Any
) -> NaturalDirection:
    """X = (F + damping I)^-1 g by `NaturalStep` with the settings ``step``.

    F is taken at ``params`` of ``policy`` and averaged over the states of ``batch``; the
    ``gradient`` g is a pytree like ``params``.
    """
    return NaturalStep(**step).direction(policy, params, batch, gradient)
