"""Policies and value functions: agents that fit an environment, memory, masks, initial weights.

`actor_critic` makes an agent in flax. These modules need no flax: ``recurrent`` (agents with
memory), ``masks`` (actions that a state forbids), ``orthogonal`` (initial weights).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kltrust.lazy import offered
from kltrust.networks.recurrent import recurrent_agent

if TYPE_CHECKING:
    from kltrust.networks.agents import (
        ACTIVATIONS,
        LOG_STD_RANGE,
        PolicyNetwork,
        Torso,
        ValueNetwork,
        actor_critic,
        features,
    )

__all__ = [
    "ACTIVATIONS",
    "LOG_STD_RANGE",
    "PolicyNetwork",
    "Torso",
    "ValueNetwork",
    "actor_critic",
    "features",
    "recurrent_agent",
]

__getattr__ = offered(__name__, "agents", __all__)
