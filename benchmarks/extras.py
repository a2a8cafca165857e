"""What an installation takes: megabytes on disk and processor seconds of the base and each extra.

    python benchmarks/extras.py                 # all but those of accelerators and of developers
    python benchmarks/extras.py sweeps cuda13   # these; what was recorded of others stays

Each is installed into an environment of its own, with the Python that runs this and the newest
packages within the bounds, from pip's cache where it has them. Megabytes are those of the packages
on disk, the base included. Seconds are those that pip keeps a processor busy, so that neither the
network nor other work on the machine counts. Writes extras.json to benchmarks/results/
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import provenance
from common import RESULTS, Result, chosen, versions, write

ROOT = Path(__file__).parent.parent
OF_SOME = {"cuda12", "cuda13", "tpu", "docs", "test", "dev"}


def install(extra: str) -> Result:
    """Processor seconds and megabytes of an installation; ``base`` is no extra."""
    what = str(ROOT) if extra == "base" else f"{ROOT}[{extra}]"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        start = seconds_of_children()
        subprocess.run([f"{folder}/bin/pip", "install", "-q", what], check=True)
        seconds = seconds_of_children() - start
        sizes = [f.lstat().st_size for f in Path(folder).rglob("*") if not f.is_symlink()]
    return {"seconds": round(seconds), "megabytes": round(sum(sizes) / 1e6)}


def seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: list[str] | None = None, path: Path = RESULTS / "extras.json") -> None:
    """Installs the extras one by one, and records each as soon as it is done."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    known = ["base", *project["optional-dependencies"]]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", help=f"some of {', '.join(known)}")
    named = chosen("extras", parser.parse_args(arguments).extras, known)
    provenance.refuse_uncommitted(path)
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else {}
    for extra in named if len(named) < len(known) else (n for n in known if n not in OF_SOME):
        found = rows | {extra: install(extra)}
        rows = {name: found[name] for name in known if name in found}
        write(path, {"rows": rows, "versions": versions()})


if __name__ == "__main__":
    main()
