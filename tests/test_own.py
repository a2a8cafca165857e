"""One's own modules: what a run folder says of them, and how they are found again."""

import importlib
import json
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
from toys import output, tiny, write

import kltrust
from kltrust import environments
from kltrust.algorithms import algorithm_names
from kltrust.environments._registry import _factories
from kltrust.experiments.cli import main
from kltrust.experiments.engine import own, sources
from kltrust.experiments.engine.devices import cache_folder
from kltrust.experiments.engine.program import build
from kltrust.experiments.jobs import run
from kltrust.experiments.jobs.plan import Plan, plan_training
from kltrust.experiments.reading.trained import find_runs
from kltrust.experiments.store.record import Record

HELPER = "SCALE = 1.0\n"
MINE = """
import kltrust
import {helper}

@kltrust.algorithm("bounded")
class Bounded:
    "TRPO, by another name."
    max_kl: float = kltrust.setting(0.01, "Bound.", above=0, role="bound")
    stop: float = kltrust.setting(float("inf"), "Off.", infinite=True)
    rounds: int = kltrust.setting(3 * 10**9, "Many.", at_most=10**10)
    widths: tuple = (8, 8)
    optimizer: object = kltrust.setting(kltrust.updates.Optimizer("adamw"), "Optimiser.")

    def init(self, params):
        return kltrust.trpo(max_kl=self.max_kl).init(params)

    def update(self, *arguments):
        return kltrust.trpo(max_kl=self.max_kl).update(*arguments)

kltrust.register("cart", lambda: kltrust.make("CartPole-v1"))
"""


def metrics_of(group, first):
    shape = (len(group.runs), group.chunk_length)
    kl = np.full(shape, 0.004, np.float32)
    counts = np.ones(shape, np.int32)
    columns = dict.fromkeys(["kl", "kl_max", "max_ratio", "clip_fraction", "return_sum"], kl)
    return {**columns, "num_episodes": counts, "nonfinite_update": 0 * counts}


class Place:
    """A folder with a module and its helper, of names that no other test has, and their run."""

    def __init__(self, folder, number):
        self.folder, self.helper, self.name = folder, f"helper_{number}", f"mine_{number}"
        (folder / f"{self.helper}.py").write_text(HELPER, "utf-8")
        self.file = folder / f"{self.name}.py"
        self.file.write_text(MINE.format(helper=self.helper), "utf-8")
        self.runs = folder / "runs"

    def forget(self):
        """A process that has imported nothing yet, somewhere else."""
        for name in (self.name, self.helper):
            sys.modules.pop(name, None)
        for registry in (kltrust.algorithms._registry._declared, _factories):
            for name in ("bounded", "cart"):
                registry.pop(name, None)
        sys.path[:] = [entry for entry in sys.path if entry != str(self.folder)]
        own._typed.clear()
        own._warned.clear()
        importlib.invalidate_caches()

    def recall(self):
        own.import_recorded(Record(self.runs).code, self.runs)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where a run was begun with ``--import``, and has been left."""
    monkeypatch.setattr(sources, "_memory", lambda: tmp_path / "modules.json")
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    place = Place(folder, abs(hash(tmp_path.name)))
    monkeypatch.chdir(folder)
    before = list(sys.path)
    own.import_modules([place.name])
    planned = plan_training(tiny("bounded", "cart"), [3, 4])
    score = lambda seed, done: done  # noqa: E731
    write(place.runs, planned, metrics_of, score, chunks=1, code=run._code_of(planned))
    monkeypatch.chdir(elsewhere)
    place.forget()
    yield place
    place.forget()
    sys.path[:] = before


def test_a_folder_names_modules_and_digests_and_no_path(place):
    code = Record(place.runs).code
    assert code["import"] == [place.name]
    assert code["sources"] == {
        place.name: sources.digest(place.file),
        place.helper: sources.digest(place.folder / f"{place.helper}.py"),
    }
    assert code["registered"] == {"algorithm bounded": place.name, "environment cart": place.name}
    assert code["algorithms"] == {"bounded": {"max_kl": {"role": "bound"}}}
    assert str(place.folder) not in (place.runs / "run.json").read_text("utf-8")


def test_reading_needs_no_code(place, capsys):
    place.file.unlink()
    results = kltrust.load(place.runs)
    assert set(results.runs["update.max_kl"]) == {0.01}
    assert set(results.runs.env) == {"cart"}
    for command in ("status", "judge --fail never", "report"):
        assert main([*command.split(), str(place.runs)]) == 0, capsys.readouterr().err
    page = (place.runs / "report" / "index.html").read_text("utf-8")
    for text in (sources.digest(place.folder / f"{place.helper}.py"), f"--import {place.name}"):
        assert text in page
    (preset,) = (place.runs / "report" / "presets").rglob("*.toml")
    update = tomllib.loads(preset.read_text("utf-8"))["update"]
    values = {"max_kl": 0.01, "stop": np.inf, "rounds": 3 * 10**9, "widths": [8, 8]}
    assert update == {**values, "optimizer": "adamw()"}
    assert "bounded" not in algorithm_names()


def test_findings_and_plots_know_the_roles_of_settings(place):
    from kltrust.findings._judge import _claims_of_row
    from kltrust.settings import with_role

    results = kltrust.load(place.runs)
    row = results.runs.iloc[0].to_dict()
    without = _claims_of_row("bounded", row, results.select(seed=3).stand_ins)
    stand_in = run.plan_of(Record(place.runs)).settings[0].experiment
    assert with_role(stand_in.update, "bound") == ["max_kl"]
    place.recall()
    assert without == _claims_of_row("bounded", row, {}) != _claims_of_row("other", row, {})
    with_code = run.plan_of(Record(place.runs)).settings[0].experiment
    assert stand_in.to_dict() == with_code.to_dict()


def test_a_stand_in_neither_trains_nor_acts(place):
    stand_in = Plan.from_config(Record(place.runs).config).settings[0].experiment
    for use in (lambda: build(stand_in), lambda: stand_in.update.init({})):
        with pytest.raises(ValueError, match="--import MODULE"):
            use()


def test_it_is_imported_again_by_itself(place):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [found.seed for found in find_runs(place.runs)] == [3, 4]
    assert sys.modules[place.name].__file__ == str(place.file)
    place.recall()  # what is registered is not imported twice


@pytest.mark.parametrize("what", ["name", "helper"])
def test_another_source_is_said_and_used(place, monkeypatch, what):
    file = place.folder / f"{getattr(place, what)}.py"
    file.write_text(file.read_text("utf-8") + "# changed\n", "utf-8")
    if what == "name":  # from elsewhere, only what it was
        with pytest.raises(ValueError, match=f"{file} is not what it was.*--import {place.name}"):
            place.recall()
        monkeypatch.chdir(place.folder)
    with pytest.warns(own.SourceWarning, match=f"began with: {file.stem}. Numbers"):
        place.recall()


def test_code_that_only_lies_there_is_not_run(place, monkeypatch, tmp_path):
    """The folder and its modules may be a stranger's, whatever digest he wrote."""
    (tmp_path / "modules.json").unlink()
    monkeypatch.chdir(place.folder)
    with pytest.raises(
        ValueError, match=rf"add --import {place.name}.*`import {place.name}` first"
    ):
        place.recall()
    assert place.name not in sys.modules
    own.import_modules([place.name])  # he who does as it says needs to do it once
    place.forget()
    place.recall()


def test_a_module_that_is_gone_broken_or_empty_is_named(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    source = place.file.read_text("utf-8")
    for text, message in (
        ("raise KeyError('x')", f"{place.name!r}, which can't be imported .KeyError: 'x'."),
        ("x = 1", f"{place.name} was imported and registers no algorithm bounded"),
        (source.replace("max_kl:", "other:"), None),
        (None, "no module of this name is found"),
    ):
        place.forget()
        place.file.unlink() if text is None else place.file.write_text(text, "utf-8")
        if message is None:
            with pytest.warns(own.SourceWarning):
                found = find_runs(place.runs)
            with pytest.raises(ValueError, match=r"takes other settings than it did.*max_kl"):
                build(found[0].experiment)
        else:
            with pytest.raises(ValueError, match=message):
                place.recall()


def test_another_module_may_register_the_names(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    place.file.rename(place.folder / f"other_{place.name}.py")
    own.import_modules([f"other_{place.name}"])
    place.recall()  # the same source
    code = Record(place.runs).code
    code["sources"][place.name] = "another"
    with pytest.warns(own.SourceWarning, match=f"other_{place.name} has algorithm bounded, not"):
        own.import_recorded(code, Path("elsewhere"))


def test_a_script_is_never_run_again(place):
    code = json.loads(json.dumps(Record(place.runs).code).replace(place.name, "__main__"))
    with pytest.raises(ValueError, match=r"algorithm bounded of .* by a script or a notebook"):
        own.import_recorded({**code, "import": []}, place.runs)


def test_the_commit_of_the_user_is_recorded(place, monkeypatch):
    def git(*arguments):
        of = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(
            ["git", "-C", place.folder, *of, *arguments], check=True, capture_output=True
        )

    git("init")
    git("add", place.file.name)
    git("commit", "-m", "x")
    own.import_modules([])
    place.recall()
    found = own.code_of(["bounded", "trpo"], ["cart"])["commits"]
    assert set(found) == {place.name}  # the working folder is in no checkout
    assert found[place.name]["dirty"]  # its helper is not in git
    git("add", ".")
    git("commit", "-m", "y")
    (place.folder / "untracked").mkdir()
    (place.folder / "untracked" / "table").write_text("x", "utf-8")
    monkeypatch.chdir(place.folder)
    found = own.code_of(["bounded"], ["cart"])["commits"]
    assert set(found) == {place.name, "working folder"}
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    assert all(of == {"commit": head.strip(), "dirty": False} for of in found.values())


def test_what_is_ours_is_no_code_of_ones_own():
    code = own.code_of(["trpo"], ["CartPole-v1"])
    assert not any(code[part] for part in ("import", "sources", "registered", "algorithms"))
    assert environments._registry.home_of("CartPole-v1").startswith("gymnax.")


def test_no_test_writes_into_the_cache_of_who_runs_it(tmp_path, tmp_path_factory):
    (tmp_path / "kept_apart.py").touch()
    script = "from kltrust.experiments.engine import own; own.import_modules(['kept_apart'])"
    output("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}")
    assert sources.known_files()["kept_apart"] == [str(tmp_path / "kept_apart.py")]
    assert cache_folder().is_relative_to(tmp_path_factory.getbasetemp())
