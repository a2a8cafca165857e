"""Every file of a run folder damaged in every way: every command notices, and names the file."""

import itertools
import json
import shutil
import warnings

import pytest
from toys import Stop, assert_same, parts, toy_plan

import kltrust
from kltrust.experiments import cli
from kltrust.experiments.jobs import run
from kltrust.experiments.jobs.folder import DamageWarning
from kltrust.experiments.store import files
from kltrust.experiments.store.record import LOCK, Record

COMMANDS = {
    "status": ("status", "{}"),
    "load": None,
    "report": ("report", "{}", "--out", "{}-report"),
    "evaluate": ("evaluate", "{}", "--env", "CartPole-v1"),
    "sweep": ("sweep", "--resume", "{}"),
    "export": ("export", "{}", "--tensorboard", "{}-logs"),
    "play": ("play", "{}", "--env", "CartPole-v1"),
    "train": ("train", "--resume", "{}"),
    "merge": ("merge", "{}", "--out", "{}-all"),
}


def ask(name, folder, capsys):
    """What a command says of a folder that is damaged, in an error or in a warning."""
    try:
        if name == "load":
            with pytest.raises(files.StorageError) as caught:
                kltrust.load(folder)
            return str(caught.value)
        status = cli.main([part.format(folder) for part in COMMANDS[name]])
    except DamageWarning as warning:  # which pytest makes an error: the command need not go on
        return str(warning)
    out, err = capsys.readouterr()
    assert status == 1, out
    assert "still whole" in err
    assert "Traceback" not in err
    return err


def other_files(file):
    """What a file of a group may be confused with: that file of another group."""
    text, number = (
        str(file),
        file.parts[file.parts.index("groups") + 1] if "groups" in file.parts else None,
    )
    if number is None:
        return []
    group = next(p for p in file.parents if p.name == number)
    others = sorted(p for p in group.parent.iterdir() if p != group)
    return [o for g in others for o in sorted(g.rglob(file.name)) if o.is_file() and text]


def ways(file):
    """Ways to damage a file, each a function that puts something else in its place."""
    content = file.read_bytes()
    yield "deleted", lambda place: None
    yield "truncated", lambda place: place.write_bytes(content[: len(content) // 2])
    yield "empty", lambda place: place.write_bytes(b"")
    yield "not UTF-8", lambda place: place.write_bytes(b"\xff\xfe\xfa" + content)
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    yield "edited", lambda place: place.write_bytes(flipped)
    yield "a folder", lambda place: place.mkdir()
    yield "a link to itself", lambda place: place.symlink_to(place)
    if file.suffix == ".json":
        for value in ("null", "[]", "{}", "3", '"text"', "[" * 100_000):
            yield value[:9], lambda place, value=value: place.write_text(value)
    for other in other_files(file)[:1]:
        if other.read_bytes() != content:
            yield "another's", lambda place, other=other: shutil.copy(other, place)


@pytest.fixture(scope="module")
def begun(toy_sweep, tmp_path_factory):
    """A sweep that was interrupted in its first group."""
    path = tmp_path_factory.mktemp("damage") / "begun"
    with pytest.raises(InterruptedError):
        run.start(toy_plan(), path, progress=Stop(after=1))
    return path


@pytest.fixture(params=["whole", "begun"])
def folder(request, toy_sweep, tmp_path):
    source = request.getfixturevalue("begun") if request.param == "begun" else toy_sweep.path
    return shutil.copytree(source, tmp_path / "sweep")


def test_every_damage_is_noticed(folder, tmp_path, capsys):
    kept = tmp_path / "kept"
    names = itertools.cycle(COMMANDS)
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size):
        for way, damage in ways(file):
            file.rename(kept)
            damage(file)
            if (
                file.name == LOCK
            ):  # no part of the run: what it says of a process is looked at alone
                assert cli.main(["status", str(folder)]) == 0, way
                files.remove(file)
                kept.rename(file)
                continue
            name = next(names)
            said = ask(name, folder, capsys)
            assert file.name in said, (name, way, file, said)
            files.remove(file)
            kept.rename(file)
    assert Record(folder).damage() == {}


def test_every_command_notices_every_kind_of_file(toy_sweep, tmp_path, capsys):
    folder = shutil.copytree(toy_sweep.path, tmp_path / "sweep")
    group = folder / "groups/000"
    (manifest,) = group.glob("checkpoints/*/kltrust.json")
    tables = group / "metrics.parquet", group / "evaluation.parquet"
    for file in (folder / "run.json", group / "run.json", group / "commit.json", manifest, *tables):
        content = file.read_bytes()
        for name in COMMANDS:
            file.write_bytes(content[:-9])
            assert file.name in ask(name, folder, capsys), (name, file)
        file.write_bytes(content)


def test_folders_that_are_gone_or_something_else(folder, tmp_path, capsys):
    kept = tmp_path / "kept"
    for place in ("groups", "groups/000", "groups/000/checkpoints"):
        for damage in (lambda p: None, lambda p: p.symlink_to(p), lambda p: p.write_text("")):
            (folder / place).rename(kept)
            damage(folder / place)
            for name in ("status", "load", "sweep", "report"):
                assert str(folder / "groups") in ask(name, folder, capsys)
            files.remove(folder / place)
            kept.rename(folder / place)


def test_what_is_not_needed_is_a_warning(toy_sweep, tmp_path, capsys):
    folder = shutil.copytree(toy_sweep.path, tmp_path / "sweep")
    (manifest,) = (folder / "groups/000").glob("checkpoints/*/kltrust.json")
    manifest.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["status", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "toy: finished" in out
    assert err.startswith("kltrust: warning: ")
    assert err.count("\n") == 1
    assert "groups/000/metrics.parquet, groups/001" in err
    assert "groups/000/checkpoints" not in err.partition("still whole")[2]
    with pytest.warns(DamageWarning, match=r"kltrust.json"):
        assert len(kltrust.load(folder).metrics) == len(kltrust.load(toy_sweep.path).metrics)


def of_before(path):
    """The folder as older versions wrote it: without digests."""
    for file in path.rglob("*.json"):
        content = json.loads(file.read_text())
        if file.name == "run.json":
            del content["crc32"]
            content["config"].pop("plan", None)
            content["format"] = "kltrust run 2"
        elif file.name == "commit.json":
            del content["crc32"], content["run"], content["files"]
        file.write_text(json.dumps(content))
    return path


def test_older_folders_are_read_and_go_on(begun, toy_sweep, tmp_path):
    whole = of_before(shutil.copytree(toy_sweep.path, tmp_path / "whole"))
    old = of_before(shutil.copytree(begun, tmp_path / "old"))
    assert_same(Record(whole), toy_sweep)
    assert_same(run.resume(old), toy_sweep)
    assert [part.damage() for part in parts(Record(old))] == [{}, {}]
    # What has no digest has types.
    marker = whole / "groups/000/commit.json"
    for value in ("{}", "null", '{"chunk": null}'):
        marker.write_text(value)
        with pytest.raises(files.DamagedError, match=r"commit\.json is damaged"):
            kltrust.load(whole)
