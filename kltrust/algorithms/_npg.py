"""The natural policy gradient, scaled to a given KL."""

from __future__ import annotations

import jax

from kltrust import tree
from kltrust.algorithms._registry import algorithm
from kltrust.settings import setting
from kltrust.solvers import trust_region_scale
from kltrust.types import Array, Number, Params, Policy, PolicyBatch
from kltrust.updates import NaturalStep, surrogate


@algorithm("npg")
class NPG(NaturalStep):
    """The natural gradient step of a given length, with no line search.

    theta + sqrt(2 target_kl / x'(F + damping I)x) x,  x = (F + damping I)^-1 g  (Kakade 2001; the
    normalised step of Rajeswaran et al. 2017). Only the quadratic model of the KL meets
    ``target_kl``: the realised KL may exceed it.

    Extra:
        - ``cg_residual``: |g - (F + damping I)x| / |g| when the conjugate gradients ended.
        - ``moved``: 1 if a step was taken, 0 if the gradient was 0 or the step not finite.
    """

    target_kl: Number = setting(
        0.01,
        "Set point of the quadratic model of the mean KL(old || new), nats.",
        above=0,
        role="set point",
        anneal=2,
        usual="0.003 to 0.03",
    )

    def init(self, params: Params) -> tuple:
        """Nothing to remember."""
        return ()

    def update(
        self, policy: Policy, params: Params, state: tuple, batch: PolicyBatch, key: Array
    ) -> tuple[Params, tuple, dict[str, Array]]:
        """One step."""
        gradient = jax.grad(lambda p: surrogate(policy, p, batch, self.entropy_coef)[0])(params)
        natural = self.direction(policy, params, batch, gradient)
        scale, moved = trust_region_scale(natural.curvature, self.target_kl)
        extra = {"cg_residual": natural.residual, "moved": moved}
        return tree.add_scaled(params, scale, natural.direction), state, extra


npg = NPG
