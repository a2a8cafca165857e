"""PPO with the clipped surrogate."""

from __future__ import annotations

from kltrust.algorithms._registry import algorithm
from kltrust.losses import clipped_surrogate_loss
from kltrust.settings import setting
from kltrust.types import Array, Number
from kltrust.updates import FirstOrder, Sample
from kltrust.updates.fields import CLIP_EPS, LEARNING_RATE


@algorithm("ppo_clip")
class PPOClip(FirstOrder):
    """Epochs of minibatch steps on the clipped surrogate (Schulman et al. 2017, eq. 7).

    Clipping takes away the incentive to move a ratio beyond 1 +- clip_eps. It bounds neither the
    ratios nor the KL (Engstrom et al. 2020).
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    clip_eps: Number = setting(0.2, **CLIP_EPS)

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The clipped surrogate."""
        return clipped_surrogate_loss(sample.log_ratio, sample.advantage, self.clip_eps)


ppo_clip = PPOClip
