"""Experiments as plain data and as pytrees: round trips, names with and without their section."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

import kltrust
from kltrust.experiments.config import presets
from kltrust.experiments.config.experiment import Experiment, put, qualified, written
from kltrust.experiments.engine.program import check_values, traced_settings
from kltrust.networks.settings import NetworkSettings
from kltrust.updates import Optimizer


def experiment(**changes):
    given = {"env": "Pendulum-v1", "update": kltrust.ppo_clip(clip_eps=0.3)}
    return Experiment(**{**given, **changes})


def through_json(one):
    return Experiment.from_dict(json.loads(json.dumps(one.to_dict())))


def test_plain_data_keeps_infinities_tuples_and_optimisers():
    one = experiment(
        update=kltrust.ppo_clip(optimizer="adamw(weight_decay=0.1)"),
        network=NetworkSettings(hidden=(8, 8, 8)),
        env_params={"g": 9.81, "max_torque": math.inf, "max_steps_in_episode": 50},
    )
    again = through_json(one)
    assert again == one
    # An infinite parameter of an environment is a number again, so that a run can go on.
    assert again.env_params["max_torque"] == math.inf
    assert math.isinf(again.update.max_kl)
    assert again.digest() == one.digest() != experiment().digest()
    assert again.flat()["update.optimizer.weight_decay"] == 0.1


def test_a_function_of_ones_own_cannot_be_written():
    one = experiment(update=kltrust.ppo_clip(optimizer=lambda rate: rate))
    with pytest.raises(ValueError, match="can't be written to a file"):
        one.to_dict()


def test_floats_are_leaves_and_all_else_is_structure():
    one = experiment(env_params={"g": 9.81, "max_steps_in_episode": 50})
    other = dataclasses.replace(
        one,
        update=kltrust.ppo_clip(clip_eps=0.1),
        env_params={"g": 1.0, "max_steps_in_episode": 50},
    )
    wider = dataclasses.replace(one, update=kltrust.ppo_clip(num_epochs=3))
    longer = dataclasses.replace(one, env_params={"g": 9.81, "max_steps_in_episode": 60})
    more = jax.tree.map(lambda x: 2 * x, one)
    assert more.env_params == {"g": 19.62, "max_steps_in_episode": 50}
    assert more.update.optimizer.settings == {"eps": 2e-5}
    structure = jax.tree.structure(one)
    assert hash(structure) == hash(jax.tree.structure(other))
    assert structure == jax.tree.structure(other)
    assert structure != jax.tree.structure(wider)
    assert structure != jax.tree.structure(longer)

    both = map(traced_settings, (one, other))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *both)
    assert {leaf.shape for leaf in jax.tree.leaves(stacked)} == {(2,)}
    assert {leaf.dtype for leaf in jax.tree.leaves(stacked)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(stacked.update.clip_eps, [0.3, 0.1])
    np.testing.assert_allclose(stacked.env_params["g"], [9.81, 1.0], rtol=1e-6)
    # Placeholders of any kind may stand where numbers were.
    for placeholder in (None, 0, "x", object()):
        filled = jax.tree.map(lambda _, p=placeholder: p, traced_settings(one))
        is_leaf = lambda x: x is None  # noqa: E731
        assert jax.tree.structure(filled, is_leaf=is_leaf) == jax.tree.structure(one)


def test_names_with_and_without_their_section():
    @kltrust.algorithm("own_gamma")
    class OwnGamma:
        """Does nothing, with a setting that the learner has too."""

        gamma: float = kltrust.setting(0.5, "Of its own.", at_least=0)

        def init(self, params):
            return ()

        def update(self, policy, params, state, batch, key):
            return params, state, {}

    assert qualified("max_kl", "trpo") == "update.max_kl"
    assert qualified("gamma", "trpo") == "learner.gamma"
    assert qualified("critic.learning_rate", "trpo") == "critic.learning_rate"
    assert qualified("optimizer.weight_decay", "ppo_clip") == "update.optimizer.weight_decay"
    assert qualified("env_params.g", "trpo") == "env_params.g"
    # The policy's where it has one; the critic's are never meant by their name alone.
    assert qualified("learning_rate", "ppo_clip") == "update.learning_rate"
    with pytest.raises(ValueError, match=r"did you mean critic\.learning_rate"):
        qualified("learning_rate", "trpo")
    with pytest.raises(ValueError, match=r"say update\.gamma or learner\.gamma"):
        qualified("gamma", OwnGamma.name)
    with pytest.raises(ValueError, match="did you mean max_kl"):
        qualified("max_k", "trpo")
    with pytest.raises(ValueError, match="unknown section 'learnr'"):
        qualified("learnr.gamma", "trpo")
    assert written("learner", "gamma", "trpo") == "gamma"
    assert written("learner", "gamma", OwnGamma.name) == "learner.gamma"
    assert written("update", "gamma", OwnGamma.name) == "update.gamma"
    assert written("critic", "clip_eps", "trpo") == "critic.clip_eps"


def test_an_optimiser_changes_whole_or_in_part():
    data = experiment().to_dict()
    put(data, "update.optimizer.b1", 0.5)
    assert Experiment.from_dict(data).update.optimizer == Optimizer("adam", eps=1e-5, b1=0.5)
    put(data, "update.optimizer", "adamw")
    put(data, "update.optimizer", {"weight_decay": 0.1})
    assert Experiment.from_dict(data).update.optimizer == Optimizer("adamw", weight_decay=0.1)
    with pytest.raises(ValueError, match="did you mean adamw"):
        put(data, "update.optimizer", "adamww") or Experiment.from_dict(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "trop"}, "did you mean trpo"),
        ({"update": {"clip_epz": 0.1}}, r"in \[update\] 'clip_epz': did you mean clip_eps"),
        ({"update": {"num_epochs": 2.5}}, "update.num_epochs must be a whole number"),
        ({"update": {"optimizer": "adamm"}}, "did you mean adam"),
        ({"update": {"learning_rate": "3e-4"}}, "update.learning_rate must be a number"),
        ({"learner": {"normalize_rewards": 1}}, "learner.normalize_rewards must be True or False"),
        ({"network": {"hidden": 64}}, "network.hidden must be a list or a tuple"),
        ({"network": {"hidden": [0]}}, "every entry of network.hidden must be at least 1"),
        ({"budget": {"steps": 1}}, "did you mean total_steps"),
        ({"critics": {}}, "unknown section 'critics': did you mean critic"),
    ],
)
def test_bad_plain_data_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Experiment.from_dict({**experiment().to_dict(), **change})


def test_only_whole_iterations_are_paid_for():
    assert experiment().num_iterations == 100_000 // (8 * 256)


@pytest.mark.parametrize("source", [None, "accelerator"])
def test_presets_are_valid_and_listed(source):
    for algorithm, env in presets.available(source):
        experiment = presets.preset(algorithm, env, source)
        assert experiment != presets.preset(algorithm, env, "none")
        check_values(experiment)


def test_presets_for_accelerators_take_few_large_minibatches():
    """What an accelerator waits for: steps of the rollout and of the optimisers."""

    def waits(experiment):
        passes = (experiment.update, experiment.critic)
        steps = (getattr(p, "num_epochs", 0) * getattr(p, "num_minibatches", 0) for p in passes)
        return experiment.learner.num_steps + sum(steps)

    known = presets.available("accelerator")
    assert {algorithm for algorithm, _ in known} == {"ppo_clip", "ppo_penalty", "trpo"}
    for algorithm, env in known:
        experiment = presets.preset(algorithm, env, "accelerator")
        assert experiment.learner.num_envs >= 1024
        assert waits(experiment) < 100
        like = presets.preset(known[0][0], env, "accelerator")
        assert dataclasses.replace(experiment, update=like.update) == like  # equal in all else
    usual = presets.preset("ppo_clip", "CartPole-v1")
    assert waits(usual) > 200
    with pytest.raises(ValueError, match="no accelerator preset of npg on CartPole-v1"):
        presets.preset("npg", "CartPole-v1", "accelerator")
    with pytest.raises(ValueError, match="did you mean ppo_clip"):
        presets.preset("ppo_clib", "CartPole-v1", "accelerator")


def test_a_preset_of_ones_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[update]\nmax_kl = 0.5\n[learner]\nnum_envs = 3\n")
    experiment = presets.preset("trpo", "CartPole-v1", file)
    assert experiment.update.max_kl == 0.5
    assert experiment.learner.num_envs == 3
    for text, message in (
        ("[updates]\nmax_kl = 0.5\n", "unknown section 'updates'"),
        ("max_kl 0.5", "not TOML"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            presets.preset("trpo", "CartPole-v1", file)
    with pytest.raises(ValueError, match="can't read"):
        presets.preset("trpo", "CartPole-v1", tmp_path / "absent.toml")
