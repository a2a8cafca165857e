"""The benchmarks of sweeps run, at toy size, and record what the README's tables need."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import common
import forked
import jax
import kills
import numpy as np
import pandas as pd
import pytest
import record
import search
import sweeps
import toys
from common import load_spec
from known_envs import legal_arms
from recorded import faults, scores, searches

from kltrust.environments import make
from kltrust.experiments.report._gather import Study, gather
from kltrust.experiments.search.halving import Halving
from kltrust.experiments.store import run as store
from kltrust.types import Box

SPEC = f"""{toys.ONE_GROUP}experiments = [{{ algorithms = "trpo", grid.max_kl = [0.01, 0.1] }}]
"""


@pytest.fixture(scope="module")
def toy_spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "toy.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def recorded(toy_spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("recorded")
    options = record.Options(toy_spec, folder=(out / "sweep",), random_episodes=50, out=out)
    record.main(options)
    return options, json.loads((out / "toy.json").read_text())


def test_a_record_has_every_score_and_the_region(recorded):
    _, result = recorded
    assert [row["label"] for row in result["rows"]] == ["trpo max_kl=0.01", "trpo max_kl=0.1"]
    assert result["seeds"] == [3, 5]
    assert result["steps"] == 4 * 256
    assert 10 < result["random"]["CartPole-v1"]["mean"] < 40
    for row, bound in zip(result["rows"], (0.01, 0.1), strict=True):
        assert len(row["scores"]) == 2
        assert len(row["training"]) == 2
        assert 8 < min(row["training"]) <= max(row["training"]) < 64
        assert row["claim"] == {"kind": "bound", "what": "max_kl", "value": bound}
        assert row["steps"] == 256
        assert 0 < row["median"] <= row["largest"] <= bound * 1.0001
        assert row["above"] == 0


def test_a_record_of_a_finished_sweep_is_the_same(recorded):
    options, result = recorded
    record.main(options)
    again = json.loads((options.out / "toy.json").read_text())
    for of in (again["origin"], result["origin"]):
        assert of.pop("minutes", 0) >= 0
    assert again == result


def test_another_specification_in_the_folder_is_refused(recorded, tmp_path):
    options, _ = recorded
    other = tmp_path / "other.toml"
    other.write_text(SPEC.replace("[3, 5]", "[3, 6]"))
    with pytest.raises(ValueError, match="another specification"):
        record.main(record.Options(other, folder=options.folder, out=tmp_path))
    other.write_text(SPEC.replace("= 16", "= 32"))
    with pytest.raises(ValueError, match="another specification"):
        record.main(record.Options(other, options.folder, run=False, out=tmp_path))
    assert not list(tmp_path.glob("*.json"))


def test_parts_of_a_sweep_among_others(recorded, tmp_path):
    """The folder has a setting and a seed that the specification does not name."""
    options, result = recorded
    other = tmp_path / "toy.toml"
    other.write_text(SPEC.replace("[3, 5]", "[3]").replace("[0.01, 0.1]", "[0.1]"))
    record.main(record.Options(other, options.folder, run=False, random_episodes=50, out=tmp_path))
    (row,) = json.loads((tmp_path / "toy.json").read_text())["rows"]
    assert row["label"] == "trpo max_kl=0.1"
    assert row["scores"] == result["rows"][1]["scores"][:1]


def test_a_part_has_the_names_of_the_specification(recorded, toy_spec):
    """Two folders that differ under one name are told apart by theirs."""
    options, _ = recorded
    study = gather(options.folder)
    runs = study.runs.assign(label="sweep (1): " + study.runs.label)
    kept = record.without_others(dataclasses.replace(study, runs=runs), load_spec(toy_spec))
    for frame in (kept.runs, kept.metrics, kept.evaluations):
        assert set(frame.label) == {"trpo max_kl=0.01", "trpo max_kl=0.1"}


def test_tables_of_a_record(recorded):
    _, result = recorded
    made = json.loads(json.dumps(result))
    made["random"]["CartPole-v1"]["mean"] = 10.0
    for row, of in zip(made["rows"], ([20.0, 30.0], [60.0, 60.0]), strict=True):
        row["scores"] = of
    first, second, zero, one, _, order, _, setting = scores.table1(made)[2:]
    assert order.startswith("Shown to be worse than *trpo max_kl=0.1*")
    assert first.startswith("| trpo max_kl=0.01 | 0.30 [0.20, 0.40] | 25.0 |")
    assert second.startswith("| trpo max_kl=0.1 | 1.00 [1.00, 1.00] | 60.0 |")
    assert (zero.split(" | ")[2], one.split(" | ")[2]) == ("10.0 |", "60.0 |")
    assert scores.wide({"": made})[2].startswith(
        "| CartPole-v1 (256) | 10.0 | 25.0 [20.0, 30.0], median 25.0 | 60.0"
    )
    assert "| max_kl = 0.1 |" in scores.trust_region(made)[3]
    assert "2 seeds" in setting


def test_the_table_of_what_presets_were_chosen_from(recorded):
    _, result = recorded
    made = json.loads(json.dumps(result))
    for row, of in zip(made["rows"], ([20.0, 30.0], [60.0, 60.0]), strict=True):
        row["scores"] = of
    line = scores.tuning_classic({"": made})[2]
    assert line == "| CartPole-v1 | `trpo` | `max_kl` | 0.01: 25.0; **0.1: 60.0** | 0.01 |"
    assert "Not yet measured" in scores.tuning_classic({})[0]


def test_a_ranking_names_only_what_is_shown():
    """Of many equal settings some is shown to be worse than the best in 5 % of families at most."""
    draw = np.random.default_rng(0).standard_normal
    families = [{f"a{i}": draw((10, 2)) for i in range(12)} for _ in range(30)]
    shown = [
        not scores.ranking(equal).endswith("by a test of all pairs: none.") for equal in families
    ]
    assert sum(shown) <= 4  # intervals of the best against each other one showed 11
    best = max(families[0], key=lambda label: families[0][label].mean())
    worse = families[0] | {"b": draw((10, 2)) - 5}
    assert scores.ranking(worse).startswith(f"Shown to be worse than *{best}*, by")
    assert "b" in scores.ranking(worse).rpartition(": ")[2]


def test_a_search_of_recorded_scores():
    """Halving finds the best of a grid, unless that is late; the control is late."""
    steady = np.random.default_rng(0).permutation(18).astype(float)[:, None, None] * np.ones(
        (18, 12, 2)
    )
    found = [search.searched(steady, Halving(), 0.25, seed) for seed in range(3)]
    of = search.summary(found)
    assert (of["same"], of["as_good"], of["lacks"]) == (3, 3, [0, 0, 0])
    assert 0.1 < of["steps"] < 0.25
    late = steady.copy()
    late[int(steady[:, 0, 0].argmin()), 6:] = 100
    found = [search.searched(late, Halving(), 0.25, seed) for seed in range(3)]
    assert search.summary(found)["same"] == search.summary(found)["as_good"] == 0
    # Of equal last scores, the one that learned faster.
    tied = np.stack([np.linspace(a, 10.0, 4) for a in (0, 5, 2)])[:, :, None]
    assert search.best_of(tied, range(3)) == 1
    assert search.best_of(tied, [0, 2]) == 2
    # What the first scores tell of the last ones, and what a setting lacks.
    assert search.told(steady) == pytest.approx(1.0)
    turned = np.concatenate([steady, -steady], axis=1)
    assert search.told(turned) == pytest.approx(-1.0)
    assert search.lacks(np.array([0.0, 3.0, 4.0])[:, None, None]).tolist() == [1.0, 0.25, 0.0]


def test_the_tables_of_a_search():
    row = {"grid": "search_x", "settings": 9, "seeds": 4, "search": "halving", "steps": 0.21}
    row |= {"steps_of_a_run": 1024, "told_by_first": 0.5, "same": 3, "as_good": 4, "of": 10}
    row |= {"lacks": [0.0, 0.5], "lacks_by_chance": 0.4}
    versions = {"packages": {"jax": "1.2.3"}}
    grids = searches.search_grids({"rows": [row], "close": 0.05, "versions": versions})
    assert grids[0].startswith("| grid | first told of last | search | steps | the same best")
    wanted = "| x, 9 settings, 1,024 steps | 0.50 | halving | 21% | 3 of 10 | 4 of 10 | 25% | 40% |"
    assert grids[2] == wanted
    assert grids[4].startswith("Of 1 searches with a quarter of the steps or less, 0 found")
    gain = {"population": -1.0, "alone": -2.0, "population_mean": -3.0, "alone_mean": -4.0}
    of = {"steps_of_a_run": 2048, "gains": [gain], "gain": [1.0, 0.5, 1.5], "wins": 1}
    found = searches.search_population({"rows": [of], "versions": versions})
    assert found[2] == "| 2,048 | -1.0 | -2.0 | 1.0 [0.5, 1.5] | 1 of 1 | -3.0 | -4.0 |"


def test_training_returns_are_of_the_last_tenth():
    runs = pd.DataFrame({"run": [0, 1, 2], "planned": [20, 20, 4]})
    lengths = (20, 20, 4)
    metrics = pd.DataFrame(
        {
            "run": np.repeat([0, 1, 2], lengths),
            "iteration": np.concatenate([np.arange(n) for n in lengths]),
            "return_sum": 100.0,
            "num_episodes": 50,
        }
    )
    late = metrics.iteration >= 18
    # An iteration counts by its episodes: 40 of return 1 and 10 of return 6.
    metrics.loc[late & (metrics.run == 0), "return_sum"] = [40.0, 60.0]
    metrics.loc[late & (metrics.run == 0), "num_episodes"] = [40, 10]
    metrics.loc[late & (metrics.run == 1), ["return_sum", "num_episodes"]] = 0
    found = record.training_returns(metrics, runs)
    assert found[[0, 2]].tolist() == [2.0, 2.0]
    assert np.isnan(found[1])


def test_what_lacks_a_seed_is_not_recorded():
    runs = pd.DataFrame(
        {
            "run": range(6),
            "label": ["a", "a", "b", "b", "c", "a"],
            "env": ["walk"] * 5 + ["run"],
            # b's second run is under way; the others of c, and of a on run, are in no shard here.
            "iterations": [4, 4, 4, 3, 4, 4],
            "planned": 4,
        }
    )
    of_runs = pd.DataFrame({"run": np.repeat(np.arange(6), 2)})
    study = Study((), runs, of_runs, of_runs, ())
    kept = record.without_unfinished(study, 2)
    assert kept.runs.run.tolist() == [0, 1]
    assert kept.metrics.run.tolist() == kept.evaluations.run.tolist() == [0, 0, 1, 1]


def test_tables_of_minatar(recorded):
    _, result = recorded
    made = json.loads(json.dumps(result).replace("CartPole-v1", "Breakout-MinAtar"))
    made["random"]["Breakout-MinAtar"]["mean"] = 0.5
    for row in made["rows"]:
        row["training"] = [20.0, 31.0]
    both = "25.5 (20.0, 31.0)"
    assert scores.minatar(made)[2] == f"| Breakout (256) | 0.5 | 28 | {both} | {both} |"
    # A pair that is not recorded: what is there of the other game has no second algorithm.
    made["rows"].append({**made["rows"][0], "env": "Seaquest-MinAtar"})
    made["random"]["Seaquest-MinAtar"] = {"mean": 0.1}
    assert scores.minatar(made)[3] == f"| Seaquest (256) | 0.1 | - | {both} | - |"


def test_random_actions_fill_a_box():
    space = make("Pendulum-v1").action_space
    keys = jax.random.split(jax.random.key(0), 4000)
    actions = np.asarray(jax.vmap(lambda key: record.random_action(space, key))(keys))
    assert actions.shape == (4000, *space.shape)
    assert np.allclose(actions.mean(0), (space.low + space.high) / 2, atol=0.1)
    assert np.allclose(actions.max(0), space.high, atol=0.01)
    endless = Box(np.full(2, -np.inf), np.ones(2), (2,))
    with pytest.raises(ValueError, match="bounds must be finite"):
        record.random_action(endless, keys[0])


def test_random_actions_are_allowed_ones():
    returns = jax.jit(lambda key: record.random_returns(legal_arms(), key, 4000))(jax.random.key(0))
    found = record.baseline(returns)
    # One of K allowed arms pays; K - 1 is binomial(3, 1/2), and the mean of 1/K is 15/32.
    assert returns.min() == 0
    assert found["episodes"] == 4000
    assert 0.007 < found["standard_error"] < 0.009
    assert abs(found["mean"] - 15 / 32) < 4 * found["standard_error"]


def test_host_work_is_a_share_and_leaves_nothing_patched(toy_spec, tmp_path):
    before = store.Run.commit
    sweeps.main(sweeps.Options(toy_spec, tmp_path))
    result = json.loads((tmp_path / "sweep_host_work.json").read_text())
    assert set(result["host_seconds"]) == {"commits", "copies of the state", "progress"}
    assert all(seconds > 0 for seconds in result["host_seconds"].values())
    assert 0 < result["share"] < result["share_without_compilation"] < 1
    assert store.Run.commit is before


def test_what_is_lost_or_left_over_is_seen(recorded, tmp_path):
    options, _ = recorded
    folder = shutil.copytree(options.folder[0], tmp_path / "sweep")
    wanted = forked.digest(folder)
    assert wanted == forked.digest(options.folder[0])
    assert {"run.json", "groups/000/commit.json", "groups/000/metrics.parquet"} <= set(wanted)
    assert any(name.endswith("kltrust.json") for name in wanted)
    assert forked.chunks(folder) == [2]
    (folder / "groups/000/commit.json.partial").write_text("debris")
    assert set(forked.digest(folder)) - set(wanted) == {"groups/000/commit.json.partial"}
    table = folder / "groups/000/metrics.parquet"
    content = table.read_bytes()
    table.write_bytes(content[:-1] + b"?")
    name = "groups/000/metrics.parquet"
    assert forked.digest(folder)[name] != wanted[name]
    assert "metrics.parquet is damaged" in forked.chunks(folder)


def test_chains_hold_every_kill_once():
    for number in range(1, 12):
        found = list(kills.chains(range(number)))
        assert sorted(x for chain in found for x in chain) == list(range(number))
        assert all(chain == sorted(chain) for chain in found)
        assert max(map(len, found)) <= 4
    assert [len(chain) for chain in kills.chains(range(10))] == [1, 2, 3, 4]


TRAPPED = """
import json, os, pathlib, sys
import jax, forked
for event, number in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        os.makedirs(f"{event}{number}")
        os.chdir(f"{event}{number}")
        forked.Trap(event, "b.json*", number, 0.0, 9).set()
        for i in range(2):
            pathlib.Path("b.json.partial").write_text("x")
            os.replace("b.json.partial", "b.json")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_recorded_fault_names_no_folder_of_the_machine():
    told = 'File "/home/me/lib/python3/asyncio/threads.py", line 25\nError: "no"'
    assert kills.shortened(told) == 'File "asyncio/threads.py", line 25\nError: "no"'
    assert kills.shortened("x" * 900) == "x" * 800
    told = (
        "/home/me/killed9/job holds a run: --resume /home/me/killed9/job, or read https://a/b/c/d"
    )
    assert kills.relative(told) == (
        "killed9/job holds a run: --resume killed9/job, or read https://a/b/c/d"
    )


def test_a_trap_kills_where_it_is_set(tmp_path):
    left = {
        ("open", 0): {},
        ("opened", 0): {"b.json.partial": ""},
        ("os.rename", 0): {"b.json.partial": "x"},
        ("open", 1): {"b.json": "x"},
        ("opened", 1): {"b.json": "x", "b.json.partial": ""},
        ("os.rename", 1): {"b.json": "x", "b.json.partial": "x"},
        ("os.rename", 2): {"b.json": "x"},
    }
    path = {"PYTHONPATH": f"{common.HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", TRAPPED, json.dumps(list(left))]
    environment = {**os.environ, **path}
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert said.split() == ["-9"] * 6 + ["0"]
    for (event, number), files in left.items():
        folder = tmp_path / f"{event}{number}"
        assert {p.name: p.read_text() for p in folder.iterdir()} == files


@pytest.mark.slow
def test_a_sweep_survives_its_kills(toy_spec, tmp_path, compile_fast, monkeypatch):
    for name, value in compile_fast.items():
        monkeypatch.setenv(name, value)  # for the processes that are killed
    toy = {"jobs": ("sweep", "merge"), "moments": "checkpoint", "rounds": 1}
    assert kills.main(kills.Options(**toy, spec=toy_spec, out=tmp_path)) == 0
    result = json.loads((tmp_path / "kills.json").read_text())
    assert {name: of["kills of each run"] for name, of in result["jobs"].items()} == {
        "sweep": [1],
        "merge": [1],
    }
    assert "| sweep | 1 |" in faults.kills(result)[2]
    assert "2 kills, while: a checkpoint is written 2." in faults.kills(result)[-1]
