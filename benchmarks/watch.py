"""What `kltrust watch` costs: milliseconds of a redraw in the browser, CPU seconds of its server.

    python benchmarks/watch.py
    python benchmarks/watch.py --runs 200 --seconds 20

A made sweep of so many runs, all the learner's columns in it, grows by a commit of a group every
few seconds while a headless Chromium shows the page. Measured are: a redraw of everything (three
charts of all runs, the table), by the page's own clock and to the frame that shows it; the reaction
to the pointer; a look at the folder; and the CPU time of the server, the judge included, for each
minute of the sweep. Writes watch.json to benchmarks/results/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import chrome
import numpy as np
import reading
import tyro
from common import RESULTS, rounded, versions, write

SERVE = """
import sys
from kltrust.experiments import cli
sys.exit(cli.main(["watch", {folder!r}, "--port", "0"]))
"""
REDRAW = """new Promise((done) => requestAnimationFrame(() => {{
    const start = performance.now();
    {act};
    const script = performance.now() - start;
    requestAnimationFrame(() => setTimeout(() => done([script, performance.now() - start]), 0));
}}))"""


@dataclasses.dataclass(frozen=True)
class Options:
    """How large a sweep, and how long it grows."""

    runs: int = 2000
    """A multiple of four times the seeds."""
    seeds: int = 10
    iterations: int = 100
    evaluations: int = 20
    seconds: float = 120.0
    """How long the sweep grows: a commit after each evaluation, at equal distances."""
    rounds: int = 15
    out: Path = RESULTS


def main(options: Options) -> None:
    shown = {"runs": options.runs, "seeds": options.seeds, "iterations": options.iterations}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "made")
        made = reading.Options(**shown, evaluations=options.evaluations)
        pause = options.seconds / (4 * options.evaluations)
        growing = threading.Thread(target=reading.make, args=(folder, made, pause))
        folder.mkdir()
        with serving(folder) as (server, address), chrome.opened() as page:
            page.go(address, "document.querySelector('#folders li')")
            before, start = cpu(server.pid), time.monotonic()
            growing.start()
            growing.join()
            wall = time.monotonic() - start
            spent = cpu(server.pid) - before
            page.wait(f"model.runs.length === {options.runs}", 60)
            page.wait("model.folders[0].done === 1", 60)
            timed = measured(page, options.rounds)
            drawn = page.run("document.documentElement.dataset.rows")
            assert not page.errors, page.errors
            assert int(drawn) == options.runs, drawn
    server_ = {"cpu_seconds": round(spent, 2), "seconds": round(wall, 1)}
    print(f"server: {60 * spent / wall:.2f} CPU seconds a minute")
    for name, values in timed.items():
        print(f"{name}: median {np.median(values):.0f} ms, most {max(values):.0f} ms")
    more = {"commits": 4 * options.evaluations, "milliseconds": timed, "server": server_}
    write(options.out / "watch.json", {**shown, **more, "versions": versions()})


def measured(page: chrome.Chrome, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round: by the script's clock, and to the frame that shows it."""
    page.run("view.env = ''; view.lines = 'runs'; sweeps(); redraw()")
    acts = {
        "redraw": "redraw()",
        "pointer": "charts[0].point({clientX: 200 + 5 * Math.random(), clientY: 250})",
        "sort": "table.state = ['kl', 'ascending']; table.sort()",
        "filter": "view.filter = 'trpo score>0'; redraw(); view.filter = ''",
    }
    found: dict[str, list[float]] = {}
    for name, act in acts.items():
        pairs = [page.run(REDRAW.format(act=act)) for _ in range(rounds)]
        found[f"{name}, script"] = rounded([pair[0] for pair in pairs], 1)
        found[f"{name}, shown"] = rounded([pair[1] for pair in pairs], 1)
    page.run("redraw()")
    return found


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command in a process of its own, and the page's address."""
    program = SERVE.format(folder=str(folder))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            (address,) = re.findall(r"http://\S+", process.stdout.readline())
            yield process, address
        finally:
            process.terminate()


def cpu(process: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
