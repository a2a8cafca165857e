"""Docstrings: every public name has one that says it all."""

import re
import sys
from pathlib import Path

import griffe
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from builder import docstrings  # noqa: E402


def lacking(item, said):
    """What the docstring of a class, function or attribute leaves out.

    A function's has to name each argument, itself or in the docstring that it refers to ("see `x`",
    "as in `x`"), and to say what comes back: by a section, by a shape in brackets, by "like ``x``",
    or by a type that says it, which a class with a docstring does.
    """
    text = item.docstring.value if item.docstring else ""
    if not text.strip():
        return ["a docstring"]
    if item.is_class and {"init", "update"} <= set(item.members):
        return []  # `PolicyUpdate` and `Critic` say what the two methods take and return
    if item.is_class:
        # What overrides a method of a base class does what that says.
        known = {name for base in item.resolved_bases for name in base.all_members}
        methods = [m for n, m in item.members.items() if n[0] != "_" and n not in known]
        return [f"{m.name}: {what}" for m in methods if m.is_function for what in lacking(m, said)]
    if not item.is_function:
        return []
    referred = [said.get(name, "") for name in re.findall(r"(?:see|as in) `([\w.]+)`", text)]
    names = "\n".join([text, *referred])
    arguments = [p.name for p in item.parameters if p.name not in ("self", "cls")]
    found = [name for name in arguments if not re.search(rf"\b{name}\b", names)]
    kind, first = str(item.returns), text.split("\n\n")[0]
    clear = kind in ("None", "bool", "int", "float", "str") or kind in said
    shape = re.search(r"\[[^\]]*\]|->|like ``\w+``", first)
    return found if clear or shape or "Returns:" in text else [*found, "what it returns"]


def public(package):
    """Everything that the public modules offer, by path: where it is defined, imported or not."""
    found = {}
    for part in docstrings.public_modules(package):
        for name, member in package.modules[part].members.items():
            if member.is_public and not member.is_module:
                item = member.final_target if member.is_alias else member
                found[f"kltrust.{part}.{name}"] = item
    return found


@pytest.fixture(scope="module")
def package():
    return docstrings.load(ROOT)


@pytest.fixture(scope="module")
def said(package):
    """The docstrings of all public names, short and dotted."""
    names = docstrings.public_names(package)
    return {n: package[p.removeprefix("kltrust.")].docstring.value for n, p in names.items()}


def test_every_public_name_has_a_docstring_that_says_it_all(package, said):
    items = public(package)
    assert len(items) > 150
    assert {path: gaps for path, item in items.items() if (gaps := lacking(item, said))} == {}


def test_the_public_names_are_those_of_the_package(package):
    import kltrust

    ours = {path.removeprefix("kltrust.") for path in public(package)}
    # An algorithm is offered by the package, whatever its file is called.
    parts = {n: re.sub(r"\._\w+$", "", home) for n, home in kltrust._HOMES.items()}
    homes = {f"{home.removeprefix('kltrust.')}.{n}" for n, home in parts.items()}
    promised = {path for path in homes if not path.startswith("kltrust")}
    for part in ("tabular", "audit"):
        promised |= {f"{part}.{name}" for name in getattr(kltrust, part).__all__}
    assert promised <= ours


@pytest.mark.parametrize(
    ("code", "gaps"),
    [
        ("def f(x: Array) -> Array: ...", ["a docstring"]),
        ('def f(x: Array) -> Array:\n "Twice x: [*E]."', []),
        ('def f(x: Array) -> Array:\n "Twice the maximum: [*E]."', ["x"]),
        ('def f(x: Array) -> Array:\n "Twice x."', ["what it returns"]),
        ('def f(x: Array) -> Array:\n "Twice x, like ``x``."', []),
        ('def f(x: Array) -> None:\n "Prints x."', []),
        ('def f(x: Array) -> Known:\n "All of x."', []),
        ('def f(x: Array) -> Unknown:\n "All of x."', ["what it returns"]),
        ('def f(x: Array, y: Array) -> Array:\n "[*E]; see `Known`."', ["y"]),
        ('class f:\n "A."\n def g(self, x: int) -> None:\n  "B."', ["g: x"]),
        ('class f:\n "A."\n def g(self) -> None: ...', ["g: a docstring"]),
        ('class g:\n "A."\n def h(self, x: int) -> None:\n  "Of x."\nclass f(g):\n "B."', []),
        (
            'class g:\n "A."\n def h(self, x: int) -> None:\n  "Of x."\n'
            'class f(g):\n "B."\n def h(self, x: int) -> None: ...\n def k(self) -> None: ...',
            ["k: a docstring"],
        ),
        ("f = 1", ["a docstring"]),
        ('f = 1\n"One."', []),
    ],
)
def test_the_checker_of_docstrings_finds_what_is_missing(code, gaps):
    with griffe.temporary_visited_module(code) as module:
        assert lacking(module["f"], {"Known": "Has an x."}) == gaps
