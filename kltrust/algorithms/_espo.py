"""Early stopping in place of a clip."""

from __future__ import annotations

from kltrust.algorithms._registry import algorithm
from kltrust.losses import surrogate_loss
from kltrust.settings import setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch
from kltrust.updates import FirstOrder, Gate, Sample, change_gate, kl_gate
from kltrust.updates.fields import LEARNING_RATE


@algorithm("espo")
class ESPO(FirstOrder):
    """Epochs of minibatch steps on r A, unclipped, until the mean of abs(r - 1) is too large.

    The first epoch after which the mean over the batch exceeds ``max_change`` is the last (Sun et
    al. 2022, early stopping policy optimisation). It is not undone, so the mean may end above
    ``max_change``. With a finite ``max_kl`` the KL ends the epochs likewise.

    Extra:
        - ``kl_stopped``: 1 if the epochs ended early.
    """

    undo = False

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    max_change: Number = setting(
        0.25,
        "No further epoch is run once the mean of abs(r - 1) exceeds this.",
        above=0,
        infinite=True,
        role="drift",
        usual="0.25 (Sun et al. 2022)",
    )
    max_kl: Number = setting(
        float("inf"),
        "No further epoch is run once the mean KL(old || new), nats, exceeds this.",
        above=0,
        infinite=True,
        usual="inf, off",
    )

    def losses(self, sample: Sample, coefficient: None) -> Array:
        """The surrogate."""
        return surrogate_loss(sample.log_ratio, sample.advantage)

    def gate(self, policy: Policy) -> Gate:
        """Whether both measures are within their bounds."""
        by_kl, by_change = kl_gate(policy, self.max_kl), change_gate(policy, self.max_change)

        def gate(params: Params, batch: PolicyBatch) -> Array:
            return by_kl(params, batch) & by_change(params, batch)

        return gate


espo = ESPO
