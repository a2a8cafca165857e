"""Policies outside of their training: NumPy in and out, and gymnasium's own environments."""

import sys

import gymnasium
import imageio.v3 as imageio
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from toys import tiny

import kltrust
from kltrust.environments import from_functions, register
from kltrust.experiments import cli
from kltrust.experiments.engine.program import build
from kltrust.experiments.jobs import run
from kltrust.experiments.reading import choice, deploy, films, results
from kltrust.experiments.reading.trained import best_run, find_runs
from kltrust.experiments.store.record import Record
from kltrust.learner import policy_of
from kltrust.types import Box, Discrete


def train(path, env, seeds):
    learner = {"normalize_observations": True}
    budget = {"total_steps": 128, "num_evals": 2, "eval_episodes": 4}
    return run.train(tiny(env=env, learner=learner, budget=budget), seeds, path)


@pytest.fixture(scope="module")
def pole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "pole", "CartPole-v1", [3, 8])


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "pendulum", "Pendulum-v1", [0])


def restored(record, place):
    run = find_runs(record)[place]
    state = jax.tree.map(lambda x: x[run.lane], run.states())
    return policy_of(build(run.experiment).agent, state)


def test_it_acts_as_the_trained_policy_does(pole):
    obs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    for place, seed in enumerate((3, 8)):
        action = deploy.numpy_policy(pole, seed=seed)(obs)
        assert type(action) is np.ndarray
        np.testing.assert_array_equal(action, restored(pole, place)(obs).mode())
    one = deploy.numpy_policy(pole, seed=8)(obs[0])
    assert one.shape == ()
    assert one == action[0]


def test_the_best_seed_plays_unless_one_is_named(pole):
    runs = choice.score_runs(results.load(pole.path).evaluations)
    obs = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    best = deploy.numpy_policy(pole.path)(obs)
    np.testing.assert_array_equal(
        best, deploy.numpy_policy(pole, seed=choice.ranked(runs).seed[0])(obs)
    )


def test_every_call_draws_fresh_noise(pole):
    obs = np.zeros((200, 4), np.float32)

    def draws(seed):
        act = kltrust.numpy_policy(pole, seed=seed, deterministic=False)
        found = [act(obs), act(obs, 5), act(obs)]
        np.testing.assert_array_equal(act(obs, 5), found[1])
        assert 0 < np.mean(act(obs, 5) != act(obs, 6)) < 1
        act.reset()
        return [*found, act(obs)]

    one, same, other = draws(3), draws(3), draws(8)
    np.testing.assert_array_equal(one, same)
    first, _, second, third = one
    for x, y in ((first, second), (second, third), (first, third), (first, other[0])):
        assert 0 < np.mean(x != y) < 1


def test_actions_are_the_original_environments_own(pendulum):
    act = deploy.numpy_policy(pendulum, deterministic=False)
    obs = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    torque = act(obs, 1)
    raw = np.asarray(restored(pendulum, 0)(obs).sample(seed=jax.random.key(1)))
    # One unit of a raw action is the whole torque, which is 2.
    np.testing.assert_allclose(torque, np.clip(2 * raw, -2, 2), rtol=1e-5, atol=1e-6)
    assert np.abs(torque).max() == 2
    assert gymnasium.make("Pendulum-v1").action_space.contains(torque[0])


def test_whole_numbers_are_floats_where_it_was_trained_on_them(pendulum):
    act = deploy.numpy_policy(pendulum)
    # The third has the bounds -8 and 8, by which an integer would be scaled.
    np.testing.assert_array_equal(act([1, 0, 4]), act([1.0, 0.0, 4.0]))
    assert act([1, 0, 4]) != act([1, 0, 0.5])


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """Trained on a dict of bounded integers and of floats."""

    def observe(count):
        return {"count": count[None], "place": jnp.ones(2) * count}

    def reset(key):
        count = jax.random.randint(key, (), 0, 10, jnp.int32)
        return count, observe(count)

    def transition(key, count, action):
        count = (count + action) % 10
        return count, observe(count), count == 0, False, False

    space = {
        "count": Box(np.zeros(1, np.int32), np.full(1, 9, np.int32), (1,), np.int32),
        "place": Box(np.full(2, -np.inf), np.full(2, np.inf), (2,)),
    }
    register("counter", lambda: from_functions(reset, transition, space, Discrete(3), max_steps=5))
    return train(tmp_path_factory.mktemp("runs") / "counter", "counter", [0])


def test_observations_of_several_arrays(counter):
    count = np.arange(6).reshape(2, 3)
    obs = {"count": count[..., None], "place": np.stack([count, count], -1)}
    act = deploy.numpy_policy(counter, deterministic=False)
    action = act(obs, 3)
    assert action.shape == (2, 3)
    given = {"count": obs["count"].astype(np.int32), "place": obs["place"].astype(np.float32)}
    expected = restored(counter, 0)(given).sample(seed=jax.random.key(3))
    np.testing.assert_array_equal(action, expected)
    assert act({"count": [4], "place": [4, 4]}).shape == ()
    with pytest.raises(ValueError, match="trained on observations of int32, got float64"):
        act({"count": [4.0], "place": [4, 4]})
    for wrong in (
        {"count": [4], "place": [4]},
        {"count": [4], "place": [[4, 4]]},  # leading axes differ
        {"count": [4]},
        [4],
    ):
        with pytest.raises(ValueError, match=r"shape \{'count': \(1,\), 'place': \(2,\)\}"):
            act(wrong)


def test_returns_are_those_of_gymnasium():
    def balance(obs, key=0):
        return (obs[..., 2] + 0.5 * obs[..., 3] > 0).astype(np.int32)

    returns = deploy.gymnasium_returns(balance, "CartPole-v1", 5, seed=11, num_envs=2)
    env = gymnasium.make("CartPole-v1")
    for i, expected in enumerate(returns):
        obs, _ = env.reset(seed=11 + i)
        total, ended = 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(int(balance(obs)))
            total, ended = total + reward, terminated or truncated
        assert total == expected
    # The control: pushing to one side only falls at once.
    falling = deploy.gymnasium_returns(lambda obs, key: np.zeros(len(obs), int), "CartPole-v1", 5)
    assert falling.max() < 15 < returns.min()


def test_errors_name_the_remedy(pole, tmp_path):
    with pytest.raises(ValueError, match="has no seed 4: it has 3, 8"):
        deploy.numpy_policy(pole, seed=4)
    with pytest.raises(ValueError, match=r"shape \(4,\).*got \(7, 3\)"):
        deploy.numpy_policy(pole, seed=3)(np.zeros((7, 3)))
    with pytest.raises(ValueError, match="gymnasium has no Catch-bsuite"):
        deploy.gymnasium_returns(lambda obs, key: obs, "Catch-bsuite", 1)
    with pytest.raises(ValueError, match=r"must end with \.gif or \.mp4"):
        films.write_film(tmp_path / "film.avi", iter(()))


@pytest.mark.parametrize("ending", films.FORMATS)
def test_a_film_shows_every_frame(ending, tmp_path):
    # Colours change, since a GIF joins frames that are equal.
    frames = [np.full((64, 96, 3), 20 * i, np.uint8) for i in range(10)]
    path = tmp_path / "new" / f"film{ending}"
    assert films.write_film(path, iter(frames)) == 10
    shown = imageio.imread(path, index=None, plugin="pillow" if ending == ".gif" else "pyav")
    assert shown.shape == (10, 64, 96, 3)
    assert np.abs(shown.astype(int) - np.stack(frames)).mean() < 8


def painted(length):
    """Episodes of so many steps, whose pictures show how many were taken."""

    def reset(key):
        return jnp.zeros((), jnp.int32), jnp.zeros((1,))

    def transition(key, steps, action):
        return steps + 1, jnp.zeros((1,)), 0.0, steps + 1 >= length, False

    def render(states):
        for steps in states:
            yield np.full((31, 20, 3), 10 * int(steps), np.uint8)

    place = Box(np.zeros(1), np.zeros(1), (1,))
    return from_functions(reset, transition, place, Discrete(2), max_steps=50, render=render)


def test_an_episode_where_it_was_trained(tmp_path):
    env = painted(6)
    frames = list(films.trained_frames(lambda obs, key: np.int32(0), env))
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 10, 20, 30, 40, 50]
    cut = films.trained_frames(lambda obs, key: np.int32(0), env, most=3)
    assert films.write_film(tmp_path / "odd.mp4", cut, 10) == 3
    shown = imageio.imread(tmp_path / "odd.mp4", index=None, plugin="pyav")
    assert shown.shape == (3, 30, 20, 3)
    with pytest.raises(ValueError, match=r"custom can't be drawn.*from_functions"):
        films.trained_frames(lambda obs, key: obs, env._replace(render=None))


def test_gymnasium_has_not_all(tmp_path, capsys):
    record = train(tmp_path / "catch", "Catch-bsuite", [0])
    before = plt.figure().number, plt.get_backend()
    assert cli.main(["play", str(record.path), "--out", str(tmp_path / "catch.gif")]) == 0
    printed = capsys.readouterr().out
    assert "gymnasium has no Catch-bsuite: filmed where it was trained" in printed
    assert "9 frames" in printed  # ten rows to fall
    shown = imageio.imread(tmp_path / "catch.gif", index=None)
    assert shown.shape == (9, 300, 360, 3)
    assert (plt.get_fignums(), plt.get_backend()) == ([before[0]], before[1])
    plt.close("all")
    for options in (["--episodes", "3", "--out", str(tmp_path / "x.gif")], []):
        assert cli.main(["play", str(record.path), *options]) == 1
        assert "gymnasium has no Catch-bsuite" in capsys.readouterr().err
    assert not (tmp_path / "x.gif").exists()


def test_its_own_actions(pendulum):
    obs = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    run = best_run(pendulum)
    raw = deploy.NumpyPolicy(run, native=False)(obs)
    np.testing.assert_allclose(raw, restored(pendulum, 0)(obs).mode(), rtol=1e-5)
    native = build(run.experiment).env.native_action(raw)
    np.testing.assert_allclose(native, deploy.numpy_policy(pendulum)(obs), rtol=1e-5)
    assert abs(native - raw).max() > 1e-3  # torques are up to 2


def test_the_command(pole, tmp_path, capsys):
    film = tmp_path / "episode.gif"
    line = ["play", str(pole.path), "--episodes", "3", "--seed", "1", "--out", str(film)]
    assert cli.main(line) == 0
    printed = capsys.readouterr().out
    assert "gymnasium's CartPole-v1, 3 episodes: mean" in printed
    expected = deploy.gymnasium_returns(
        deploy.numpy_policy(Record(pole.path)), "CartPole-v1", 1, seed=1
    )
    # A frame before every step, and the last state.
    assert f"{int(expected[0]) + 1} frames" in printed
    assert film.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--episodes", "0"], "at least 1"),
        (["--out", "film.avi"], "must end with"),
        (["--trained-seed", "5"], "has no seed 5"),
        (["--out", "film.gif", "--fps", "0"], "fps must be a whole number"),
    ],
)
def test_errors_of_the_command(pole, options, message, capsys):
    assert cli.main(["play", str(pole.path), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_extra_is_named(pole, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert cli.main(["play", str(pole.path), "--out", str(tmp_path / "x.gif")]) == 1
    assert "pip install 'kltrust[play]'" in capsys.readouterr().err
    assert not (tmp_path / "x.gif").exists()
