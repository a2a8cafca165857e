"""Trust region projection layers: a bound at every state by projection."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kltrust import tree
from kltrust.algorithms._registry import algorithm
from kltrust.divergences import distribution_log_prob, kl_divergence
from kltrust.losses import surrogate_loss
from kltrust.settings import setting
from kltrust.types import (
    Array,
    Distribution,
    Number,
    Params,
    Policy,
    PolicyBatch,
)
from kltrust.updates import FirstOrder, Sample
from kltrust.updates.families import project
from kltrust.updates.fields import LEARNING_RATE


@algorithm("trpl")
class TRPL(FirstOrder):
    """Epochs of minibatch steps on the projected policy's surrogate, with a regression towards it.

    minimise  mean(-r~ A) + regression_coef * mean KL(projected || new)

    At every state the projected policy is the nearest to new within a ball around old,
    KL(projected || old) <= ``projected_kl``. For Gaussians this bounds the part of the means, and
    ``projected_scale_kl`` bounds the part of the scales (Otto et al. 2021). The ratio r~ is that of
    the projected policy, and the gradient goes through the projection. In the second term the
    projected policy is constant: the term draws new towards the ball. New acts next, and nothing
    bounds it. Both policies are measured.

    Extra:
        - ``projected_kl``: mean KL(old || projected), nats; that of the acting policy is ``kl``.
        - ``projected_kl_max``: the largest KL(projected || old) of a state; within the bounds.
        - ``outside``: the share of states where new is outside its ball.
        - ``projection_gap``: mean KL(projected || new), the regression's remaining error.
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    projected_kl: Number = setting(
        0.03,
        "Bound on KL(projected || old) of a state, nats. For a Gaussian: on the part of its means.",
        above=0,
        role="drift",
        usual="0.03 for Gaussian means (Otto et al. 2021)",
    )
    projected_scale_kl: Number = setting(
        1e-3,
        "For a Gaussian: the bound on the part of its scales, nats.",
        above=0,
        usual="1e-3 (Otto et al. 2021)",
    )
    regression_coef: Number = setting(
        8.0,
        "Weight of KL(projected || new), in advantages per nat.",
        at_least=0,
        usual="8",
    )

    def projected(self, old: Distribution, new: Distribution) -> Distribution:
        """The nearest to ``new`` in the ball around ``old``, state by state: [N]."""
        return project(old, new, self.projected_kl, self.projected_scale_kl)

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The surrogate of the projected policy, and the regression of new on it."""
        action, old = sample.batch.action, sample.old
        projected = self.projected(old, sample.new)
        taken = jax.lax.stop_gradient(distribution_log_prob(old, action))
        log_ratio = distribution_log_prob(projected, action) - taken
        gap = kl_divergence(jax.lax.stop_gradient(projected), sample.new)
        return surrogate_loss(log_ratio, sample.advantage) + tree.weighted(
            self.regression_coef, gap
        )

    def extra(self, policy: Policy, params: Params, batch: PolicyBatch) -> dict[str, Array]:
        """Measurements of the projected policy."""
        new: Any = tree.in_full_precision(policy)(params, batch.obs)
        projected = self.projected(batch.old, new)
        reached, wanted = (kl_divergence(q, batch.old) for q in (projected, new))
        counted = jnp.ones((), bool) if batch.weight is None else batch.weight > 0

        def mean(x: Array) -> Array:
            return tree.weighted_mean(x, batch.weight)

        return {
            "projected_kl": mean(kl_divergence(batch.old, projected)),
            "projected_kl_max": jnp.max(jnp.where(counted, reached, 0)),
            "outside": mean((wanted > reached * (1 + 1e-3)).astype(reached.dtype)),
            "projection_gap": mean(kl_divergence(projected, new)),
        }


trpl = TRPL
