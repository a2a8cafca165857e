"""How the documentation is made: docstrings, tables, formulas and notebooks become pages."""

import base64
import html
import json
import os
import re
import sys
from pathlib import Path

import nbformat.v4 as notebook
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import build as build_docs  # noqa: E402
from builder import docstrings, formulas, pages, tables  # noqa: E402


def test_a_docstring_in_markdown():
    names = {"trpo": "kltrust.algorithms.trpo"}
    text = "[*E] of `trpo`, `other`, ``a*b``; 1 < 2::\n\n    x = a[0] * 2\n\nArgs:\n    *x: [*E]."
    shown = docstrings.to_markdown(text, names)
    assert "&#91;&#42;E] of [`trpo`][kltrust.algorithms.trpo], `other`, ``a*b``; 1 &lt; 2:" in shown
    assert "```python\nx = a[0] * 2\n```" in shown
    assert shown.endswith("Args:\n    *x: &#91;&#42;E].")
    several = "x, y: z.\n\nAttributes:\n    a, b: both\n        of them.\n    c: one."
    each = "x, y: z.\n\nAttributes:\n" + "".join(f"    {n}: both\n        of them.\n" for n in "ab")
    assert docstrings.to_markdown(several, names) == each + "    c: one."


def test_a_report_that_is_not_said_is_an_error(monkeypatch):
    monkeypatch.setattr(tables, "find_algorithm", lambda name: dict)
    with pytest.raises(ValueError, match="the docstring of made_up has no list 'Extra:'"):
        tables.extra("made_up")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("settings trpoo", "table: settings trpoo -->: .*did you mean trpo"),
        ("setting trpo", "table: setting trpo -->: 'setting'"),
    ],
)
def test_a_table_that_cannot_be_made_is_an_error(table, message):
    with pytest.raises(ValueError, match=message):
        tables.fill(f"<!-- table: {table} -->")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: none -->", "<!-- table: none -->: 'none'"),
        ("$x^$", "not a formula"),
        ('--8<-- "NOTHING.md"', "No such file"),
    ],
)
def test_the_build_names_the_page_at_fault(text, message, tmp_path, monkeypatch):
    (tmp_path / "docs/howto").mkdir(parents=True)
    (tmp_path / "docs/howto/page.md").write_text(text)
    monkeypatch.setattr(pages, "module_pages", lambda root: {})
    with pytest.raises(ValueError, match=f"^howto/page.md: .*{message}"):
        build_docs.site_files(tmp_path)


def test_the_build_changes_only_what_differs_and_removes_what_is_gone(tmp_path):
    folder = tmp_path / "docs"
    build_docs.write({"index.md": b"1", "a/b.md": b"2"}, folder)
    os.utime(folder / "index.md", (1, 1))
    build_docs.write({"index.md": b"1", "c.md": b"3"}, folder)
    assert (folder / "index.md").stat().st_mtime == 1
    assert {path.name for path in folder.rglob("*")} == {"index.md", "c.md"}


def test_the_build_deletes_no_folder_of_other_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds other files; name another folder by --out"):
        build_docs.main(["--out", str(tmp_path)])
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("tex", [r"\left( x", r"\nosuch x", "x^"])
def test_a_formula_that_is_none_is_an_error(tex):
    with pytest.raises(ValueError, match=re.escape(tex)):
        formulas.to_mathml(f"Here ${tex}$.")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a $x$ b", 1),
        ("$x$ and\n$y$, \\$3 and $ 4", 2),
        ("$$\nx\n+ y\n$$", 1),
        ("`$x$`", 0),
        ("``a ` $x$``", 0),
        ("```bash\necho $x$y\n```\n$z$", 1),
        ("- $a\nb$", 1),
        ("a $b\n\nc$ d", 0),
    ],
)
def test_formulas_are_found_and_code_is_not_touched(text, found):
    shown, characters = formulas.to_mathml(text)
    assert shown.count("<math") == found
    assert bool(characters) == bool(found)
    assert shown == text or found


def test_a_formula_says_nothing_in_markdown():
    (inside,) = re.findall("<math.*</math>", formulas.to_mathml("$a_* [b] | c$")[0])
    written = re.sub("<[^>]*>", "", inside)
    assert not set("*_[]|`") & set(written)
    assert html.unescape(written).replace(" ", "") == "a*[b]|c"


def test_a_notebook_becomes_a_page(tmp_path):
    image = base64.b64encode(b"\x89PNG and so on").decode()
    display = notebook.new_output("display_data", data={"image/png": image})
    stream = notebook.new_output("stream", text="seen")
    frame = pd.DataFrame({"kl": [0.5]}).to_html()
    table = notebook.new_output("display_data", data={"text/html": frame})
    made = notebook.new_notebook(
        cells=[
            notebook.new_markdown_cell("# A notebook\n\n$x$"),
            notebook.new_code_cell("1 + 1", outputs=[stream, table, display]),
        ]
    )
    (tmp_path / "n.ipynb").write_text(json.dumps(made))
    found = pages.notebook_pages(tmp_path)
    (picture,) = found.keys() - {"notebooks/n.md"}
    text = found["notebooks/n.md"].decode()
    assert text.startswith("# A notebook\n\n$x$")
    assert "```python\n1 + 1\n```" in text
    assert "seen" in text
    assert "<table>" in text
    assert f"({picture.removeprefix('notebooks/')})" in text
    assert found[picture] == b"\x89PNG and so on"
    assert pages.notebook_pages(tmp_path / "none") == {}
