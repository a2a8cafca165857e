"""The table from benchmarks/extras.py."""

from __future__ import annotations

from recorded import Form, Result, table


def extras(result: Result) -> list[str]:
    """The base and each extra, in the order of pyproject.toml."""
    rows = [
        {"extra": "none" if name == "base" else f"`{name}`", **row}
        for name, row in result["rows"].items()
    ]
    columns: dict[str, Form] = {
        "extra": "{extra}",
        "MB on disk": "{megabytes:,}",
        "processor seconds": "{seconds}",
    }
    return table(rows, columns)
