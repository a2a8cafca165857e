"""What is shown or logged elsewhere while a sweep goes on: bars in a notebook, dashboards."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toys
from test_export import read_wandb

from kltrust.experiments.cli import notebook
from kltrust.experiments.cli.progress import ConsoleProgress
from kltrust.experiments.jobs import events

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "sweep.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def chunk(first, bounds=(0.01, 0.02)):
    number = len(bounds)
    metrics = SimpleNamespace(kl=np.full((number, 3), 0.01 * (first + 1), np.float32))
    returns = np.full((number, 2, 4), 5.0 + first)
    labels = [f"trpo max_kl={bound}" for bound in bounds]
    return events.Chunk(
        "CartPole-v1", "trpo", labels, [3] * number, first, 64 * (first + 3), metrics, returns
    )


def on_chunk_of(library):
    """The function of the how-to that logs to a library."""
    (block,) = [block for block in BLOCKS if f"import {library}" in block]
    space = {}
    exec(compile(block, str(PAGE), "exec"), space)
    return space


def test_the_how_to_logs_to_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    space = on_chunk_of("tensorboardX")
    for first in (0, 3):
        space["on_chunk"](chunk(first))
    for name in ("trpo max_kl=0.01", "trpo max_kl=0.02"):
        space["writer_of"](f"CartPole-v1/{name}/3").close()
    files = sorted(Path("logs").rglob("events*"))
    assert [f.parent.relative_to("logs").as_posix() for f in files] == [
        f"CartPole-v1/trpo max_kl={bound}/3" for bound in ("0.01", "0.02")
    ]
    written = files[0].read_bytes()
    assert written.count(b"return") == 2
    assert written.count(b"kl") == 2


def test_the_how_to_logs_to_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    made = []
    begin = wandb.init

    def init(**given):
        # As it is, but offline, quiet, and without a look at this machine.
        quiet = {"silent": True, "console": "off", "x_disable_stats": True, "x_disable_meta": True}
        settings = wandb.Settings(**quiet, disable_git=True)
        made.append(begin(**given, mode="offline", dir=tmp_path, settings=settings))
        return made[-1]

    monkeypatch.setattr(wandb, "init", init)
    space = on_chunk_of("wandb")
    for first in (0, 3):
        space["on_chunk"](chunk(first, bounds=(0.01,)))
    (run,) = made
    assert run.name == "CartPole-v1/trpo max_kl=0.01/3"
    assert run.step == 64 * 6
    run.finish()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    _, _, history = read_wandb(folder)
    assert {step: row["return"] for step, row in history.items()} == {64 * 3: 5.0, 64 * 6: 8.0}
    assert history[64 * 6]["kl"] == pytest.approx(0.04)


class Shown:
    """A display as IPython's: what was shown, in order."""

    def __init__(self):
        self.seen = []

    def __call__(self, shown, *, raw, display_id):
        assert raw
        assert display_id
        self.seen.append(shown)
        return self

    def update(self, shown, *, raw):
        assert raw
        self.seen.append(shown)


def test_a_notebook_s_bars_change_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook.Remaining, "remember", lambda self: None)
    now, shown = [0.0], Shown()
    bars = notebook.NotebookProgress(shown, lambda: now[0])
    planned = toys.toy_plan()
    bars.start(planned, tmp_path)
    bars.group(0, 0)
    assert len(shown.seen) == 1  # too soon for a second one
    bars.compiling("training")
    assert "0/3  compiling training" in shown.seen[-1]["text/plain"]
    now[0] += 1.0
    bars.computing(1, 2)
    report = events.Report(2, 3, 128, 1000.0, ("<b>", 12.0), 0.01, {}, fully_masked=7)
    now[0] += 1.0
    bars.chunk(report)
    text, html = (shown.seen[-1][kind] for kind in ("text/plain", "text/html"))
    first, second, whole, warning = text.splitlines()
    assert re.search(r"\[#{8} {4}\] 2/3  return 12.0   KL 0.01   1,000 steps/s   best: <b>", first)
    assert second.endswith("0/2")
    assert whole.startswith("all")
    assert "7 observations" in warning
    assert "&lt;b&gt;" in html
    assert "<b>" not in html  # a label may look like markup
    assert html.count("<progress") == 3
    bars.end()


def test_bars_are_of_the_notebook_only_in_a_notebook(monkeypatch):
    assert isinstance(notebook.suitable(), ConsoleProgress)
    for shell, kind in (
        (SimpleNamespace(kernel=1), notebook.NotebookProgress),
        (SimpleNamespace(), ConsoleProgress),  # IPython in a terminal
    ):
        ipython = SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        assert type(notebook.suitable()) is kind
