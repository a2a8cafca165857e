"""The table from benchmarks/watch.py."""

from __future__ import annotations

import statistics

from recorded import Form, Result, on, table

ACTS = {
    "redraw": "everything again: three charts, the table",
    "pointer": "the line at the pointer",
    "sort": "a sort of the table",
    "filter": "a filter of the table and the charts",
}


def watch(result: Result) -> list[str]:
    """Milliseconds in the browser, and a line on the server."""
    times = result["milliseconds"]
    rows = [
        {"what": what, **{kind: times[f"{name}, {kind}"] for kind in ("processor", "shown")}}
        for name, what in ACTS.items()
    ]
    columns: dict[str, Form] = {
        f"{result['runs']:,} runs": "{what}",
        "processor, ms": lambda row: _median_and_best(row["processor"]),
        "until it is shown, ms": lambda row: _median_and_best(row["shown"]),
    }
    server = result["server"]
    share = server["cpu_seconds"] / server["seconds"] / result["versions"]["cpu_count"]
    cores = result["versions"]["cpu_count"]
    said = (
        f"The server took {60 * server['cpu_seconds'] / server['seconds']:.1f} CPU seconds a "
        f"minute while that sweep grew by {result['commits']} commits in "
        f"{server['seconds']:.0f} s, "
        f"{share:.1%} of what {cores} cores have, with the judge. Other work on the machine makes "
        f"the last column longer; {on(result['versions'])}. `python benchmarks/watch.py`"
    )
    return [*table(rows, columns), "", said]


def _median_and_best(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} (best {min(values):.0f})"
