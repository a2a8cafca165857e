"""Craftax and Craftax-Classic (Matthews et al. 2024) as `Env`, with symbolic observations."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any

import craftax  # noqa: F401
import jax
import numpy as np

from kltrust.environments._adapters import Core, unbounded
from kltrust.environments._build import Stepped
from kltrust.environments._parameters import fields_of
from kltrust.environments._pictures import pixels
from kltrust.types import Array, Discrete, PyTree, Render

CLASSIC, FULL = "Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"

_NEVER = np.iinfo(np.int32).max
_BLOCK_PIXELS = 16
"""The size in which its textures are drawn."""


def names() -> tuple[str, ...]:
    """Both symbolic environments; the pixel environments have no adapter."""
    return CLASSIC, FULL


def parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers in its ``EnvParams`` are traced, its ``StaticEnvParams`` are static.

    ``max_timesteps`` is called max_steps, as everywhere here.
    """
    env = _class(name)
    static = fields_of(env.default_static_params())
    fields = {k: v for k, v in fields_of(env().default_params).items() if np.isscalar(v)}
    return {"max_steps": fields.pop("max_timesteps"), **fields}, static


def build(name: str, arguments: dict[str, Any], fields: dict[str, Any]) -> Core:
    """The core of one of `names`; see `parameters`."""
    cls = _class(name)
    env = cls(dataclasses.replace(cls.default_static_params(), **arguments))
    given = {k: v for k, v in fields.items() if k != "max_steps"}
    # Its own limit would end the episode as if the player had died.
    params = dataclasses.replace(env.default_params, **given, max_timesteps=_NEVER)

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        obs, state = env.reset_env(jax.random.key_data(key), params)
        return state, obs

    def transition(key: Array, state: PyTree, action: Array) -> Stepped:
        # It splits its keys by the functions for old, untyped keys.
        key = jax.random.key_data(key)
        obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return state, obs, reward, terminated, False

    spaces = unbounded(reset), Discrete(env.num_actions)
    limit = {**parameters(name)[0], **fields}["max_steps"]
    return Core(reset, transition, *spaces, limit, _render(name))


def _render(name: str) -> Render:
    """Draws by its own pixel renderer, whose textures are loaded with the first picture."""

    @functools.cache
    def drawn() -> Render:
        return pixels(_module(name, "renderer").make_craftax_pixel_renderer(_BLOCK_PIXELS))

    return lambda states: drawn()(states)


def _class(name: str) -> Any:
    cls = "CraftaxClassicSymbolicEnv" if name == CLASSIC else "CraftaxSymbolicEnv"
    return getattr(_module(name, "envs.craftax_symbolic_env"), f"{cls}NoAutoReset")


def _module(name: str, part: str) -> Any:
    # Imports only the package that is asked for: each loads its textures.
    package = "craftax_classic" if name == CLASSIC else "craftax"
    return importlib.import_module(f"craftax.{package}.{part}")
