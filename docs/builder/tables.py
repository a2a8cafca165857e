"""Tables made of what the source says: a page holds ``<!-- table: NAME ARGUMENT -->``.

settings ALGORITHM (or critic, learner, network, budget), extra ALGORITHM, extras, metrics,
algorithms, names MODULE, presets SOURCE, options COMMAND, findings OF, scalars LIBRARY.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import math
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import griffe

from builder import docstrings
from kltrust.algorithms import algorithm_names, find_algorithm
from kltrust.experiments import cli
from kltrust.experiments.config import presets
from kltrust.experiments.config.experiment import SECTIONS, section_kinds
from kltrust.findings import CATALOGUE, NAMES
from kltrust.settings import declared, is_traced

_ROOT = Path(__file__).parent.parent.parent
_PLACE = re.compile(r"<!-- table: (\w+) ?(.*?) -->")


_HOLDS = {
    "bound": "a bound on the mean KL",
    "state bound": "a bound on the largest KL of a state",
    "set point": "a set point of the mean KL",
    "clip": "a width of ratios, heuristic",
    "drift": "a coefficient of what holds it back, heuristic",
}
"""What a role of a setting says of the step."""


def fill(markdown: str) -> str:
    """A page with its tables.

    Raises:
        ValueError: if a table has no such name or argument.
    """

    def table(match: re.Match[str]) -> str:
        name, argument = match.groups()
        try:
            return _TABLES[name](argument)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{match.group()}: {error}") from error

    return _PLACE.sub(table, markdown)


@functools.cache
def package() -> griffe.Module:
    """The package as its source is."""
    return docstrings.load(_ROOT)


def section(path: str, kind: Any) -> dict[str, str]:
    """What a docstring says of each argument or attribute, by name."""
    found: dict[str, str] = {}
    item = package()[path]
    assert item.docstring is not None, path
    for part in item.docstring.parse("google"):
        if isinstance(part, kind):
            found |= {entry.name: entry.description for entry in part.value}
    return found


def extra(algorithm: str) -> dict[str, str]:
    """What an algorithm reports of itself, by name: the lists "Extra:" of it and what it inherits.

    Raises:
        ValueError: if there is none.
    """
    texts = [f"{inspect.getdoc(cls)}\n" for cls in reversed(find_algorithm(algorithm).__mro__)]
    blocks = re.findall(r"^Extra:\n((?:    .*\n)+)", "\n".join(texts), re.MULTILINE)
    entries = re.findall(r"^    - ``(\w+)``: (.*(?:\n      .*)*)", "".join(blocks), re.MULTILINE)
    if not entries:
        raise ValueError(f"the docstring of {algorithm} has no list 'Extra:'")
    return {name: " ".join(text.split()) for name, text in entries}


def _settings_table(name: str) -> str:
    cls = section_kinds("trpo")[name] if name in SECTIONS[1:] else find_algorithm(name)
    rows = []
    for field in dataclasses.fields(cls):
        said = declared(field)
        if not (said.meaning and said.usual):
            raise ValueError(f"{field.name} lacks its meaning or its usual range at its field")
        kind = "traced" if is_traced(field) else "static"
        default = f"`{field.default}`<br>{kind}"
        rows.append([f"`{field.name}`", default, _text(said.meaning), said.usual])
    return _table(["setting", "default", "what it is", "usual range, and whose"], rows)


def _extra_table(algorithm: str) -> str:
    return _table(
        ["metric", "definition"], [[f"`extra.{k}`", _text(v)] for k, v in extra(algorithm).items()]
    )


def _metrics_table(_: str) -> str:
    fields = section("learner.Metrics", griffe.DocstringSectionAttributes)
    return _table(["metric", "definition"], [[f"`{k}`", _text(v)] for k, v in fields.items()])


def _extras_table(_: str) -> str:
    rows = [
        [f"`extra.{key}`", f"[`{algorithm}`](algorithms/{algorithm}.md)", _text(definition)]
        for algorithm in algorithm_names()
        for key, definition in extra(algorithm).items()
    ]
    return _table(["metric", "algorithm", "definition"], sorted(rows))


def _algorithms_table(_: str) -> str:
    rows = []
    for name in algorithm_names():
        cls = find_algorithm(name)
        held = [
            f"`{f.name}`: {_HOLDS[declared(f).role]}"
            + (", off by default" if f.default == math.inf else "")
            for f in dataclasses.fields(cls)
            if declared(f).role in _HOLDS
        ]
        rows.append(
            [f"[`{name}`]({name}.md)", _text(_summary(cls)), "<br>".join(held) or "the step size"]
        )
    return _table(["algorithm", "what it does", "what holds its step"], rows)


def _names_table(module: str) -> str:
    rows = []
    for name, path in sorted(docstrings.public_names(package()).items()):
        if "." not in name and path.startswith(f"kltrust.{module}."):
            item = package()[path.removeprefix("kltrust.")]
            rows.append([f"[`{name}`][{path}]", _text(_summary(item))])
    return _table(["name", "what it is"], rows)


def _presets_table(source: str) -> str:
    found: dict[str, list[str]] = {}
    for algorithm, env in presets.available(source or None):
        found.setdefault(algorithm, []).append(f"`{env}`")
    return _table(["algorithm", "presets"], [[f"`{a}`", ", ".join(e)] for a, e in found.items()])


def _options(arguments: str) -> str:
    return f"```text\n{help_of(arguments.split())}```"


def help_of(arguments: list[str]) -> str:
    """What ``kltrust ... --help-all`` prints, 80 columns wide."""
    printed = io.StringIO()
    narrow = mock.patch.dict(os.environ, COLUMNS="80")
    with narrow, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main([*arguments, "--help-all"])
    return printed.getvalue()


def _summary(item: Any) -> str:
    docstring = inspect.getdoc(item) if isinstance(item, type) else item.docstring.value
    assert docstring, item
    return docstring.split("\n\n")[0]


def _text(docstring: str) -> str:
    return docstrings.to_markdown(" ".join(docstring.split()), docstrings.public_names(package()))


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    # A bar would end a cell, and an escaped one shows its backslash within code.
    cells = [[cell.replace("|", "&#124;") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _findings(of: str) -> str:
    """A paragraph for each finding of what a condition looks at, by the catalogue."""
    said = []
    for name, entry in CATALOGUE.items():
        if entry.of == of:
            leaves = ", ".join(f"[`{other}`](#{other})" for other in entry.explains)
            also = f" Left out beside it, since it explains them: {leaves}." if leaves else ""
            said += [
                f"### {name} {{ #{name} }}",
                f"*{entry.severity}.* {_text(entry.says)} **Usually:** {_text(entry.means)} "
                f"**Try:** {_text(entry.remedy)}{also}",
            ]
    if not said:
        raise ValueError(f"no condition looks at {of!r}")
    return "\n\n".join(said)


def _names_of_scalars(library: str) -> str:
    rows = []
    for name, to in NAMES[library].items():
        column, change = to if isinstance(to, tuple) else (to, None)
        words = f"`{column}`" + (f", {change.__doc__}" if change and change.__doc__ else "")
        rows.append([f"`{name}`", words])
    return _table(["logged as", "judged as"], rows)


_TABLES = {
    "algorithms": _algorithms_table,
    "extra": _extra_table,
    "extras": _extras_table,
    "findings": _findings,
    "metrics": _metrics_table,
    "names": _names_table,
    "options": _options,
    "presets": _presets_table,
    "scalars": _names_of_scalars,
    "settings": _settings_table,
}
