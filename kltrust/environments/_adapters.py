"""Other libraries' environments by prefix, as in "brax/hopper"; each prefix is an extra.

The module of a prefix, ``_brax`` for "brax/", imports its library, and is itself imported when a
name of that prefix is first asked for. It has three functions::

    names() -> tuple[str, ...]               what its library's registry holds now
    parameters(name) -> (fields, arguments)  traced and static ones, with their defaults
    build(name, arguments, fields) -> Core   from those given; fields are cast and may be traced

Everything else is here and the same for all: auto-reset, time limit, steady dtypes, 32 bits,
bounded actions, and the errors for a missing package or an unknown parameter.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from kltrust.environments._build import Reset, Stepped, Transition, from_functions, strong
from kltrust.environments._parameters import (
    cast,
    did_you_mean,
    jax_defaults,
    require_known,
    require_static,
)
from kltrust.environments._wrappers import ActionBound, bound_actions, fit_action, has_bounds
from kltrust.lazy import import_extra
from kltrust.types import Array, Box, Env, Number, PyTree, Render, Space

_MUJOCO = ("mujoco", "mujoco-mjx")

ADAPTERS = {
    "brax": ("brax", *_MUJOCO),
    "craftax": ("craftax",),
    "jumanji": ("jumanji",),
    "navix": ("navix",),
    "pgx": ("pgx",),
    "playground": ("playground", *_MUJOCO),
}
"""The packages whose versions a result depends on, by prefix; the library itself comes first."""

ENDING = {
    "brax": "its authors deprecate these environments",
    "playground": "0.2 is its last release on JAX",
}
"""Libraries that give up these environments; results recorded with them stay comparable."""

MUJOCO_TASKS = {
    *("ant", "halfcheetah", "hopper", "humanoid", "humanoidstandup", "inverted_pendulum"),
    *("inverted_double_pendulum", "pusher", "reacher", "swimmer", "walker2d"),
}
"""Tasks that gymnasium's users know, under brax's names for them."""


class Core(NamedTuple):
    """An environment as its library has it, without our auto-reset and time limit.

    The fields are those of `from_functions`. ``transition`` must not change its input state, and
    ``max_steps`` may be traced.
    """

    reset: Reset
    transition: Transition
    observation_space: Any
    action_space: Space
    max_steps: Number | None
    render: Render | None = None


def prefix_of(name: str) -> str | None:
    """The adapter's prefix if the name has one."""
    prefix, slash, _ = str(name).partition("/")
    return prefix if slash and prefix in ADAPTERS else None


def installed(prefix: str) -> str | None:
    """The version of a prefix's library, or None; imports nothing."""
    try:
        return importlib.metadata.version(ADAPTERS[prefix][0])
    except importlib.metadata.PackageNotFoundError:
        return None


def packages_in_use() -> tuple[str, ...]:
    """The packages of every prefix that this process has used."""
    used = (prefix for prefix in ADAPTERS if _module(prefix) in sys.modules)
    return tuple(dict.fromkeys(p for prefix in used for p in ADAPTERS[prefix]))


def adapted_names(prefix: str) -> tuple[str, ...]:
    """All names of a prefix. Imports its library, or raises a RuntimeError."""
    return tuple(f"{prefix}/{name}" for name in _load(prefix).names())


def adapted_parameters(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The traced and the static parameters of an environment, with their defaults."""
    module, inner = _find(name)
    with _at_rest():
        return module.parameters(inner)


def make_adapted(name: str, params: dict[str, Any], action_bound: ActionBound | None) -> Env:
    """`make` of a name with a prefix; ``params`` are its fields and arguments."""
    defaults, arguments = adapted_parameters(name)
    require_known(name, params, defaults, arguments)
    static = {k: v for k, v in params.items() if k in arguments}
    require_static(name, static)
    with jax_defaults():
        # A default of None stands for the environment's own time limit, an integer.
        like = {k: 0 if v is None else v for k, v in defaults.items()}
        fields = {k: cast(name, k, v, like[k]) for k, v in params.items() if k in like}
    module, inner = _find(name)
    with _at_rest():
        core = module.build(inner, static, fields)
    return finish(name, core, action_bound)


def finish(
    name: str, core: Core, action_bound: ActionBound | None, *, ours: bool = True, **bounds: Any
) -> Env:
    """The `Env` of a core, computed under JAX's defaults.

    ``ours`` says that the time limit is imposed here, and not by the core. ``bounds`` are those of
    `bound_actions`; without ``action_bound``, actions are clipped where there are bounds.
    """

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        with jax_defaults():
            # Python's 0 and 0.0 become arrays here, under JAX's defaults: they get 32 bits.
            return jax.tree.map(strong, core.reset(key))

    def transition(key: Array, state: PyTree, action: Any) -> Stepped:
        with jax_defaults():
            action = fit_action(name, core.action_space, action)
            return jax.tree.map(strong, core.transition(key, state, action))

    spaces = core.observation_space, core.action_space
    limit: Any = core.max_steps
    if limit is not None:
        limit = limit.astype(np.int32) if isinstance(limit, jax.core.Tracer) else int(limit)
    imposed = limit if ours else None
    env = from_functions(
        reset, transition, *spaces, max_steps=imposed, name=name, render=core.render
    )
    if action_bound is None:
        action_bound = "clip" if has_bounds(core.action_space) else "none"
    return bound_actions(env._replace(max_steps=limit), action_bound, **bounds)


def box(low: Any, high: Any, like: Any) -> Box:
    """The Box with these bounds and the shape and dtype of ``like``."""
    low, high = (np.broadcast_to(np.asarray(bound), like.shape).copy() for bound in (low, high))
    return Box(low, high, tuple(like.shape), np.dtype(like.dtype))


def unbounded(reset: Reset) -> Any:
    """Boxes without bounds for the arrays of a reset's observation."""
    return jax.tree.map(lambda x: box(-np.inf, np.inf, x), shapes_of(reset))


def shapes_of(reset: Reset) -> Any:
    """The shapes and dtypes of a reset's observation; computes nothing."""
    return jax.eval_shape(lambda: reset(jax.random.key(0))[1])


def _module(prefix: str) -> str:
    return f"kltrust.environments._{prefix}"


@contextlib.contextmanager
def _at_rest() -> Iterator[None]:
    """Gives a library's own arrays 32 bits, and keeps them concrete inside a trace."""
    with jax_defaults(), jax.ensure_compile_time_eval():
        yield


def _load(prefix: str) -> Any:
    with _at_rest():
        return import_extra(_module(prefix), prefix, f"an environment {prefix}/...")


def _find(name: str) -> tuple[Any, str]:
    """The module of a name's prefix, and the name without the prefix."""
    prefix, _, inner = name.partition("/")
    module = _load(prefix)
    names = module.names()
    if inner in names:
        return module, inner
    raise ValueError(
        f"{prefix} has no environment {inner!r}: {did_you_mean(inner, names, f'{prefix}/')}"
        f"`kltrust envs {prefix}` lists its names"
    )
