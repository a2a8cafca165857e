"""Parameters by name, traced or static, and the JAX settings that other libraries need."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.checks import nearest
from kltrust.environments._schedules import SCHEDULE_EXAMPLE
from kltrust.types import Array


class UnknownParameterError(ValueError):
    """The environment has no such parameter."""


LIMITS = ("max_steps", "max_steps_in_episode")
"""The parameters that are time limits."""


@contextlib.contextmanager
def jax_defaults() -> Iterator[None]:
    """Sets JAX's defaults, whatever the caller set: environments need 32 bits, free promotion."""
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def fields_of(params: Any) -> dict[str, Any]:
    """The fields of a dataclass instance with their values; empty for anything else."""
    fields = dataclasses.fields(params) if dataclasses.is_dataclass(params) else ()
    return {field.name: getattr(params, field.name) for field in fields}


def keywords(factory: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """A factory's named arguments with their defaults, and whether it takes any others."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(factory).parameters.values()
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return {p.name: p.default for p in parameters if p.kind in named}, takes_any


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """The known names nearest to ``name``, as a question; "" if none is near."""
    near = nearest(name, names, cutoff=0.5)
    return f"did you mean {' or '.join(repr(prefix + text) for text in near)}? " if near else ""


def require_static(name: str, arguments: dict[str, Any]) -> None:
    """Refuses a tracer as an argument of a factory."""
    for key, value in arguments.items():
        if isinstance(value, jax.core.Tracer):
            raise ValueError(
                f"{name}: {key!r} is an argument of the factory, so it is static: pass a concrete "
                "value, and make one environment per value"
            )


def require_known(
    name: str, params: Iterable[str], fields: Iterable[str], arguments: Iterable[str]
) -> None:
    """Refuses parameters that the environment does not have, and lists those that it has."""
    fields, arguments = list(fields), list(arguments)
    unknown = [k for k in params if k not in fields and k not in arguments]
    if unknown:
        raise UnknownParameterError(
            f"{name} has no parameter {', '.join(map(repr, unknown))}; "
            f"{did_you_mean(unknown[0], [*fields, *arguments])}its params have "
            f"{', '.join(fields) or 'no fields'}, its factory takes "
            f"{', '.join(arguments) or 'no arguments'}"
        )


def require_numbers(name: str, arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses texts, lists and tables for the arguments of a factory whose default is a number."""
    for key, value in arguments.items():
        default = defaults.get(key)
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if number and isinstance(value, str | list | tuple | Mapping):
            raise _no_number(name, key, value)


def _no_number(name: str, key: str, value: Any) -> ValueError:
    hint = f"a schedule of a training is {SCHEDULE_EXAMPLE}"
    return ValueError(f"{name}: {key} must be a number, got {value!r}; {hint}")


def cast(name: str, key: str, value: Any, default: Any) -> Array:
    """The value as a strongly typed array of the field's dtype and shape, or a ValueError.

    Python's 0.1, ``jnp.float32(0.1)`` and ``jnp.asarray(0.1)`` would be three compilations.
    """
    dtype = jnp.result_type(default)
    known = not isinstance(value, jax.core.Tracer)
    kinds = "biufV" if jnp.issubdtype(dtype, jnp.bool_) else "iufV"
    if known and np.asarray(value).dtype.kind not in kinds:
        raise _no_number(name, key, value)
    if known and np.issubdtype(dtype, np.floating) and not np.all(np.isfinite(value)):
        raise ValueError(f"{name}: {key} must be finite, got {value!r}")
    if np.shape(value) != np.shape(default):
        raise ValueError(
            f"{name}: {key} has shape {np.shape(value)}, the field has {np.shape(default)}"
        )
    if known:
        given = np.asarray(value)
        with np.errstate(invalid="ignore", over="ignore"):
            kept = given.astype(dtype)
        if not np.all(np.isfinite(kept)):
            raise ValueError(f"{name}: {key} is too large, got {value!r}")
        if not np.issubdtype(dtype, np.inexact) and np.any(kept != given):
            raise ValueError(f"{name}: {key} is {dtype}, and {value!r} is not")
        if key in LIMITS and np.any(given < 1):
            raise ValueError(f"{name}: {key} must be at least 1, got {value!r}")
        with jax.ensure_compile_time_eval():
            return jnp.asarray(given.astype(dtype))
    return value.astype(dtype)
