"""The notebooks: short, executed, in step with their text, importing what they show."""

import ast
import importlib.util
import re
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
MOST_CELLS, MOST_BYTES = 14, 400_000
SLOW = ("02", "04", "05", "06", "07")  # those that train

_spec = importlib.util.spec_from_file_location("notebooks_build", NOTEBOOKS / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

SOURCES = build.sources()
every = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def committed(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook):
    """What each cell shows, without what it says: figures and floats differ between machines."""
    return [
        [sorted(o.get("data", [o.output_type])) for o in c.outputs] for c in code_cells(notebook)
    ]


def contents(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_there_are_seven_in_reading_order():
    assert [path.stem[:2] for path in SOURCES] == ["01", "02", "03", "04", "05", "06", "07"]
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {path.stem for path in SOURCES}


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem[:2] in SLOW))
        for path in SOURCES
    ],
)
def test_executes_and_shows_what_is_committed(source):
    """Its own assertions hold, nothing warns, every cell has the outputs it was committed with."""
    assert kinds(build.execute(source)) == kinds(committed(source))


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("assert 1 > 2", nbclient.exceptions.CellExecutionError, "AssertionError"),
        ("import warnings; warnings.warn('look out')", RuntimeError, "look out"),
    ],
)
def test_a_cell_that_fails_or_warns_is_refused(tmp_path, code, error, message):
    source = tmp_path / "00_bad.py"
    source.write_text(f"# %%\n{code}\n")
    with pytest.raises(error, match=message):
        build.execute(source)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(SystemExit, match="no notebook is called 07_more: there are 01_kl"):
        build.main(["07_more"])


@every
def test_the_pair_is_in_step(source):
    text, notebook = jupytext.read(source), committed(source)
    assert contents(text) == contents(notebook)
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert notebook.metadata == text.metadata


def test_a_pair_out_of_step_is_noticed():
    text, notebook = jupytext.read(SOURCES[0]), committed(SOURCES[0])
    text.cells[1].source += "\nprint(1)"
    assert contents(text) != contents(notebook)


@every
def test_is_short_and_was_executed_in_one_go(source):
    notebook = committed(source)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= MOST_CELLS
    assert source.with_suffix(".ipynb").stat().st_size < MOST_BYTES
    assert notebook.cells[0].source.startswith("# ")
    code = code_cells(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 1
    assert any("image/png" in o.get("data", {}) for cell in code for o in cell.outputs)


@every
def test_outputs_hold_no_path_no_error_and_no_warning(source):
    for cell in code_cells(committed(source)):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            shown = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert not re.search(r"/(home|root|tmp|work|usr|var|opt|private|Users)/", shown)


@every
def test_links_lead_somewhere(source):
    cells = jupytext.read(source).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http)([^)]+)\)", prose):
        assert (NOTEBOOKS / target).exists(), target


WINDOW = 4  # lines in a row


def statements(text):
    """The lines of code without comments, docstrings, imports and the freedoms of formatting."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [
                s
                for s in body
                if not isinstance(s, ast.Import | ast.ImportFrom)
                and not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
            node.body = kept or [ast.Pass()]
    return [line.strip() for line in ast.unparse(tree).splitlines() if line.strip()]


def windows(text):
    lines = statements(text)
    return {tuple(lines[i : i + WINDOW]) for i in range(len(lines) - WINDOW + 1)}


@pytest.fixture(scope="module")
def library():
    return set().union(*(windows(p.read_text()) for p in (ROOT / "kltrust").rglob("*.py")))


@every
def test_imports_the_library_and_pastes_nothing_of_it(source, library):
    text = source.read_text()
    assert "import kltrust" in text
    assert not windows(text) & library


@pytest.mark.parametrize("name", ["solvers", "losses/surrogates", "algorithms/_trpo"])
def test_pasting_is_noticed(name, library):
    """Even reformatted and without its comments."""
    pasted = ast.unparse(ast.parse((ROOT / "kltrust" / f"{name}.py").read_text()))
    assert windows(SOURCES[0].read_text() + pasted) & library
