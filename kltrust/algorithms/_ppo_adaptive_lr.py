"""PPO with the clipped surrogate and a learning rate that follows the KL."""

from __future__ import annotations

from typing import NamedTuple

from kltrust.algorithms._registry import algorithm
from kltrust.checks import check_order
from kltrust.losses import clipped_surrogate_loss
from kltrust.settings import INF, setting
from kltrust.types import Array, Number, PyTree
from kltrust.updates import FirstOrder, Sample, follow_kl
from kltrust.updates.fields import (
    CLIP_EPS,
    MAX_GRAD_NORM,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    STOP_KL,
    TARGET_KL,
)


class AdaptiveState(NamedTuple):
    """The optimiser's state and its learning rate: [] float."""

    optimizer: PyTree
    learning_rate: Array


@algorithm("ppo_adaptive_lr")
class PPOAdaptiveLR(FirstOrder):
    """`ppo_clip` with a learning rate that holds the KL near a set point.

    The learning rate changes once, after the epochs. Let d be the exact mean KL(old || new) over
    the whole batch. If d > target_kl * kl_tolerance, the learning rate is divided by
    learning_rate_factor; if d < target_kl / kl_tolerance, it is multiplied by it, within bounds.

    The rule comes from training legged robots (Rudin et al. 2021 and their rsl_rl). Their code
    applies it before every minibatch step, to that minibatch's KL so far; rl_games does the same,
    or applies it after every epoch. Within an iteration the KL grows from 0. At 0 rsl_rl leaves the
    rate unchanged; the next steps raise it and the last ones lower it. Here the rule sees the
    iteration's final KL, and a KL of 0 raises the rate.

    Extra:
        - ``learning_rate``: the one that this update was made with.
    """

    State = AdaptiveState

    init_learning_rate: Number = setting(
        1e-3, "The optimiser's learning rate at the start.", above=0, usual="1e-3 (rsl_rl)"
    )
    target_kl: Number = setting(0.01, anneal=2, **TARGET_KL)
    clip_eps: Number = setting(0.2, **CLIP_EPS)
    num_epochs: int = setting(5, **NUM_EPOCHS)
    num_minibatches: int = setting(4, **NUM_MINIBATCHES)
    max_kl: Number = setting(INF, anneal=2, **STOP_KL)
    kl_tolerance: Number = setting(
        2.0,
        "The learning rate stays while the KL is within this factor of target_kl.",
        at_least=1,
        usual="1.5 to 2; 2 (rsl_rl)",
    )
    learning_rate_factor: Number = setting(
        1.5, "One step of the learning rate, up or down.", at_least=1, usual="1.5 (rsl_rl)"
    )
    min_learning_rate: Number = setting(
        1e-5,
        "The learning rate never falls below it.",
        above=0,
        role="floor",
        usual="1e-5 (rsl_rl)",
    )
    max_learning_rate: Number = setting(
        1e-2,
        "The learning rate never rises above it.",
        above=0,
        infinite=True,
        role="ceiling",
        usual="1e-2 (rsl_rl)",
    )
    max_grad_norm: Number = setting(1.0, **MAX_GRAD_NORM)

    def check(self) -> None:
        """Refuses bounds in the wrong order."""
        check_order(
            min_learning_rate=self.min_learning_rate, max_learning_rate=self.max_learning_rate
        )

    def losses(self, sample: Sample, coefficient: Array) -> Array:
        """The clipped surrogate."""
        return clipped_surrogate_loss(sample.log_ratio, sample.advantage, self.clip_eps)

    def rate(self, coefficient: Array) -> Array:
        """The coefficient is the learning rate."""
        return coefficient

    def first_coefficient(self) -> Number:
        """The learning rate of the first iteration."""
        return self.init_learning_rate

    def next_coefficient(self, coefficient: Array, kl: Array, stopped: Array) -> Array:
        """The next learning rate."""
        return follow_kl(
            coefficient,
            kl,
            stopped,
            target_kl=self.target_kl,
            tolerance=self.kl_tolerance,
            if_above=1 / self.learning_rate_factor,
            if_below=self.learning_rate_factor,
            low=self.min_learning_rate,
            high=self.max_learning_rate,
        )


ppo_adaptive_lr = PPOAdaptiveLR
