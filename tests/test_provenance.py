"""The origin of recorded results: what is written with them, and what makes them stale."""

import json
import subprocess
import sys
from pathlib import Path

import common
import provenance
import pytest
import readme

from kltrust.experiments.store import versions

IN_GIT = bool(provenance._git("rev-parse", "HEAD"))


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("x = 1", True),
        ("# why\nx = 1  # because\n\n", True),
        ('"""What it is."""\nx = 1\n"""What x is,\nin two lines."""\n', True),
        ("x = 2", False),
        ('x = 1\ny = "# no comment"', False),
        ("x = 1\ny = '''no\ndocstring'''", False),
    ],
)
def test_comments_and_docstrings_do_not_count(source, same):
    assert (provenance.code_digest(source) == provenance.code_digest("x = 1")) == same


def test_a_string_with_a_hash_is_code():
    assert provenance.code_digest('x = "#1"') != provenance.code_digest('x = "#2"')


def test_a_function_differs_by_its_body_alone():
    known = 'def f(x):\n    """Doubles ä."""\n    return 2 * x\n'
    assert provenance.code_digest(known) == provenance.code_digest(known.replace("ä", "it"))
    assert provenance.code_digest(known) != provenance.code_digest(known.replace("2 *", "3 *"))


def test_texts_of_errors_do_not_count():
    known = (
        'def f(x):\n    if x < 0:\n        raise ValueError(\n            f"{x} is ä"\n        )\n'
    )
    digest = provenance.code_digest(known + "    return x; raise OSError('no')\n")
    other = known.replace('(\n            f"{x} is ä"\n        )', '("give a number")')
    assert provenance.code_digest(other + "    return x; raise OSError()\n") == digest
    for old, new in (("x < 0", "x < 1"), ("ValueError", "TypeError")):
        changed = other.replace(old, new)
        assert provenance.code_digest(changed + "    return x; raise OSError()\n") != digest


def test_a_result_is_written_with_its_origin(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/speed.py", "--parts", "phases", "--out", str(tmp_path)])
    common.write(tmp_path / "phases.json", {"rows": []})
    origin = json.loads((tmp_path / "phases.json").read_text("utf-8"))["origin"]
    assert origin["command"] == "python benchmarks/speed.py --parts phases"
    code = dict(pair.split(":") for pair in origin["code"].split())
    assert {"kltrust.losses.surrogates", "benchmarks.common"} <= code.keys()
    assert not any(name.startswith(provenance.IDLE) for name in code)
    pins = (provenance.ROOT / "constraints" / origin["constraints"]["file"]).read_text("utf-8")
    assert origin["constraints"]["digest"] == provenance._short(pins)
    # What a commit held is known later, too.
    if IN_GIT:
        now = provenance.checked_out()
        then = provenance.at_commit(provenance._git("rev-parse", "HEAD").strip())
        assert sum(now.get(name) == digest for name, digest in then.items()) > len(then) / 2


@pytest.mark.parametrize("program", ["peers", "kills", "random_policy"])
def test_a_program_whose_runs_are_elsewhere_counts_the_package_and_its_own_scripts(program):
    code = f"import provenance, {program}; print(*provenance.imported())"
    folder = provenance.ROOT / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    found = done.stdout.split()
    assert {"kltrust.learner", "benchmarks.workers.ours", f"benchmarks.{program}"} <= {*found}
    assert not {"benchmarks.compiled", "benchmarks.atlas", "benchmarks.readme"} & {*found}


def test_rows_that_are_recorded_one_by_one_have_origins_of_their_own(tmp_path):
    path = tmp_path / "adapters.json"
    path.write_text(json.dumps({"rows": [{"env": "a", "algorithm": "trpo", "score": 1}]}), "utf-8")
    common.write_row(path, {"env": "b", "algorithm": "trpo", "score": 2})
    known, new = provenance.origins(json.loads(path.read_text("utf-8")))
    assert known is None
    assert new["code"]


def test_what_makes_a_result_stale():
    origin = provenance.origin(spec=common.SPECS / "wide.toml")
    fresh = {"spec": "wide.toml", "origin": origin}
    assert provenance.why_stale(fresh) is None
    code = origin["code"]
    (first, digest), *_ = (pair.split(":") for pair in code.split())
    other = fresh | {"origin": origin | {"code": code.replace(digest, "0" * 8, 1)}}
    assert provenance.why_stale(other) == f"{first} has changed"
    gone = fresh | {"origin": origin | {"code": f"{code} kltrust.gone:{digest}"}}
    assert provenance.why_stale(gone) == "kltrust.gone has changed"
    spec = fresh | {"origin": origin | {"spec": "0" * 8}}
    assert provenance.why_stale(spec) == "its specification has changed"
    rows = [{"origin": provenance.origin()}, {}]
    assert provenance.why_stale({"rows": rows}) == "its code was not recorded"


def test_a_preset_counts_for_what_a_specification_takes_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def digest(name, preset, more=""):
        (tmp_path / f"{name}_preset.toml").write_text(preset, "utf-8")
        said = f'[sweep]\nname = "toy"\nenvs = "CartPole-v1"\npreset = "{name}_preset.toml"\n'
        said += f'seeds = 2\n# {name}\n[[experiments]]\nalgorithms = "trpo"\n{more}'
        (tmp_path / f"{name}.toml").write_text(said, "utf-8")
        return provenance.digest_of_spec(tmp_path / f"{name}.toml")

    bound = "[update]\nmax_kl = {}\n"
    first = digest("a", bound.format(0.01))
    assert digest("b", bound.format(0.01)) == first  # neither comments nor names of files
    assert digest("c", bound.format(0.02)) != first
    grid = "grid.max_kl = [0.01, 0.02]"
    assert digest("d", bound.format(0.01), grid) == digest("e", bound.format(0.02), grid) != first


def test_only_what_a_commit_holds_is_recorded(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(versions, "uncommitted", lambda root: asked.append(root) or found)
    found = ["kltrust/losses/drifts.py"]
    with pytest.raises(SystemExit, match=r"drifts\.py differs from it: commit first"):
        provenance.refuse_uncommitted(provenance.RESULTS)
    provenance.refuse_uncommitted(tmp_path)
    found = []
    provenance.refuse_uncommitted(provenance.RESULTS / "extras.json")
    assert asked == [provenance.ROOT] * 2
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="set PYTHONPATH"):
        provenance.refuse_uncommitted(provenance.RESULTS)


def test_every_result_names_the_command_that_records_it():
    for name, result in provenance.results().items():
        [line] = provenance.commands({name: result})
        _, script, *rest = line.split()
        assert (provenance.ROOT / script).is_file()
        assert all((provenance.ROOT / x).is_file() for x in rest if x.endswith(".toml"))
        for known in filter(None, provenance.origins(result)):
            assert known["command"].split()[1] == script, name


def test_an_accepted_change_names_the_results_that_show_it():
    for entry in provenance.entries():
        assert entry["why"]
        assert entry["changes"]
        assert entry["shown by"].keys() <= provenance.results().keys()
        assert all(said.startswith("the same bits") for said in entry["shown by"].values())


def test_a_table_says_that_its_code_has_changed(monkeypatch):
    origin = provenance.origin()
    known = {"part_a": {"origin": origin}, "part_b": {"rows": []}}
    monkeypatch.setattr(provenance, "results", lambda: known)
    monkeypatch.setattr(readme, "load", known.get)
    assert readme.age(["part_a"]) == []
    assert readme.age(["part_b"])[-1] == "*Recorded at an earlier version of the code.*"
    assert readme.age(["part_*"])[-1].startswith("*1 of 2 recorded")


@pytest.mark.skipif(not IN_GIT, reason="not a checkout")
def test_results_and_runs_name_commits_of_the_history(monkeypatch):
    changes = {entry["why"]: {"origin": entry} for entry in provenance.entries()}
    assert provenance.not_in_history(provenance.results() | changes) == []
    made_up = {"x": {"origin": {"commit": "0" * 40, "code": ""}}}
    monkeypatch.setattr(provenance, "_git", lambda *a: "false" if a[0] == "rev-parse" else "1" * 40)
    assert provenance.not_in_history(made_up) == ["x"]
    assert versions._own_checkout()[0] == versions._checkout(Path(__file__).parents[1])[0]
    assert len(versions._own_checkout()[0]) == 40
