"""PPO with the drift that meta-learning found."""

from __future__ import annotations

from kltrust.algorithms._registry import algorithm
from kltrust.losses import learned_drift_loss
from kltrust.settings import setting
from kltrust.types import Array, Number
from kltrust.updates import FirstOrder, Sample
from kltrust.updates.fields import LEARNING_RATE


@algorithm("drift_ppo")
class DriftPPO(FirstOrder):
    """Epochs of minibatch steps on r A - D, with a learned drift D (Lu et al. 2022).

    D = relu(x - alpha tanh(x / alpha)),  x = (r - 1) A,  where A >= 0,
    D = relu(x - beta tanh(x / beta)),  x = log(r) A,  where A < 0.

    The form was read off a drift that evolution strategies had found on continuous control. Its
    authors call it discovered policy optimisation, DPO; it has nothing to do with preferences.
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    drift_alpha: Number = setting(
        2.0,
        "The gain (r - 1) A of a good action saturates at drift_alpha.",
        above=0,
        role="drift",
        usual="2 (Lu et al. 2022)",
    )
    drift_beta: Number = setting(
        0.6,
        "A bad action is pushed away no further once log(r) A passes the scale drift_beta.",
        above=0,
        role="drift",
        usual="0.6 (Lu et al. 2022)",
    )

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The surrogate less the learned drift."""
        return learned_drift_loss(
            sample.log_ratio, sample.advantage, self.drift_alpha, self.drift_beta
        )


drift_ppo = DriftPPO
