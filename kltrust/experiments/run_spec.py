"""A sweep from Python in one call."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kltrust.experiments.config import spec as specs
from kltrust.experiments.engine import hosts
from kltrust.experiments.jobs import run
from kltrust.experiments.jobs.events import OnChunk, Progress, Stopped
from kltrust.experiments.jobs.plan import check_spec, make_plan
from kltrust.experiments.reading.results import Results, load
from kltrust.experiments.store import files
from kltrust.experiments.store.record import RUN, Record
from kltrust.lazy import require_sweeps


def sweep(
    spec: specs.Spec | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    width: int | None = None,
    shard: tuple[int, int] | None = None,
    progress: Progress | bool | None = None,
    on_chunk: OnChunk | None = None,
) -> Results:
    """Runs a specification, or resumes it where it was interrupted.

    Args:
        spec: the path of a TOML file, or a dict of the same structure (see `config.spec`).
        out: the folder for the results: a new one, an empty one, or one that holds the same
            specification, which is then resumed.
        width: lanes per block; None chooses.
        shard: (i, n), i from 1: only the i-th of n parts; `merge.merge` puts them together.
        progress: True shows bars, in a notebook or on the terminal; or an object of your own that
            is told what happens. By default nothing is shown.
        on_chunk: ``on_chunk(chunk)`` is called with each `Chunk`, outside the compiled code and
            before the chunk is committed. It may return values by name, each a number, [L] or
            [L, n]: they become columns of the metrics. ``chunk.stop()`` ends the sweep after this
            chunk; the same call resumes it later. If ``on_chunk`` raises an error, the sweep ends
            before this chunk is committed.

    Returns:
        The tables of all runs.

    Raises:
        ValueError: if the specification is wrong; nothing was compiled or written.
        RuntimeError: if this jaxlib computes wrong numbers (see `canary`).
        StorageError: if the folder can't be used; nothing was overwritten.

    Example:
        >>> results = kltrust.sweep(                               # doctest: +SKIP
        ...     {
        ...         "sweep": {"envs": ["CartPole-v1"], "seeds": 4},
        ...         "experiments": [{"algorithms": "trpo", "grid": {"max_kl": [0.01, 0.02]}}],
        ...     },
        ...     "runs/bounds",
        ... )
    """
    require_sweeps("a run folder")
    if hosts.are_several():
        raise ValueError("on several hosts, start the command `kltrust sweep` on each of them")
    out = Path(out)
    if isinstance(spec, str | Path):
        spec = specs.load(spec)
    elif isinstance(spec, Mapping):
        spec = specs.from_dict(json.loads(files.to_json(spec)), out.name)
    check_spec(spec)
    plan = make_plan(spec, width=width, shard=shard)
    if progress is True:
        from kltrust.experiments.cli.notebook import suitable

    listener = suitable() if progress is True else copy.copy(progress or Progress())
    listener.on_chunk = on_chunk or listener.on_chunk
    begun = run.plan_of(Record(out)) if os.path.lexists(out / RUN) else None
    # The same, except for the widths: the folder keeps its own.
    with contextlib.suppress(Stopped):
        if begun and dataclasses.replace(begun, groups=()) == dataclasses.replace(plan, groups=()):
            run.resume(out, progress=listener)
        else:
            run.start(plan, out, progress=listener)
    return load(out)
