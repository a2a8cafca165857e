"""How a docstring as it is written here becomes Markdown: a griffe extension for mkdocstrings.

Formulas there are plain text, in which a star, a bracket or a sign of comparison means itself;
single backticks hold a name, which the site links; an indented block is code, Python after "::".
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

_MARKUP = str.maketrans({"*": "&#42;", "[": "&#91;", "<": "&lt;", "$": "&#36;"})
# Code stays as it is, and so does the name of an argument: griffe looks for it.
_VERBATIM = re.compile(r"``.+?``|`[^`\n]+`|^ *\*{0,2}\w+:", re.DOTALL | re.MULTILINE)
_ENTRIES = re.compile(r"^(?:Args|Attributes):\n(?: .*\n?)+", re.MULTILINE)
_SEVERAL = re.compile(r"^    (\w+(?:, \w+)+):((?: .*(?:\n      .*)*))", re.MULTILINE)
_BLOCK = re.compile(r"(:?:?)\n\n((?:    .+(?:\n+|$))+)")


class Docstrings(griffe.Extension):
    """Rewrites every docstring of the package, once all names are known."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """What griffe calls when it has read a package."""
        offer_names(pkg)
        names = public_names(pkg)
        for item in walk(pkg):
            if item.docstring is not None:
                item.docstring.value = to_markdown(item.docstring.value, names)


_NONE = griffe.Docstring("")


def load(root: Path) -> griffe.Module:
    """The package under ``root`` as griffe reads it: nothing is imported."""
    package = griffe.load("kltrust", search_paths=[root], docstring_parser="google")
    assert isinstance(package, griffe.Module)
    offer_names(package)
    return package


def offer_names(package: griffe.Module) -> None:
    """Makes public what a package offers by ``import a as a``, and every declared algorithm."""
    home = package.modules["algorithms"]
    for module in home.modules.values():
        for cls in module.classes.values():
            for decorator in cls.decorators:
                if found := re.fullmatch(r"algorithm\(['\"](\w+)['\"]\)", str(decorator.value)):
                    name = found.group(1)
                    home.set_member(name, griffe.Alias(name, cls, parent=home))
    for module in package.modules.values():
        # Its ``__all__`` is made of its names, which griffe, importing nothing, can't follow.
        if "__all__" in module.members and (module is home or not module.exports):
            module.exports = [
                name
                for name, member in module.members.items()
                if name[0] != "_" and member.is_alias and member.target_path.startswith("kltrust.")
            ]


def walk(item: griffe.Object) -> Iterator[griffe.Object]:
    """An object and all that is defined within."""
    yield item
    for member in item.members.values():
        if isinstance(member, griffe.Object):
            yield from walk(member)


def public_modules(pkg: griffe.Module) -> list[str]:
    """The modules that the package's stub names."""
    return sorted(
        name
        for name, module in pkg.modules.items()
        if name in pkg.imports and "The former name" not in (module.docstring or _NONE).value
    )


def public_names(pkg: griffe.Module) -> dict[str, str]:
    """Every documented name of the public modules, short and dotted, and its path in the site."""
    names: dict[str, str] = {}
    for part in public_modules(pkg):
        module = pkg.modules[part]
        for name, member in module.members.items():
            if member.is_public and not member.is_module and member.docstring is not None:
                path = f"{module.path}.{name}"
                names |= {f"{part}.{name}": path, path: path}
                # The part that defines it goes before one that offers it, too.
                if name not in names or member.canonical_path.startswith(f"{module.path}."):
                    names[name] = path
    return names


def to_markdown(text: str, names: dict[str, str]) -> str:
    """A docstring as Markdown that shows what help() does."""
    first, *rest = _BLOCK.split(_ENTRIES.sub(_one_by_one, text))
    out = [_prose(first, names)]
    for colons, block, prose in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        language = "python" if colons == "::" else "text"
        code = textwrap.dedent(block).rstrip()
        out.append(f"{colons[:1]}\n\n```{language}\n{code}\n```\n\n{_prose(prose, names)}")
    return "".join(out)


def _one_by_one(entries: re.Match[str]) -> str:
    """Entries "a, b: ..." of a list as one of each, which is what griffe reads."""

    def separate(entry: re.Match[str]) -> str:
        return "\n".join(f"    {name}:{entry.group(2)}" for name in entry.group(1).split(", "))

    return _SEVERAL.sub(separate, entries.group())


def _prose(text: str, names: dict[str, str]) -> str:
    out, end = [], 0
    for match in _VERBATIM.finditer(text):
        out += [text[end : match.start()].translate(_MARKUP), _verbatim(match.group(), names)]
        end = match.end()
    return "".join([*out, text[end:].translate(_MARKUP)])


def _verbatim(piece: str, names: dict[str, str]) -> str:
    name = piece.strip("`")
    single = piece.startswith("`") and not piece.startswith("``")
    return f"[{piece}][{names[name]}]" if single and name in names else piece
