"""MuJoCo Playground's environments (Zakka et al. 2025) as `Env`."""

from __future__ import annotations

from typing import Any

from mujoco_playground import registry

from kltrust.environments._adapters import Core
from kltrust.environments._brax import core_of
from kltrust.environments._pictures import physics
from kltrust.types import PyTree

IMPLEMENTATION = "jax"
"""MJX's own backend; Playground's default, "warp", needs an NVIDIA GPU."""


def names() -> tuple[str, ...]:
    """The names in Playground's registry now."""
    return tuple(registry.ALL_ENVS)


def parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of the default configuration, "reward_config.scales.x" for nested ones.

    All are static but the time limit, Playground's ``episode_length``.
    """
    config = _flat(registry.get_default_config(name).to_dict())
    fields = {"max_steps": config.pop("episode_length")}
    if "impl" in config:
        config["impl"] = IMPLEMENTATION
    return fields, config


def build(name: str, arguments: dict[str, Any], fields: dict[str, Any]) -> Core:
    """The core of a name in Playground's registry; see `parameters`."""
    defaults, config = parameters(name)
    overrides = {
        k: v for k, v in {"impl": config.get("impl"), **arguments}.items() if v is not None
    }
    try:
        env = registry.load(name, config_overrides=overrides)
    except Exception as error:
        # git may fail, among others: the robots' models are cloned on first use.
        raise RuntimeError(
            f"playground/{name} could not be made: {type(error).__name__}: {error}. The robots "
            "(locomotion and manipulation) need mujoco_menagerie, which Playground clones into "
            "its own folder on first use: connect to the network once"
        ) from error
    repeats = {**config, **arguments}.get("action_repeat", 1)
    core = core_of(env, {**defaults, **fields}["max_steps"], repeats)
    return core._replace(render=physics(env.mj_model, _set_state))


def _set_state(data: Any, state: PyTree) -> None:
    physical = state.data
    data.qpos, data.qvel = physical.qpos, physical.qvel
    data.mocap_pos, data.mocap_quat = physical.mocap_pos, physical.mocap_quat


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
