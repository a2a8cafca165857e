"""PPO with a penalty on the Fisher-Rao distance."""

from __future__ import annotations

from kltrust.algorithms._registry import algorithm
from kltrust.losses import fisher_rao_loss
from kltrust.settings import setting
from kltrust.types import Array, Number
from kltrust.updates import FirstOrder, Sample
from kltrust.updates.fields import LEARNING_RATE


@algorithm("fr_ppo")
class FRPPO(FirstOrder):
    """Epochs of minibatch steps on r A - FR^2 / (2 tau), FR the Fisher-Rao distance.

    FR^2 = 4 sum_a (sqrt(new(a)) - sqrt(old(a)))^2 (Lascu et al. 2025). Its estimate at old's
    actions is 4 (sqrt(r) - 1)^2. To second order it is twice the KL, in either direction, so that
    tau is a step size: near old it is that of `mdpo`.

    The authors' code averages 4 (sqrt(new(a)) - sqrt(old(a)))^2 over old's actions, which weighs
    each action by old(a) once more. As an option it scales the result with the largest advantage.
    Its tau, 1e-3 by default, is therefore not comparable.
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    tau: Number = setting(
        0.2,
        "Step size, in 1 / advantage: a small step of a sample has its optimum near r = 1 + tau A.",
        above=0,
        infinite=True,
        role="drift",
        usual="0.05 to 0.5, as a clip of that width moves",
    )

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The surrogate less the penalty."""
        return fisher_rao_loss(sample.log_ratio, sample.advantage, self.tau)


fr_ppo = FRPPO
