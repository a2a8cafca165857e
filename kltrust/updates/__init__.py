"""What algorithms are assembled from: pure functions on one batch, and settings to inherit.

- Measures: `log_ratio`, `mean_kl`.
- Objectives: `surrogate`, `clipped_loss`, `penalised_loss`.
- First order: `minibatch_epochs` with a `kl_gate`, or `MinibatchEpochs` to inherit from;
  `Optimizer`, any of optax's by name.
- Second order: `natural_direction`, or `NaturalStep` to inherit from.
- What moves: `moves_floats`, of parameters with other leaves as well.
- From one iteration to the next: `follow_kl`, for a penalty's weight, a learning rate, anything.
"""

from kltrust.updates.controllers import follow_kl
from kltrust.updates.epochs import Gate, Loss, MinibatchEpochs, kl_gate, minibatch_epochs
from kltrust.updates.leaves import moves_floats
from kltrust.updates.minibatches import minibatch_epoch
from kltrust.updates.natural import NaturalDirection, NaturalStep, natural_direction
from kltrust.updates.objectives import (
    Divergence,
    clipped_loss,
    log_ratio,
    mean_entropy,
    mean_kl,
    penalised_loss,
    reverse_kl,
    surrogate,
)
from kltrust.updates.optimizers import ADAM, MakeOptimizer, Optimizer, bounded

__all__ = [
    "ADAM",
    "Divergence",
    "Gate",
    "Loss",
    "MakeOptimizer",
    "MinibatchEpochs",
    "NaturalDirection",
    "NaturalStep",
    "Optimizer",
    "bounded",
    "clipped_loss",
    "follow_kl",
    "kl_gate",
    "log_ratio",
    "mean_entropy",
    "mean_kl",
    "minibatch_epoch",
    "minibatch_epochs",
    "moves_floats",
    "natural_direction",
    "penalised_loss",
    "reverse_kl",
    "surrogate",
]
