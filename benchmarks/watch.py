"""What `kltrust watch` costs: milliseconds of a redraw in the browser, CPU seconds of its server.

    python benchmarks/watch.py
    python benchmarks/watch.py --runs 200 --seconds 20

A made sweep of so many runs, all the learner's columns in it, grows by a commit of a group every
few seconds while a headless Chromium shows the page. Measured are: a redraw of everything (three
charts of all runs, the table), in processor time of the page's main thread and by the clock to the
frame that shows it, which other work on the machine makes longer; likewise the reaction to the
pointer, a sort, a filter; and the CPU time of the server, the judge included, for each
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
from common import RESULTS, options, rounded, versions, write

SERVE = """
import sys
from kltrust.experiments import cli
sys.exit(cli.main(["watch", {folder!r}, "--port", "0"]))
"""
REDRAW = """new Promise((done, fail) => requestAnimationFrame(() => {{
    const start = performance.now();
    try {{ {act} }} catch (error) {{ fail(error) }}
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0));
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


def main(given: Options) -> None:
    shown = {"runs": given.runs, "seeds": given.seeds, "iterations": given.iterations}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "made")
        made = reading.Options(**shown, evaluations=given.evaluations)
        pause = given.seconds / (4 * given.evaluations)
        growing = threading.Thread(target=reading.make, args=(folder, made, pause))
        folder.mkdir()
        with serving(folder) as (server, address), chrome.opened() as page:
            page.go(address, "document.querySelector('#folders li')")
            before, start = cpu(server.pid), time.monotonic()
            growing.start()
            growing.join()
            wall = time.monotonic() - start
            spent = cpu(server.pid) - before
            page.wait(f"model.runs.length === {given.runs}", 60)
            page.wait("model.folders[0].done === 1", 60)
            timed = measured(page, given.rounds)
            drawn = page.run("document.documentElement.dataset.rows")
            assert not page.errors, page.errors
            assert int(drawn) == given.runs, drawn
    server_ = {"cpu_seconds": round(spent, 2), "seconds": round(wall, 1)}
    print(f"server: {60 * spent / wall:.2f} CPU seconds a minute")
    for name, values in timed.items():
        print(f"{name}: median {np.median(values):.0f} ms, most {max(values):.0f} ms")
    more = {"commits": 4 * given.evaluations, "milliseconds": timed, "server": server_}
    write(given.out / "watch.json", {**shown, **more, "versions": versions()})


def measured(page: chrome.Chrome, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round: of the processor, and by the clock until it is shown."""
    page.run("view.env = ''; view.lines = 'runs'; sweeps(); redraw()")
    acts = {
        "redraw": "redraw()",
        "pointer": "charts[0].point({clientX: 200 + 5 * Math.random(), clientY: 250})",
        "sort": "table.state = ['mean kl', 'ascending']; table.sort()",
        "filter": "view.filter = 'trpo score>0'; redraw(); view.filter = ''",
    }
    found: dict[str, list[float]] = {}
    for name, act in acts.items():
        spent, shown = [], []
        for _ in range(rounds):
            before = page.busy()
            shown.append(page.run(REDRAW.format(act=act)))
            spent.append(1000 * (page.busy() - before))
        found[f"{name}, processor"], found[f"{name}, shown"] = rounded(spent, 1), rounded(shown, 1)
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
    main(options(Options, __doc__))
