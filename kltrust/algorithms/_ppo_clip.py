"""PPO with the clipped surrogate."""

from __future__ import annotations

from kltrust.algorithms._registry import algorithm
from kltrust.settings import setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree, UpdateReport
from kltrust.updates import MinibatchEpochs, clipped_loss
from kltrust.updates.fields import CLIP_EPS, LEARNING_RATE


@algorithm("ppo_clip")
class PPOClip(MinibatchEpochs):
    """Epochs of minibatch steps on the clipped surrogate (Schulman et al. 2017, eq. 7).

    Clipping takes away the incentive to move a ratio beyond 1 +- clip_eps. It bounds neither the
    ratios nor the KL (Engstrom et al. 2020).
    """

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    clip_eps: Number = setting(0.2, **CLIP_EPS)

    def init(self, params: Params) -> PyTree:
        """The optimiser's state."""
        return self.make_optimizer(self.learning_rate).init(params)

    def update(
        self, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PyTree, UpdateReport]:
        """All epochs."""
        loss = clipped_loss(policy, self.clip_eps, self.entropy_coef)
        return self.fit(loss, policy, params, state, batch, key, self.learning_rate)


ppo_clip = PPOClip
