"""navix's grid worlds (Pignatelli et al. 2024) as `Env`."""

from __future__ import annotations

from typing import Any

import navix
from navix import observations, rewards, terminations, transitions

from kltrust.environments._adapters import Core, box, shapes_of
from kltrust.environments._build import Stepped
from kltrust.environments._pictures import pixels
from kltrust.types import Array, Discrete, PyTree

_PENALTY = next(name for name in navix.Environment.__dataclass_fields__ if name.startswith("penal"))
"""The field of navix's penalty for late rewards, which navix spells in two ways."""

_FUNCTIONS = {
    "observation_fn": observations,
    "reward_fn": rewards,
    "termination_fn": terminations,
    "transitions_fn": transitions,
}


def names() -> tuple[str, ...]:
    """The names in navix's registry now."""
    return tuple(navix.registry())


def parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Functions are passed as such or by their names in navix; None is the environment's own."""
    fields = {"max_steps": navix.make(name).max_steps, _PENALTY: 0.0}
    return fields, dict.fromkeys(_FUNCTIONS)


def build(name: str, arguments: dict[str, Any], fields: dict[str, Any]) -> Core:
    """The core of a name in navix's registry; see `parameters`."""
    functions = {k: _function(k, v) for k, v in arguments.items() if v is not None}
    env = navix.make(name, **functions).replace(**fields)

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        timestep = env.reset(key)
        return timestep, timestep.observation

    def transition(key: Array, timestep: PyTree, action: Array) -> Stepped:
        # Not `step`: it first resets an episode that ended, under vmap a reset at every step.
        timestep = env._step(timestep, action)
        ends = timestep.is_termination(), timestep.is_truncation()
        return timestep, timestep.observation, timestep.reward, *ends

    declared = env.observation_space
    space = box(declared.minimum, declared.maximum, shapes_of(reset))
    render = pixels(lambda timestep: observations.rgb(timestep.state))
    return Core(reset, transition, space, Discrete(int(env.action_space.n)), env.max_steps, render)


def _function(kind: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = getattr(_FUNCTIONS[kind], value, None)
    if not callable(found):
        raise ValueError(f"{_FUNCTIONS[kind].__name__} has no function {value!r} for {kind}")
    return found
