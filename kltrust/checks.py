"""Checks of settings at the door: of values that are known, before anything is compiled."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from kltrust.types import ActorCritic, Env


def check(**settings: tuple[Any, bool]) -> None:
    """`require` of settings, name = (value, whether zero is allowed): none negative or NaN."""
    for name, (value, zero_allowed) in settings.items():
        if zero_allowed:
            require(lambda x: x >= 0, "at least 0", **{name: value})
        else:
            require(lambda x: x > 0, "greater than 0", **{name: value})


def check_share(**settings: Any) -> None:
    """`require` of settings that must be between 0 and 1."""
    require(lambda x: (x >= 0) & (x <= 1), "between 0 and 1", **settings)


def require(good: Callable[[np.ndarray], Any], what: str, **values: Any) -> None:
    """Refuses values that are known and have an entry that is not ``good``.

    Args:
        good: elementwise, of float64.
        what: the values must be.
        **values: numbers or arrays of any shape by name; tracers pass.

    Raises:
        ValueError: names the setting, what it must be, and the first bad entry.
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
    """A whole number as a float; an infinity where no float is so large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_count(**settings: int) -> None:
    """Refuses static counts that are not whole numbers of at least 1; NumPy's integers are."""
    for name, value in settings.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def typed_key(key: Any) -> Any:
    """``key`` as a typed key: one of `jax.random.PRNGKey` is made one with the same data.

    Raises:
        TypeError: if it is no key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype == np.uint32 and np.ndim(key):
        return jax.random.wrap_key_data(key)
    raise TypeError(f"a key is one of jax.random.key, as in jax.random.key(0); got {key!r}")


def check_order(**bounds: Any) -> None:
    """Refuses two known bounds, given as low = ..., high = ..., of which the first is larger."""
    (low_name, low), (high_name, high) = bounds.items()
    if any(isinstance(x, jax.core.Tracer) for x in (low, high)):
        return
    if np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low} and {high}")


def check_minibatches(size: int, of: str, num_blocks: int = 1, **counts: int) -> None:
    """Refuses numbers of minibatches that do not divide a batch, or each of its equal blocks.

    The batch has ``size`` units ``of`` a kind, "rows (num_envs * num_steps)", say.

    Raises:
        ValueError: names the setting, and the nearest numbers that divide.
    """
    if size % num_blocks:
        raise ValueError(f"a batch of {size} {of} does not fall into {num_blocks} equal blocks")
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
    """Refuses names that are not known, with the nearest that is; ``what`` they name."""
    for name in names:
        if name not in known:
            raise ValueError(unknown(what, name, known))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known, with the nearest that is."""
    known = sorted(known)
    near = nearest(name, known)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {what} {name!r}: {hint}known are {', '.join(known)}"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> list[str]:
    """At most three known names that a person may have meant, the likeliest first.

    Case, underscores and dashes do not matter. A name that is equal then is the only one. Else
    names that begin with this one come first, then those that are spelled alike: ``cutoff``, from
    0 to 1, says how much alike.
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


def check_env_kind(env: Any, other: Any = None) -> None:
    """Refuses what is no `Env`; ``other`` is the argument beside it, which may have its place.

    Raises:
        TypeError: names what makes one.
    """
    if isinstance(env, Env):
        return
    if isinstance(other, Env):
        hint = ": the environment comes first"
    elif isinstance(env, str) or hasattr(env, "step_env"):
        hint = f": kltrust.make({repr(env) if isinstance(env, str) else 'it'}) makes one of it"
    else:
        hint = ""
    raise TypeError(f"env must be an Env of kltrust, got {kind_of(env)}{hint}")


def check_kinds(env: Any, agent: Any) -> None:
    """Refuses what is no `Env`, or no `ActorCritic`.

    Raises:
        TypeError: names what makes one.
    """
    check_env_kind(env, agent)
    if not isinstance(agent, ActorCritic):
        raise TypeError(
            f"agent must be an ActorCritic, as of kltrust.actor_critic(env), got {kind_of(agent)}"
        )


def fits(env: Env, agent: ActorCritic) -> tuple[Any, ...]:
    """What an agent was made for and of, to be compared by identity."""
    return env.observation_space, env.action_space, agent.init, agent.value


def kind_of(given: Any) -> str:
    """What something is, for an error: a text, an array by its shape, an object by its class."""
    if isinstance(given, str):
        return repr(given)
    if isinstance(given, jax.Array | np.ndarray):
        return f"an array of shape {list(given.shape)}"
    return f"an object of {type(given).__name__}"
