"""The compiled functions of an experiment: settings are arguments, one compilation serves all."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import CHUNK, ITERATIONS, KINDS, SEEDS, assert_same_bits, tiny

from kltrust.experiments.engine import lanes
from kltrust.experiments.engine.program import Program, build, traced_settings


@contextlib.contextmanager
def counting_compilations():
    counted = []

    def listen(event, _, **__):
        counted.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: sum("backend_compile" in event for event in counted)
    jax.monitoring.unregister_event_duration_listener(listen)


def with_other_floats(experiment):
    """Every float setting another one that is allowed."""

    def other(path, value):
        name = jax.tree_util.keystr(path)
        if any(part in name for part in ("gamma", "lambda", "decrease", "shrink", "b1", "b2")):
            return value * 0.9
        return 0.25 if value in (0.0, np.inf) else value * 1.25

    return jax.tree_util.tree_map_with_path(other, experiment)


@pytest.mark.parametrize("algorithm", KINDS)
def test_every_float_setting_is_traced_and_nothing_else(algorithm):
    one = tiny(algorithm, "Pendulum-v1", env_params={"g": 9.0})
    other = with_other_floats(one)
    floats = {k for k, v in one.flat().items() if isinstance(v, float)}
    assert {k for k in floats if one.flat()[k] != other.flat()[k]} == floats
    assert len(jax.tree.leaves(one)) == len(floats)
    assert "env_params.g" in floats
    leaves = jax.tree.leaves(traced_settings(one))
    assert {type(leaf) for leaf in leaves} == {np.float32}

    # The other floats are closed over nowhere: the very same program comes out.
    assert lowered(one) == lowered(other)


def lowered(experiment):
    """The text of the program that one iteration is, with the floats as its arguments."""

    def step(experiment, key):
        learner = build(experiment).learner
        return learner.step(learner.init(key))

    return jax.jit(step).lower(traced_settings(experiment), jax.random.key(0)).as_text()


@pytest.mark.parametrize(
    ("algorithm", "reported", "whole", "power"),
    [("mdpo", "step_size", 1.0, 1), ("trpo", "max_kl", 0.01, 2)],
)
def test_annealing_is_linear_in_the_step(algorithm, reported, whole, power):
    one = tiny(algorithm, budget={"anneal": 0.5})

    def two_steps(key):
        learner = build(one).learner
        state, first = learner.step(learner.init(key))
        return [m.extra[reported] for m in (first, learner.step(state)[1])]

    expected = [whole, whole * (1 - 0.5 / ITERATIONS) ** power]
    np.testing.assert_allclose(jax.jit(two_steps)(jax.random.key(0)), expected, rtol=1e-6)


def test_a_static_setting_is_another_program():
    """The control of the test above."""
    one = tiny("vanilla_pg")
    two = dataclasses.replace(one, learner=dataclasses.replace(one.learner, num_steps=18))
    assert lowered(one) != lowered(two)


@pytest.mark.parametrize(
    ("algorithm", "env"), [("trpo", "CartPole-v1"), ("ppo_penalty", "Pendulum-v1")]
)
def test_one_compilation_each_whatever_the_settings(algorithm, env):
    experiment = tiny(algorithm, env)
    program = Program(experiment, lanes.make_mesh(len(SEEDS), 2), 2)
    assert (program.num_chunks, program.chunk_length) == (4, CHUNK)
    keys, eval_keys = lanes.keys_of(np.asarray(SEEDS))

    def run(settings):
        state = program.init(settings, keys)
        state, first = program.chunk(settings, state, CHUNK)
        state, last = program.chunk(settings, state, 1)
        assert first.kl.shape == last.kl.shape == (len(SEEDS), CHUNK)
        assert np.asarray(state.iteration).tolist() == [CHUNK + 1] * len(SEEDS)
        return first.kl, program.evaluate(settings, state, eval_keys)

    kl, returns = run(traced_settings(experiment))
    with counting_compilations() as compilations:
        other_kl, _ = run(traced_settings(with_other_floats(experiment)))
        assert compilations() == 0
        again, returns_again = run(traced_settings(experiment))
    assert program.compilations == {"init": 1, "chunk": 1, "evaluate": 1}
    assert not np.array_equal(kl, other_kl)
    # The same key, the same bits.
    assert np.array_equal(kl, again)
    assert_same_bits(returns, returns_again)


def test_the_counter_of_compilations_counts():
    with counting_compilations() as compilations:
        jax.jit(lambda x: x * 17.25)(np.float32(1))
        assert compilations() >= 1


def test_what_all_have_in_common_is_shared():
    """By those that have to agree, not by the lanes at hand: shards of a sweep decide alike."""
    trees = [{"a": (np.float32(1), x), "b": y} for x, y in ((2.0, 7.0), (2.0, 7.0), (2.0, 8.0))]
    shared = lanes.split_shared(trees[:2], trees, 4)
    assert jax.tree.map(np.shape, shared) == {"a": ((), ()), "b": (4,)}
    assert shared["b"].tolist() == [7, 7, 7, 7]
    assert jax.tree.map(np.shape, lanes.split_shared(trees[:2], trees[:2], 4))["b"] == ()
    own = lanes.split_shared(trees[1:], trees, 3)["b"]
    assert own.tolist() == [7, 8, 8]
    # A NaN is like itself, and a zero is not like its negative.
    assert lanes.split_shared([np.nan], [np.nan, np.nan], 1).shape == ()
    assert lanes.split_shared([0.0], [0.0, -0.0], 1).shape == (1,)


def test_shared_and_own_settings_reach_their_lanes():
    experiment = tiny("vanilla_pg")
    program = Program(experiment, lanes.make_mesh(2, 2), 2)
    keys, _ = lanes.keys_of(np.asarray([3, 3]))
    settings = traced_settings(experiment)
    update = dataclasses.replace(settings.update, learning_rate=np.float32([0.01, 0.3]))
    settings = dataclasses.replace(settings, update=update)
    _, metrics = program.chunk(settings, program.init(settings, keys), 1)
    assert metrics.kl[0, 0] < metrics.kl[1, 0]


def test_every_evaluation_has_start_states_of_its_own():
    """Else the best checkpoint of many would be the one that is lucky with one set of them."""
    program = Program(tiny(), lanes.make_mesh(2, 2), 2)
    settings = traced_settings(tiny())
    keys, eval_keys = lanes.keys_of(np.asarray(SEEDS))
    state = program.init(settings, keys)
    first, again = (program.evaluate(settings, state, eval_keys) for _ in range(2))
    assert_same_bits(first, again)
    later = program.evaluate(settings, state._replace(iteration=state.iteration + 1), eval_keys)
    assert (np.asarray(first) != np.asarray(later)).any()
    assert program.compilations["evaluate"] == 1


def test_flags_of_a_users_own_stay(monkeypatch):
    mesh = lanes.make_mesh(1, 1)

    def disabled(flags):
        monkeypatch.setenv("XLA_FLAGS", flags)
        return lanes.compiler_options(mesh)["xla_disable_hlo_passes"].split(",")

    ours = disabled("")
    assert ours == ["spmd-cleanup", "spmd-simplify"]
    assert disabled("--xla_disable_hlo_passes=fusion,cse --xla_dump_to=x") == [
        *ours,
        "fusion",
        "cse",
    ]
    # Of a flag that is there twice, XLA takes the last.
    twice = "--xla_disable_hlo_passes=a --xla_disable_hlo_passes=b"
    assert disabled(twice) == [*ours, "b"]
    function = jax.jit(lambda x: jnp.sin(x) + 1, compiler_options=lanes.compiler_options(mesh))
    assert function(0.0) == 1
