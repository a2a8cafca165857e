"""Simple policy optimisation: a quadratic in the ratio in place of the clip."""

from __future__ import annotations

from kltrust.algorithms._registry import algorithm
from kltrust.losses import spo_loss
from kltrust.settings import setting
from kltrust.types import Array, Number
from kltrust.updates import FirstOrder, Sample
from kltrust.updates.fields import CLIP_EPS, LEARNING_RATE


@algorithm("spo")
class SPO(FirstOrder):
    """Epochs of minibatch steps on r A - abs(A) (r - 1)^2 / (2 eps) (Xie et al. 2025).

    The optimum of a sample is r = 1 + eps where A > 0 and r = 1 - eps where A < 0. A ratio beyond
    it is pulled back; `ppo_clip` has no gradient there. The authors report a mean of abs(r - 1)
    that stays within eps; nothing enforces it.
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    eps: Number = setting(
        0.2,
        **{
            **CLIP_EPS,
            "meaning": "The optimum of a sample is at abs(r - 1) = eps.",
            "usual": "0.1 to 0.3; 0.2 (Xie et al. 2025)",
        },
    )

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The surrogate less the quadratic."""
        return spo_loss(sample.log_ratio, sample.advantage, self.eps)


spo = SPO
