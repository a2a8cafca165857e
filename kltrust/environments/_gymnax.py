"""gymnax 1.0 environments as `Env`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kltrust.environments._adapters import Core, box, finish
from kltrust.environments._build import Stepped
from kltrust.environments._parameters import (
    cast,
    fields_of,
    jax_defaults,
    keywords,
    require_known,
    require_static,
)
from kltrust.environments._pictures import figures
from kltrust.environments._wrappers import ActionBound, has_bounds
from kltrust.types import Array, Discrete, Env, PyTree, Render, Space

_DRAWN = (
    "Catch-bsuite",
    "SpaceInvaders-MinAtar",
    *(f"{name}-MinAtar" for name in ("Asterix", "Breakout", "Freeway", "Seaquest")),
    *(f"{name}-misc" for name in ("FourRooms", "MetaMaze", "PointRobot", "Pong")),
)
"""What gymnax's `Visualizer` draws itself; gymnasium plays and films the others."""


def registry() -> dict[str, Callable[..., Any]]:
    """The registry of gymnax now, including the environments that users have registered."""
    # gymnax's modules hold arrays, whose precision is set at the moment of import.
    with jax_defaults():
        from gymnax import registration

    return dict(registration._registry)


def make_gymnax(given: Any, params: dict[str, Any], action_bound: ActionBound | None) -> Env:
    """`make` for a name in gymnax's registry, or for an environment object of gymnax.

    Transitions come from ``step_env``, ends from ``is_truncated`` and its ``terminated``, new
    episodes from ``reset_env``; a class's own ``step`` is not called.
    """
    with jax_defaults(), jax.ensure_compile_time_eval():
        if isinstance(given, str):
            name = given
            raw, fields = _construct(name, params)
        else:
            name, raw, fields = str(getattr(given, "name", type(given).__name__)), given, params
            require_known(name, params, fields_of(raw.default_params), ())
        default = raw.default_params
    traced = {k for k, v in fields.items() if isinstance(v, jax.core.Tracer)}
    static_params = _replace(name, default, {k: v for k, v in fields.items() if k not in traced})
    spaces = _spaces(name, raw, static_params)
    with jax_defaults():
        given = {k: cast(name, k, v, getattr(default, k)) for k, v in fields.items()}
    env_params = _replace(name, default, given)

    def reset(key: Array) -> tuple[PyTree, PyTree]:
        obs, state = raw.reset_env(key, env_params)
        return state, obs

    def transition(key: Array, state: PyTree, action: Array) -> Stepped:
        obs, state, reward, terminated, _ = raw.step_env(key, state, action, env_params)
        return state, obs, reward, terminated, raw.is_truncated(state, env_params)

    limit = getattr(env_params, "max_steps_in_episode", None)
    core = Core(reset, transition, *spaces, limit, _render(raw, env_params))
    bounds = {}
    if traced and action_bound != "none" and has_bounds(core.action_space):
        # Bounds may depend on a traced parameter (Pendulum's on max_torque): the map follows it.
        with jax_defaults():
            space = raw.action_space(env_params)
        bounds = {"low": space.low, "high": space.high}
    return finish(name, core, action_bound, ours=False, **bounds)


def params_of(name: str) -> dict[str, Any]:
    """The fields of the environment's params, and their defaults."""
    with jax_defaults(), jax.ensure_compile_time_eval():
        core, _ = _construct(name, {})
        return fields_of(core.default_params)


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
    """The gymnax object, and the entries of ``params`` that are fields of its params."""
    factory = registry()[name]
    arguments, takes_any = keywords(factory)
    first = {
        k: v for k, v in params.items() if k in arguments and not isinstance(v, jax.core.Tracer)
    }
    core = _call(name, factory, first)
    names = fields_of(core.default_params)
    static = {k: v for k, v in params.items() if k not in names}
    if not takes_any:
        require_known(name, params, names, arguments)
    if static.keys() != first.keys():
        # Only an instance tells its fields. A name that is a field goes to the params alone.
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


def _replace(name: str, default: Any, values: dict[str, Any]) -> Any:
    """The params with those values, and with the fields that depend on them recomputed.

    CartPole's params hold a sum and a product of other fields, which gymnax does not recompute: a
    sweep over the cart's mass would change nothing at all.
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


def _spaces(name: str, core: Any, params: Any) -> tuple[Space, Space]:
    """The spaces of observations and actions, concrete even inside a trace."""
    with jax_defaults():
        with jax.ensure_compile_time_eval():
            spaces = core.observation_space(params), core.action_space(params)
        # The dtype is that of a real observation: Catch declares integers and gives floats,
        # FourRooms the reverse.
        key = jax.eval_shape(jax.random.key, 0)
        obs, _ = jax.eval_shape(lambda key: core.reset_env(key, params), key)
    return _space(name, spaces[0], obs), _space(name, spaces[1], None)


def _space(name: str, space: Any, real: Any) -> Space:
    """Our space for gymnax's, with the shape and dtype of a real element if one is given."""
    kind = type(space).__name__
    if kind == "Discrete":
        if real is not None and (real.shape or not jnp.issubdtype(real.dtype, jnp.integer)):
            raise ValueError(f"{name}: declares Discrete observations and gives {real}")
        return Discrete(int(space.n))
    if kind == "Box":
        return box(space.low, space.high, space if real is None else real)
    raise ValueError(
        f"{name}: there is no adapter for a {kind} space; write the environment as a "
        "kltrust Env and register it with kltrust.environments.register"
    )
