"""Checks whether this installation is fit for training: one row per question, with a remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.table import Table
from rich.text import Text

from kltrust.experiments.engine import canary
from kltrust.experiments.engine.devices import compilation_cache
from kltrust.experiments.store import files

Status = Literal["ok", "warn", "fail"]
_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_LITTLE_DISK = 200_000_000
_WIDTH, _STEPS = 64, 250
_RATIO = 1.0
"""The result of `_speed` on the CPUs where it was tried."""


class Check(NamedTuple):
    """The answer to one question about the installation.

    Attributes:
        name: the thing that was checked.
        status: "ok", "warn" (training works, but look at this) or "fail" (it does not, or wrongly).
        value: what was found.
        remedy: what to do; empty if there is nothing to do.
    """

    name: str
    status: Status
    value: str
    remedy: str = ""


def report(folder: str | Path = ".") -> list[Check]:
    """Checks everything that training depends on.

    Args:
        folder: where runs would be written; the check does not make it.

    Returns:
        One row per question; nothing is raised, whatever is broken.
    """
    questions: list[Callable[[], Iterator[Check]]] = [
        _python,
        _requirements,
        _extras,
        _devices,
        _cache,
        _canary,
        _speed,
        _precision,
        _environments,
        lambda: _disk(Path(folder)),
    ]
    return [check for question in questions for check in _answers(question)]


def exit_code(checks: Sequence[Check]) -> int:
    """1 if any check failed, else 0: warnings do not count as failures."""
    return int(any(check.status == "fail" for check in checks))


def table(checks: Sequence[Check]) -> Table:
    """The rows for a terminal."""
    shown = Table(title="kltrust doctor", title_justify="left")
    for column in ("check", "status", "found", "what to do"):
        shown.add_column(column, overflow="fold")
    for check in checks:
        # As text: a remedy such as jax[cuda13] is not markup.
        cells = Text(check.name), Text(check.status, _STYLE[check.status]), *map(Text, check[2:])
        shown.add_row(*cells)
    return shown


def _answers(question: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from question()
    except Exception as error:  # a broken installation can fail in any way: that is the finding
        name = getattr(question, "__name__", "disk").strip("_<>")
        yield Check(name, "fail", f"{type(error).__name__}: {error}", "reinstall kltrust")


def _python() -> Iterator[Check]:
    wanted = SpecifierSet(importlib.metadata.metadata("kltrust")["Requires-Python"])
    found = platform.python_version()
    fits = wanted.contains(found, prereleases=True)
    yield Check("python", *_verdict(fits, found, f"use a Python {wanted}"))


def _requirements() -> Iterator[Check]:
    yield Check("kltrust", "ok", importlib.metadata.version("kltrust"))
    for requirement in [*_required_by(""), *_required_by("sweeps")]:
        yield check_requirement(requirement)


def _required_by(extra: str) -> list[Requirement]:
    """The requirements of an extra alone, or of the base if it is empty."""
    every = [Requirement(line) for line in importlib.metadata.requires("kltrust") or []]
    found = {
        name: [r for r in every if r.marker is None or r.marker.evaluate({"extra": name})]
        for name in ("", extra)
    }
    return [r for r in found[extra] if not extra or r not in found[""]]


def _extras() -> Iterator[Check]:
    """The extras, without those that only install JAX for an accelerator."""
    here: list[str] = []
    missing: list[str] = []
    for extra in importlib.metadata.metadata("kltrust").get_all("Provides-Extra") or []:
        names = {requirement.name for requirement in _required_by(extra)} - {"jax"}
        if names:
            (here if all(map(_is_installed, names)) else missing).append(extra)
    found = f"{', '.join(here) or 'none'}; not installed: {', '.join(missing) or 'none'}"
    yield Check("extras", "ok", found)


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_requirement(requirement: Requirement) -> Check:
    """Checks that the installed packages meet a requirement."""
    remedy = f'pip install "{requirement.name}{requirement.specifier}"'
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(requirement.name, "fail", "not installed", remedy)
    if requirement.specifier.contains(found, prereleases=True):
        return Check(requirement.name, "ok", found)
    return Check(requirement.name, "fail", f"{found}, wanted {requirement.specifier}", remedy)


def _devices() -> Iterator[Check]:
    backend, devices = jax.default_backend(), jax.devices()
    idle_gpu = backend == "cpu" and shutil.which("nvidia-smi") is not None
    remedy = "there is a GPU that JAX does not use: pip install 'kltrust[cuda13]'"
    kinds = Counter(device.device_kind for device in devices)
    found = f"{', '.join(f'{count} x {kind}' for kind, count in kinds.items())} ({backend}"
    memory = devices[0].memory_stats() or {}
    size = f", {memory['bytes_limit'] / 1e9:.0f} GB each" if "bytes_limit" in memory else ""
    found += f"{size})"
    yield Check("devices", *_verdict(not idle_gpu, found, remedy, otherwise="warn"))
    if backend != "cpu":
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    remedy = (
        "more host devices than cores slow training down: lower "
        "--xla_force_host_platform_device_count in XLA_FLAGS"
    )
    few = len(devices) <= (cores or len(devices))
    found = f"{len(devices)} on {cores} cores"
    yield Check("host devices", *_verdict(few, found, remedy, otherwise="warn"))


def _canary() -> Iterator[Check]:
    try:
        canary.check()
    except RuntimeError as error:
        yield Check("canary", "fail", str(error).partition(":")[0], canary.REMEDY)
    else:
        worst = max(finding.worst for finding in canary.findings())
        found = f"compiled and eager code compute rightly (error {worst:.0e})"
        yield Check("canary", "ok", found)


def _cache() -> Iterator[Check]:
    folder = compilation_cache()
    if folder is None:
        found = "none: every process compiles (JAX_COMPILATION_CACHE_DIR chooses a folder)"
    else:
        sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
        found = f"{folder}: {sum(sizes) / 1e6:.0f} MB in {len(sizes)} files"
    yield Check("compilations", "ok", found)


def _speed() -> Iterator[Check]:
    """Times small products in a loop, as in trainings: compiled for the CPU, and by NumPy."""
    weights = np.random.default_rng(0).standard_normal((_WIDTH, _WIDTH)).astype(np.float32) / 8

    def loop(x: Any, tanh: Callable, products: Any) -> Any:
        for _ in range(4):
            x = tanh(products @ x)
        return x

    def by_numpy() -> None:
        x = weights
        for _ in range(_STEPS):
            x = loop(x, np.tanh, weights)

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        held = jnp.asarray(weights)
        steps = jax.jit(
            lambda x: jax.lax.fori_loop(0, _STEPS, lambda _, x: loop(x, jnp.tanh, held), x)
        )
        seconds = _fastest(lambda: steps(held).block_until_ready(), by_numpy)
    ratio = seconds[0] / seconds[1]
    remedy = "the compiled code is slow here: look for other work on this machine, then report it"
    found = f"compiled code takes {ratio:.2f} times NumPy's time ({_RATIO} is usual)"
    yield Check("speed", *_verdict(ratio < 4 * _RATIO, found, remedy, otherwise="warn"))


def _fastest(*functions: Callable[[], Any]) -> list[float]:
    """The least seconds of each of several calls, timed in turns; the first turn compiles."""
    seconds = [math.inf] * len(functions)
    for turn in range(8):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            seconds[i] = min(seconds[i], time.perf_counter() - start) if turn else math.inf
    return seconds


def _precision() -> Iterator[Check]:
    wide = jax.dtypes.canonicalize_dtype(float) == "float64"
    remedy = "presets are tuned in float32, and float64 is slower: unset JAX_ENABLE_X64"
    found = "float64 (jax_enable_x64 is on)" if wide else "float32"
    yield Check("precision", *_verdict(not wide, found, remedy, otherwise="warn"))
    uncompiled = jax.config.values["jax_disable_jit"]
    found = "off (jax_disable_jit is on)" if uncompiled else "on"
    yield Check("jit", *_verdict(not uncompiled, found, "unset JAX_DISABLE_JIT", otherwise="warn"))


def _environments() -> Iterator[Check]:
    try:
        importlib.import_module("gymnax")
    except Exception as error:  # its dependencies can fail in any way
        reason = f"gymnax does not import: {type(error).__name__}: {error}"
        yield Check("environments", "fail", reason, "reinstall it: pip install --force gymnax")
    else:
        yield Check("environments", "ok", "gymnax imports")


def _disk(folder: Path) -> Iterator[Check]:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"kltrust")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Check("disk", "fail", f"can't write to {place}", files.explain(error))
        return
    free = shutil.disk_usage(place).free
    remedy = "a checkpoint and metrics may not fit: free some space"
    found = f"{free / 1e9:.1f} GB free at {place}"
    yield Check("disk", *_verdict(free > _LITTLE_DISK, found, remedy, otherwise="warn"))


def _verdict(
    fits: bool, found: str, remedy: str, *, otherwise: Status = "fail"
) -> tuple[Status, str, str]:
    return ("ok", found, "") if fits else (otherwise, found, remedy)
