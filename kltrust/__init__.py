"""Trust-region policy optimisation in JAX: TRPO, PPO's two surrogates, and the KL divergence.

Every public name is here, and none is imported before it is used: importing a loss brings neither
an environment nor a network library along. The names are those of ``__init__.pyi``, which type
checkers read as well.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

_HOMES = {
    alias.name: statement.module
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8")).body
    if isinstance(statement, ast.ImportFrom) and statement.module
    for alias in statement.names
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is first asked for, and keeps it."""
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("kltrust")
    elif name not in _HOMES:
        import difflib

        close = difflib.get_close_matches(name.lower(), _HOMES, 3, 0.5)
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        raise AttributeError(f"module 'kltrust' has no attribute {name!r}{hint}")
    elif _HOMES[name] == "kltrust":
        value = importlib.import_module(f"kltrust.{name}")
    else:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
