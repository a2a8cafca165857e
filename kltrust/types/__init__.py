"""The types that flow between the parts of the library.

Axes, used in every docstring: T steps, B parallel environments, N = B * T rows flattened
environment-major, A actions, ``*O`` an observation's shape, ``*E`` any leading shape.
"""

from kltrust.types._agent import ActorCritic, Distribution, Memory, Policy, Sequences
from kltrust.types._arrays import Array, Number, Params, PyTree
from kltrust.types._environment import (
    Box,
    Discrete,
    Env,
    EnvStep,
    Masked,
    MaskedSpace,
    MultiBinary,
    MultiDiscrete,
    Outcome,
    Render,
    Space,
    Transition,
)
from kltrust.types._update import (
    Blocks,
    Critic,
    CriticBatch,
    KLPath,
    PolicyBatch,
    PolicyUpdate,
    UpdatePair,
    UpdateReport,
    Wanted,
)

__all__ = [
    "ActorCritic",
    "Array",
    "Blocks",
    "Box",
    "Critic",
    "CriticBatch",
    "Discrete",
    "Distribution",
    "Env",
    "EnvStep",
    "KLPath",
    "Masked",
    "MaskedSpace",
    "Memory",
    "MultiBinary",
    "MultiDiscrete",
    "Number",
    "Outcome",
    "Params",
    "Policy",
    "PolicyBatch",
    "PolicyUpdate",
    "PyTree",
    "Render",
    "Sequences",
    "Space",
    "Transition",
    "UpdatePair",
    "UpdateReport",
    "Wanted",
]
