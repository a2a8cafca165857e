"""Truly proximal policy optimisation: three losses for samples that have left the region."""

from __future__ import annotations

from kltrust.algorithms._registry import algorithm
from kltrust.losses import kl_clipped_loss, kl_rollback_loss, rollback_loss
from kltrust.settings import setting
from kltrust.types import Array, Number
from kltrust.updates import FirstOrder, Sample
from kltrust.updates.fields import LEARNING_RATE


@algorithm("tr_ppo")
class TRPPO(FirstOrder):
    """Epochs of minibatch steps on a surrogate, bent where a sample is outside and has gained.

    There are three forms (Wang et al. 2019), each for samples with (r - 1) A > 0:

    - ``clip``, TR-PPO: no gradient where the KL of the sample's state is beyond ``state_kl``.
    - ``truly``, Truly PPO: there r A - kl_slope (KL - state_kl), which pulls back.
    - ``rollback``, PPO-RB: where r is beyond 1 +- ``clip_eps``, the slope -``ratio_slope``.

    The KL is KL(old || new) of one state, exact. None of the forms bounds it.
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    form: str = setting(
        "truly",
        "The form of the surrogate: clip, truly or rollback.",
        choices=("clip", "truly", "rollback"),
        usual="truly (Wang et al. 2019)",
    )
    state_kl: Number = setting(
        0.03,
        "For clip and truly: the KL, nats, beyond which a state is outside.",
        above=0,
        infinite=True,
        role="drift",
        usual="0.03 with truly, 0.035 with clip; 0.05 on Humanoid (Wang et al. 2019)",
    )
    kl_slope: Number = setting(
        5.0,
        "For truly: the weight of the KL outside, in advantages per nat.",
        at_least=0,
        usual="5; 0.4 on Humanoid (Wang et al. 2019)",
    )
    clip_eps: Number = setting(
        0.2,
        "For rollback: the half-width of the interval of ratios.",
        above=0,
        infinite=True,
        usual="0.2 (Wang et al. 2019)",
    )
    ratio_slope: Number = setting(
        0.3,
        "For rollback: the negative slope beyond the interval.",
        at_least=0,
        usual="0.3; 0.02 on Humanoid (Wang et al. 2019)",
    )

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The bent surrogate."""
        log_ratio, advantage = sample.log_ratio, sample.advantage
        if self.form == "rollback":
            return rollback_loss(log_ratio, advantage, self.clip_eps, self.ratio_slope)
        if self.form == "clip":
            return kl_clipped_loss(log_ratio, advantage, sample.kl(), self.state_kl)
        return kl_rollback_loss(log_ratio, advantage, sample.kl(), self.state_kl, self.kl_slope)


tr_ppo = TRPPO
