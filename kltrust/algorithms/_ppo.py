"""The general first-order algorithm: any drift, with one coefficient that may follow the KL."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from kltrust import losses
from kltrust.algorithms._registry import algorithm
from kltrust.checks import check_order
from kltrust.settings import INF, setting
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree
from kltrust.updates import (
    FirstOrder,
    Gate,
    Sample,
    change_gate,
    dual_ascent,
    follow_kl,
    kl_gate,
    reverse_kl,
)
from kltrust.updates.fields import LEARNING_RATE, TARGET_KL

Drift = Callable[[Sample, Number], Array]
"""``drift(sample, size) -> [N]``: -(r A - D) of every row."""


def _penalty(sample: Sample, kl: Array, beta: Number) -> Array:
    return losses.penalty_surrogate_loss(sample.log_ratio, sample.advantage, kl, beta)


WIDTHS: dict[str, Drift] = {
    "clip": lambda s, eps: losses.clipped_surrogate_loss(s.log_ratio, s.advantage, eps),
    "spo": lambda s, eps: losses.spo_loss(s.log_ratio, s.advantage, eps),
    "rollback": lambda s, eps: losses.rollback_loss(s.log_ratio, s.advantage, eps, 0.3),
    "fisher_rao": lambda s, tau: losses.fisher_rao_loss(s.log_ratio, s.advantage, tau),
    "learned": lambda s, a: losses.learned_drift_loss(s.log_ratio, s.advantage, a, 0.3 * a),
    "kl_clip": lambda s, d: losses.kl_clipped_loss(s.log_ratio, s.advantage, s.kl(), d),
    "truly": lambda s, d: losses.kl_rollback_loss(s.log_ratio, s.advantage, s.kl(), d, 5.0),
}
"""Drifts whose size is a width: the larger, the looser."""
WEIGHTS: dict[str, Drift] = {
    "kl": lambda s, beta: _penalty(s, s.kl(), beta),
    "reverse_kl": lambda s, beta: _penalty(s, reverse_kl(s.old, s.new), beta),
    "bounded_kl": lambda s, beta: losses.bounded_kl_loss(
        s.log_ratio, s.advantage, s.kl(), beta, 0.1
    ),
}
"""Drifts whose size is a weight: the larger, the tighter."""


class PPOState(NamedTuple):
    """The optimiser's state, and the factor that the controller steers: [] float."""

    optimizer: PyTree
    factor: Array


@algorithm("ppo")
class PPO(FirstOrder):
    """Epochs of minibatch steps on r A - D with any drift D, gate and controller.

    The other first-order algorithms run the same loop, each with a fixed drift. Here you choose
    everything: the drift and its one coefficient ``drift_size``, the bounds that undo an epoch, and
    the quantity that follows the KL.

    A ``drift`` is a name or your function, ``drift(sample, size) -> [N]``, see `updates.Sample`. A
    function's size counts as a weight. An epoch is undone, and is the last, if the mean KL exceeds
    ``max_kl`` or the mean of abs(r - 1) exceeds ``max_change``. With a finite ``target_kl`` the
    ``controller`` steers a factor, 1 at first, after every iteration, by its KL d:

    - ``size``: on the size, by the rule of `ppo_penalty`; it tightens the size if d is too large.
    - ``learning_rate``: on the learning rate, likewise.
    - ``dual``: on the size, which must be a weight, by dual ascent:
      factor + (factor_step - 1) (d / target_kl - 1).

    Extra:
        - ``factor``: the factor that this update was made with.
        - ``kl_stopped``: 1 if an epoch left a bound and was undone, else 0.
    """

    State = PPOState

    learning_rate: Number = setting(3e-4, anneal=1, **LEARNING_RATE)
    drift: str | Drift = setting(
        "clip",
        "The drift that is subtracted from the surrogate. The sizes of kl, reverse_kl "
        "and bounded_kl are weights, those of the others are widths.",
        choices=(*WIDTHS, *WEIGHTS),
        functions=True,
        usual="clip",
    )
    drift_size: Number = setting(
        0.2,
        "The drift's coefficient.",
        above=0,
        infinite=True,
        role="drift",
        usual="0.2 for a width in ratios, 0.03 for one in nats, 0.3 to 10 for a weight",
    )
    max_change: Number = setting(
        INF,
        "An epoch that ends at a larger mean of abs(r - 1) is undone and is the last.",
        above=0,
        infinite=True,
        usual="0.25 (Sun et al. 2022); inf, off",
    )
    target_kl: Number = setting(INF, **TARGET_KL)
    controller: str = setting(
        "size",
        "What a finite target_kl steers: size, learning_rate or dual.",
        choices=("size", "learning_rate", "dual"),
        usual="size (Schulman et al. 2017), learning_rate (rsl_rl)",
    )
    tolerance: Number = setting(
        1.5,
        "Nothing is steered while the KL is within this factor of target_kl.",
        at_least=1,
        usual="1.5 to 2",
    )
    factor_step: Number = setting(
        2.0,
        "One step of the factor, up or down. For dual, the rate of the ascent is factor_step - 1.",
        above=1,
        usual="2",
    )
    min_factor: Number = setting(
        1e-3, "The factor never falls below it.", above=0, role="floor", usual="1e-3"
    )
    max_factor: Number = setting(
        1e3, "The factor never rises above it.", above=0, role="ceiling", usual="1e3"
    )

    def check(self) -> None:
        """Refuses bounds in the wrong order, and dual ascent on a width."""
        check_order(min_factor=self.min_factor, max_factor=self.max_factor)
        if self.controller == "dual" and self.drift in WIDTHS:
            raise ValueError(
                f"controller='dual' steers a weight, and the size of drift={self.drift!r} is a "
                f"width: choose controller='size', or a drift of {', '.join(WEIGHTS)}"
            )

    def losses(self, sample: Sample, coefficient: Array) -> Array:
        """The surrogate less the drift."""
        chosen = self.drift
        drift = {**WIDTHS, **WEIGHTS}[chosen] if isinstance(chosen, str) else chosen
        return drift(
            sample, self.drift_size * (1 if self.controller == "learning_rate" else coefficient)
        )

    def rate(self, coefficient: Array) -> Number:
        """The learning rate, times the factor if the controller steers it."""
        return self.learning_rate * (coefficient if self.controller == "learning_rate" else 1)

    def first_coefficient(self) -> Number:
        """A factor of 1."""
        return 1.0

    def gate(self, policy: Policy) -> Gate:
        """Whether both measures are within their bounds."""
        by_kl, by_change = kl_gate(policy, self.max_kl), change_gate(policy, self.max_change)

        def gate(params: Params, batch: PolicyBatch) -> Array:
            return by_kl(params, batch) & by_change(params, batch)

        return gate

    def next_coefficient(self, coefficient: Array, kl: Array, stopped: Array) -> Array:
        """The next factor."""
        bounds = {"target_kl": self.target_kl, "low": self.min_factor, "high": self.max_factor}
        if self.controller == "dual":
            following = dual_ascent(coefficient, kl, step=self.factor_step - 1, **bounds)
        else:
            wider = self.controller == "learning_rate" or self.drift in WIDTHS
            following = follow_kl(
                coefficient,
                kl,
                stopped,
                tolerance=self.tolerance,
                if_above=1 / self.factor_step if wider else self.factor_step,
                if_below=self.factor_step if wider else 1 / self.factor_step,
                **bounds,
            )
        return jnp.where(jnp.isposinf(self.target_kl), coefficient, following)


ppo = PPO
