"""The benchmarks run, at toy size, and the README says what their recorded results say."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import adapters  # noqa: E402
import collapse  # noqa: E402
import gymnasium_scores  # noqa: E402
import learning  # noqa: E402
import numpy as np  # noqa: E402
import readme  # noqa: E402
import readme_tables.learning  # noqa: E402
import readme_tables.reach  # noqa: E402


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp("learning")
    options = learning.Options(
        algorithms=("trpo",),
        envs=("CartPole-v1",),
        seeds=2,
        first_seed=7,
        episodes=3,
        fraction=0.1,
        out=out,
    )
    learning.main(options)
    return [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]


def test_learning_records_what_the_tables_need(toy):
    for result in toy:
        assert result["seeds"] == [7, 8]
        assert len(result["scores"]) == 2
        assert 0 < result["kl_median"] <= result["kl_max"]
        assert len(result["curves"]["kl_steps"]) == len(result["curves"]["kl_median"])
    (trpo,) = toy
    assert trpo["algorithm"] == "trpo"
    assert trpo["violations"] == 0
    assert 0 < trpo["region_used_median"] <= 1
    assert readme_tables.learning.region(
        [{**r, "algorithm": a} for r in toy for a in readme_tables.learning.STYLES]
    )


def test_collapse_runs(tmp_path):
    collapse.main(collapse.Options(seeds=2, total_steps=6 * 2048, out=tmp_path))
    result = json.loads((tmp_path / "collapse.json").read_text())
    assert result["vanilla_pg"]["kl_max"] > result["trpo"]["kl_max"]
    assert (tmp_path / "collapse.png").stat().st_size > 1000


def test_gymnasium_scores_are_recorded_pair_by_pair(tmp_path, compile_fast):
    options = gymnasium_scores.Options(
        algorithms=("trpo",),
        envs=("CartPole-v1",),
        seeds=2,
        first_seed=4,
        episodes=6,
        fraction=0.05,
        out=tmp_path,
    )
    other = {"env": "Acrobot-v1", "algorithm": "trpo"}
    path = tmp_path / "gymnasium_scores.json"
    path.write_text(json.dumps({"rows": [other]}))
    gymnasium_scores.main(options)
    kept, row = json.loads(path.read_text())["rows"]
    assert kept == other
    assert row["seeds"] == [4, 5]
    assert row["versions"]["gymnasium"]
    for played in (row["gymnasium"], row["gymnax"]):
        assert 1 <= played["worst_episode"] <= played["low"] <= played["mean"] <= played["high"]
        assert len(played["by_seed"]) == 2
    # Two simulators, two sets of episodes.
    assert row["gymnasium"]["mean"] != row["gymnax"]["mean"]
    table = readme_tables.reach.gymnasium_scores({"rows": [row]})
    assert table[-1].startswith("| CartPole-v1 | `trpo` | ")
    assert table[-1].endswith(" | 490 |")
    assert len(table[-1].split("|")) == len(table[0].split("|"))
    assert "Seeds 4 to 5, 6 episodes each" in readme_tables.reach.gymnasium_setting({"rows": [row]})


def test_the_interval_knows_what_seeds_differ_by():
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(4, 500))
    apart = alike + np.array([[-30.0], [-10.0], [10.0], [30.0]])
    (mean, low, high), (_, lower, higher) = map(gymnasium_scores.interval, (alike, apart))
    assert low < mean < high
    # Over episodes alone: 2 standard errors each way, of 2,000 and of 500 episodes.
    assert 3 < (high - low) * 2000**0.5 < 7
    assert higher - lower > 20
    _, low, high = gymnasium_scores.interval(apart[:1])
    assert 3 < (high - low) * 500**0.5 < 5


TOY = {
    "CartPole-v1": adapters.Task(steps=256, num_envs=8, num_steps=16, hidden=(8,)),
    "Catch-bsuite": adapters.Task(256, 8, 16, (8,), (2,), one_by_one=True),
    "brax/inverted_pendulum": adapters.Task(
        256, 8, 16, (8,), (), normalize_observations=True, params=(("max_steps", 20),), brax=True
    ),
}


def adapters_rows(path, **keywords):
    assert adapters.main(adapters.Options(seeds=2, episodes=4, out=path, **keywords)) == 0
    return json.loads(path.read_text())["rows"]


def test_adapters_are_recorded_pair_by_pair(tmp_path, monkeypatch, compile_fast):
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
    adapters.write(path, again := {**rows[0], "scores": [1.0]})
    assert json.loads(path.read_text())["rows"] == [again, rows[1], other]


@pytest.mark.slow  # brax's physics are compiled five times
def test_brax_own_ppo_learns_beside_ours(tmp_path, monkeypatch, compile_fast):
    pytest.importorskip("brax")
    monkeypatch.setattr(adapters, "TASKS", TOY)
    path = tmp_path / "adapters.json"
    (row,) = adapters_rows(path, only=("brax/inverted_pendulum",), algorithms=("brax_ppo",))
    assert row["steps"] == 256
    assert all(1 <= x <= 20 for x in row["scores"])
    assert row["versions"]["packages"]["brax"]


def test_the_table_of_the_adapters():
    def row(env, algorithm, scores):
        packages = {"jax": "1.2", "navix": "3.4", "pgx": "5.6"}
        return {
            "env": env,
            "algorithm": algorithm,
            "task": {"sampled": env == "pgx/2048"},
            "steps": 2048,
            "seeds": [0, 1],
            "episodes_per_seed": 9,
            "scores": scores,
            "random": {"mean": 0.25},
            "versions": {"packages": packages, "cpu_count": 2, "device_kind": "cpu"},
        }

    result = {
        "rows": [
            row("navix/Empty", "ppo_clip", [0.5, 1.0]),
            row("pgx/2048", "brax_ppo", [1234.56, 1000.0]),
            row("pgx/2048", "trpo", [2.0, 3.0]),
        ]
    }
    assert readme_tables.reach.adapters(result)[2:] == [
        "| `navix/Empty` (2,048) | 0.25 | 0.75 (0.5 to 1) |  |  |",
        "| `pgx/2048` (2,048) | 0.25 |  | 2.5 (2 to 3) | 1117 (1000 to 1235) |",
    ]
    setting = readme_tables.reach.adapters_setting(result)
    assert "acting by the mode, on `pgx/2048` by sampling; jax 1.2" in setting
    assert "navix 3.4, pgx 5.6, 2 cores" in setting
    result["rows"][1]["steps"] = 4096
    with pytest.raises(ValueError, match="unpack"):
        readme_tables.reach.adapters(result)


@pytest.mark.parametrize(
    ("returns", "kl", "falls"),
    [
        ([20, 100, 100, 40, 40], [0, 1, 0, 0, 0], True),
        ([20, 100, 40, 40, 40], [0, 0, 1, 0, 0], True),  # shown by its own evaluation
        ([20, 100, 100, 60, 60], [0, 1, 0, 0, 0], False),  # not below half
        ([20, 100, 40, 100, 100], [0, 0, 0, 0, 1], False),  # nothing after the large update
        ([20, 100, 100, 100, 40], [1, 0, 0, 0, 0], False),  # outside of the window
    ],
)
def test_what_counts_as_a_fall(returns, kl, falls):
    options = collapse.Options(window=3)
    large = np.array(kl) > options.large_kl
    assert collapse.falls_after(np.array(returns, float), large, options) is falls


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


def test_pages_are_what_the_results_say():
    assert readme.main(readme.Options(check=True)) == 0
