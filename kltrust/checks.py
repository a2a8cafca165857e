"""Checks of settings whose values are known, before anything is compiled."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from kltrust.lazy import environments
from kltrust.types import (
    ActorCritic,
    Box,
    Discrete,
    Env,
    MaskedSpace,
    MultiBinary,
    MultiDiscrete,
    Space,
)


def check(**settings: tuple[Any, bool]) -> None:
    """Refuses negative settings and NaN; each is given as name = (value, is zero allowed)."""
    for name, (value, zero_allowed) in settings.items():
        if zero_allowed:
            require(lambda x: x >= 0, "at least 0", **{name: value})
        else:
            require(lambda x: x > 0, "greater than 0", **{name: value})


def check_share(**settings: Any) -> None:
    """Refuses settings that are not between 0 and 1."""
    require(lambda x: (x >= 0) & (x <= 1), "between 0 and 1", **settings)


def require(good: Callable[[np.ndarray], Any], what: str, **values: Any) -> None:
    """Refuses known values that have an entry that is not ``good``.

    Args:
        good: an elementwise test of float64 arrays.
        what: what the values must be, for the error.
        **values: numbers or arrays of any shape, by name; tracers pass.

    Raises:
        ValueError: names the setting, the requirement and the first bad entry.
    """
    for name, value in values.items():
        if isinstance(value, jax.core.Tracer):
            continue
        entries = np.asarray(as_float(value) if isinstance(value, int) else value, np.float64)
        bad = entries[~np.asarray(good(entries), bool)]
        if bad.size:
            got = f"{bad[0]} in an array of shape {entries.shape}" if entries.ndim else value
            raise ValueError(f"{name} must be {what}, got {got}")


def as_float(value: int) -> float:
    """A whole number as a float; infinite if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_count(**settings: int) -> None:
    """Refuses static counts that are not whole numbers of at least 1 (Python's or NumPy's)."""
    for name, value in settings.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def same_shape(**arrays: Any) -> None:
    """Refuses arrays of different shapes; each is given as name = array.

    Raises:
        TypeError: if one is no array.
        ValueError: if the shapes differ; the error names the arrays.
    """
    for name, x in arrays.items():
        if not hasattr(x, "shape"):
            hint = ": jnp.asarray makes one" if isinstance(x, list | tuple | float | int) else ""
            raise TypeError(f"{name} must be an array, got {kind_of(x)}{hint}")
    shapes = {name: tuple(x.shape) for name, x in arrays.items()}
    if len(set(shapes.values())) == 1:
        return
    hint = ""
    for name, shape in shapes.items():
        if shape == ():
            hint = f": {name} is one number, give one for each row"
        elif shape[-1] == 1 and shape[:-1] in shapes.values():
            hint = f": drop the last axis of {name}"
        elif shape[:-1] in shapes.values():
            hint = f": {name} has an axis too many, sum over it or take one entry of each row"
    told = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    raise ValueError(f"the shapes must be equal, got {told}{hint}")


def typed_key(key: Any) -> Any:
    """``key`` as a typed key; one from `jax.random.PRNGKey` is converted, with the same data.

    Raises:
        TypeError: if it is not a key.
        ValueError: if it is an array of keys.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    if typed or (dtype == np.uint32 and np.ndim(key)):
        one = key if typed else jax.random.wrap_key_data(key)
        if one.shape:
            raise ValueError(f"one key is needed, got {list(one.shape)} keys: vmap over them")
        return one
    raise TypeError(f"a key must come from jax.random.key, as in jax.random.key(0); got {key!r}")


def check_order(**bounds: Any) -> None:
    """Refuses two known bounds, given as low = ..., high = ..., if the first is larger."""
    (low_name, low), (high_name, high) = bounds.items()
    if any(isinstance(x, jax.core.Tracer) for x in (low, high)):
        return
    if np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low} and {high}")


def check_minibatches(size: int, of: str, num_blocks: int = 1, **counts: int) -> None:
    """Refuses numbers of minibatches that do not divide a batch, or each of its equal blocks.

    ``size`` is the number of units in the batch, and ``of`` says what they are, as in
    "rows (num_envs * num_steps)".

    Raises:
        ValueError: names the setting and the nearest divisors.
    """
    if size % num_blocks:
        raise ValueError(f"a batch of {size} {of} can't be split into {num_blocks} equal blocks")
    size //= num_blocks
    where = "a batch" if num_blocks == 1 else f"each of {num_blocks} blocks"
    for name, count in counts.items():
        if count < 1 or size % count:
            small = [d for d in range(1, math.isqrt(size) + 1) if size % d == 0]
            divisors = sorted({*small, *(size // d for d in small)})
            nearest = sorted(sorted(divisors, key=lambda d: abs(d - count))[:2])
            raise ValueError(
                f"{name}={count} does not divide {where} of {size} {of}: choose a divisor of "
                f"{size}, {' or '.join(map(str, nearest))}, say"
            )


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuses unknown names; the error suggests the nearest. ``what`` says what they name."""
    for name in names:
        if name not in known:
            raise ValueError(unknown(what, name, known))


def unknown(what: str, name: str, known: Iterable[str], note: str = "") -> str:
    """The error message for an unknown name, with a note on it and the nearest known ones."""
    known = sorted(known)
    near = nearest(name, known)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {what} {name!r}{note}: {hint}known are {', '.join(known)}"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> list[str]:
    """At most three known names that a person may have meant, the likeliest first.

    Case, underscores and dashes do not matter. If a known name is equal apart from these, it is the
    only result. Otherwise names that begin with this one come first, then similar spellings;
    ``cutoff``, from 0 to 1, is the least similarity.
    """

    def bare(text: str) -> str:
        return text.lower().replace("_", "").replace("-", "")

    by_bare: dict[str, str] = {bare(text): text for text in known}
    if bare(name) in by_bare:
        return [by_bare[bare(name)]]
    begins = [text for text in by_bare if bare(name) and text.startswith(bare(name))]
    begins.sort(key=len)
    alike = difflib.get_close_matches(bare(name), by_bare, n=3, cutoff=cutoff)
    return [by_bare[text] for text in dict.fromkeys([*begins, *alike])][:3]


def as_env(env: Any, other: Any = None) -> Env:
    """An `Env` of kltrust for ``env``, which may be an environment of gymnax.

    Args:
        env: an `Env`, whose spaces are converted if necessary; an environment object of gymnax; or
            a pair of one and its parameters, as ``gymnax.make`` returns it.
        other: the next argument of the caller, to notice if the two were swapped.

    Raises:
        TypeError: if it is neither; says how to make one.
    """
    pair = env if isinstance(env, tuple) and len(env) == 2 else (env, None)
    if not isinstance(env, Env) and hasattr(pair[0], "step_env"):
        raw, params = pair
        fields = dataclasses.fields(params) if dataclasses.is_dataclass(params) else ()
        given: dict[str, Any] = {field.name: getattr(params, field.name) for field in fields}
        return environments.make(raw, **given)
    if isinstance(env, Env):
        spaces = as_space(env.observation_space), as_space(env.action_space)
        if spaces[0] is env.observation_space and spaces[1] is env.action_space:
            return env
        return env._replace(observation_space=spaces[0], action_space=spaces[1])
    hint = ""
    if isinstance(other, Env):
        hint = ": the environment comes first"
    elif isinstance(env, str):
        hint = f": kltrust.make({env!r}) makes one of it"
    elif callable(env):
        hint = ": pass one environment of a schedule, such as its last, env(1.0)"
    raise TypeError(f"env must be an Env of kltrust, got {kind_of(env)}{hint}")


def as_space(space: Any) -> Any:
    """A space of gymnax or gymnasium, or a tree of them, as kltrust's; others are unchanged."""
    if isinstance(space, Space):
        return space
    if isinstance(space, MaskedSpace):
        inner = as_space(space.obs)
        return space if inner is space.obs else MaskedSpace(inner)
    kind = type(space).__name__
    parts = getattr(space, "spaces", space) if kind in ("Dict", "Tuple", "dict", "tuple") else ()
    if isinstance(parts, Mapping) and parts:
        made = {name: as_space(part) for name, part in parts.items()}
        same = parts is space and all(made[name] is part for name, part in parts.items())
        return space if same else made
    if isinstance(parts, list | tuple) and parts:
        listed = tuple(map(as_space, parts))
        same = parts is space and all(x is y for x, y in zip(listed, parts, strict=True))
        return space if same else listed
    if kind == "Discrete" and not getattr(space, "start", 0):
        return Discrete(int(space.n))
    if kind == "MultiDiscrete" and not np.any(getattr(space, "start", 0)):
        return MultiDiscrete(tuple(map(int, np.ravel(space.nvec))))
    if kind == "MultiBinary":
        return MultiBinary(int(np.prod(space.n)))
    if kind == "Box":
        low, high = (np.broadcast_to(np.asarray(x), space.shape) for x in (space.low, space.high))
        return Box(low.copy(), high.copy(), tuple(space.shape), np.dtype(space.dtype))
    return space


def check_kinds(env: Any, agent: Any) -> Env:
    """The environment as an `Env`, see `as_env`; refuses an agent that is no `ActorCritic`.

    Raises:
        TypeError: says what to pass.
    """
    env = as_env(env, agent)
    if not isinstance(agent, ActorCritic):
        raise TypeError(
            f"agent must be an ActorCritic, such as kltrust.actor_critic(env), got {kind_of(agent)}"
        )
    return env


def spaces_and_functions(env: Env, agent: ActorCritic) -> tuple[Any, ...]:
    """The spaces that an agent was made for and its functions, to compare by identity."""
    return env.observation_space, env.action_space, agent.init, agent.value


def calling_module(module: str) -> str:
    """The dotted name of the module from which a function of ``module`` was called."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == module:
        frame = frame.f_back
    return frame.f_globals.get("__name__", "")


def kind_of(given: Any) -> str:
    """A description for errors: a text itself, an array's shape, an object's class."""
    if isinstance(given, str):
        return repr(given)
    if isinstance(given, jax.Array | np.ndarray):
        return f"an array of shape {list(given.shape)}"
    return f"an object of {type(given).__name__}"
