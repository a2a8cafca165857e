"""PPO with a penalty on the KL, fixed or adaptive, in either direction."""

from __future__ import annotations

from typing import NamedTuple

from kltrust.algorithms._registry import algorithm
from kltrust.checks import check, check_order
from kltrust.divergences import kl_divergence
from kltrust.losses import penalty_surrogate_loss
from kltrust.settings import setting
from kltrust.types import Array, Number, PyTree
from kltrust.updates import Divergence, FirstOrder, Sample, follow_kl, reverse_kl
from kltrust.updates.fields import LEARNING_RATE, TARGET_KL

DIVERGENCES: dict[str, Divergence] = {"kl": kl_divergence, "reverse_kl": reverse_kl}


class PenaltyState(NamedTuple):
    """The optimiser's state and the penalty's weight: [] float."""

    optimizer: PyTree
    beta: Array


@algorithm("ppo_penalty")
class PPOPenalty(FirstOrder):
    """Epochs of minibatch steps on the penalty surrogate, -r A + beta KL(old || new), the exact KL.

    If adaptive, beta changes after the epochs for the next iteration. Let d be the mean KL
    over the whole batch. If d > target_kl * beta_tolerance, beta is multiplied by beta_increase; if
    d < target_kl / beta_tolerance, by beta_decrease. Schulman et al. (2017, section 4) take 1.5, 2
    and 1/2, RLlib 2, 1.5 and 1/2. With no advantage to follow, the parameters still drift by about
    a learning rate: Adam rescales the KL's vanishing gradient to steps of its usual size.

    ``beta`` is relative to the advantages' scale: the papers' 0.3 to 10 presume standardised ones.

    Extra:
        - ``beta``: the weight that this update was made with; the next update logs the new one.
    """

    State = PenaltyState

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    target_kl: Number = setting(0.01, needs="adaptive", **TARGET_KL)
    init_beta: Number = setting(
        1.0,
        "The penalty's weight at the start, or throughout if it is not adaptive.",
        at_least=0,
        infinite=True,
        role="drift",
        usual="0.3 to 10 (Schulman et al. 2017, table 1)",
    )
    adaptive: bool = setting(True, "Whether beta follows the realised KL.", usual="on")
    divergence: str | Divergence = setting(
        "kl",
        "The penalty: kl is KL(old || new), reverse_kl is KL(new || old).",
        choices=tuple(DIVERGENCES),
        functions=True,
        usual="kl (Schulman et al. 2017)",
    )
    beta_tolerance: Number = setting(
        1.5,
        "Beta stays while the KL is within this factor of target_kl.",
        at_least=1,
        usual="1.5 to 2",
    )
    beta_increase: Number = setting(
        2.0, "Beta's factor when the KL was too large.", at_least=1, usual="1.5 to 2"
    )
    beta_decrease: Number = setting(
        0.5, "Beta's factor when the KL was too small.", above=0, at_most=1, usual="0.5 to 0.7"
    )
    min_beta: Number = setting(
        1e-4,
        "Beta never falls below it; a beta of 0 could never rise again.",
        above=0,
        infinite=True,
        role="floor",
        needs="adaptive",
        usual="1e-4 to 1e-2",
    )
    max_beta: Number = setting(
        1e4,
        "Beta never rises above it.",
        above=0,
        infinite=True,
        role="ceiling",
        needs="adaptive",
        usual="1e2 to 1e4",
    )

    def check(self) -> None:
        """Refuses bounds in the wrong order, and a weight that can never grow."""
        check_order(min_beta=self.min_beta, max_beta=self.max_beta)
        if self.adaptive:
            check(init_beta=(self.init_beta, False))

    def losses(self, sample: Sample, coefficient: Array) -> Array:
        """The penalty surrogate with the weight ``coefficient``."""
        chosen = self.divergence
        divergence = DIVERGENCES[chosen] if isinstance(chosen, str) else chosen
        distance = divergence(sample.old, sample.new)
        return penalty_surrogate_loss(sample.log_ratio, sample.advantage, distance, coefficient)

    def first_coefficient(self) -> Number:
        """Beta of the first iteration."""
        return self.init_beta

    def next_coefficient(self, coefficient: Array, kl: Array, stopped: Array) -> Array:
        """The next beta."""
        if not self.adaptive:
            return coefficient
        return follow_kl(
            coefficient,
            kl,
            stopped,
            target_kl=self.target_kl,
            tolerance=self.beta_tolerance,
            if_above=self.beta_increase,
            if_below=self.beta_decrease,
            low=self.min_beta,
            high=self.max_beta,
        )


@algorithm("ppo_reverse_kl")
class PPOReverseKL(PPOPenalty):
    """`ppo_penalty` with the other KL in its loss: -r A + beta KL(new || old), exact.

    The two KLs agree to second order in the step. Further out, KL(new || old) keeps every ratio
    between finite bounds (its optimum is old exp(A / beta) / Z, that of `ppo_penalty` is
    old beta / (nu - A)). It forbids actions that old never takes; KL(old || new) forbids to lose
    actions that old takes. Beta's rule and ``max_kl`` *measure* KL(old || new) here too, so a set
    point means the same for both methods.

    The objective is that of `mdpo` with step_size = 1 / beta. There the caller sets the step size,
    by a schedule; here beta follows the KL. A fixed beta is a fixed step size.
    """

    divergence: str | Divergence = setting(
        "reverse_kl",
        "The penalty.",
        choices=tuple(DIVERGENCES),
        functions=True,
        usual="reverse_kl",
    )


ppo_penalty, ppo_reverse_kl = PPOPenalty, PPOReverseKL
