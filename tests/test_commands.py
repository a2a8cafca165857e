"""The commands that run sweeps, and what they print."""

import fcntl
import io
import os
import re
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import toys
from rich.console import Console
from toys import SEEDS, SPEC, Stop, parts, python, tiny, toy_plan

import kltrust
from kltrust.experiments.cli import main, pace, progress, tables
from kltrust.experiments.cli.tables import activity_line
from kltrust.experiments.jobs import run
from kltrust.experiments.jobs.events import Report
from kltrust.experiments.jobs.lanes import best_of, means_of
from kltrust.experiments.jobs.plan import plan_training
from kltrust.experiments.store.record import Record
from kltrust.experiments.store.run import Run, RunError


def test_status_of_a_sweep(toy_sweep, toy_training, tmp_path, said):
    path, seen = tmp_path / "part", []

    class Looks(Stop):
        def look(self, *_):
            seen.append(said("status", path)[1].splitlines()[-1])

        compiling = computing = look

    with pytest.raises(InterruptedError):
        run.start(toy_plan(), path, progress=Looks(2))
    does = "a process works on this folder: "
    assert all(line.startswith(does) and line.endswith(" for 0 s") for line in seen)
    assert [line.removeprefix(does)[:-8] for line in seen] == [
        "compiling init of group 0",
        "compiling training of group 0",
        "computing chunk 1 of 3 of group 0",
        "compiling evaluation of group 0",
        "computing chunk 1 of 3 of group 0",
        "computing chunk 2 of 3 of group 0",
        "computing chunk 3 of 3 of group 0",
    ]
    status, out, _ = said("status", path)
    assert status == 0
    assert "no process works on this folder; the last sign of one is of 20" in out
    assert "0 s ago, computing chunk 3 of 3 of group 0)" in out
    assert "kltrust sweep --resume" in out
    assert "last commit" in out
    assert "toy: not finished" in out
    assert "2/3" in out
    assert "0/2" in out
    status, out, _ = said("status", toy_sweep.path)
    assert "toy: finished" in out
    assert "process" not in out
    assert out.count("done") == 2
    _, out, _ = said("status", toy_training.path)
    assert "trpo-CartPole-v1: finished" in out
    assert "7/7" in out


def test_status_of_a_folder_of_runs(toy_sweep, toy_training, tmp_path, said):
    home = tmp_path / "runs"
    with pytest.raises(InterruptedError):
        run.start(toy_plan(), home / "a_part", progress=Stop(2))
    shutil.copytree(toy_training.path, home / "[b] whole")
    shutil.copytree(toy_sweep.path, home / "c_cut")
    cut = home / "c_cut/groups/000/metrics.parquet"
    cut.write_bytes(cut.read_bytes()[:100])
    for name, moment in {"c_cut": 2e9, "[b] whole": 1e9}.items():
        (home / name / ".lock").unlink()  # it says when the run was computed
        for file in (home / name).rglob("commit.json"):
            os.utime(file, (moment, moment))
    status, out, _ = said("status", home)
    assert status == 0
    *rows, how = out.splitlines()
    assert rows[0] == "[b] whole  finished  100 %"
    assert rows[1] == "a_part     stopped    57 %"
    assert rows[2].startswith("c_cut      damaged")
    assert "metrics.parquet" in rows[2]
    assert how == f"see one by kltrust status {home}/RUN"
    with Run.open(home / "a_part") as begun:
        begun.tell("computing chunk 3 of 3")
        running = said("status", home)[1].splitlines()[1]
    assert running == "a_part     running    57 %  computing chunk 3 of 3"
    assert "holds no run" in said("status", tmp_path)[2]  # they are a level further down


def test_a_folder_of_runs_names_them_and_the_command_for_one(toy_training, tmp_path, said):
    home = tmp_path / "my runs"
    for name in ("d", "b", "a", "c"):
        shutil.copytree(toy_training.path, home / name)
    for command in ("report", "judge", "evaluate", "train --resume"):
        status, _, err = said(*command.split(), home)
        assert status == 1
        assert f"{home} holds no run itself, but 4 run folders (a, b, c, ...): name one" in err
        assert err.endswith(f"try kltrust {command} '{home}/a'")
    assert sorted(path.name for path in home.iterdir()) == ["a", "b", "c", "d"]
    (tmp_path / "alone").mkdir()
    shutil.move(home / "a", tmp_path / "alone" / "a")
    with pytest.raises(RunError, match=r"but 1 run folder \(a\): name one of them$"):
        kltrust.load(tmp_path / "alone")


def test_status_where_locks_or_words_are_lacking(tmp_path, monkeypatch):
    path = tmp_path / "run"
    with Run.create(path, plan_training(tiny(), SEEDS, width=1).to_config()) as held:
        record = Record(path)
        assert "a process works on this folder: it does not say what" in activity_line(record)
        held.tell("compiling init")
        (path / ".lock").write_text('{"doing": "compi', "utf-8")  # as a reader may find it
        assert "it does not say what" in activity_line(record)
        held.tell("compiling init")
        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "flock", Mock(side_effect=OSError("no locks here")))
            assert "can't tell whether a process works" in activity_line(record)
            assert "it said it was compiling init" in activity_line(record)
    assert "kltrust train --resume" in activity_line(record)


def test_a_dry_run_does_nothing(tmp_path, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(SPEC)
    status, out, _ = said("sweep", "toy.toml", "--dry-run", "--shard", "1/2")
    assert status == 0
    assert "toy, shard 1 of 2" in out
    assert "MiB" in out
    assert "--measure tries" in out
    status, out, _ = said("sweep", "toy.toml", "--dry-run", "--measure", "--width", "2")
    assert status == 0
    assert "by one iteration of each group" in " ".join(out.split())
    assert os.listdir(tmp_path) == ["toy.toml"]


def test_a_dry_run_of_a_training_does_nothing(tmp_path, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--num-envs 4 --num-steps 8 --num-minibatches 1 --total-steps 64 --num-evals 1"
    line = ["train", "ppo_clip", "CartPole-v1", "--seeds", "3", "--dry-run", *small.split()]
    status, out, _ = said(*line, "--preset", "none")
    assert status == 0
    assert "3 runs in 1 static group" in out
    assert "192 environment steps" in out  # 64 of each seed
    assert "note: " not in out
    assert "--measure tries" in out
    status, out, _ = said(*line, "--preset", "none", "--measure")
    assert status == 0
    assert "by one iteration of each group" in " ".join(out.split())
    status, out, _ = said(*line, "--preset", "none", "--total-steps", "95", "--num-evals", "9")
    said_so = " ".join(out.split())
    assert "takes 64 of the 95 steps: whole iterations of 32" in said_so
    assert "has 2 evaluations, not 9: one after each iteration" in said_so
    status, _, err = said(*line, "--gamma", "2")
    assert status == 1
    assert "gamma must be" in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sweep", "name a specification"),
        ("sweep absent.toml", "can't read the specification absent.toml"),
        ("sweep toy.toml --shard 3", "--shard takes I/N"),
        ("sweep toy.toml --shard 3/2", "1 <= i <= n"),
        ("sweep toy.toml --resume absent", "leave out the other options"),
        ("sweep --resume absent", "no run folder"),
        ("train --resume absent", "no run folder"),
        ("status absent", "no run folder"),
        ("merge absent --out all", "no run folder"),
    ],
)
def test_errors_of_the_commands(line, message, tmp_path, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(SPEC)
    status, _, err = said(*line.split())
    assert status == 1
    assert message in err


def test_each_command_goes_on_with_what_the_other_began(tmp_path, said):
    for command, planned, shown in (
        ("train", toy_plan(), "toy: finished"),
        ("sweep", plan_training(tiny(), SEEDS, width=1), "final return"),
    ):
        path = tmp_path / command
        with pytest.raises(InterruptedError):
            run.start(planned, path, progress=Stop(1))
        status, out, _ = said(command, "--resume", path, "--quiet")
        assert status == 0
        assert shown in out
        assert "load it by  kltrust.load(" in out
        assert all(part.finished for part in parts(Record(path)))
        assert (path / "learning_curve.png").exists() == (command == "sweep")


@pytest.mark.parametrize(
    ("command", "planned", "where"),
    [
        ("train", lambda: plan_training(tiny(), SEEDS, width=1), "after 4 of 7 iterations"),
        ("sweep", toy_plan, "in group 0 after 2 of 3 iterations"),
    ],
)
def test_a_dry_run_of_a_resume_says_where_it_goes_on(command, planned, where, tmp_path, said):
    path = tmp_path / "part"
    with pytest.raises(InterruptedError):
        run.start(planned(), path, progress=Stop(2))
    before = toys.content(tmp_path)
    status, out, _ = said(command, "--resume", path, "--dry-run")
    assert status == 0
    assert out.splitlines()[-1] == f"{path} would go on {where}"
    assert "environment steps" in " ".join(out.split())
    assert toys.content(tmp_path) == before


def test_a_dry_run_of_a_finished_training_says_so(toy_training, said):
    _, out, _ = said("train", "--resume", toy_training.path, "--dry-run")
    assert out.splitlines()[-1].endswith("is finished already: nothing is left to do")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr(pace, "cache_folder", lambda: tmp_path / "cache")


def test_the_time_left_is_by_what_ran_and_by_the_record(tmp_path, monkeypatch):
    plan, now = toy_plan(), [0.0]
    paces, source = pace.expected(plan)
    assert paces == [pace.GUESS, pace.GUESS]
    assert "nothing has run here yet" in source
    remaining = pace.Remaining(plan, lambda: now[0])
    assert remaining.left() == pytest.approx(60 + (768 + 128) / 1e5)
    now[0] = 20.0
    remaining.report(0, 2 / 3, pace.Pace(10.0, 64.0))
    assert remaining.elapsed() == 20
    # A third of the first group's 768 steps; the second one compiles as long as the first did.
    assert remaining.left() == pytest.approx(256 / 64 + 10 + 128 / 64)
    assert remaining.share() == pytest.approx(512 / 896)
    remaining.report(1, 1.0, pace.Pace(30.0, 32.0))
    remaining.remember()
    assert pace.recorded_paces() == {}  # too short
    monkeypatch.setattr(pace, "SHORTEST", 128)
    remaining.remember()
    paces, source = pace.expected(plan)
    assert paces == [pace.Pace(10, 64), pace.Pace(30, 32)]
    assert "from earlier runs of these on this machine" in source
    (tmp_path / "cache" / "pace.json").write_text("{")
    assert pace.recorded_paces() == {}
    (tmp_path / "cache" / "pace.json").write_text("[1]")
    assert pace.recorded_paces() == {}


def test_groups_are_named_by_what_tells_them_apart():
    two = SPEC + "[[experiments]]\nlabel = 'longer'\nlearner.num_steps = 32\n"
    names = tables.names_of(toys.toy_plan(two))
    assert names[0] == "vanilla_pg CartPole-v1 num_steps=16 x 4"
    assert "vanilla_pg CartPole-v1 num_steps=32 x 2" in names
    assert "vanilla_pg Catch-bsuite x 2" in names


def of_a_sweep(shown):
    shown.start(toy_plan(), None)
    shown.group(0, 1)
    shown.compiling("init")
    shown.group(1, 0)
    shown.chunk(Report(2, 3, 64, 1234.5, ("a [label]", 7.25), 0.0078, {5: 1}, 2.5, 9))
    shown.end()
    shown.end()


def of_a_training(shown):
    shown.start(plan_training(tiny(), SEEDS, width=1), None)
    shown.group(0, 0)
    shown.compiling("init")
    shown.chunk(Report(2, 7, 128, 54_321.0, ("trpo", 123.45), 0.0078, {}))
    shown.end()


def test_lines_where_there_is_no_terminal(capsys):
    of_a_sweep(progress.ConsoleProgress())
    compiling, warning, line = capsys.readouterr().out.splitlines()
    assert compiling == "vanilla_pg CartPole-v1 x 4: compiling init ..."
    assert "warning: 9 observations of this chunk allow no action by their mask" in warning
    name, rest = line.split(": ", 1)
    assert name == "vanilla_pg Catch-bsuite x 2"
    facts = [
        "2/3",
        "return 7.2",
        "KL 0.0078",
        "1,234 steps/s",
        "1 broken",
        "0:00 gone, 0:03 left",
        "best: a [label]",
    ]
    assert re.split(r" {2,}", rest) == facts
    of_a_training(progress.ConsoleProgress())
    title, compiling, line = capsys.readouterr().out.splitlines()
    assert title == "trpo on CartPole-v1, 2 seeds, 7 iterations of 64 steps each"
    assert compiling == "compiling init ..."
    facts = ["2/7", "return 123.5", "KL 0.0078", "54,321 steps/s", "0:00 gone, 0:00 left"]
    assert re.split(r" {2,}", line) == facts


def test_the_best_setting_stays_the_one_named_while_it_ties(capsys):
    shown = progress.ConsoleProgress()
    shown.start(toy_plan(), None)
    shown.group(0, 0)
    named = []
    for a, b in [(np.nan, np.nan), (3, 5), (5, 5), (5, 5.04), (6, 5), (6, 6), (np.nan, np.nan)]:
        scores = means_of("baba", [2, 1, 3, 0], np.array([b, a, b, a]))  # as slots of a search
        shown.chunk(Report(1, 9, 64, 1.0, best_of(scores), 0.1, {}, scores=scores))
        named.append(capsys.readouterr().out.split()[-1])
    shown.end()
    assert named == ["a", "b", "b", "b", "a", "a", "a"]


def test_a_notebook_gets_lines_too(monkeypatch, capsys):
    """Plain ones: rich would make an output of its own of every line, and ask for widgets."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert Console().is_jupyter
    of_a_training(progress.ConsoleProgress())
    assert "return 123.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        (
            of_a_sweep,
            [
                "vanilla_pg CartPole-v1 x 4",
                "1/3",
                "compiling for 0 s: init",
                "2/2",
                "best: a [label]",
            ],
        ),
        (of_a_training, ["trpo CartPole-v1 x 2", "2/7", "return 123.5", "54,321 steps/s"]),
    ],
)
def test_a_bar_per_group_on_a_terminal(job, shown):
    screen = io.StringIO()
    job(progress.ConsoleProgress(Console(file=screen, force_terminal=True, width=200)))
    assert "\x1b[" in screen.getvalue()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for part in (*shown, "━"):
        assert part in text


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_screen_that_lacks_letters_stops_nothing(encoding, terminal):
    screen = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=screen, force_terminal=terminal, width=200)
    shown = progress.ConsoleProgress(console)
    shown.start(toy_plan(), None)
    shown.group(0, 1)
    shown.chunk(Report(2, 3, 64, 1234.5, ("λ = 1", 7.25), 0.0078, {}))
    shown.end()
    screen.flush()
    printed = screen.buffer.getvalue().decode(encoding)
    assert ("best: λ = 1" if encoding == "utf-8" else r"best: \u03bb = 1") in printed


def test_a_command_prints_what_its_screen_lacks_with_escapes(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("kltrust.experiments.cli.HELP", "λ")
    assert main([]) == 0
    screen.flush()
    assert screen.buffer.getvalue() == rb"\u03bb"


def test_a_working_folder_that_is_gone(tmp_path, said, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for line in ("status x", "evaluate x", "train trpo CartPole-v1", "report x"):
        assert said(*line.split()) == (
            1,
            "",
            "kltrust: error: the working folder was deleted: change to one that is there, as in "
            "`cd ~`",
        )


def test_surroundings_that_a_process_is_born_with(tmp_path):
    """Full output, a platform that is not there, and names in a locale without their letters."""
    (tmp_path / "toy.toml").write_text(SPEC.replace('"falling"', '"größer"'), encoding="utf-8")
    script = """
import os, sys
from kltrust.experiments import cli
from kltrust.experiments.cli.surroundings import text
assert cli.main(["sweep", sys.argv[1], "--dry-run"]) == 1  # no such platform
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
assert cli.main(["--help"]) == 1
assert text(sys.argv[2]) == "gr\\xf6\\xdfer", ascii(sys.argv[2])
"""
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    found = python(
        "-c",
        script,
        str(tmp_path / "toy.toml"),
        "größer",
        environment={**locale, "JAX_PLATFORMS": "cuda"},
    )
    assert found.returncode == 0, found.stderr
    platform, full = found.stderr.splitlines()
    assert "JAX finds no device of JAX_PLATFORMS=cuda" in platform
    assert full == "kltrust: error: can't write to standard output: No space left on device"
