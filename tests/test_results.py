"""Results: frames over many runs and folders, and arrays in rliable's shape."""

import jax
import numpy as np
import pandas as pd
import pytest
import toys

import kltrust
from kltrust.experiments.config import spec
from kltrust.experiments.jobs import plan
from kltrust.experiments.reading import frames, results
from kltrust.experiments.store import tables
from kltrust.experiments.store.record import RunError
from kltrust.settings import INF

SPEC = f"""{toys.MADE}
[[experiments]]
algorithms = "trpo"
grid.max_kl = [0.01, 0.02]
[[experiments]]
algorithms = "ppo_clip"
"""
ITERATIONS, CHUNK = 4, 2


def score(run, iteration):
    return 100.0 * run + iteration


def metrics_of(planned, broken):
    """KL tells the run and the iteration; only trpo has a flag."""

    def of(group, first):
        runs = np.asarray(group.runs)
        kl = (first + np.zeros((len(runs), CHUNK)) + runs[:, None] / 100).astype(np.float32)
        metrics = {"kl": kl, "extra": {"accepted": kl > 1, "tries": kl.astype(np.int32)}}
        if planned.experiment(group).algorithm != "trpo":
            metrics["extra"] = {"epochs": kl}
        bad = np.isin(runs, broken)[:, None] & (first + np.arange(CHUNK) >= 1)
        episodes = np.zeros(kl.shape, np.int32) + (first + np.arange(CHUNK)) * 3  # at first none
        metrics |= {"return_sum": 30.0 + kl, "num_episodes": episodes}
        return {**metrics, "nonfinite_update": bad.astype(np.int32)}

    return of


def write(path, broken=(), **progress):
    planned = plan.make_plan(spec.parse(SPEC), width=3)
    return toys.write(path, planned, metrics_of(planned, broken), score, **progress)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sweeps") / "made", broken=(7,))


def test_one_row_per_run_with_its_resolved_settings(made):
    runs = kltrust.results.load(made).runs
    assert runs.run.tolist() == list(range(18))
    assert runs.seed.tolist() == [4, 2, 9] * 6
    # All settings of an environment, then those of the next.
    assert runs.env.tolist() == (["CartPole-v1"] * 6 + ["Acrobot-v1"] * 6) + (
        ["CartPole-v1"] * 3 + ["Acrobot-v1"] * 3
    )
    assert runs["update.max_kl"].tolist() == ([0.01] * 3 + [0.02] * 3) * 2 + [INF] * 6
    assert runs["update.damping"].isna().tolist() == [False] * 12 + [True] * 6
    assert (runs["learner.gamma"] == 0.99).all()
    assert (runs.width == 3).all()
    assert (runs.iterations == ITERATIONS).all()
    assert runs.score.tolist() == [score(run, ITERATIONS) for run in range(18)]
    assert runs.broken.dropna().to_dict() == {7: 1}


def test_metrics_and_evaluations(made):
    loaded = kltrust.results.load(made)
    metrics = loaded.metrics
    assert list(zip(metrics.run, metrics.iteration, strict=True)) == [
        (run, i) for run in range(18) for i in range(ITERATIONS)
    ]
    # A flag that only one algorithm has stays one, and is missing elsewhere.
    assert metrics["extra.accepted"].dtype == "boolean"
    assert metrics["extra.tries"].dtype == "Int64"
    assert metrics["extra.accepted"].isna().sum() == 6 * ITERATIONS
    assert metrics["kl"].dtype == np.float32
    assert len(loaded.evaluations) == 18 * 2


def test_scores_are_what_rliable_takes(made):
    loaded = kltrust.results.load(made)
    scores = loaded.scores()
    assert loaded.tasks == ["CartPole-v1", "Acrobot-v1"]
    assert list(scores) == ["trpo max_kl=0.01", "trpo max_kl=0.02", "ppo_clip"]
    # Row i is seed i of the list in every column: [CartPole, Acrobot].
    firsts = {"trpo max_kl=0.01": (0, 6), "trpo max_kl=0.02": (3, 9), "ppo_clip": (12, 15)}
    for label, (cartpole, acrobot) in firsts.items():
        expected = [
            [score(cartpole + i, ITERATIONS), score(acrobot + i, ITERATIONS)] for i in range(3)
        ]
        assert scores[label].tolist() == expected
    sampled = loaded.scores(column="sampled_mean_return")
    assert all(np.array_equal(sampled[label], -scores[label]) for label in scores)
    averaged = loaded.scores(last=2)
    assert all(np.array_equal(averaged[label], scores[label] - 1) for label in scores)

    statistics = kltrust.results.statistics
    for of in scores.values():
        assert of.shape == (3, 2)
        value, low, high = statistics.intervals(of, statistics.interquartile_mean, resamples=20)
        assert low <= value <= high


def test_select(made):
    loaded = kltrust.results.load(made).select(algorithm="trpo", env="Acrobot-v1")
    assert loaded.runs.run.tolist() == list(range(6, 12))
    assert set(loaded.metrics.run) == set(loaded.evaluations.run) == set(range(6, 12))
    assert {k: v.shape for k, v in loaded.scores().items()} == {
        "trpo max_kl=0.01": (3, 1),
        "trpo max_kl=0.02": (3, 1),
    }


def test_what_is_not_there_yet(tmp_path):
    # The first two groups only: ppo_clip has not begun.
    loaded = kltrust.results.load(write(tmp_path / "part", chunks=1, groups=2))
    assert loaded.runs.iterations.tolist() == [CHUNK] * 12 + [0] * 6
    assert loaded.runs.score.isna().tolist() == [False] * 12 + [True] * 6
    with pytest.raises(ValueError, match="'ppo_clip' lacks evaluated runs on CartPole-v1, Acrobot"):
        loaded.scores()
    assert len(loaded.select(algorithm="trpo").scores()) == 2
    nothing = kltrust.results.load(write(tmp_path / "nothing", groups=0))
    assert len(nothing.runs) == 18
    assert len(nothing.metrics) == len(nothing.evaluations) == 0
    with pytest.raises(ValueError, match="none yet"):
        nothing.scores()


def test_scores_that_can_not_be(made):
    loaded = kltrust.results.load(made)
    with pytest.raises(ValueError, match="mean_return, sampled_mean_return"):
        loaded.scores(column="kl")
    with pytest.raises(ValueError, match="last of 1"):
        loaded.scores(last=0)
    with pytest.raises(ValueError, match="or several"):
        kltrust.results.load()


def test_a_training_beside_a_sweep(made, toy_training):
    alone = kltrust.load(toy_training.path)
    assert alone.metrics.run.unique().tolist() == [0, 1]
    # Numbered after the sweep's runs.
    both = kltrust.load(made, toy_training.path)
    assert both.runs.run.tolist() == list(range(20))
    assert both.runs["sweep"].tolist() == ["made"] * 18 + ["whole"] * 2
    tail = both.metrics[both.metrics.run >= 18]
    assert tail.kl.tolist() == alone.metrics.kl.tolist()
    scores = both.select(env="CartPole-v1", **{"sweep": "whole"}).scores()
    assert scores["trpo"][:, 0].tolist() == alone.runs.score.tolist()


def test_the_folder_of_a_plan_says_where_its_tables_are(toy_sweep):
    """Else they would seem to be empty."""
    with pytest.raises(RunError, match=r"whose groups have the tables: read them by kltrust\.load"):
        toy_sweep.metrics()


def test_metrics_stay_in_the_folder_until_they_are_asked_for(made, monkeypatch):
    asked = []
    read = tables.read
    monkeypatch.setattr(tables, "read", lambda p, c=None: asked.append(c) or read(p, c))
    assert kltrust.load(made).metrics is not None
    assert asked == [None] * 8  # a small one is read at once
    asked.clear()
    monkeypatch.setattr(results, "AT_ONCE", 500)
    loaded = kltrust.load(made)
    assert len(asked) == 4  # the evaluations of the four groups
    table = loaded.read("kl", "extra.tries", "mean_return")
    of = ["run", "seed", "iteration", "env_steps", "kl"]
    returns = ["return_sum", "num_episodes"]
    assert asked[4:] == [[*of, "extra.tries", *returns]] * 2 + [[*of, *returns]] * 2
    names = ["run", "label", "algorithm", "env", "seed", "iteration", "env_steps"]
    assert set(table) == {*names, "kl", "extra.tries", "mean_return"}
    alone = loaded.select(algorithm="trpo", env="Acrobot-v1").read("kl")
    assert len(asked) == 9
    metrics = loaded.metrics
    assert loaded.metrics is metrics
    assert len(asked) == 13
    pd.testing.assert_frame_equal(table, metrics[list(table)])
    pd.testing.assert_frame_equal(loaded.read("kl"), metrics[list(alone)])
    mine = metrics[metrics.run.isin(range(6, 12))].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, mine[list(alone)])
    for known in (loaded, kltrust.load(made)):
        with pytest.raises(ValueError, match=r"'extra\.trys'.*extra\.tries"):
            known.read("extra.trys")


def test_all_tables_name_their_runs(made):
    loaded = kltrust.load(made, made)
    names = loaded.runs.set_index("run")[["label", "algorithm", "env", "seed"]]
    for frame in (loaded.runs, loaded.metrics, loaded.evaluations):
        assert list(frame)[:5] == ["run", *names]
        found = frame[[*names]].reset_index(drop=True)
        expected = names.loc[frame.run].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected)
    ended = loaded.metrics[loaded.metrics.num_episodes > 0]
    assert (ended.mean_return == ended.return_sum / ended.num_episodes).all()
    assert loaded.metrics.mean_return.isna().sum() == len(loaded.metrics) - len(ended) > 0
    assert repr(loaded) == (
        "Results of 36 runs (2 algorithms, 2 environments, 3 seeds); see .runs, .metrics, "
        ".evaluations"
    )


def test_a_setting_with_several_numbers_can_be_selected_and_grouped(made):
    loaded = kltrust.load(made)
    assert set(loaded.runs.groupby("network.hidden").groups) == {(64, 64)}
    for asked in ((64, 64), [64, 64]):
        assert len(loaded.select(**{"network.hidden": asked}).runs) == 18
    assert len(loaded.select(**{"network.hidden": (64,)}).runs) == 0


def test_learning_curves(made):
    loaded = kltrust.load(made)
    curves = loaded.learning_curves()
    assert list(curves) == ["env", "label", "env_steps", "runs", "mean", "low", "high"]
    assert len(curves) == 2 * 3 * 2
    one = curves[(curves.env == "Acrobot-v1") & (curves.label == "ppo_clip")]
    assert one.env_steps.tolist() == [CHUNK * 2048, ITERATIONS * 2048]
    assert one["mean"].tolist() == [score(16, CHUNK), score(16, ITERATIONS)]
    assert (one.low <= one["mean"]).all()
    # A run's low bound is that of the worst seed at the least.
    assert (one.low >= [score(15, CHUNK), score(15, ITERATIONS)]).all()
    both = loaded.learning_curves(by=["algorithm", "update.damping"], column="sampled_mean_return")
    assert both.groupby("algorithm").runs.unique().map(list).to_dict() == {
        "trpo": [6],
        "ppo_clip": [3],
    }
    assert (both["mean"] < 0).all()
    with pytest.raises(ValueError, match=r"'update.dampin'.*update\.damping"):
        loaded.learning_curves(by="update.dampin")
    with pytest.raises(ValueError, match="sampled_mean_return"):
        loaded.learning_curves(column="sampled_return")


def test_curves_of_runs_that_are_not_equally_far():
    rows = pd.DataFrame(
        {
            "env": "walk",
            "run": [0, 0, 1, 2, 2, 3],
            "env_steps": [10, 20, 10, 10, 30, 40],
            "mean_return": [1.0, 2.0, 3.0, 5.0, 6.0, np.nan],
        }
    )
    curves = frames.learning_curves(rows[rows.run < 3], ["env"])
    assert curves[["env_steps", "runs", "mean"]].to_numpy().tolist() == [[10, 3, 3.0]]
    assert frames.learning_curves(rows, ["env"]).empty


@pytest.mark.parametrize("lead", [(), (5,), (3, 5)])
def test_metrics_as_a_frame(lead):
    metrics = {
        "kl": np.arange(np.prod(lead, dtype=int)).reshape(lead),
        "return_sum": np.full(lead, 6.0),
        "num_episodes": np.full(lead, 2),
        "extra": {"path": np.zeros((*lead, 4))},
    }
    frame = kltrust.results.to_frame(metrics)
    assert ("seed" in frame) == (len(lead) == 2)
    assert frame.kl.tolist() == list(range(len(frame)))
    assert (frame.mean_return == 3).all()
    assert frame.iteration.max() == (lead[-1] - 1 if lead else 0)
    assert [len(row) for row in frame["extra.path"]] == [4] * len(frame)
    if len(lead) == 2:
        named = kltrust.results.to_frame(metrics, seeds=[7, 8, 9])
        assert named.seed.tolist() == [7] * 5 + [8] * 5 + [9] * 5
        with pytest.raises(ValueError, match="must be"):
            kltrust.results.to_frame(metrics, seeds=[7])


def test_what_is_shown_of_a_learner_fits_a_line():
    """Also while it is traced, or without values."""
    env = kltrust.make("CartPole-v1")
    learner = kltrust.make_learner(
        env, kltrust.actor_critic(env, hidden=(4,)), kltrust.vanilla_pg(), num_envs=8, num_steps=4
    )
    state, metrics = jax.eval_shape(lambda key: learner.step(learner.init(key)), jax.random.key(0))
    shown = [repr(x) for x in (env, state, metrics, env.observation_space)]
    assert all(len(line) < 160 and "\n" not in line for line in shown)
    assert shown[0].startswith("Env(CartPole-v1: sees Box([4], -")
    assert "500 steps" in shown[0]
    assert "iteration int32[], numbers: 30 of the policy, 25 of the critic" in shown[1]
    assert "kl float32[], " in shown[2]
    state = jax.tree.map(
        lambda x: np.ones(x.shape), state._replace(key=jax.ShapeDtypeStruct((), "f"))
    )
    assert "iteration 1, " in repr(state)
    seen = []
    jax.make_jaxpr(lambda x: seen.append(repr(metrics._replace(kl=x))))(1.0)
    assert "kl float32[]" in seen[0]
