"""One run of a folder: found, played, evaluated."""

import numpy as np
import pytest
import toys

from kltrust.experiments import cli
from kltrust.experiments.reading import trained
from kltrust.experiments.store.files import StorageError


@pytest.fixture
def swept(toy_sweep):
    return toy_sweep


def test_every_run_is_found_with_its_own_settings(swept):
    runs = trained.find_runs(swept.path)
    assert [run.seed for run in runs] == [3, 5] * 3
    labels = [run.label for run in runs][::2]
    assert len(set(labels)) == 3
    assert labels[2] == "falling"
    rates = [run.experiment.update.learning_rate for run in runs]
    assert rates[:4] == [0.01, 0.01, 0.3, 0.3]
    scores = swept_scores(swept)
    assert [run.score for run in runs] == [scores[run.label, run.seed] for run in runs]
    (one,) = trained.find_runs(swept, label=labels[1], seed=5)
    assert one[1:] == runs[3][1:]
    caught = trained.find_runs(swept, env="Catch-bsuite")
    assert [run[1:] for run in caught] == [run[1:] for run in runs[4:]]


def swept_scores(record):
    from kltrust import results

    runs = results.load(record.path).runs
    return {(run.label, run.seed): run.score for run in runs.itertuples()}


def test_the_best_of_an_environment(swept):
    scores = swept_scores(swept)
    best = trained.best_run(swept, env="CartPole-v1")
    assert best.score == max(s for (label, _), s in scores.items() if label != "falling")
    with pytest.raises(ValueError, match=r"toy has runs in CartPole-v1, Catch-bsuite: choose one"):
        trained.best_run(swept)


def test_all_seeds_of_a_setting_are_evaluated(swept):
    runs = trained.find_runs(swept, env="Catch-bsuite")
    returns = trained.evaluate_runs(runs, num_episodes=50)
    assert returns.shape == (2, 50)
    assert set(np.unique(returns)) <= {-1.0, 1.0}
    other = trained.evaluate_runs(runs[1:], num_episodes=50)
    assert other.shape == (1, 50)


def test_the_commands(swept, tmp_path, capsys):
    path = str(swept.path)
    assert cli.main(["evaluate", path, "--env", "CartPole-v1", "--episodes", "3"]) == 0
    printed = capsys.readouterr().out
    best = trained.best_run(swept, env="CartPole-v1")
    assert f"{best.label} in CartPole-v1" in printed
    assert "over 2 seeds" in printed
    asked = ["play", path, "--env", "CartPole-v1", "--trained-seed", "5", "--episodes", "2"]
    assert cli.main(asked) == 0
    printed = capsys.readouterr().out
    assert "seed 5, plays CartPole-v1" in printed
    assert "gymnasium's CartPole-v1, 2 episodes: mean" in printed
    film = tmp_path / "catch.gif"
    assert cli.main(["play", path, "--label", "falling", "--out", str(film)]) == 0
    assert "falling, seed" in capsys.readouterr().out
    assert film.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "runs in CartPole-v1, Catch-bsuite: choose one (env; --env in"),
        (["--env", "Pong-misc"], "has no environment Pong-misc: it has CartPole-v1, Catch-bsuite"),
        (["--label", "rising"], "has no setting rising: it has"),
        (["--label", "falling", "--env", "CartPole-v1"], "has no setting falling"),
        (["--label", "falling", "--trained-seed", "4"], "has no seed 4: it has 3, 5"),
    ],
)
def test_what_is_not_there(swept, options, message, capsys):
    assert cli.main(["play", str(swept.path), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(StorageError, match="no run folder"):
        trained.find_runs(tmp_path / "nowhere")
    begun = toys.write(tmp_path / "begun", toys.toy_plan(), None, None, groups=0)
    with pytest.raises(StorageError, match="has no checkpoint yet"):
        trained.find_runs(begun)


def test_the_runs_of_a_training(toy_training):
    runs = trained.find_runs(toy_training)
    assert [(run.seed, run.label) for run in runs] == [(seed, "trpo") for seed in toys.SEEDS]
    last, best = (np.asarray(runs[0].states(which).iteration)[0] for which in ("latest", "best"))
    assert last == toys.ITERATIONS
    (part,) = toys.parts(toy_training)
    assert best == min((part.best["chunk"] + 1) * toys.CHUNK, toys.ITERATIONS)
