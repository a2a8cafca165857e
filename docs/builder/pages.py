"""Pages that nobody writes: one for each public module, one for each notebook."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

from builder import docstrings

# The algorithms have pages of their own; experiments is the command line's.
_ELSEWHERE = {"algorithms", "experiments"}


def module_pages(root: Path) -> dict[str, bytes]:
    """A page for each public module, made of its docstrings, and the index of all names."""
    package = docstrings.load(root)
    modules = [m for m in docstrings.public_modules(package) if m not in _ELSEWHERE]
    pages = {
        f"api/{name}.md": f"---\ntitle: {name}\n---\n\n::: kltrust.{name}\n"
        "    options: {heading_level: 1}\n"
        for name in modules
    }
    index = "".join(f"\n## {m}\n\n<!-- table: names {m} -->\n" for m in ["algorithms", *modules])
    pages["api/index.md"] = f"# All public names\n{index}"
    return {uri: text.encode() for uri, text in pages.items()}


def notebook_pages(folder: Path) -> dict[str, bytes]:
    """Each notebook as Markdown with the outputs that it holds, and its pictures."""
    pages: dict[str, bytes] = {}
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
        pages[f"notebooks/{path.stem}.md"] = text.encode()
        pages |= {f"notebooks/{name}": data for name, data in resources["outputs"].items()}
    return pages
