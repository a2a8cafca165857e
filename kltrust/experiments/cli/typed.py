"""Arguments as people type them: 1e5 for a count, 64,64 for a list, true for a switch."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

REGISTRY = ConstructorRegistry()
"""How `tyro.cli` reads whole numbers, and tuples of them."""


class Rare:
    """Marks an option in its annotation: `cli` lists it only for ``--help-all``."""


def cli(kind: Any, *, args: Sequence[str], **more: Any) -> Any:
    """`tyro.cli` that reads what people type; ``--help`` leaves out what is `Rare`."""
    args = list(args)
    if "--help-all" in args:
        args = ["--help" if a == "--help-all" else a for a in args]
    elif dataclasses.is_dataclass(kind) and {"-h", "--help"} & set(args):
        shorter, more_of_it = _without_rare(kind), "--help-all lists all options."
        if shorter is not kind:
            text = more.get("description") or inspect.cleandoc(kind.__doc__ or "")
            kind, more = shorter, {**more, "description": f"{text}\n\n{more_of_it}"}
    return tyro.cli(kind, registry=REGISTRY, args=args, **more)


def _without_rare(kind: Any) -> Any:
    """The class of options with those that are `Rare` hidden, the classes of its fields too.

    It is the class itself where there is none.
    """
    hints, fields = get_type_hints(kind, include_extras=True), []
    for field in dataclasses.fields(kind):
        hint, default = hints[field.name], field.default
        if any(mark is Rare for mark in getattr(hint, "__metadata__", ())):
            hint = tyro.conf.Suppress[hint]  # type: ignore[misc, valid-type]
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            hint = _without_rare(hint)
            default = hint()
        if hint is not hints[field.name]:
            fields.append((field.name, hint, default))
    if not fields:
        return kind
    made = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)
    made.__doc__ = kind.__doc__
    return made


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


def check_file(what: str, path: Path, names: Sequence[str] = ()) -> None:
    """Refuses a file that is not there; the error names the nearest TOML file of its folder.

    Args:
        what: the kind of file.
        path: its path.
        names: names that may stand in place of a path.

    Raises:
        ValueError: names the nearest of these.
    """
    if path.exists() or str(path) in names:
        return
    from kltrust.experiments.config.spec_source import (
        files_like,
    )  # loads JAX, which help does without

    told = f"can't read the {what} {path}: there is no such file"
    raise ValueError(told + files_like(path, names))


def joined(arguments: Sequence[str], name: str) -> list[str]:
    """The arguments with the values of every ``name`` behind its first: none replaces another."""
    rest: list[str] = []
    values: list[str] = []
    place, inside = None, False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag == name:
            place, inside = len(rest) if place is None else place, not equals
            values += [value] if equals else []
        elif inside and not argument.startswith("--"):
            values.append(argument)
        else:
            inside = False
            rest.append(argument)
    return rest if place is None else [*rest[:place], name, *values, *rest[place:]]


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
