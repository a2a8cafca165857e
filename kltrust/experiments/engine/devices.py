"""Which devices a run may use; imports jax only when asked."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import platform
import zlib
from pathlib import Path
from typing import Any

_ZSTANDARD = b"\x28\xb5\x2f\xfd"
"""The first bytes of a file compressed with Zstandard."""


def use_all_cores(num_runs: int) -> None:
    """Makes one host device per core, so that independent runs use all cores; before jax starts.

    There are never more devices than runs. If jax has started already, as in a notebook, its
    devices stay the same.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", max(1, min(cores or 1, num_runs)))


def found() -> list[Any]:
    """JAX's devices.

    Raises:
        RuntimeError: if there is none of the platform that JAX was told to use.
    """
    import jax

    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = jax.config.values["jax_platforms"]
        why = f" ({error})" if str(error) else ""
        raise RuntimeError(
            f"JAX finds no device of JAX_PLATFORMS={asked}{why}: unset it, or install JAX for that "
            "platform, as in pip install 'kltrust[cuda13]'"
        ) from error


def cache_folder() -> Path:
    """The user's cache folder on this machine, for faster starts; it may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kltrust"


def compilation_cache() -> Path | None:
    """The folder of compiled programs: the one that JAX was given, else one in the user's cache.

    ``JAX_COMPILATION_CACHE_DIR=""`` keeps no programs. A CPU's folder is named after its model and
    instructions: machines that share a home folder never load each other's machine code.
    """
    import jax

    name = "jax_compilation_cache_dir"
    given = jax.config.values[name] or os.environ.get(name.upper())
    if given is not None:
        return Path(given) if given else None
    kept = cache_folder() / "xla"
    return kept / f"cpu-{_cpu()}" if jax.default_backend() == "cpu" else kept


def mend_cache() -> list[Path]:
    """Removes incomplete programs from kltrust's own cache; returns their files.

    JAX writes a program in place, so a kill leaves an incomplete file. JAX would not replace it:
    every process would complain about it and compile again. A folder that JAX was given stays as
    it is.
    """
    folder = compilation_cache()
    own = cache_folder() / "xla"
    if folder is None or not folder.is_relative_to(own):
        return []
    removed = unreadable(folder)
    for file in removed:
        file.unlink(missing_ok=True)
    return removed


def unreadable(folder: Path) -> list[Path]:
    """The incomplete programs in a cache folder of JAX's."""
    return [file for file in sorted(folder.rglob("*-cache")) if not _is_whole(file.read_bytes())]


def _is_whole(program: bytes) -> bool:
    """Whether a program can be decompressed, by the library that JAX uses or used."""
    if program.startswith(_ZSTANDARD):
        for name in ("compression.zstd", "zstandard"):
            with contextlib.suppress(ImportError):
                zstandard = importlib.import_module(name)
                read = (
                    getattr(zstandard, "decompress", None)
                    or zstandard.ZstdDecompressor().decompress
                )
                break
        else:
            return True  # written by another installation
    else:
        read = zlib.decompress
    try:
        return bool(read(program))
    except Exception:  # each library has errors of its own
        return False


def _cpu() -> str:
    """A short text, the same for CPUs of one model and the same instructions."""
    said = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        of_interest = ("model name", "flags", "Features", "CPU part")
        said += sorted({line for line in lines if line.startswith(of_interest)})
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]


def hush_cpu_loader() -> None:
    """Silences the errors that XLA prints when it loads a program for the CPU; before jax starts.

    They name preferences of the compiler which no CPU has. If JAX has an accelerator, XLA's errors
    are shown.
    """
    plugins = ("jax_plugins", "libtpu")
    if not any(importlib.util.find_spec(plugin) for plugin in plugins):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
