"""Wrappers of environments, alone, together and by name."""

import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import pytest

from kltrust import environments
from kltrust.environments import (
    check_env,
    clip_rewards,
    describe,
    from_functions,
    make,
    register,
    scale_rewards,
    stack_frames,
    sticky_actions,
    time_limit,
    transform_observations,
    transform_rewards,
)
from kltrust.types import Box, Discrete, MultiDiscrete


def counting(length=5, action_space=Discrete(4)):  # noqa: B008
    """Observes (steps taken, last action, 10), pays the steps taken, ends after ``length``."""

    def reset(key):
        return jnp.zeros(2), jnp.array([0.0, -1.0, 10.0])

    def transition(key, state, action):
        count, seen = state[0] + 1, jnp.sum(jnp.asarray(action, jnp.float32))
        return jnp.stack([count, seen]), jnp.stack([count, seen, 10.0]), count, count >= length, 0

    box = Box(np.array([0, -1, 10.0]), np.array([length, 9, 10.0]), (3,))
    return from_functions(reset, transition, box, action_space, name="counting")


WRAPPED = {
    "limited": lambda: time_limit(counting(), 3),
    "stacked": lambda: stack_frames(counting(), 3),
    "sticky": lambda: sticky_actions(counting(action_space=MultiDiscrete((2, 3))), 0.5),
    "sticky box": lambda: sticky_actions(counting(action_space=known_envs.unbounded(2)), 0.5),
    "seen otherwise": lambda: transform_observations(counting(), lambda obs: obs[:2] / 2),
    "masked": lambda: stack_frames(known_envs.legal_arms(), 2),
    "all": lambda: clip_rewards(stack_frames(sticky_actions(time_limit(counting(), 3)), 2)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_environment_keeps_the_contract(name):
    env = WRAPPED[name]()
    check_env(env, num_steps=20)
    assert env.step_batch is not None


def played(env, actions, seed=0):
    """Of one lane: the first observation, then (obs, outcome) [T]."""
    reset_key, *keys = jax.random.split(jax.random.key(seed), len(actions) + 1)
    state, first = env.reset(reset_key)

    def step(state, given):
        state, obs, outcome = env.step(given[0], state, given[1])
        return state, (obs, outcome)

    _, found = jax.lax.scan(step, state, (jnp.stack(keys), jnp.asarray(actions)))
    return (first, *jax.tree.map(np.asarray, found))


def test_a_time_limit_truncates_and_shows_the_last_observation():
    _, obs, outcome = played(time_limit(counting(), 3), [1] * 7)
    np.testing.assert_array_equal(outcome.truncated, [0, 0, 1, 0, 0, 1, 0])
    assert not outcome.terminated.any()
    np.testing.assert_array_equal(outcome.next_obs[:, 0], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(obs[:, 0], [1, 2, 0, 1, 2, 0, 1])
    # An end at the limit is an end; the environment's own, shorter limit stays.
    _, _, outcome = played(time_limit(counting(), 5), [1] * 7)
    np.testing.assert_array_equal(outcome.terminated, [0, 0, 0, 0, 1, 0, 0])
    assert not outcome.truncated.any()
    assert time_limit(make("CartPole-v1", max_steps_in_episode=9), 20).max_steps == 9
    assert time_limit(counting(), 3).max_steps == 3


def test_frames_are_the_last_ones_of_the_episode():
    env = stack_frames(counting(), 3)
    first, obs, outcome = played(env, [2, 0, 1, 3, 1, 1, 0])
    old = [np.asarray([0, -1, 10.0])] * 3
    np.testing.assert_array_equal(first, np.concatenate(old))
    _, plain, plain_outcome = played(counting(), [2, 0, 1, 3, 1, 1, 0])
    for t, shown in enumerate(obs):
        old = [*old[1:], plain_outcome.next_obs[t]]
        np.testing.assert_array_equal(outcome.next_obs[t], np.concatenate(old))
        if plain_outcome.terminated[t]:
            old = [plain[t]] * 3
        np.testing.assert_array_equal(shown, np.concatenate(old))
    assert plain_outcome.terminated.sum() == 1
    space = env.observation_space
    np.testing.assert_array_equal(space.low, [0, -1, 10] * 3)
    image, _ = known_envs.image()
    several = stack_frames(known_envs.nothing(Discrete(2), image, _), 4).observation_space
    assert (several.shape, several.dtype) == ((6, 5, 8), np.uint8)


def test_sticky_actions_repeat_within_an_episode():
    actions = [3, 0, 1, 2, 0, 2, 1, 0]
    seen = lambda p: played(sticky_actions(counting(4), p), actions)[2].next_obs[:, 1]  # noqa: E731
    np.testing.assert_array_equal(seen(0.0), actions)
    np.testing.assert_array_equal(seen(1.0), [3, 3, 3, 3, 0, 0, 0, 0])
    # Without stickiness the environment is the same to the bit, its own randomness too.
    own = known_envs.reward_one(termination=0.3)
    pair = played(own, [1] * 20), played(sticky_actions(own, 0.0), [1] * 20)
    jax.tree.map(np.testing.assert_array_equal, *pair)
    # In alternation, a repeat shows as a wrong action: of 2,000 steps a quarter, give or take 4 sd.
    actions = np.arange(2000) % 2
    _, _, outcome = played(sticky_actions(counting(10**6), 0.25), actions)
    taken, last = outcome.next_obs[1:, 1], outcome.next_obs[:-1, 1]
    # Where the last action was executed as asked, a repeat differs from what is asked.
    asked_another = last != actions[1:]
    repeated = taken[asked_another] == last[asked_another]
    assert abs(repeated.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / asked_another.sum())


def test_rewards_and_observations():
    actions = [0] * 4
    rewards = lambda env: played(env, actions)[2].reward  # noqa: E731
    np.testing.assert_array_equal(rewards(scale_rewards(counting(), 0.5)), [0.5, 1, 1.5, 2])
    np.testing.assert_array_equal(rewards(clip_rewards(counting(), 2)), [1, 2, 2, 2])
    np.testing.assert_array_equal(
        rewards(transform_rewards(counting(), lambda r: -r)), [-1, -2, -3, -4]
    )
    env = transform_observations(counting(), lambda obs: obs[None] / 2, low=-1, high=5)
    first, _, outcome = played(env, actions)
    np.testing.assert_array_equal(first, [[0, -0.5, 5]])
    np.testing.assert_array_equal(outcome.next_obs[:, 0, 0], [0.5, 1, 1.5, 2])
    assert env.observation_space.shape == (1, 3)


def test_wrappers_by_name():
    name = "CartPole-v1 | time_limit(7) | stack_frames(number=2)"
    env = make(name, length=0.4)
    assert (env.name, env.max_steps, env.observation_space.shape) == (name, 7, (8,))
    np.testing.assert_array_equal(
        played(env, [1] * 9)[1],
        played(stack_frames(time_limit(make("CartPole-v1", length=0.4), 7), 2), [1] * 9)[1],
    )
    info = describe(name)
    assert (info.source, info.max_steps) == ("gymnax", 7)
    assert "length" in info.fields
    register("counted", counting)
    assert make("counted|clip_rewards", length=3).name == "counted | clip_rewards"
    assert environments.static_parameters("CartPole-v1 | clip_rewards") == frozenset()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("CartPole-v1 | stak(4)", "did you mean stack_frames"),
        ("CartPole-v1 | stack_frames", "stack_frames takes number"),
        ("CartPole-v1 | stack_frames(0)", "1 or more"),
        ("CartPole-v1 | time_limit(0)", "at least 1"),
        ("CartPole-v1 | time_limit(x)", "reads like 'stack_frames"),
        ("CartPole-v1 | 4", "reads like"),
        ("CartPole-v1 |", "reads like"),
        ("CartPole-v1 | sticky_actions(2)", r"\[0, 1\]"),
        ("CartPol-v1 | time_limit(3)", "no environment 'CartPol-v1'"),
    ],
)
def test_what_a_name_cannot_ask_for(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(wrong)


def test_what_a_wrapper_does_not_fit():
    with pytest.raises(ValueError, match="only observations of one array"):
        stack_frames(known_envs.nothing(Discrete(2), Discrete(3), jnp.int32(0)), 2)
    with pytest.raises(ValueError, match="none can be repeated"):
        sticky_actions(known_envs.legal_arms())
    with pytest.raises(ValueError, match="non-empty string without"):
        register("a|b", counting)


def test_a_sweep_names_wrappers(said, tmp_path):
    spec = tmp_path / "wrapped.toml"
    spec.write_text(
        '[sweep]\nenvs = ["CartPole-v1", "CartPole-v1 | time_limit(50)"]\nseeds = 1\n'
        "[budget]\ntotal_steps = 64\nnum_evals = 1\n"
        '[[experiments]]\nalgorithms = "vanilla_pg"\nlearner = { num_envs = 2, num_steps = 16 }\n',
        "utf-8",
    )
    # Twice: a table must not keep the cells of the one before.
    first, second = (said("sweep", spec, "--dry-run") for _ in range(2))
    assert first[0] == 0, first[2]
    assert first[1].count("CartPole-v1 | time_limit(50)") == 1
    assert second[1] == first[1]
    folder = tmp_path / "run"
    assert said("sweep", spec, "--out", folder, "--quiet")[0] == 0
    status, out, _ = said(
        "evaluate", folder, "--env", "CartPole-v1 | time_limit(50)", "--episodes", 2
    )
    assert status == 0
    assert "2 episodes" in out or "mean" in out
