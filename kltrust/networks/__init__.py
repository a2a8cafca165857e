"""Policies and value functions: agents that fit an environment, memory, masks, initial weights.

`actor_critic` makes an agent in flax. The other modules need no flax: ``recurrent`` (agents with
memory), ``masks`` (actions that a state forbids), ``orthogonal`` (initial weights).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
]


def __getattr__(name: str) -> Any:
    """Imports flax when a network is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kltrust.networks import agents

    value = globals()[name] = getattr(agents, name)
    return value
