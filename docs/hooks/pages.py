"""Pages that nobody writes: one for each public module, one for each notebook; and the nav.

The pictures of the results are files of the site, too.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

import docstrings
import nbformat
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

# The algorithms have pages of their own; experiments is the command line's.
_ELSEWHERE = {"algorithms", "experiments"}
_RESULTS = "benchmarks/results"


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages, and writes out the nav's patterns."""
    root = Path(config.config_file_path).parent
    for uri, content in {**module_pages(root), **notebook_pages(root / "notebooks")}.items():
        files.append(File.generated(config, uri, content=content))
    for path in sorted((root / _RESULTS).glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    config.nav = expand(config.nav, sorted(f.src_uri for f in files.documentation_pages()))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """A page of results with its pictures where the site has them, beside it."""
    return markdown.replace(f"](../../{_RESULTS}/", "](")


def module_pages(root: Path) -> dict[str, str]:
    """A page for each public module, made of its docstrings, and the index of all names."""
    package = docstrings.load(root)
    modules = [m for m in docstrings.public_modules(package) if m not in _ELSEWHERE]
    pages = {
        f"api/{name}.md": f"---\ntitle: {name}\n---\n\n::: kltrust.{name}\n"
        "    options: {heading_level: 1}\n"
        for name in modules
    }
    index = "".join(f"\n## {m}\n\n<!-- table: names {m} -->\n" for m in ["algorithms", *modules])
    return {**pages, "api/index.md": f"# All public names\n{index}"}


def notebook_pages(folder: Path) -> dict[str, str | bytes]:
    """Each notebook as Markdown with the outputs that it holds, and its pictures."""
    pages: dict[str, str | bytes] = {}
    for path in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.setdefault("language_info", {"name": "python"})
        text, resources = MarkdownExporter().from_notebook_node(
            notebook, resources={"unique_key": path.stem, "output_files_dir": path.stem}
        )
        # They lead from one to the next by their files' names.
        text = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text)
        # A table of pandas as the site's other tables are.
        text = text.replace('<table border="1" class="dataframe">', "<table>")
        pages[f"notebooks/{path.stem}.md"] = text
        pages |= {f"notebooks/{name}": data for name, data in resources["outputs"].items()}
    return pages


def expand(nav: list, uris: list[str]) -> list:
    """The nav with every pattern replaced by the pages that match it and are not named in it."""
    named = set(_leaves(nav))

    def matching(pattern: str) -> list[str]:
        return [u for u in uris if u not in named and fnmatch.fnmatchcase(u, pattern)]

    def entries(item: Any) -> list:
        if isinstance(item, str):
            return matching(item) if "*" in item else [item]
        ((title, content),) = item.items()
        if isinstance(content, list):
            inside = [e for child in content for e in entries(child)]
        elif "*" in content:
            inside = matching(content)
        else:
            return [item]
        return [{title: inside}] if inside else []

    return [e for item in nav for e in entries(item)]


def _leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav
    return [leaf for child in children for leaf in _leaves(child)]
