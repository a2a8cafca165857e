"""What is imported when it is first used: libraries, and names that a package offers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any


def offered(package: str, module: str, names: Iterable[str]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` for names that its ``module`` defines, imported when first asked.

    ``package`` is the dotted name of the package; other names than these are an AttributeError.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get


class _Module:
    """A module by name; its first attribute imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import distrax
else:
    # A second and a half, most of it tensorflow-probability's: losses, settings and help do
    # without.
    distrax = _Module("distrax")

__all__ = ["distrax", "offered"]
