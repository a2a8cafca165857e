"""The benchmarks run, at toy size, and the README says what their recorded results say."""

import json
from pathlib import Path

import adapters
import common
import learning
import numpy as np
import pytest
import readme
from recorded import pivot, scores


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Both parts for one pair, beside one that was there."""
    out = tmp_path_factory.mktemp("learning")
    common.write_row(out / "gymnasium_scores.json", OTHER)
    pair = {"algorithms": ("trpo",), "envs": ("CartPole-v1",)}
    size = {"seeds": 2, "first_seed": 7, "episodes": 6, "fraction": 0.1}
    learning.main(learning.Options(out=out, **pair, **size))
    return out


OTHER = {"env": "Acrobot-v1", "algorithm": "trpo"}


def test_learning_records_what_the_tables_need(toy):
    result = json.loads((toy / "learning" / "trpo-CartPole-v1.json").read_text())
    assert (result["algorithm"], result["seeds"], len(result["scores"])) == ("trpo", [7, 8], 2)
    assert 0 < result["kl_median"] <= result["kl_max"]
    assert len(result["curves"]["kl_steps"]) == len(result["curves"]["kl_median"])
    assert result["violations"] == 0
    assert 0 < result["region_used_median"] <= 1
    (line,) = scores.region({"trpo": result})[2:]
    assert line.startswith("| CartPole-v1 | `trpo` (max_kl ")
    random = {"rows": [{"env": "CartPole-v1", "mean": 22.05}]}
    line = scores.scores({"trpo": result}, random)[2]
    assert " | 22.1 | " in line
    assert line.endswith(f", worst {min(result['scores']):.1f} |")


def test_gymnasium_scores_are_recorded_pair_by_pair(toy):
    kept, row = json.loads((toy / "gymnasium_scores.json").read_text())["rows"]
    assert kept.items() >= OTHER.items()
    assert row["seeds"] == [7, 8]
    assert row["versions"]["gymnasium"]
    for played in (row["gymnasium"], row["gymnax"]):
        assert 1 <= played["worst_episode"] <= played["low"] <= played["mean"] <= played["high"]
        assert len(played["by_seed"]) == 2
    # Two simulators, two sets of episodes.
    assert row["gymnasium"]["mean"] != row["gymnax"]["mean"]
    header, _, line, _, setting = scores.gymnasium_scores({"rows": [row]})
    assert line.startswith("| CartPole-v1 | `trpo` | ")
    assert line.endswith(" | 490 |")
    assert len(line.split("|")) == len(header.split("|"))
    assert "Seeds 7 to 8, 6 episodes each" in setting


def test_the_interval_knows_what_seeds_differ_by():
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(4, 500))
    apart = alike + np.array([[-30.0], [-10.0], [10.0], [30.0]])
    (mean, low, high), (_, lower, higher) = map(learning.interval, (alike, apart))
    assert low < mean < high
    # Over episodes alone: 2 standard errors each way, of 2,000 and of 500 episodes.
    assert 3 < (high - low) * 2000**0.5 < 7
    assert higher - lower > 20
    _, low, high = learning.interval(apart[:1])
    assert 3 < (high - low) * 500**0.5 < 5


TOY = {
    "CartPole-v1": adapters.Task(steps=256, num_envs=8, num_steps=16, hidden=(8,)),
    "Catch-bsuite": adapters.Task(256, 8, 16, (8,), (2,), one_by_one=True),
    "brax/inverted_pendulum": adapters.Task(
        256, 8, 16, (8,), (), normalize_observations=True, params=(("max_steps", 20),), brax=True
    ),
}


def adapters_rows(path, **keywords):
    adapters.main(adapters.Options(seeds=2, episodes=4, out=path, **keywords))
    return json.loads(path.read_text())["rows"]


def test_adapters_are_recorded_pair_by_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "TASKS", TOY)
    path = tmp_path / "adapters.json"
    rows = adapters_rows(path, only=("CartPole-v1",))
    assert [row["algorithm"] for row in rows] == ["ppo_clip", "trpo"]  # brax's has no CartPole
    assert all(8 < x < 500 for row in rows for x in (*row["scores"], row["random"]["mean"]))
    assert rows[0]["scores"] != rows[1]["scores"]
    assert rows[0]["random"]["episodes"] == 8
    *same, other = adapters_rows(path, only=("Catch-bsuite",), algorithms=("trpo",))
    assert same == rows
    assert (other["env"], other["algorithm"]) == ("Catch-bsuite", "trpo")
    common.write_row(path, again := {**rows[0], "scores": [1.0]})
    assert json.loads(path.read_text())["rows"] == [again, rows[1], other]


@pytest.mark.slow  # brax's physics are compiled five times
def test_brax_own_ppo_learns_beside_ours(tmp_path, monkeypatch):
    pytest.importorskip("brax")
    monkeypatch.setattr(adapters, "TASKS", TOY)
    path = tmp_path / "adapters.json"
    (row,) = adapters_rows(path, only=("brax/inverted_pendulum",), algorithms=("brax_ppo",))
    assert row["steps"] == 256
    assert all(1 <= x <= 20 for x in row["scores"])
    assert row["versions"]["packages"]["brax"]


def test_the_table_of_the_adapters():
    packages = {"jax": "1.2", "navix": "3.4", "pgx": "5.6"}
    same = {
        "steps": 2048,
        "seeds": [0, 1],
        "episodes_per_seed": 9,
        "random": {"mean": 0.25},
        "versions": {"packages": packages, "cpu_count": 2, "device_kind": "cpu"},
    }
    found = (
        ("navix/Empty", "ppo_clip", [0.5, 1.0]),
        ("pgx/2048", "brax_ppo", [1234.56, 1000.0]),
        ("pgx/2048", "trpo", [2.0, 3.0]),
    )
    rows = [dict(zip(("env", "algorithm", "scores"), row, strict=True)) for row in found]
    tasks = [{"task": {"sampled": row["env"] == "pgx/2048"}} for row in rows]
    result = {"rows": [row | task | same for row, task in zip(rows, tasks, strict=True)]}
    *lines, _, setting = scores.adapters(result)[2:]
    assert lines == [
        "| `navix/Empty` (2,048) | 0.25 | 0.75 (0.5 to 1) |  |  |",
        "| `pgx/2048` (2,048) | 0.25 |  | 2.5 (2 to 3) | 1117 (1000 to 1235) |",
    ]
    assert "acting by the mode, on `pgx/2048` by sampling; jax 1.2" in setting
    assert "navix 3.4, pgx 5.6, 2 cores" in setting
    result["rows"][1]["steps"] = 4096  # what can't be compared does not share a line
    assert len(scores.adapters(result)) == len(lines) + 5


@pytest.mark.parametrize(("asked", "made"), [("a", "b"), ("a", ""), ("", "a")])
def test_a_table_is_made_for_a_page_and_the_other_way(asked, made):
    page = "".join(f"<!-- table:{name} -->\n<!-- end:{name} -->\n" for name in asked)
    with pytest.raises(ValueError, match=r"asked for and not made"):
        readme.filled({readme.ROOT: page}, {name: [] for name in made})


def test_a_table_stands_wherever_it_is_asked_for():
    page = "above\n<!-- table:a -->\nold\n<!-- end:a -->\nbelow\n"
    pages = readme.filled({Path("a"): page, Path("b"): f"# B\n{page}"}, {"a": ["new"]})
    assert pages[Path("a")] == page.replace("old", "new")
    assert pages[Path("b")] == f"# B\n{pages[Path('a')]}"


def test_a_pivot_has_a_line_for_what_is_the_same():
    rows = [{"x": 1, "y": "a", "z": 5}, {"x": 2, "y": "b", "z": 6}, {"x": 1, "y": "b", "z": 7}]
    found = pivot(rows, {"x": "{x:02d}"}, "`{y}`", lambda row: row["z"] + 1, missing="-")
    assert found == ["| x | `a` | `b` |", "| --- | --- | --- |", "| 01 | 6 | 8 |", "| 02 | - | 7 |"]


def test_pages_are_what_the_results_say():
    assert readme.main(check=True) == 0
