"""gymnax 1.0 environments as `Env`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.environments._actions import ActionBound, bound_actions, fit_action, has_bounds
from kltrust.environments._build import from_functions, strong
from kltrust.environments._parameters import (
    cast,
    jax_defaults,
    keywords,
    require_known,
    require_static,
    time_limit,
)
from kltrust.environments._pictures import figures
from kltrust.types import Array, Box, Discrete, Env, PyTree, Render, Space

_DRAWN = (
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Catch-bsuite",
    "FourRooms-misc",
    "Freeway-MinAtar",
    "MetaMaze-misc",
    "PointRobot-misc",
    "Pong-misc",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
)
"""Of gymnax's `Visualizer`; what it draws by gymnasium, gymnasium itself plays and films."""


def registry() -> dict[str, Callable[..., Any]]:
    """What gymnax's own registry holds now, its users' registrations included."""
    # Modules of gymnax hold arrays, whose precision is that of the moment they are imported.
    with jax_defaults():
        from gymnax import registration

    return dict(registration._registry)


def make_gymnax(name: str, params: dict[str, Any], action_bound: ActionBound | None) -> Env:
    """The environment of that name in gymnax's registry.

    Transitions come from ``step_env``, ends from ``is_truncated`` and its ``terminated``, new
    episodes from ``reset_env``; a ``step`` that a class overrides is not called.

    Args:
        name: a key of `registry`.
        params: fields of the environment's params (traced or not), and arguments of its factory.
        action_bound: see `bound_actions`; None clips where there is something to clip.

    Raises:
        ValueError: for a parameter that is neither, or whose value does not fit.
        RuntimeError: if the environment's data can't be loaded.
    """
    with jax_defaults(), jax.ensure_compile_time_eval():
        core, fields = _construct(name, params)
        default = core.default_params
    traced = {k for k, v in fields.items() if isinstance(v, jax.core.Tracer)}
    static_params = _replace(name, default, {k: v for k, v in fields.items() if k not in traced})
    observation_space, action_space = _spaces(name, core, static_params)
    with jax_defaults():
        given = {k: cast(name, k, v, getattr(default, k)) for k, v in fields.items()}
    env_params = _replace(name, default, given)

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        with jax_defaults():
            obs, state = core.reset_env(key, env_params)
            # Python's 0 and 0.0 become arrays here, where they are of 32 bits.
            return jax.tree.map(strong, (state, obs))

    def transition(
        key: Array, state: PyTree, action: Array
    ) -> tuple[PyTree, PyTree, Array, Array, Array]:
        with jax_defaults():
            action = fit_action(name, action_space, action)
            obs, state, reward, terminated, _ = core.step_env(key, state, action, env_params)
            truncated = core.is_truncated(state, env_params)
            return jax.tree.map(strong, (state, obs, reward, terminated, truncated))

    render = _render(core, env_params)
    env = from_functions(
        reset, transition, observation_space, action_space, name=name, render=render
    )
    env = env._replace(max_steps=_max_steps(env_params))
    if action_bound is None:
        action_bound = "clip" if has_bounds(action_space) else "none"
    if action_bound == "none" or not traced:
        return bound_actions(env, action_bound)
    # Bounds may depend on a traced parameter (Pendulum's on max_torque): the map follows it.
    with jax_defaults():
        space = core.action_space(env_params)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    return bound_actions(env, action_bound, low=low, high=high)


def params_of(name: str) -> dict[str, Any]:
    """The fields of the environment's params, and their defaults."""
    with jax_defaults(), jax.ensure_compile_time_eval():
        core, _ = _construct(name, {})
        return _fields(core.default_params)


def _render(core: Any, params: Any) -> Render | None:
    """By gymnax's own `Visualizer`."""
    if getattr(core, "name", None) not in _DRAWN:
        return None

    def begin(_: Any, first: PyTree) -> Callable[[PyTree], Any]:
        from gymnax.visualize import Visualizer

        visualizer = Visualizer(core, params, [first])
        visualizer.init()

        def draw(state: PyTree) -> Any:
            visualizer.state_seq = [state]
            visualizer.update(0)
            visualizer.ax.set_title(core.name)
            return visualizer.fig

        return draw

    return figures(begin, dots_per_inch=60)


def _construct(name: str, params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The gymnax object, and those of params that are fields of its params."""
    factory = registry()[name]
    arguments, takes_any = keywords(factory)
    first = {
        k: v for k, v in params.items() if k in arguments and not isinstance(v, jax.core.Tracer)
    }
    core = _call(name, factory, first)
    names = _fields(core.default_params)
    static = {k: v for k, v in params.items() if k not in names}
    if not takes_any:
        require_known(name, params, names, arguments)
    if static.keys() != first.keys():
        # Only an instance tells its fields: a name that is one of them goes to the params alone.
        core = _call(name, factory, static)
    return core, {k: v for k, v in params.items() if k in names}


def _call(name: str, factory: Callable[..., Any], static: dict[str, Any]) -> Any:
    require_static(name, static)
    try:
        core = factory(**static)
    except (OSError, EOFError) as error:
        # urllib's and gzip's errors are of these kinds; their tracebacks say nothing more.
        raise RuntimeError(
            f"{name} could not load its data: {error!r}. gymnax downloads it on first use "
            "(MNIST: to /tmp/mnist); connect to the network once, or put the files there "
            "(and delete partial ones)"
        ) from None
    if not all(hasattr(core, part) for part in ("default_params", "reset_env", "step_env")):
        raise TypeError(f"{name}: the factory must return a gymnax Environment, got {core!r}")
    return core


def _fields(params: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(params):
        return {}
    return {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}


def _replace(name: str, default: Any, values: dict[str, Any]) -> Any:
    """The params with those values, and what follows from them.

    CartPole's params hold a sum and a product of others, which gymnax does not recompute: a sweep
    over the cart's mass would change nothing at all.
    """
    if not values:
        return default
    params = dataclasses.replace(default, **values)
    derived = {}
    if name == "CartPole-v1" and values.keys() & {"masscart", "masspole"}:
        derived["total_mass"] = params.masscart + params.masspole
    if name == "CartPole-v1" and values.keys() & {"masspole", "length"}:
        derived["polemass_length"] = params.masspole * params.length
    return dataclasses.replace(params, **(derived | values))


def _max_steps(params: Any) -> int | Array | None:
    limit = getattr(params, "max_steps_in_episode", None)
    return None if limit is None else time_limit(limit)


def _spaces(name: str, core: Any, params: Any) -> tuple[Space, Space]:
    """The spaces of observations and actions, concrete even inside a trace."""
    with jax_defaults():
        with jax.ensure_compile_time_eval():
            spaces = core.observation_space(params), core.action_space(params)
        # An observation is what it is: Catch declares integers and gives floats, FourRooms the
        # reverse.
        key = jax.eval_shape(jax.random.key, 0)
        obs, _ = jax.eval_shape(lambda key: core.reset_env(key, params), key)
    return _space(name, spaces[0], obs), _space(name, spaces[1], None)


def _space(name: str, space: Any, real: Any) -> Space:
    """Ours for gymnax's, with the shape and dtype of the real thing where there is one."""
    kind = type(space).__name__
    if kind == "Discrete":
        if real is not None and (real.shape or not jnp.issubdtype(real.dtype, jnp.integer)):
            raise ValueError(f"{name}: declares Discrete observations and gives {real}")
        return Discrete(int(space.n))
    if kind == "Box":
        shape = tuple(space.shape) if real is None else real.shape
        dtype = np.dtype(space.dtype if real is None else real.dtype)
        bounds = [np.broadcast_to(np.asarray(b), shape).copy() for b in (space.low, space.high)]
        return Box(bounds[0], bounds[1], shape, dtype)
    raise ValueError(
        f"{name}: there is no adapter for a {kind} space; write the environment as a "
        "kltrust Env and register it with kltrust.environments.register"
    )
