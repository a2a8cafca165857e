"""Executes the notebooks: NAME.py, which is read and edited, into NAME.ipynb, which is looked at.

    python notebooks/build.py                  # all of them
    python notebooks/build.py 01_kl_from_scratch

The pair is jupytext's, in the percent format: in JupyterLab with jupytext installed, either of the
two files opens as a notebook and both are saved. What is committed has been executed from the
first cell to the last in a fresh kernel, and holds nothing that differs from run to run.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
TIMEOUT = 600  # seconds of one cell, on a machine that has other things to do

# Jupyter's own, asked for before it is imported: without it, it warns of a change of its folders.
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")


def sources() -> list[Path]:
    """The notebooks in reading order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def execute(source: Path):
    """Runs NAME.py in a fresh kernel: the notebook with its outputs.

    Raises:
        CellExecutionError: if a cell fails.
        RuntimeError: if a cell warns: what readers should not see, nobody should commit.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(source)
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i:02d}"  # a random one would differ from run to run
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {
            "IPYTHONDIR": scratch,
            # Most of the time goes into compiling what runs for a moment.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
            "JUPYTER_RUNTIME_DIR": scratch,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            record_timing=False,
            resources={"metadata": {"path": str(FOLDER)}},
            extra_arguments=["--log-level=ERROR"],
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{source.name}, {cell['id']} warned:\n{output['text']}")
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
    # The interpreter's version, which is no property of the notebook.
    notebook.metadata.pop("language_info", None)
    return notebook


def smaller(png: str) -> str:
    """A base64 picture in 256 colours, a third of the size."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main(names: list[str]) -> int:
    """Executes the named notebooks, or all, and writes them."""
    import nbformat

    chosen = [path for path in sources() if not names or path.stem in names]
    if missing := set(names) - {path.stem for path in chosen}:
        known = ", ".join(path.stem for path in sources())
        raise SystemExit(f"no notebook is called {', '.join(sorted(missing))}: there are {known}")
    for source in chosen:
        print(source.stem, flush=True)
        nbformat.write(execute(source), source.with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
