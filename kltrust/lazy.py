"""Imports that wait until first use: names that a package offers, libraries and extras."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any


def offered(package: str, module: str, names: Iterable[str]) -> Callable[[str], Any]:
    """A package's ``__getattr__``, which imports ``names`` from its ``module`` on first use.

    ``package`` is the dotted name of the package. Any other name is an AttributeError.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get


SWEEPS = ("jinja2", "matplotlib", "orbax", "packaging", "pandas", "pyarrow", "rich", "tyro")
"""The modules of the extra ``sweeps``."""


def require_sweeps(what: str) -> None:
    """Checks that the modules of the extra ``sweeps`` are installed, without importing them.

    Args:
        what: the feature that needs them, as in "the command line".

    Raises:
        RuntimeError: if one is missing; names all that are, and the line that installs them.
    """
    missing = [name for name in SWEEPS if importlib.util.find_spec(name) is None]
    if missing:
        raise _lacks(what, ", ".join(missing), "sweeps")


def import_extra(module: str, extra: str, what: str) -> Any:
    """Imports a module that an extra installs.

    Args:
        module: its dotted name.
        extra: the extra that installs it.
        what: the feature that needs it, as in "a film".

    Raises:
        RuntimeError: if it does not import; names the package and the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = (error.name or module).partition(".")[0]
        if name == "kltrust":
            raise
        raise _lacks(what, f"{name} ({error})", extra) from error


def _lacks(what: str, packages: str, extra: str) -> RuntimeError:
    return RuntimeError(
        f"{what} needs packages that do not import: {packages}; pip install 'kltrust[{extra}]'"
    )


class _Module:
    """A module by name; the first access to an attribute imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import distrax
else:
    # It takes a second and a half to import, mostly for tensorflow-probability. Losses, settings
    # and help do without.
    distrax = _Module("distrax")

environments: Any = _Module("kltrust.environments")
"""Lazy, for modules that environments import, and that accept environments of gymnax."""

__all__ = ["distrax", "environments", "import_extra", "offered", "require_sweeps"]
