"""jumanji's single-agent environments (Bonnet et al. 2024) as `Env`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jumanji
import numpy as np
from jumanji import registration, specs

from kltrust.environments._adapters import Core, box
from kltrust.environments._build import Stepped
from kltrust.environments._parameters import keywords
from kltrust.environments._pictures import figures
from kltrust.networks.masks import existing_actions
from kltrust.types import Array, Box, Discrete, Masked, MaskedSpace, MultiDiscrete, PyTree, Space

MAX_STEPS = 1000
"""The limit if the environment has none: some allow moves without effect for ever."""

_MASK = "action_mask"


def names() -> tuple[str, ...]:
    """The names in jumanji's registry now, including environments of several agents."""
    return tuple(sorted(jumanji.registered_environments()))


def parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our own time limit, None for the environment's, and the constructor's arguments.

    jumanji ends most episodes that reach their ``time_limit`` as terminated; ``max_steps``
    truncates.
    """
    spec = registration._REGISTRY[name]
    arguments, _ = keywords(registration.load(spec.entry_point))
    return {"max_steps": None}, {**arguments, **spec.kwargs}


def build(name: str, arguments: dict[str, Any], fields: dict[str, Any]) -> Core:
    """The core of a name in jumanji's registry; see `parameters`."""
    try:
        env = jumanji.make(name, **arguments)
    except OSError as error:
        raise RuntimeError(
            f"jumanji/{name} could not load its data: {type(error).__name__}. jumanji downloads "
            "some (Sokoban's levels) on first use: connect to the network once"
        ) from error
    if env.reward_spec.shape:
        raise ValueError(
            f"jumanji/{name} has several agents (its rewards have the shape "
            f"{env.reward_spec.shape}): there is an adapter for one agent"
        )
    action_space = _action_space(name, env.action_spec)
    declared = _children(env.observation_spec)
    mask_spec = declared.get(_MASK) if isinstance(declared, dict) else None
    is_masked = mask_spec is not None and _is_ours(mask_spec, action_space)

    def observe(timestep: Any) -> PyTree:
        obs = _values(env.observation_spec, timestep.observation)
        if not is_masked:
            return _only(obs)
        mask = obs.pop(_MASK)
        return Masked(_only(obs), mask)

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        state, timestep = env.reset(key)
        return state, observe(timestep)

    def transition(key: Array, state: PyTree, action: Array) -> Stepped:
        state, timestep = env.step(state, action)
        last, no_future = timestep.last(), timestep.discount == 0
        return state, observe(timestep), timestep.reward, last & no_future, last & ~no_future

    def begin(pyplot: Any, _: PyTree) -> Callable[[PyTree], Any]:
        def draw(state: PyTree) -> Any:
            # Its viewers draw into pyplot's current figure, for a window.
            env.render(state)
            return pyplot.gcf()

        return draw

    if is_masked:
        declared.pop(_MASK)
    space = jax.tree.map(_box, _only(declared), is_leaf=lambda x: isinstance(x, specs.Array))
    space = MaskedSpace(space) if is_masked else space
    limit = fields.get("max_steps", getattr(env, "time_limit", None) or MAX_STEPS)
    return Core(reset, transition, space, action_space, limit, figures(begin, dots_per_inch=40))


def _children(spec: Any) -> Any:
    """A specification as nested dicts of array specifications."""
    if isinstance(spec, specs.Array):
        return spec
    return {key: _children(child) for key, child in spec._specs.items()}


def _values(spec: Any, value: Any) -> Any:
    """An observation as nested dicts of arrays, as in `_children`."""
    if isinstance(spec, specs.Array):
        return value
    return {key: _values(child, getattr(value, key)) for key, child in spec._specs.items()}


def _only(tree: Any) -> Any:
    """Unwraps a dict with one entry, so that a lone board or image is an array."""
    return _only(*tree.values()) if isinstance(tree, dict) and len(tree) == 1 else tree


def _box(spec: Any) -> Box:
    return box(getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf), spec)


def _is_ours(mask: Any, space: Space) -> bool:
    """Whether a mask fits `Masked`; masks over whole vectors of integers do not."""
    if not isinstance(space, Discrete | MultiDiscrete):
        return False
    shape = existing_actions(space).shape
    return mask.shape == shape and (isinstance(space, Discrete) or shape != space.nvec)


def _action_space(name: str, spec: Any) -> Space:
    if isinstance(spec, specs.DiscreteArray):
        return Discrete(int(spec.num_values))
    if isinstance(spec, specs.MultiDiscreteArray) and len(spec.shape) == 1:
        return MultiDiscrete(tuple(int(n) for n in np.asarray(spec.num_values)))
    if isinstance(spec, specs.Array) and np.issubdtype(spec.dtype, np.floating):
        return _box(spec)
    raise ValueError(f"jumanji/{name}: there is no adapter for the actions {spec}")
