"""Trust region policy optimisation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.algorithms._registry import algorithm
from kltrust.checks import check_order
from kltrust.divergences import kl_divergence
from kltrust.settings import setting
from kltrust.solvers import backtracking_line_search, boundary_scale, trust_region_scale
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree
from kltrust.updates import NaturalStep, surrogate


class TRPOState(NamedTuple):
    """The fraction of ``max_kl`` in force: [] float."""

    region: Array


@algorithm("trpo")
class TRPO(NaturalStep):
    """The step that improves the surrogate the most while the mean KL stays within a bound.

    maximise  L(theta) = mean(r A) + entropy_coef * mean entropy
    subject to  mean KL(old || theta) <= max_kl    (Schulman et al. 2015, eq. 14 and appendix C)

    It is solved to first order in L and second order in the KL. The natural direction x at old is
    scaled to the boundary of the quadratic model. The step is then shortened until the true KL is
    within its bound and L has improved. If no length does both, the parameters stay unchanged, bit
    for bit.

    There are options, all off by default. ``bounded`` takes a quantile of the states' KLs, or the
    largest, in place of their mean. ``boundary_steps`` bring the step to where the true KL, and not
    its model, meets the bound. ``accept_ratio`` and ``adaptive`` are rules of trust-region methods
    (Conn, Gould and Toint 2000). There rho is the actual gain of L divided by the gain of its
    linear model. A candidate with a rho below accept_ratio is shortened further. The region is the
    fraction of max_kl in force. It shrinks by ``region_step`` if rho was below ``low_ratio`` or no
    step was found. It grows by the same factor, up to all of max_kl, if the first candidate was
    taken with rho above ``high_ratio``.

    Extra:
        - ``max_kl``: the bound on the mean KL in force, nats; a schedule or the region may change
          it. NaN if a quantile below 1 is bounded, which says nothing about the mean.
        - ``accepted``: 1 if the line search took a step, 0 if the parameters stayed.
        - ``backtracks``: how often the step was shortened.
        - ``cg_residual``: |g - (F + damping I)x| / |g| when the conjugate gradients ended.
        - ``zero_gradient``: 1 if there was no step to try: the gradient was 0, or the step was not
          finite.
        - ``region``: the fraction of max_kl that this update was made with; 1 if not adaptive.
        - ``reduction_ratio``: rho of the last candidate.
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
        "Line search: how often a step is shortened before it is rejected.",
        at_least=0,
        at_most=1000,
        usual="10 to 15",
    )

    bounded: str = setting(
        "mean",
        "What max_kl bounds: the mean over states, or a quantile of theirs.",
        choices=("mean", "quantile"),
        usual="mean (Schulman et al. 2015)",
    )
    kl_quantile: Number = setting(
        1.0,
        "For quantile: the share of states within the bound. 1 bounds the largest KL.",
        above=0,
        at_most=1,
        usual="1, the maximum of the theory; 0.95",
    )
    boundary_steps: int = setting(
        0,
        "Number of halvings that bring the step to the true boundary. 0 keeps the "
        "boundary of the quadratic model.",
        at_least=0,
        at_most=100,
        usual="0; 8 comes within a per cent",
    )
    accept_ratio: Number = setting(
        0.0,
        "A step is accepted if it realises at least this share of the linear model's gain.",
        at_least=0,
        below=1,
        usual="0; 0.1 to 0.25 in trust-region methods",
    )
    adaptive: bool = setting(False, "Whether the region grows and shrinks.", usual="off")
    region_step: Number = setting(
        2.0, "Factor of the region, up or down.", at_least=1, needs="adaptive", usual="2"
    )
    low_ratio: Number = setting(
        0.25,
        "The region shrinks below this share of the predicted gain.",
        at_least=0,
        needs="adaptive",
        usual="0.25",
    )
    high_ratio: Number = setting(
        0.75,
        "The region grows above this share of the predicted gain.",
        at_least=0,
        needs="adaptive",
        usual="0.75",
    )
    min_region: Number = setting(
        1e-2,
        "The region never falls below this part of max_kl.",
        above=0,
        at_most=1,
        role="floor",
        needs="adaptive",
        usual="1e-3 to 1e-1",
    )

    def check(self) -> None:
        """Refuses ratios in the wrong order."""
        check_order(low_ratio=self.low_ratio, high_ratio=self.high_ratio)

    def init(self, params: Params) -> PyTree:
        """Nothing to remember, or a region of all of max_kl."""
        return TRPOState(jnp.ones((), tree.wide_dtype(params))) if self.adaptive else ()

    def update(
        self, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PyTree, dict[str, Array]]:
        """One step."""
        # In the whole update: rounded products would change the KL by more than a small step does.
        policy = tree.in_full_precision(policy)
        region = state.region if self.adaptive else 1.0
        max_kl = self.max_kl * region

        def measured(new: Any) -> Array:
            kl = kl_divergence(batch.old, new)
            if self.bounded == "mean":
                return tree.weighted_mean(kl, batch.weight)
            return tree.weighted_quantile(kl, self.kl_quantile, batch.weight)

        def objective(params: Params) -> tuple[Array, Array]:
            value, new = surrogate(policy, params, batch, self.entropy_coef)
            return value, measured(new)

        (old_value, _), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        natural = self.direction(policy, params, batch, gradient)
        scale, moved = trust_region_scale(natural.curvature, max_kl)
        step = tree.scale(scale, natural.direction)
        if self.boundary_steps:

            def kl_at(factor: Array) -> Array:
                return objective(tree.add_scaled(params, factor, step))[1]

            step = tree.scale(boundary_scale(kl_at, max_kl, self.boundary_steps), step)

        def acceptable(candidate: Params) -> tuple[Array, tuple[Array, Array]]:
            value, kl = objective(candidate)
            gain = value - old_value
            model = tree.dot(gradient, tree.add_scaled(candidate, -1.0, params))
            rho = jnp.where(model > 0, gain / jnp.where(model > 0, model, 1), 0)
            good = (gain >= self.accept_ratio * model) & (value > old_value)
            return (kl <= max_kl) & good, (kl, rho)

        search = backtracking_line_search(
            acceptable, params, step, shrink=self.shrink, max_backtracks=self.max_backtracks
        )
        dtype = natural.curvature.dtype
        of_mean = self.bounded == "mean" or jnp.asarray(self.kl_quantile) == 1
        extra = {
            "max_kl": jnp.where(of_mean, max_kl, tree.not_measured()).astype(dtype),
            "accepted": search.accepted,
            "backtracks": search.num_backtracks,
            "cg_residual": natural.residual,
            "zero_gradient": ~moved,
            "region": jnp.asarray(region, dtype),
            "reduction_ratio": search.aux[1],
        }
        if self.adaptive:
            state = TRPOState(self.next_region(state.region, search.aux[1], search))
        return search.params, state, extra

    def next_region(self, region: Array, rho: Array, search: Any) -> Array:
        """The next ``region`` [], from the last candidate's ``rho`` [] and the ``search``."""
        shrinks = ~search.accepted | (rho < self.low_ratio)
        grows = (rho > self.high_ratio) & (search.num_backtracks == 0)
        factor = jnp.where(shrinks, 1 / self.region_step, jnp.where(grows, self.region_step, 1.0))
        return jnp.clip(region * factor, self.min_region, 1).astype(region.dtype)


trpo = TRPO
