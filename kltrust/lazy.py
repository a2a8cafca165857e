"""Libraries that are imported when something in them is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


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

__all__ = ["distrax"]
