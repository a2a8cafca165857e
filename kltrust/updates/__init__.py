"""Parts of algorithms: pure functions on one batch, and settings to inherit.

- Measures: `log_ratio`, `mean_kl`, `mean_change`.
- Objectives: `surrogate`, `clipped_loss`, `penalised_loss`, and `sample_loss` for any drift.
- First order: `minibatch_epochs` with a `kl_gate` or a `change_gate`; `FirstOrder` to inherit from;
  `Optimizer`, any of optax's by name.
- Second order: `natural_direction`, or `NaturalStep` to inherit from.
- KL balls around a distribution: `project`, `ratio_interval`, `geodesic`, `kl_parts`.
- Around any update: `outer`, an optimiser that takes the step.
- Parameters with leaves that are not floats: `moves_floats` updates the floats alone.
- From one iteration to the next: `follow_kl` for a penalty's weight, a learning rate, anything;
  `dual_ascent` for a weight.
"""

from kltrust.updates.controllers import dual_ascent, follow_kl
from kltrust.updates.epochs import (
    Gate,
    Loss,
    MinibatchEpochs,
    change_gate,
    kl_gate,
    minibatch_epochs,
)
from kltrust.updates.families import geodesic, kl_parts, project, ratio_interval
from kltrust.updates.first_order import FirstOrder
from kltrust.updates.leaves import moves_floats
from kltrust.updates.minibatches import minibatch_epoch
from kltrust.updates.natural import NaturalDirection, NaturalStep, natural_direction
from kltrust.updates.objectives import (
    Divergence,
    Sample,
    clipped_loss,
    log_ratio,
    mean_change,
    mean_entropy,
    mean_kl,
    penalised_loss,
    reverse_kl,
    sample_loss,
    surrogate,
)
from kltrust.updates.optimizers import ADAM, MakeOptimizer, Optimizer, bounded
from kltrust.updates.outer import Outer, outer

__all__ = [
    "ADAM",
    "Divergence",
    "FirstOrder",
    "Gate",
    "Loss",
    "MakeOptimizer",
    "MinibatchEpochs",
    "NaturalDirection",
    "NaturalStep",
    "Optimizer",
    "Outer",
    "Sample",
    "bounded",
    "change_gate",
    "clipped_loss",
    "dual_ascent",
    "follow_kl",
    "geodesic",
    "kl_gate",
    "kl_parts",
    "log_ratio",
    "mean_change",
    "mean_entropy",
    "mean_kl",
    "minibatch_epoch",
    "minibatch_epochs",
    "moves_floats",
    "natural_direction",
    "outer",
    "penalised_loss",
    "project",
    "ratio_interval",
    "reverse_kl",
    "sample_loss",
    "surrogate",
]
