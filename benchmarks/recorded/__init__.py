"""The tables of the README and of docs/results, each from what one benchmark recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Result = dict[str, Any]
Form = str | Callable[[Result], object]
"""The form of a cell: a format string over a row's keys, or a function of the row."""


def cell(form: Form, row: Result) -> str:
    return form.format(**row) if isinstance(form, str) else str(form(row))


def table(rows: Iterable[Result], columns: Mapping[str, Form]) -> list[str]:
    """The lines of a Markdown table; ``columns`` maps each heading to the form of its cells."""
    return lines(columns, [[cell(form, row) for form in columns.values()] for row in rows])


def lines(header: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    header = list(header)
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def pivot(
    rows: Sequence[Result], first: Mapping[str, Form], column: Form, inner: Form, missing: str = ""
) -> list[str]:
    """One line for all rows with the same first cells, with a column for each of these rows.

    Lines and columns are in the order of their first appearance in the rows.
    """
    names = list(dict.fromkeys(cell(column, row) for row in rows))
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        line = found.setdefault(tuple(cell(form, row) for form in first.values()), {})
        line[cell(column, row)] = cell(inner, row)
    filled = ([*of, *(line.get(name, missing) for name in names)] for of, line in found.items())
    return lines([*first, *names], filled)


def in_order(rows: Iterable[Result], names: Iterable[str], key: str = "algorithm") -> list[Result]:
    """The rows with one of these names, in the order of the names."""
    rows = list(rows)
    return [row for name in names for row in rows if row[key] == name]


def spread(ratio: Sequence[float], form: str = ".2f") -> str:
    """As in ``1.71 (1.65 to 1.78)``: a median and a range."""
    median, low, high = (format(x, form) for x in ratio[:3])
    return f"{median} ({low} to {high})"


def each(form: str, values: Iterable[float]) -> str:
    return ", ".join(format(value, form) for value in values)


def on(versions: Result, *envs: str) -> str:
    """As in ``jax 0.10.1, gymnax 1.0.1, 2 cores (cpu)``, with the environments' library."""
    libraries = (env.rpartition("/")[0] or "gymnax" for env in envs)
    packages = versions["packages"]
    named = [f"{name} {packages[name]}" for name in dict.fromkeys(("jax", *libraries))]
    return f"{', '.join(named)}, {versions['cpu_count']} cores ({versions['device_kind']})"
