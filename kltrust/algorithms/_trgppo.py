"""Trust region-guided PPO: a clipping interval for every sample, from a KL ball."""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.algorithms._ppo_clip import PPOClip
from kltrust.algorithms._registry import algorithm
from kltrust.losses import clipped_surrogate_loss
from kltrust.settings import setting
from kltrust.types import Array, Number, PolicyBatch, PyTree
from kltrust.updates import Sample
from kltrust.updates.families import ratio_interval


@algorithm("trgppo")
class TRGPPO(PPOClip):
    """`ppo_clip` with an interval for each sample: the one a KL ball allows, if that is wider.

    The interval is [min(l, 1 - clip_eps), max(u, 1 + clip_eps)] (Wang et al. 2019, TRGPPO). Here l
    and u are the smallest and the largest ratio of the action over all distributions of old's
    family with KL(old || .) <= ``state_kl``. An action that old hardly takes gets a wide interval:
    its probability may grow many times within the same KL. Nothing bounds the ratios or the KL, as
    in `ppo_clip`.
    """

    state_kl: Number = setting(
        0.02,
        "The largest KL(old || new) of a state, nats, that the intervals of ratios allow.",
        above=0,
        role="drift",
        usual="0.02 to 0.03; clip_eps**2 / 2 is the least that ever widens one",
    )

    def prepare(self, batch: PolicyBatch) -> PyTree:
        """The log ratios that the ball allows each row: two [N]."""
        return ratio_interval(batch.old, batch.action, self.state_kl)

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The clipped surrogate."""
        low, high = sample.batch.known
        # Keeps the upper edge within float32.
        widths = -jnp.expm1(low), jnp.expm1(jnp.minimum(high, 80.0))
        below, above = (jnp.maximum(width, self.clip_eps) for width in widths)
        return clipped_surrogate_loss(
            sample.log_ratio, sample.advantage, below, clip_high=above.astype(below.dtype)
        )


trgppo = TRGPPO
