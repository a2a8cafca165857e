"""Arguments as people type them: 1e5 for a count, 64,64 for a list, true for a switch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

REGISTRY = ConstructorRegistry()
"""How `tyro.cli` reads whole numbers, and tuples of them."""


cli = functools.partial(tyro.cli, registry=REGISTRY)


@REGISTRY.primitive_rule
def _whole_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda texts: whole(texts[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _wholes_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    if get_origin(info.type) is not tuple or get_args(info.type) != (int, ...):
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[INT [INT ...]]",
        instance_from_str=wholes,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(entry) for entry in value],
    )


def whole(text: str) -> int:
    """A count: 100000, 100_000 or 1e5.

    Raises:
        ValueError: on any other text.
    """
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        if (number := float(text)).is_integer():
            return int(number)
    raise ValueError(f"{text!r} is not a whole number")


def wholes(texts: Sequence[str]) -> tuple[int, ...]:
    """Several counts, from two texts "64 64" or one text "64,64".

    Raises:
        ValueError: on any other text.
    """
    return tuple(whole(part) for text in texts for part in text.strip("()[]").split(",") if part)


def switches(arguments: Sequence[str], names: set[str]) -> list[str]:
    """The arguments with ``--name true`` as ``--name``, and ``--name false`` as ``--no-name``."""
    rest, found = list(arguments), []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        given = value if equals else (rest[0] if rest else "")
        if name.removeprefix("--") not in names or given.lower() not in ("true", "false"):
            found.append(name + equals + value)
            continue
        if not equals:
            rest.pop(0)
        found.append(name if given.lower() == "true" else f"--no-{name[2:]}")
    return found
