"""What is imported when it is first used: names that a package offers, libraries, and extras."""

from __future__ import annotations

import importlib
import importlib.util
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


SWEEPS = ("jinja2", "matplotlib", "orbax", "packaging", "pandas", "pyarrow", "rich", "tyro")
"""The modules of the extra ``sweeps``."""


def require_sweeps(what: str) -> None:
    """Looks for the modules of the extra ``sweeps``, and imports none of them.

    Args:
        what: needs them, as in "the command line".

    Raises:
        RuntimeError: if one is missing; names all of these and the line that installs them.
    """
    missing = [name for name in SWEEPS if importlib.util.find_spec(name) is None]
    if missing:
        raise _lacks(what, ", ".join(missing), "sweeps")


def import_extra(module: str, extra: str, what: str) -> Any:
    """A module that an extra brings.

    Args:
        module: its dotted name.
        extra: which installs it.
        what: needs it, as in "a film".

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

environments: Any = _Module("kltrust.environments")
"""For what stands before them and takes an environment of gymnax in the place of ours."""

__all__ = ["distrax", "environments", "import_extra", "offered", "require_sweeps"]
