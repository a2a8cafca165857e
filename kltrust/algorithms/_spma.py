"""Softmax policy mirror ascent: fits the improved policy as a target."""

from __future__ import annotations

from kltrust.algorithms._registry import algorithm
from kltrust.losses import log_surrogate_loss
from kltrust.settings import setting
from kltrust.types import Array, Number
from kltrust.updates import FirstOrder, Sample
from kltrust.updates.fields import LEARNING_RATE


@algorithm("spma")
class SPMA(FirstOrder):
    """Epochs of minibatch steps towards old (1 + step_size A), by the forward KL.

    On the simplex that target is the step of mirror ascent in the logits of a softmax (Asad et al.
    2025). It needs no normalisation over actions, since old's mean advantage is 0. Up to a
    constant, KL(target || new) is the mean over old's actions of -(1 + step_size A) log new(a). The
    term without the advantage is computed exactly here, as KL(old || new), and not at the sampled
    actions:

    minimise  mean(-A log(r)) + mean KL(old || new) / step_size.

    An advantage below -1 / step_size counts as -1 / step_size, where the target is 0.
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    step_size: Number = setting(
        0.2,
        "Step size of mirror ascent, in 1 / advantage.",
        above=0,
        infinite=True,
        role="drift",
        usual="0.05 to 0.5 with standardised advantages",
    )

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The part of KL(target || new) that depends on new, over the step size."""
        return log_surrogate_loss(sample.log_ratio, sample.advantage, sample.kl(), self.step_size)


spma = SPMA
