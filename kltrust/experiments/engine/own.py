"""Your own modules, which register algorithms and environments: recorded in run folders, and found.

A run folder names the modules and holds a digest of each source, but no path and no source. The
files that a user imported such modules from are remembered on the user's machine, beside the
compiled programs.

A folder may come from anyone. So a module that it names is imported only where ``import`` finds it
by itself, or from a file that this user has imported before. A file in the working folder may have
changed; a file elsewhere must have the recorded digest. No other file is run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kltrust.experiments.engine import sources
from kltrust.experiments.engine.devices import use_all_cores

_warned: set[tuple[str, str]] = set()
_typed: list[str] = []
"""The modules that --import of the last command in this process named."""


class SourceWarning(UserWarning):
    """One of your modules has changed since a run began."""


def import_modules(names: Iterable[str]) -> None:
    """Imports modules that a person names, from the working folder or an installed package.

    Raises:
        ValueError: if one can't be imported.
    """
    _typed.clear()
    for name in names:
        if not name:
            raise ValueError("--import takes a module's name, as in `import MODULE`")
        # A module that computes starts JAX, whose devices can't change afterwards.
        use_all_cores(sys.maxsize)
        _search(Path.cwd())
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"can't import {name!r} ({error}): --import takes a module's name, as in "
                "`import MODULE`, from here or installed"
            ) from error
        if name not in _typed:
            _typed.append(name)
        sources.remember_file(module)


def code_of(algorithms: Iterable[str], envs: Iterable[str]) -> dict[str, Any]:
    """The record, for a run folder, of the modules that registered its algorithms and environments.

    Returns:
        A dict. ``import`` has the modules to import, ``sources`` a digest of each of them and of
        the neighbouring modules that they import. ``registered`` says which module has which name.
        ``algorithms`` has what reports need to know of their settings, ``commits`` the commits of
        the working folder and of the modules.
    """
    from kltrust.algorithms import find_algorithm
    from kltrust.experiments.config.stand_in import description_of
    from kltrust.experiments.store import versions

    algorithms = list(dict.fromkeys(algorithms))
    used = [f"algorithm {name}" for name in algorithms] + [f"environment {name}" for name in envs]
    homes = {what: home for what, home in _homes(used).items() if sources.is_own(home)}
    names = list(dict.fromkeys([*_typed, *homes.values()]))
    found: dict[str, ModuleType] = {}
    commits = {"working folder": versions.commit_of(Path.cwd())}
    for name in names:
        module = sys.modules.get(name)
        if module is None:
            continue
        parts = sources.with_neighbours(module)
        found |= parts
        if (file := sources.file_of(module)) is not None:
            own = [path for part in parts.values() if (path := sources.file_of(part))]
            commits[name] = versions.commit_of(file.parent, own)
            sources.remember_file(module)
    return {
        "import": [name for name in names if name != sources.SCRIPT],
        "sources": {name: sources.digest_of(name) for name in found},
        "registered": homes,
        "algorithms": {
            name: description_of(find_algorithm(name))
            for name in algorithms
            if f"algorithm {name}" in homes
        },
        "commits": {name: commit for name, commit in commits.items() if commit is not None},
    }


def import_recorded(code: Mapping[str, Any], folder: Path) -> None:
    """Imports your modules that a run folder names, unless all they register is registered already.

    Warns if a source has changed: the numbers may then differ.

    Raises:
        ValueError: if a module is not found, or registers less than it did; says what to add.
    """
    if not code:
        return
    digests = code["sources"]
    if not code["registered"] or _lacking(code):
        for name in code["import"]:
            if name not in sys.modules:
                _find(name, digests.get(name), folder)
    if lacking := _lacking(code):
        what, home = next(iter(lacking.items()))
        if home == sources.SCRIPT:
            raise ValueError(
                f"{what} of {folder} was registered by a script or a notebook: put it into a "
                "module, and import that first (--import MODULE in a shell)"
            )
        raise ValueError(
            f"{home} was imported and registers no {what}, which {folder} has: import the module "
            "that does first (--import MODULE in a shell)"
        )
    changed = ", ".join(_changed(code))
    if changed and (str(folder), changed) not in _warned:
        _warned.add((str(folder), changed))
        warnings.warn(
            f"not the code that {folder} began with: {changed}. Numbers may be others than those "
            "of the code that trained",
            SourceWarning,
            stacklevel=3,
        )


def _changed(code: Mapping[str, Any]) -> list[str]:
    """The modules whose source has changed, and the names that another module registers now."""
    digests = code["sources"]
    found = [
        name
        for name, digest in digests.items()
        if name != sources.SCRIPT and name in sys.modules and sources.digest_of(name) != digest
    ]
    for what, now in _homes(code["registered"]).items():
        then = code["registered"][what]
        of_others = now != then or now == sources.SCRIPT
        if of_others and sources.digest_of(now) != digests.get(then):
            found.append(f"{now} has {what}" if now == then else f"{now} has {what}, not {then}")
    return found


def _lacking(code: Mapping[str, Any]) -> dict[str, str]:
    """Names that are not registered in this process, each with the module that registered it."""
    from kltrust.algorithms import algorithm_names
    from kltrust.environments import available

    here = {f"algorithm {name}" for name in algorithm_names()}
    if any(what.startswith("environment ") for what in code["registered"]):
        here |= {f"environment {name}" for name in available()}
    return {what: home for what, home in code["registered"].items() if what not in here}


def _find(name: str, digest: str | None, folder: Path) -> None:
    """Imports a module that a run folder names."""
    known = [Path(file) for file in sources.known_files().get(name, ())]
    here = [file for file in known if sources.root_of(file, name) == Path.cwd() and file.is_file()]
    same = [file for file in known if file.is_file() and sources.digest(file) == digest]
    for file in here:
        _search(sources.root_of(file, name))
    try:
        if not here and not _is_found(name):
            if not same:
                others = f"; {known[-1]} is not what it was" if known and known[-1].exists() else ""
                raise ModuleNotFoundError(f"no module of this name is found{others}")
            _search(sources.root_of(same[-1], name))
        module = importlib.import_module(name)
    except Exception as error:  # the module's code may raise anything
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{folder} needs your module {name!r}, which can't be imported ({kind}{error}): change "
            f"to the folder where it is, and add --import {name} to the command (in Python: "
            f"`import {name}` first)"
        ) from error
    sources.remember_file(module)


def _is_found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _homes(what: Iterable[str]) -> dict[str, str]:
    """The modules that register these, by names like "algorithm trpo"; "" for an adapter's."""
    from kltrust.algorithms import find_algorithm
    from kltrust.environments._registry import home_of

    found = {}
    for entry in what:
        kind, _, name = entry.partition(" ")
        cls: Any = find_algorithm(name) if kind == "algorithm" else None
        found[entry] = (home_of(name) if cls is None else cls.registered_in) or ""
    return found


def _search(folder: Path) -> None:
    """Makes Python look for modules in this folder first."""
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
