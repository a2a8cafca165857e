"""Seconds and megabytes of the base and of each extra: a table of fresh installations.

    python benchmarks/extras.py                 # all but those of accelerators and of developers
    python benchmarks/extras.py sweeps cuda13

Each is installed into an environment of its own, with the Python that runs this and the newest
packages within the bounds, from pip's cache where it has them; megabytes are those of the packages
on disk, the base included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
OF_SOME = {"cuda12", "cuda13", "tpu", "docs", "test", "dev"}


def install(extra: str) -> tuple[float, int]:
    """Seconds and megabytes of an installation; ``base`` is no extra."""
    what = str(ROOT) if extra == "base" else f"{ROOT}[{extra}]"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        start = time.perf_counter()
        subprocess.run([f"{folder}/bin/pip", "install", "-q", what], check=True)
        seconds = time.perf_counter() - start
        sizes = [f.lstat().st_size for f in Path(folder).rglob("*") if not f.is_symlink()]
    return seconds, round(sum(sizes) / 1e6)


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [name for name in project["optional-dependencies"] if name not in OF_SOME]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", default=["base", *extras])
    print("| extra | seconds | MB |\n| --- | --- | --- |")
    for extra in parser.parse_args().extras:
        seconds, size = install(extra)
        print(f"| `{extra}` | {seconds:.0f} | {size:,} |", flush=True)


if __name__ == "__main__":
    main()
