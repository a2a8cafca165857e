"""Trust region policy optimisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.algorithms._registry import algorithm
from kltrust.divergences import kl_divergence
from kltrust.settings import setting
from kltrust.solvers import backtracking_line_search, trust_region_scale
from kltrust.types import Array, Number, Params, Policy, PolicyBatch
from kltrust.updates import NaturalStep, surrogate


@algorithm("trpo")
class TRPO(NaturalStep):
    """The step that improves the surrogate the most while the mean KL stays within a bound.

    maximise  L(theta) = mean(r A) + entropy_coef * mean entropy
    subject to  mean KL(old || theta) <= max_kl    (Schulman et al. 2015, eq. 14 and appendix C)

    It is solved to first order in L and second order in the KL. The natural direction x at old is
    scaled to the boundary of the quadratic model, then shortened until the true KL and L both
    agree. If no length does, the parameters stay what they were, bit for bit.

    Extra:
        - ``max_kl``: the bound in force, nats; a schedule may move it.
        - ``accepted``: 1 if the line search took a step, 0 if the parameters stayed.
        - ``backtracks``: how often the step was shortened.
        - ``cg_residual``: |g - (F + damping I)x| / |g| when the conjugate gradients ended.
        - ``zero_gradient``: 1 if there was no step to try: the gradient was 0, or the step was not
          finite.
    """

    max_kl: Number = setting(
        0.01,
        "Hard bound on the mean KL(old || new) of an update, nats.",
        above=0,
        role="bound",
        anneal=2,
        usual="0.003 to 0.1; 0.01 (Schulman et al. 2015)",
    )
    shrink: Number = setting(
        0.8,
        "Line search: factor from one candidate step to the next.",
        above=0,
        below=1,
        usual="0.5 to 0.8",
    )
    max_backtracks: int = setting(
        10,
        "Line search: how often a step is shortened before it is given up.",
        at_least=0,
        at_most=1000,
        usual="10 to 15",
    )

    def init(self, params: Params) -> tuple:
        """Nothing to remember."""
        return ()

    def update(
        self, policy: Policy, params: Params, state: tuple, batch: PolicyBatch, key: Array
    ) -> tuple[Params, tuple, dict[str, Array]]:
        """One step."""
        # All of it: rounded products would make more of the KL than a small step does.
        policy = tree.in_full_precision(policy)

        def objective(params: Params) -> tuple[Array, Array]:
            value, new = surrogate(policy, params, batch, self.entropy_coef)
            return value, tree.weighted_mean(kl_divergence(batch.old, new), batch.weight)

        (old_value, _), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        natural = self.direction(policy, params, batch, gradient)
        scale, moved = trust_region_scale(natural.curvature, self.max_kl)

        def acceptable(candidate: Params) -> tuple[Array, Array]:
            value, kl = objective(candidate)
            return (kl <= self.max_kl) & (value > old_value), kl

        search = backtracking_line_search(
            acceptable,
            params,
            tree.scale(scale, natural.direction),
            shrink=self.shrink,
            max_backtracks=self.max_backtracks,
        )
        extra = {
            "max_kl": jnp.asarray(self.max_kl, natural.curvature.dtype),
            "accepted": search.accepted,
            "backtracks": search.num_backtracks,
            "cg_residual": natural.residual,
            "zero_gradient": ~moved,
        }
        return search.params, state, extra


trpo = TRPO
