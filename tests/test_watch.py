"""The page that follows runs: what it reads, what it serves, and how a browser shows it."""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import chrome
import numpy as np
import pytest
import toys

from kltrust.experiments.reading import claims
from kltrust.experiments.store import tables
from kltrust.experiments.store.run import Run
from kltrust.experiments.watch import Server, State, _folder, _judging
from kltrust.experiments.watch._series import Series

TWO = """
[[experiments]]
algorithms = "trpo"
grid.max_kl = [0.01, 0.02]
[[experiments]]
algorithms = "ppo_clip"
"""
SOME = toys.MADE.replace(', "Acrobot-v1"', "") + TWO


def metrics(group, first):
    """A KL of 0.012 + 0.001 x iteration, and returns that are sums over two episodes."""
    shape = (len(group.runs), group.chunk_length)
    iteration = first + np.arange(shape[1]) + np.zeros(shape)
    kl = 0.012 + 0.001 * iteration
    two = np.full(shape, 2)
    odd = np.zeros(shape, int)
    odd[-1, -1] = first > 0  # the last run ends on a NaN
    of = {"kl": kl, "kl_max": 3 * kl, "nonfinite_update": odd, "num_episodes": two}
    return {**of, "return_sum": 2.0 * iteration, "length_sum": 3.0 * two, "entropy": kl}


def score(run, done):
    return 10.0 * run + done


def made(path, **keywords):
    planned = toys.toy_plan(SOME, width=3)
    return toys.write(path, planned, metrics, score, **keywords), planned


def numbers(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


class Clock:
    now = 0.0

    def __call__(self):
        self.now += 1.5  # every ask is a look
        return self.now


def state_of(*paths):
    return State(paths, Clock())


def test_buckets_are_means_that_count_each_row_once():
    series = Series(["x"], lanes=2, rows=10, points=4)
    assert (series.stride, series.shape) == (3, (2, 4))
    rows = np.tile(np.arange(4), 2)
    lanes, values = np.repeat([0, 1], 4), np.arange(8.0)
    values[5] = np.nan
    series.add(lanes, rows, values, version=3)
    first, means = series.since(2)
    assert first == 0
    np.testing.assert_allclose(means, [[1, 3], [5, 7]])
    assert series.since(3) is None
    # What comes later joins its bucket, and only that bucket is sent again.
    series.add(np.array([0, 1]), np.array([4, 4]), np.array([5.0, 9]), version=4)
    first, means = series.since(3)
    assert (first, means.tolist()) == (1, [[4.0], [8.0]])
    ratio = Series(["above", "below"], lanes=1, rows=2, points=1)
    ratio.add(np.zeros(2, int), np.arange(2), np.array([10.0, 2]), np.array([1, 3]), version=1)
    assert ratio.since(0)[1] == [[3.0]]


def test_the_claim_in_force_is_annealed_and_gives_way_to_the_algorithm_s_own():
    experiment = toys.tiny("trpo", update={"max_kl": 0.02}, budget={"anneal": 1.0})
    half = np.array([0, toys.ITERATIONS / 2])
    value, anneal, power = claims.schedule_of(experiment)
    assert (value, anneal, power) == (0.02, 1.0, 2)
    np.testing.assert_allclose(claims.in_force(experiment, half), [0.02, 0.005])
    own = np.array([np.nan, 0.5])
    np.testing.assert_allclose(claims.in_force(experiment, half, own), [0.02, 0.5])
    none = claims.in_force(toys.tiny("vanilla_pg"), half)
    assert np.isnan(none).all()


def test_a_look_reads_only_what_is_new_and_a_page_gets_only_what_changed(tmp_path, monkeypatch):
    path, _ = made(tmp_path / "one", chunks=1)
    state = state_of(path)
    shown = state.changes(0, [], ["return", "kl / claim", "return of training episodes"])
    (folder,) = shown["folders"]
    assert (folder["state"], folder["done"]) == ("stopped", 0.5)
    assert "--resume" in folder["sentence"]
    settings = folder["structure"]["settings"]
    assert [s["claim"] for s in settings] == pytest.approx([0.01, 0.02, 0.02])
    assert folder["structure"]["columns"][:3] == ["return", "return, sampled", RETURN]
    trpo = {c["name"]: numbers(c["values"]).reshape(6, -1) for c in folder["curves"][:3]}
    np.testing.assert_allclose(trpo["return"], [[10.0 * r + 2] for r in range(6)])
    np.testing.assert_allclose(trpo["kl / claim"][[0, 5]], [[1.2, 1.3], [0.6, 0.65]], rtol=1e-6)
    np.testing.assert_allclose(trpo[RETURN][0], [0, 1])
    table = {k: numbers(v) for k, v in folder["groups"][0]["table"].items()}
    np.testing.assert_allclose(table["beyond"], [1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(table["largest"], 0.013, rtol=1e-6)

    again = state.changes(shown["version"], ["return"])["folders"][0]
    assert (again["groups"], again["curves"], "structure" in again) == ([], [], False)

    shutil.rmtree(path)
    made(path)  # the same plan as if it had gone on, finished: the tables are joined
    read = []
    true = tables.read
    monkeypatch.setattr(tables, "read", lambda files, *c: (read.extend(files), true(files, *c))[1])
    newer = state.changes(state._version, ["return", "kl / claim"])["folders"][0]
    assert newer["state"] == "finished"
    assert {p.name for p in read} == {"metrics.parquet", "evaluation.parquet"}
    assert "structure" in newer  # run.json was written anew
    table = {k: numbers(v) for k, v in newer["groups"][0]["table"].items()}
    np.testing.assert_allclose(table["score"], [10.0 * r + 4 for r in range(6)])
    assert table["broken"].tolist() == [-1] * 5 + [3]
    read.clear()
    state.changes(state._version, ["return", "kl / claim"])
    assert read == []


RETURN = "return of training episodes"


def test_a_growing_folder_is_read_part_by_part(tmp_path, monkeypatch):
    path, planned = made(tmp_path / "one", chunks=1, groups=1)
    state = state_of(path)
    state.changes(0, [], ["kl"])
    read = []
    true = tables.read
    monkeypatch.setattr(tables, "read", lambda files, *c: (read.extend(files), true(files, *c))[1])
    group = planned.groups[0]
    from kltrust.experiments.jobs.rows import evaluation_rows, metric_rows

    with Run.open(path / "groups" / "000") as part:
        seeds = [planned.seed(r) for r in group.runs]
        batch = planned.experiment(group).batch_size
        rows = metric_rows(metrics(group, 2), group.runs, seeds, 2, np.full(6, 4), batch)
        returns = np.full((6, 2, 1), 7.0)
        evaluation = evaluation_rows(returns, group.runs, seeds, 4, batch)
        part.commit(1, rows, {"w": np.zeros(6)}, evaluation=evaluation)
        (folder,) = state.changes(state._version, ["kl"])["folders"]
    assert {p.name for p in read} == {"000001.parquet"}
    (curve,) = folder["curves"]
    assert (curve["first"], curve["count"]) == (2, 2)
    np.testing.assert_allclose(numbers(curve["values"])[:2], [0.014, 0.015], rtol=1e-6)
    table = {k: numbers(v) for k, v in folder["groups"][0]["table"].items()}
    np.testing.assert_allclose(table["kl"], 0.0135, rtol=1e-6)  # each row once
    np.testing.assert_allclose(table["score"], 7)


def test_every_state_of_a_folder_is_said(tmp_path, monkeypatch):
    home = tmp_path / "runs"
    home.mkdir()
    state = state_of(home)
    (folder,) = state.changes(0, [])["folders"]
    assert (folder["state"], folder["name"]) == ("waiting", "runs")
    path, _ = made(home / "one", chunks=1)
    told = state.changes(0, [])
    assert [f["name"] for f in told["folders"]] == ["one"]  # a run within it has begun
    with Run.open(path) as run:
        run.tell("computing chunk 2 of 2")
        (folder,) = state.changes(0, [])["folders"]
        assert (folder["state"], folder["sentence"]) == ("running", "computing chunk 2 of 2")
        assert folder["left"] == pytest.approx(12.0)  # as long as it took: 6 s for each group
    part = path / "groups" / "000" / "metrics" / "000000.parquet"
    fresh = state_of(path)
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    fresh.changes(0, [])
    (folder,) = fresh.changes(0, [])["folders"]
    assert folder["state"] == "damaged"
    assert "000000.parquet" in folder["sentence"]
    part.write_bytes(whole)
    (folder,) = fresh.changes(0, [])["folders"]
    assert folder["state"] == "stopped"
    shutil.rmtree(path)
    (folder,) = fresh.changes(0, [])["folders"]
    assert folder["state"] == "missing"


def test_the_judge_s_findings_come_slice_by_slice(tmp_path, monkeypatch):
    monkeypatch.setattr(_judging, "SLICE", 4)
    path, _ = made(tmp_path / "one")
    state = state_of(path)
    for _ in range(200):
        state.changes(0, [])
        state._judge.wait()
        state._judge._next = 0.0
    found = {row["name"]: row for row in state.changes(0, [])["folders"][0]["findings"]}
    import kltrust

    whole = kltrust.judge(kltrust.load(path))
    assert set(found) == set(whole.names)
    assert found["bound_exceeded"]["runs"] == 3  # KLs of 0.012 and more, bounds of 0.01
    assert all(row["of"] == 9 for row in found.values())


@contextlib.contextmanager
def serving(*folders):
    server = Server(folders, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.address
    finally:
        server.shutdown()
        server.server_close()


def test_the_server_answers_this_machine_alone_and_names_a_port_in_use(tmp_path, monkeypatch):
    path, _ = made(tmp_path / "one")
    true = State.changes

    def changes(self, since, curves, new):
        if "broken" in new:
            raise KeyError("what nobody expects")
        return true(self, since, curves, new)

    monkeypatch.setattr(State, "changes", changes)
    with serving(path) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}state?new=return") as answer:
            assert json.load(answer)["folders"][0]["curves"]
        with urllib.request.urlopen(address) as answer:
            page = answer.read().decode()
        assert "//" not in page.replace("<!doctype", "")  # nothing of another host
        for wrong, headers, status in (
            ("state", {"Host": "evil.example:80"}, 403),
            ("../pyproject.toml", {}, 404),
            ("state?since=x", {}, 400),
            ("state?new=broken", {}, 500),
        ):
            asked = urllib.request.Request(address + wrong, headers=headers)
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(asked)
            assert error.value.code == status
            error.value.close()
        port = int(address.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(ValueError, match=f"port {port} is in use.*--port"):
            Server([path], port)


def test_the_command_s_errors_and_its_end(tmp_path, said):
    assert "there is no folder" in said("watch", tmp_path / "none")[2]
    assert "name the run folders to watch" in said("watch")[2]
    assert "--port" in said("watch", tmp_path, "--port", "70000")[2]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, _, error = said("watch", tmp_path, "--port", str(taken.getsockname()[1]))
        assert status == 1
        assert "in use" in error
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from kltrust.experiments import cli\n"
        f"raise SystemExit(cli.main(['watch', {str(tmp_path)!r}, '--port', '0']))"
    )
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", program], **piped)
    assert "http://127.0.0.1:" in process.stdout.readline()
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    assert "no longer watching" in out


def test_curves_have_fewer_points_where_runs_are_many(tmp_path):
    path, _ = made(tmp_path / "one")
    folder = _folder.Folder(Path(path))
    folder.update(1)
    assert all(group._points == _folder.POINTS for group in folder.groups)
    assert _folder.NUMBERS // 2000 == 100


@pytest.mark.skipif(chrome.CHROMIUM is None, reason="there is no chromium here")
def test_a_browser_shows_it_follows_it_and_answers_to_keys_and_pointer(tmp_path):
    home = tmp_path / "runs"
    home.mkdir()
    with serving(home) as address, chrome.opened() as page:
        page.go(address, "document.querySelector('#folders .waiting')")
        path, _ = made(home / "one", chunks=1)
        page.run("look()")  # at once: by itself it looks every two seconds
        page.wait("model.runs.length === 9 && document.querySelector('#folders .stopped')")
        assert page.run("$('folders').innerText").startswith("one\nstopped, 50 %")
        assert page.run("$('rows').textContent") == "Settings: 3"

        table = "[...document.querySelectorAll('tbody tr:not(.space)')]"
        names = f"{table}.map(row => row.cells[0].textContent)"
        best = ["ppo_clip", "trpo max_kl=0.02", "trpo max_kl=0.01"]
        assert page.run(names) == best
        head = "document.querySelectorAll('thead th')[2]"
        assert page.run(f"{head}.getAttribute('aria-sort')") == "descending"
        page.run(f"{head}.querySelector('button').focus()")
        for state, order in ((None, best[::-1]), ("ascending", best[::-1]), ("descending", best)):
            page.key("Enter")
            assert page.run(f"{head}.getAttribute('aria-sort')") == state
            assert page.run(names) == order
        page.run("$('table').focus()")
        page.key("ArrowDown")
        page.key("Enter")
        assert page.run(f"{table}[0].className") == "active kept"
        assert page.run("$('live').textContent").startswith("setting ppo_clip, seeds 3, score 72")

        for key in ("ArrowUp", "ArrowUp"):
            page.run("charts[1].plot.focus()")
            page.key(key)
        assert "kl 0.013" in page.run("$('live').textContent")
        dot = "charts[2].lines.find(l => l.name === 'trpo max_kl=0.02')"
        page.run("charts[2].plot.scrollIntoView(), 0")
        box = page.run("charts[2].plot.getBoundingClientRect().toJSON()")
        x, y = page.run(f"[charts[2].px({dot}.x[0]), charts[2].py({dot}.y[0])]")
        page.move(box["x"] + x + 2, box["y"] + y + 2)
        assert page.run("charts[2].tip.innerText") == "trpo max_kl=0.02\nscore 42\nmax_kl 0.02"
        assert (
            page.run(f"{table}.find(r => r.className === 'active').cells[0].textContent")[-1] == "2"
        )

        def type_filter(text):
            page.run(f"$('filter').value = {text!r}; $('filter').oninput({{target: $('filter')}})")
            return page.run("$('rows').textContent")

        assert type_filter("trpo score>20") == "Settings: 1 of 3"
        assert type_filter("max_kl<=0.01") == "Settings: 1 of 3"
        assert page.run("charts[0].lines.filter(l => l.aim).length") == 1
        assert type_filter("nothing") == "Settings: 0 of 3"
        type_filter("")

        shutil.rmtree(path)
        made(path)  # as if it had gone on
        page.run("look()")
        page.wait("document.querySelector('#folders .finished')")
        page.wait("charts[0].lines.length && charts[0].lines.every(l => l.y[1] === l.y[1])")
        page.run("$('lines').value = 'runs'; $('lines').onchange({target: $('lines')})")
        assert page.run("$('rows').textContent") == "Runs: 9"

        for width in (1280, 390):
            for dark in (False, True):
                page.size(width, 900, dark=dark)
                wide = "[document.documentElement.scrollWidth, innerWidth]"
                assert page.run(wide) == [width, width]
                ground = page.run("getComputedStyle(document.body).backgroundColor")
                assert ground == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
        assert page.errors == []
        assert {r.partition("?")[0] for r in page.requests if not r.startswith("data:")} == {
            address,
            *(address + name for name in ("page.css", "chart.js", "model.js", "page.js", "state")),
            *(address + name for name in ("pointer.js", "raster.js", "rows.js", "table.js")),
        }
        page.run("window.fetch = () => Promise.reject(new Error('gone')); look()")
        page.wait("!$('trouble').hidden")
        assert "gives no answer (gone)" in page.run("$('trouble').innerText")
