"""Environments by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from kltrust.checks import as_env, calling_module
from kltrust.environments import _gymnax
from kltrust.environments._adapters import (
    ADAPTERS,
    MUJOCO_TASKS,
    adapted_names,
    adapted_parameters,
    installed,
    make_adapted,
    prefix_of,
)
from kltrust.environments._named import parts_of, wrapped
from kltrust.environments._parameters import (
    did_you_mean,
    keywords,
    require_known,
    require_numbers,
)
from kltrust.environments._schedules import require_constant
from kltrust.environments._wrappers import ActionBound, bound_actions
from kltrust.types import Env, MaskedSpace, Number, Space

_factories: dict[str, Callable[..., Env]] = {}
_homes: dict[str, str] = {}
"""The module that registered each environment."""

# Environments whose construction downloads something: `describe` does not make them.
_DOWNLOADS = {"MNISTBandit-bsuite": "downloads MNIST on first use"}


class EnvInfo(NamedTuple):
    """An environment's description, made without running it.

    Attributes:
        name: for `make`.
        source: "gymnax", "registered", or the prefix of an adapter.
        observation_space, action_space, max_steps: as in `Env`; None if not known.
        fields: traced parameters and their defaults.
        arguments: static parameters and their defaults (``inspect.Parameter.empty`` if required).
        note: what else to know, or "".
    """

    name: str
    source: str
    observation_space: Space | MaskedSpace | None
    action_space: Space | None
    max_steps: Number | None
    fields: dict[str, Any]
    arguments: dict[str, Any]
    note: str = ""


def make(name: Any, /, *, action_bound: ActionBound | None = None, **params: Any) -> Env:
    """The environment of that name.

    `make` looks for a name in three places, in this order:

    - names given to `register`;
    - other libraries, by prefix, as in "brax/hopper" (each prefix is an extra, see `adapters`);
    - gymnax's registry at the time of the call, so a user's ``gymnax.register`` counts.

    A parameter that is a field of the environment's params may be a tracer: one compilation
    serves all its values. Any other is an argument of the environment's factory, and static.
    Spaces are evaluated with the concrete parameters and with the defaults of traced ones, so they
    are never tracers. The map of `bound_actions` follows the traced parameters.

    Wrappers come after the name, each after a bar, the innermost first:
    "CartPole-v1 | time_limit(200) | stack_frames(4)". There are `time_limit`, `stack_frames`,
    `sticky_actions`, `scale_rewards`, `clip_rewards` and `hide_observations`.

    Args:
        name: such as "CartPole-v1" or "brax/hopper"; or an environment object of gymnax.
        action_bound: how actions in a bounded Box are bounded ("clip", "tanh", "none"; see
            `bound_actions`). Default: they are clipped, except in a registered environment, which
            stays as it is.
        **params: parameters of the environment.

    Raises:
        ValueError: for an unknown name (lists the nearest), a parameter that the environment does
            not have (lists those it has), a value that does not fit or is a schedule, or a wrapper
            that does not exist or apply.
        RuntimeError: if a package or data that the environment needs can't be loaded.

    Example:
        >>> env = make("Pendulum-v1", g=9.81, max_steps_in_episode=100)
    """
    require_constant(str(getattr(name, "name", name)), params)
    if hasattr(name, "step_env"):
        return _gymnax.make_gymnax(name, params, action_bound)
    if "|" in str(name):
        base, calls = parts_of(name)
        return wrapped(make(base, action_bound=action_bound, **params), calls)
    if name in _factories:
        arguments, takes_any = keywords(_factories[name])
        if not takes_any:
            require_known(name, params, (), arguments)
        require_numbers(name, params, arguments)
        made: Any = _factories[name](**params)
        try:
            env = as_env(made)._replace(name=name)
        except TypeError as error:
            raise TypeError(f"{name}: the factory must return an environment: {error}") from error
        return env if action_bound is None else bound_actions(env, action_bound)
    if prefix_of(name):
        return make_adapted(name, params, action_bound)
    _check_name(name)
    return _gymnax.make_gymnax(name, params, action_bound)


def register(name: str, factory: Callable[..., Env], *, overwrite: bool = False) -> None:
    """Adds your environment: ``make(name, **params)`` is then ``factory(**params)``.

    The ``factory`` may be a gymnax class, or return a gymnax environment. A registered name takes
    precedence over the same name in gymnax.

    Raises:
        ValueError: if the name is empty or has a "|", or is registered and overwrite is not set.
        TypeError: if the factory is not callable.
    """
    if not isinstance(name, str) or not name or "|" in name:
        raise ValueError(f"an environment's name is a non-empty string without '|', got {name!r}")
    if not callable(factory):
        raise TypeError(f"{name}: the factory must be callable, got {factory!r}")
    if name in _factories and not overwrite:
        raise ValueError(f"{name!r} is registered; pass overwrite=True to replace it")
    _factories[name], _homes[name] = factory, calling_module(__name__)


def home_of(name: str) -> str | None:
    """The module that registers an environment, here or with gymnax; None for an adapter's.

    Of a name with wrappers, the environment without them.

    Raises:
        ValueError: if ``name`` is unknown.
    """
    name, _ = parts_of(name)
    if name in _factories:
        return _homes[name]
    if prefix_of(name):
        return None
    _check_name(name)
    return getattr(_gymnax.registry()[name], "__module__", None)


def adapters() -> dict[str, str | None]:
    """Other libraries' prefixes -> the installed versions, or None; imports nothing.

    ``pip install 'kltrust[brax]'`` installs what "brax/..." needs, and so on.
    """
    return {prefix: installed(prefix) for prefix in ADAPTERS}


def available(prefix: str | None = None) -> tuple[str, ...]:
    """All names that `make` knows now -> each once: registered ones, then gymnax's.

    With a ``prefix`` from `adapters`, it lists that library's names; this imports the library.

    Raises:
        ValueError: for an unknown prefix.
        RuntimeError: if its library is missing.
    """
    if prefix is not None:
        if prefix not in ADAPTERS:
            raise ValueError(f"there is no adapter {prefix!r}: there are {', '.join(ADAPTERS)}")
        return adapted_names(prefix)
    return tuple(dict.fromkeys([*_factories, *_gymnax.registry()]))


def describe(name: str) -> EnvInfo:
    """Spaces, time limit and parameters of an environment; downloads nothing.

    Raises:
        ValueError: for an unknown name.
    """
    fields: dict[str, Any] = {}
    if "|" in name:
        info, env = describe(parts_of(name)[0]), make(name)
        spaces = env.observation_space, env.action_space, env.max_steps
        return EnvInfo(name, info.source, *spaces, info.fields, info.arguments, info.note)
    if name in _factories:
        source, (arguments, _) = "registered", keywords(_factories[name])
        required = [k for k, v in arguments.items() if v is inspect.Parameter.empty]
        note = f"needs {', '.join(required)}" if required else ""
    elif prefix := prefix_of(name):
        source, note, (fields, arguments) = prefix, "", adapted_parameters(name)
    else:
        _check_name(name)
        source, (arguments, _) = "gymnax", keywords(_gymnax.registry()[name])
        note = _DOWNLOADS.get(name, "")
        fields = {} if note else _gymnax.params_of(name)
    if note:
        return EnvInfo(name, source, None, None, None, fields, arguments, note)
    env = make(name)
    spaces = env.observation_space, env.action_space, env.max_steps
    return EnvInfo(name, source, *spaces, fields, arguments)


def static_parameters(name: str) -> frozenset[str]:
    """The static arguments of an adapter's environment -> the names that can't be traced.

    ``name`` is as in `make`. The set is empty for gymnax's and registered environments: only use
    tells which of their arguments may be traced.
    """
    base = parts_of(name)[0]
    return frozenset(adapted_parameters(base)[1]) if prefix_of(base) else frozenset()


def _check_name(name: str) -> None:
    names = available()
    if name in names:
        return
    name = str(name)
    of_mujoco = did_you_mean(re.sub(r"-v\d+$", "", name), MUJOCO_TASKS, "brax/")
    raise ValueError(
        f"there is no environment {name!r}: {did_you_mean(name, names) or of_mujoco}"
        "`kltrust envs` and kltrust.environments.available() list all names; one of your own is "
        "registered first (on the command line by --import MODULE); those of other libraries have "
        f"a prefix ({', '.join(f'{prefix}/' for prefix in ADAPTERS)})"
    )
