"""Which devices a run may use; imports jax only when asked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def use_all_cores(num_runs: int) -> None:
    """One host device per core, so that independent runs use all of them; before jax starts.

    There are never more devices than runs. Where jax has started already, as in a notebook, its
    devices are what they are.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", max(1, min(cores or 1, num_runs)))


def compilation_cache() -> Path | None:
    """Where compiled programs are kept: the folder that JAX was given, else one on accelerators."""
    import jax

    # On a CPU, XLA greets what it loads from there with pages of errors about tuning flags: who
    # wants it all the same sets JAX_COMPILATION_CACHE_DIR.
    name = "jax_compilation_cache_dir"
    given = jax.config.values[name] or os.environ.get(name.upper())
    if given is not None:
        return Path(given) if given else None
    if jax.default_backend() == "cpu":
        return None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kltrust" / "xla"
