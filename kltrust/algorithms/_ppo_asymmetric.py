"""PPO whose clip is wider above than below."""

from __future__ import annotations

from kltrust.algorithms._ppo_clip import PPOClip
from kltrust.algorithms._registry import algorithm
from kltrust.losses import clipped_surrogate_loss
from kltrust.settings import INF, setting
from kltrust.types import Array, Number
from kltrust.updates import Sample


@algorithm("ppo_asymmetric")
class PPOAsymmetric(PPOClip):
    """`ppo_clip` with a separate upper edge for good actions, and a second edge for bad actions.

    The interval of ratios is [1 - clip_eps, 1 + clip_high] (Yu et al. 2025, DAPO): a rare, good
    action may become likely faster. A bad action also has no gradient beyond r = ``dual_clip`` (Ye
    et al. 2020), so that a large ratio, driven up by other rows, does not dominate the step.
    """

    clip_high: Number = setting(
        0.28,
        "How far above 1 a good action's ratio has an incentive.",
        above=0,
        infinite=True,
        usual="0.28, with 0.2 below (Yu et al. 2025)",
    )
    dual_clip: Number = setting(
        INF,
        "The ratio beyond which a bad action has no gradient.",
        above=1,
        infinite=True,
        usual="3 (Ye et al. 2020); inf, off",
    )

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The clipped surrogate."""
        return clipped_surrogate_loss(
            sample.log_ratio,
            sample.advantage,
            self.clip_eps,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )


ppo_asymmetric = PPOAsymmetric
