"""The versions, devices and flags behind a result. No host names, no paths."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from kltrust.environments._adapters import packages_in_use

PACKAGES = ("kltrust", "jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "chex", "numpy")
"""The packages that any number may depend on."""


FLAGS = (
    *("default_prng_impl", "threefry_partitionable", "random_seed_offset"),
    *("high_dynamic_range_gumbel", "numpy_dtype_promotion", "allow_f16_reductions"),
    *("disable_jit", "disable_most_optimizations", "eager_constant_folding"),
    *("softmax_custom_jvp", "use_direct_linearize"),
)
"""JAX's options that decide random numbers, types or the last bits."""
NOT_CODE = "benchmarks/results", "docs", "README.md"
"""Paths of our checkout that decide no number: results and their tables."""
DECISIVE = ("x64", "matmul_precision", *FLAGS)
"""`FLAGS`, and two options with entries of their own in a `snapshot`."""


def snapshot(also: Iterable[str] = ()) -> dict[str, Any]:
    """Versions, commit, devices and flags of this process, as plain JSON values.

    Args:
        also: packages of another snapshot, which are included for a comparison.

    Returns:
        ``packages`` has the versions by name; environment libraries only if this process uses
        them. ``commit`` and ``dirty`` are None unless the package runs from a git checkout; it is
        dirty if `uncommitted` finds anything. The others are ``python``, ``platform``,
        ``backend``, ``device_kind``, ``device_count``, ``cpu_count``, ``x64``,
        ``matmul_precision``, ``flags`` (JAX's options in `FLAGS`) and ``XLA_FLAGS``.
    """
    devices = jax.devices()
    commit, dirty = _own_checkout()
    return {
        "packages": {
            name: _version(name) for name in dict.fromkeys([*PACKAGES, *packages_in_use(), *also])
        },
        "python": platform.python_version(),
        "commit": commit,
        "dirty": dirty,
        "platform": f"{platform.system()} {platform.machine()}",
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "cpu_count": os.cpu_count(),
        "x64": jax.dtypes.canonicalize_dtype(float) == "float64",
        "matmul_precision": jax.config.values["jax_default_matmul_precision"] or "default",
        "flags": {
            n: jax.config.values[f"jax_{n}"] for n in FLAGS if f"jax_{n}" in jax.config.values
        },
        "XLA_FLAGS": without_paths(os.environ.get("XLA_FLAGS", "")),
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The entries that differ between two snapshots, as name to (then, now)."""
    # Only flags that both snapshots have: not every version of JAX or of kltrust has all.
    common = then.get("flags", {}).keys() & now.get("flags", {}).keys()
    then, now = _flat(then, common), _flat(now, common)
    names = [*then, *(name for name in now if name not in then)]
    return {n: (then.get(n), now.get(n)) for n in names if then.get(n) != now.get(n)}


def commit_of(folder: Path, files: Iterable[Path] = ()) -> dict[str, Any] | None:
    """The git ``commit`` of a user's folder, and whether it is ``dirty``; None outside of git.

    It is dirty if a file that git tracks has changed, or if any of the ``files`` has changed or is
    not tracked.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        own = [str(file) for file in files]
        changes += _git(folder, "status", "--porcelain", "--", *own) if own else ""
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str, trusted: bool = False) -> str:
    # A folder's git configuration can name programs that a status runs: they may be anyone's.
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    if trusted:  # our checkout may belong to another user (in a container, say)
        command[1:1] = ["-c", "safe.directory=*"]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=env)
    return done.stdout.strip()


def without_paths(flags: str) -> str:
    """The flags, with paths left out of their values: results get published."""
    return re.sub(r"=\S*[/\\]\S*", "=<path>", flags)


def _flat(snapshot: Mapping[str, Any], flags: Collection[str]) -> dict[str, Any]:
    flat = {name: value for name, value in snapshot.items() if name not in ("packages", "flags")}
    options = {name: value for name, value in snapshot.get("flags", {}).items() if name in flags}
    return {**snapshot.get("packages", {}), **flat, **options}


def _flag(name: str) -> bool | int | str:
    value = getattr(jax.config, f"jax_{name}")
    return value if isinstance(value, bool | int) else str(value)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _own_checkout() -> tuple[str | None, bool | None]:
    """Commit and state of the checkout of the imported code, read about when it was imported."""
    package = importlib.import_module("kltrust").__file__
    return _checkout(Path(str(package)).resolve().parents[1])


def _checkout(root: Path) -> tuple[str | None, bool | None]:
    if not (root / ".git").exists():
        return None, None

    try:
        return _git(root, "rev-parse", "HEAD", trusted=True), bool(uncommitted(root))
    except (OSError, subprocess.SubprocessError):
        return None, None


def uncommitted(root: Path) -> list[str]:
    """The paths in our checkout ``root`` whose code no commit holds, without `NOT_CODE`.

    Raises:
        OSError, SubprocessError: outside of git.
    """
    others = (f":(exclude){path}" for path in NOT_CODE)
    changes = _git(root, "status", "--porcelain", "--", ".", *others, trusted=True)
    return [line.split()[-1] for line in changes.splitlines()]
