"""A profile of a function: the kernels that took the time, and how long none ran."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from common import Result, plain

MOST = 15
"""The number of kernels listed by name: those that take most time."""


def traced(turn: Callable[[], None], iterations: int) -> Result:
    """The `summary` of a call, per iteration."""
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it slows down what it sees
        with jax.profiler.trace(folder, profiler_options=options):
            turn()
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return summary(events, iterations)


def summary(events: list[dict[str, Any]], iterations: int) -> Result:
    """A summary of all devices' streams, or of all threads if the trace names no device.

    Args:
        events: events in Chrome's trace format, with times in microseconds.
        iterations: counts and times are divided by this number.
    """
    names = {
        (e["name"], e["pid"], e.get("tid", 0)): e["args"]["name"]
        for e in events
        if e.get("ph") == "M" and e.get("name") in ("process_name", "thread_name")
    }
    ran = [e for e in events if e.get("ph") == "X"]

    def on_stream(event: dict[str, Any]) -> bool:
        thread = names.get(("thread_name", event["pid"], event["tid"]), "")
        return thread.startswith("Stream")  # other lines tell the same once more, by operation

    ran = [e for e in ran if on_stream(e)] or ran
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in ran:
        by_name[event["name"]].append(event["dur"])
    most = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:MOST]
    spans = [(e["ts"], e["ts"] + e["dur"]) for e in ran]
    whole = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return {
        "kernels": round(len(ran) / iterations),
        "milliseconds": plain(whole / 1e3 / iterations),
        "busy": plain(covered(spans) / max(whole, 1e-9)),
        "most": [
            {"name": name, "calls": round(len(of) / iterations), "share": plain(sum(of) / whole)}
            for name, of in most
        ],
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of a union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
