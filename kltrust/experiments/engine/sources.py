"""The source of a module: its file, its neighbours, its digest, and its earlier files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from kltrust.experiments.engine.devices import cache_folder

SCRIPT = "__main__"
"""A script or a notebook, which can't be imported again without running it."""
_INSTALLED = ("site-packages", "dist-packages")
_MOST = 50


def is_own(name: str) -> bool:
    """Whether a module is the user's: neither ours nor gymnax's."""
    return name.partition(".")[0] not in ("", "kltrust", "gymnax")


def file_of(module: ModuleType) -> Path | None:
    """The file of a module's source; None for a notebook."""
    file = getattr(module, "__file__", None)
    return Path(file).absolute() if file else None


def root_of(file: Path, name: str) -> Path:
    """The folder in which Python finds a module by its name."""
    up = len(name.split(".")) - 1 + (file.name == "__init__.py")
    return file.parents[up] if name != SCRIPT else file.parent


def with_neighbours(module: ModuleType) -> dict[str, ModuleType]:
    """A module, the packages around it, and the neighbouring modules they import, by name."""
    found: dict[str, ModuleType] = {}
    name, file = module.__name__, file_of(module)
    parts = name.split(".")
    waiting = [".".join(parts[: i + 1]) for i in range(len(parts))]
    while waiting:
        one = waiting.pop()
        if one in found or one not in sys.modules:
            continue
        found[one] = sys.modules[one]
        waiting += [other for other in _imported(found[one]) if _is_beside(other, name, file)]
    return dict(sorted(found.items()))


def _imported(module: ModuleType) -> Iterator[str]:
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else _text(value, "__module__")
        if isinstance(name, str):
            yield name


def _text(value: Any, attribute: str) -> Any:
    with contextlib.suppress(Exception):  # a lazy object may raise anything
        return getattr(value, attribute, None)
    return None


def _is_beside(other: str, name: str, file: Path | None) -> bool:
    """Whether ``other`` is from the same source tree as a module: its package, or its folder."""
    there = file_of(sys.modules[other]) if other in sys.modules else None
    if file is None or there is None or not is_own(other):
        return False
    if any(part in _INSTALLED for part in (*file.parts, *there.parts)):
        return other.partition(".")[0] == name.partition(".")[0]
    return there.is_relative_to(root_of(file, name))


def digest(file: Path | None) -> str | None:
    """The digest of a file's bytes; None if there is no file."""
    if file is None:
        return None
    with contextlib.suppress(OSError):
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return None


def digest_of(name: str) -> str | None:
    """The digest of an imported module's source."""
    return digest(file_of(sys.modules[name])) if name in sys.modules else None


def _memory() -> Path:
    return cache_folder() / "modules.json"


def known_files() -> dict[str, list[str]]:
    """The files that this user imported modules from, by their names."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        read = json.loads(_memory().read_text("utf-8"))
        return {str(name): [str(file) for file in files] for name, files in read.items()}
    return {}


def remember_file(module: ModuleType) -> None:
    """Records a module's file; if nothing can be written, nothing is recorded."""
    name, file = module.__name__, file_of(module)
    before = known_files()
    if file is None or name == SCRIPT or before.get(name, [])[-1:] == [str(file)]:
        return
    files = [*(f for f in before.pop(name, []) if f != str(file)), str(file)][-_MOST:]
    with contextlib.suppress(OSError):
        memory = _memory()
        memory.parent.mkdir(parents=True, exist_ok=True)
        part = memory.with_name(f"{memory.name}.{os.getpid()}")
        part.write_text(json.dumps(dict([*before.items(), (name, files)][-10 * _MOST :])), "utf-8")
        part.replace(memory)
