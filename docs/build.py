"""Writes the documentation as finished Markdown, which any generator of sites can take.

python docs/build.py [--out build/docs]

It copies docs/, fills in the tables and formulas, and adds the pages that are made from the source:
one for each public module, one for each notebook. Files that are the same already are not touched,
so that a generator that watches the folder rebuilds only what has changed.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from builder import formulas, pages, tables

_ROOT = Path(__file__).parent.parent
_RESULTS = "benchmarks/results"
_INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)


def site_files(root: Path = _ROOT) -> dict[str, bytes]:
    """Every file of the site's source, by its path there.

    Raises:
        ValueError: if a table, a formula or an included file is at fault; it names the page.
    """
    found = {
        path.relative_to(root / "docs").as_posix(): path.read_bytes()
        for path in sorted((root / "docs").rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    found |= pages.module_pages(root) | pages.notebook_pages(root / "notebooks")
    found |= {f"results/{path.name}": path.read_bytes() for path in (root / _RESULTS).glob("*.png")}
    used: set[int] = set()
    for uri in [uri for uri in found if uri.endswith(".md")]:
        try:
            text, characters = formulas.to_mathml(_complete(found[uri].decode(), root))
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"{uri}: {error}") from error
        found[uri] = text.encode()
        used |= characters
    return found | {"assets/math.ttf": formulas.font(used)}


def _complete(text: str, root: Path) -> str:
    """A page with its tables, the files that it includes, and its pictures beside it."""
    text = tables.fill(text)
    text = _INCLUDED.sub(lambda match: (root / match.group(1)).read_text("utf-8"), text)
    return text.replace(f"](../../{_RESULTS}/", "](")


def write(files: dict[str, bytes], folder: Path) -> None:
    """Makes a folder hold these files and no others."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for uri, content in files.items():
        path = folder / uri
        if not (path.is_file() and path.read_bytes() == content):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Write the documentation as finished Markdown.")
    parser.add_argument(
        "--out", type=Path, default=_ROOT / "build/docs", help="default: build/docs"
    )
    folder = parser.parse_args(arguments).out
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "index.md").is_file():
        sys.exit(f"{folder} holds other files; name another folder by --out")
    try:
        files = site_files()
    except ValueError as error:
        sys.exit(f"docs: {error}")
    write(files, folder)
    print(f"{len(files)} files in {folder}; now: mkdocs serve, or mkdocs build --strict")


if __name__ == "__main__":
    main()
