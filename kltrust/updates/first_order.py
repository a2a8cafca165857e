"""The one first-order loop: an algorithm declares its loss, its gate and what it steers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp

from kltrust.settings import settings
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PyTree, UpdateReport
from kltrust.updates.epochs import MinibatchEpochs
from kltrust.updates.leaves import moves_floats
from kltrust.updates.objectives import Sample, mean_kl, sample_loss


@moves_floats
@settings
class FirstOrder(MinibatchEpochs):
    """Epochs of minibatch steps on a surrogate less a drift; algorithms inherit from it.

    An algorithm defines ``losses``, -(surrogate less drift) of every row, and has a setting
    ``learning_rate``. It may define more:

    - ``prepare``: computes something from the rows once, before the epochs.
    - ``gate``: which parameters may stay after an epoch; by default those within ``max_kl``.
    - One coefficient that is steered from one iteration to the next: ``State``, a named tuple of
      the optimiser's state and the coefficient. ``start()`` gives its first value, ``follow`` the
      next ones; ``losses`` and ``rate`` get it.
    """

    State: ClassVar[Callable[..., Any] | None] = None

    def losses(self, sample: Sample, coefficient: Any) -> Array:
        """-(r A - D) of every row of a ``sample``, [N]; a ``coefficient`` [] or None."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no losses(self, sample, coefficient), which returns "
            "-(r A - D) of every row, [N]"
        )

    def prepare(self, batch: PolicyBatch) -> PyTree:
        """``sample.batch.known`` for the losses, [N, ...] from the rows of a ``batch``, or None."""
        return None

    def rate(self, coefficient: Any) -> Number:
        """The learning rate [] at a ``coefficient`` []."""
        return self.learning_rate  # type: ignore[attr-defined]

    def first_coefficient(self) -> Number:
        """The coefficient of the first iteration: []."""
        raise NotImplementedError

    def next_coefficient(self, coefficient: Array, kl: Array, stopped: Array) -> Array:
        """The coefficient of the next iteration: [].

        ``coefficient`` [] is that of this iteration, ``kl`` [] its mean KL(old || new), and
        ``stopped`` [] says whether an epoch was undone.
        """
        raise NotImplementedError

    def extra(self, policy: Policy, params: Params, batch: PolicyBatch) -> dict[str, Array]:
        """The report's other entries, beside the coefficient, by name -> scalars.

        ``params`` are those of ``policy`` after the epochs over ``batch``.
        """
        return {}

    def init(self, params: Params) -> PyTree:
        """The optimiser's state, and the coefficient if there is one."""
        if self.State is None:
            return self.make_optimizer(self.rate(None)).init(params)
        first = jnp.asarray(self.first_coefficient(), jnp.float32)
        return self.State(
            self.make_optimizer(self.rate(self.first_coefficient())).init(params), first
        )

    def update(
        self, policy: Policy, params: Params, state: PyTree, batch: PolicyBatch, key: Array
    ) -> tuple[Params, PyTree, UpdateReport]:
        """All epochs, and the next coefficient."""
        now: Any
        opt_state, now = (state, None) if self.State is None else state
        batch = batch._replace(known=self.prepare(batch))
        loss = sample_loss(policy, lambda sample: self.losses(sample, now), self.entropy_coef)
        params, opt_state, report = self.fit(
            loss, policy, params, opt_state, batch, key, self.rate(now)
        )
        extra = self.extra(policy, params, batch)
        if self.State is not None:
            extra |= {state._fields[1]: now}
            kl, stopped = mean_kl(policy, params, batch), report.extra["kl_stopped"]
            opt_state = self.State(opt_state, self.next_coefficient(now, kl, stopped))
        return params, opt_state, report._replace(extra={**report.extra, **extra})
