"""Settings as plain data: the factories' own defaults, round trips, errors that name the remedy."""

import dataclasses
import inspect
import math

import pytest

from kltrust import algorithms, learner, networks
from kltrust.experiments.config import presets, registry, settings
from kltrust.experiments.config.experiment import Experiment, LearnerSettings, NetworkSettings

# Arguments that are no settings, and settings that the experiment resolves itself.
NOT_SETTINGS = {"env", "agent", "update", "planned_iterations", "audit_damping"}


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in NOT_SETTINGS}


@pytest.mark.parametrize(
    ("settings_class", "factory"),
    [
        *((settings.ALGORITHMS[name], getattr(algorithms, name)) for name in algorithms.__all__),
        (LearnerSettings, learner.make_learner),
        (NetworkSettings, networks.actor_critic),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_defaults_are_those_of_the_factory(settings_class, factory):
    ours = {f.name: f.default for f in dataclasses.fields(settings_class)}
    assert ours == defaults(factory)
    # What is a float is traced, so a setting's kind must be that of the factory's default.
    assert {k: type(v) for k, v in ours.items()} == {
        k: type(v) for k, v in defaults(factory).items()
    }


def test_every_algorithm_has_settings_and_a_factory():
    for name in settings.ALGORITHMS:
        assert registry.factory_of(name)()
    assert set(algorithms.__all__) <= set(settings.ALGORITHMS)


def example(**changes):
    return Experiment("ppo_clip", "Pendulum-v1", settings.PPOClip(clip_eps=0.3), **changes)


def test_round_trip_keeps_infinities_and_tuples():
    before = example(
        network=NetworkSettings(hidden=(8, 8, 8)),
        env_params={"g": 9.81, "max_steps_in_episode": 50},
    )
    after = Experiment.from_dict(before.to_dict())
    assert after == before
    assert math.isinf(after.update.max_kl)
    assert after.digest() == before.digest()
    assert after.digest() != example().digest()


def test_only_whole_iterations_are_paid_for():
    experiment = example()
    assert experiment.num_iterations == 100_000 // (8 * 256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "trop"}, "did you mean trpo"),
        ({"update": {"clip_epz": 0.1}}, "did you mean clip_eps"),
        ({"update": {"num_epochs": 2.5}}, "update.num_epochs must be a int"),
        ({"learner": {"normalize_rewards": 1}}, "normalize_rewards must be a bool"),
        ({"network": {"hidden": 64}}, "hidden must be a tuple"),
        ({"budget": {"steps": 1}}, "did you mean total_steps"),
    ],
)
def test_bad_plain_data_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Experiment.from_dict({**example().to_dict(), **change})


def test_presets_are_valid_and_listed():
    from kltrust.experiments.engine.program import validate

    pairs = presets.available()
    for algorithm, env in pairs:
        experiment = presets.preset(algorithm, env)
        assert experiment != presets.preset(algorithm, env, "none")
        validate(experiment)


def test_a_preset_of_ones_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[update]\nmax_kl = 0.5\n[learner]\nnum_envs = 3\n")
    experiment = presets.preset("trpo", "CartPole-v1", file)
    assert experiment.update.max_kl == 0.5
    assert experiment.learner.num_envs == 3
    file.write_text("[updates]\nmax_kl = 0.5\n")
    with pytest.raises(ValueError, match="unknown section 'updates'"):
        presets.preset("trpo", "CartPole-v1", file)
    file.write_text("max_kl 0.5")
    with pytest.raises(ValueError, match="not TOML"):
        presets.preset("trpo", "CartPole-v1", file)
    with pytest.raises(ValueError, match="can't read"):
        presets.preset("trpo", "CartPole-v1", tmp_path / "absent.toml")


def test_what_annealing_shrinks():
    """One step of every algorithm: a KL only where there is no step size and no learning rate."""
    expected = {
        "vanilla_pg": {"learning_rate": 1},
        "npg": {"target_kl": 2},
        "trpo": {"max_kl": 2},
        "ppo_clip": {"learning_rate": 1},
        "ppo_penalty": {"learning_rate": 1},
        "ppo_reverse_kl": {"learning_rate": 1},
        "ppo_adaptive_lr": {"max_kl": 2, "target_kl": 2},
        "mdpo": {"step_size": 1},
    }
    # Other tests register algorithms of their own.
    assert set(expected) == set(algorithms.__all__)
    for name, shrunk in expected.items():
        fields = dataclasses.fields(settings.ALGORITHMS[name])
        assert settings.annealed(f.name for f in fields) == shrunk


def test_an_algorithm_of_ones_own():
    def mine(*, step: float = 0.1, rounds: int = 2, plain: bool = False):
        return algorithms.vanilla_pg(learning_rate=step)

    registry.register_algorithm("mine", mine)
    try:
        made = settings.settings_of("mine")()
        assert (made.step, made.rounds, made.plain) == (0.1, 2, False)
        with pytest.raises(ValueError, match="registered already"):
            registry.register_algorithm("mine", mine)
        with pytest.raises(ValueError, match="give a default to step"):
            registry.register_algorithm("bare", lambda step: None)
    finally:
        del settings.ALGORITHMS["mine"], registry._factories["mine"]
