"""brax's environments (Freeman et al. 2021) as `Env`.

This steps the raw environment, without brax's wrappers: its `AutoResetWrapper` starts every
episode of a lane from the same state, and hides the last observation of an episode.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from brax import envs

from kltrust.environments._adapters import Core, unbounded
from kltrust.environments._build import Stepped
from kltrust.environments._parameters import keywords
from kltrust.environments._pictures import physics
from kltrust.types import Array, Box, Number, PyTree

MAX_STEPS = 1000
"""brax's own limit: the default ``episode_length`` of its ``envs.create``."""

BACKEND = "spring"
"""brax's default, "generalized", takes several times as long to step and to compile."""


def names() -> tuple[str, ...]:
    """The names in brax's registry now, including those that users have registered."""
    return tuple(envs._envs)


def parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and scales are traced: brax's constructors keep their floats for the steps.

    ``n_frames``, the physics steps per action, is None for the environment's own number.
    """
    found, _ = keywords(envs._envs[name])
    fields = {k: v for k, v in found.items() if isinstance(v, float)}
    arguments = {k: v for k, v in found.items() if k not in fields}
    if "backend" in arguments:
        arguments |= {"backend": BACKEND, "n_frames": None}
    return {"max_steps": MAX_STEPS, **fields}, arguments


def build(name: str, arguments: dict[str, Any], fields: dict[str, Any]) -> Core:
    """The core of a name in brax's registry; see `parameters`."""
    backend = {"backend": BACKEND} if "backend" in parameters(name)[1] else {}
    given = {k: v for k, v in fields.items() if k != "max_steps"}
    env = envs.get_environment(name, **{**backend, **arguments, **given})
    model = getattr(getattr(env, "sys", None), "mj_model", None)
    core = core_of(env, fields.get("max_steps", MAX_STEPS))
    return core if model is None else core._replace(render=physics(model, _set_state))


def _set_state(data: Any, state: PyTree) -> None:
    physical = state.pipeline_state
    data.qpos, data.qvel = physical.q, physical.qd


def core_of(env: Any, max_steps: Number, repeats: int = 1) -> Core:
    """The core of an environment of brax or MuJoCo Playground.

    It takes ``repeats`` steps with one action and adds up their rewards.
    """

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        state = env.reset(key)
        return state, state.obs

    def transition(key: Array, state: PyTree, action: Array) -> Stepped:
        reward: Any = 0.0
        for _ in range(repeats):
            # Some environments write into the metrics of their input state: they get a copy.
            state = env.step(jax.tree.map(lambda leaf: leaf, state), action)
            reward = reward + state.reward
        return state, state.obs, reward, state.done > 0, False

    size = (env.action_size,)
    action_space = Box(-np.ones(size, np.float32), np.ones(size, np.float32), size)
    return Core(reset, transition, unbounded(reset), action_space, max_steps)
