"""Declared settings: doors, leaves, plain data, the registry, and experiments of them."""

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import pytest

from kltrust import algorithms, trpo, value_regression
from kltrust.experiments.config.experiment import BudgetSettings, Experiment
from kltrust.learner import LearnerSettings, make_learner
from kltrust.networks import actor_critic
from kltrust.networks.settings import NetworkSettings
from kltrust.settings import annealed, declared, setting, settings, with_role
from kltrust.types import UpdatePair
from kltrust.values import from_plain, to_plain

DECLARED = [algorithms.find_algorithm(name) for name in algorithms.algorithm_names()]
DECLARED += [type(value_regression()), LearnerSettings, NetworkSettings, BudgetSettings]
every_class = pytest.mark.parametrize("cls", DECLARED, ids=lambda cls: cls.__name__)


# --- values ---------------------------------------------------------------------------------------


@settings
class Made:
    """One setting of every kind."""

    step: float = setting(0.1, "A step.", above=0, anneal=2, role="bound")
    limit: float = setting(math.inf, "A limit.", infinite=True, needs="switch", role="bound")
    rounds: int = setting(3, "Rounds.", at_least=1)
    switch: bool = False
    widths: tuple[int, ...] = setting((8, 8), "Widths.", at_least=1)
    kind: str = setting("plain", "Kind.", choices=("plain", "fancy"))

    def check(self):
        if self.rounds > 9 and not self.switch:
            raise ValueError("so many rounds need the switch")


@every_class
def test_a_declaration_is_a_value(cls):
    one, same = cls(), cls()
    assert (one == same, hash(one) == hash(same)) == (True, True)
    assert repr(one).startswith(getattr(cls, "name", cls.__name__) + "(")
    for field in dataclasses.fields(cls):
        assert f"{field.name}=" in repr(one)
        assert declared(field).meaning, f"{field.name} says nothing of itself"
        assert declared(field).usual, f"{field.name} has no usual range"
        assert f"    {field.name}: " in cls.__doc__
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, getattr(one, field.name))
    leaves, structure = jax.tree.flatten(one)
    assert jax.tree.unflatten(structure, leaves) == one
    assert from_plain(cls, to_plain(one), where="here") == one
    assert set(inspect.signature(cls).parameters) == set(to_plain(one))


def test_equality_looks_at_every_setting():
    others = [
        *(Made(step=0.2), Made(limit=3.0), Made(rounds=4), Made(switch=True)),
        *(Made(widths=(8,)), Made(kind="fancy")),
    ]
    assert len({Made(), *others}) == 7
    assert Made() != trpo()
    assert Made(step=jnp.float32(0.25)) == Made(step=0.25)
    assert hash(Made(step=jnp.float32(0.25))) == hash(Made(step=0.25))
    assert Made(step=np.array([0.1, 0.2])) != Made(step=np.array([0.1, 0.3]))


def test_what_is_printed_is_read_at_a_glance():
    assert repr(Made(step=jnp.float32(0.25), rounds=np.int64(2))) == (
        "Made(step=0.25, limit=inf, rounds=2, switch=False, widths=(8, 8), kind='plain')"
    )
    assert repr(trpo(max_kl=0.02)).startswith("trpo(max_kl=0.02, shrink=0.8,")


@pytest.mark.parametrize("make", [Made, lambda **changes: dataclasses.replace(Made(), **changes)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0.0}, "step must be finite and greater than 0, got 0.0"),
        ({"step": math.nan}, "step must be"),
        ({"step": math.inf}, "step must be"),
        ({"step": True}, "step must be a number, got True"),
        ({"step": "0.1"}, "step must be a number, got '0.1'"),
        ({"step": None}, "step must be a number"),
        ({"step": jnp.array([0.1, -1.0])}, "step must be"),
        ({"step": jnp.array([True])}, "step must be a number, got an array of bool"),
        ({"limit": math.nan}, "limit must be a number"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"rounds": 2.5}, "rounds must be a whole number of at least 1, got 2.5"),
        ({"rounds": True}, "rounds must be a whole number"),
        ({"rounds": 10}, "so many rounds need the switch"),
        ({"switch": 1}, "switch must be True or False, got 1"),
        ({"widths": [0]}, "every entry of widths must be at least 1, got 0"),
        ({"widths": [8.0]}, "widths must hold whole numbers"),
        ({"widths": 8}, "widths must be a list or a tuple, got 8"),
        ({"kind": "plan"}, "unknown kind 'plan': did you mean plain"),
        ({"kind": len}, "kind must be a text"),
    ],
    ids=str,
)
def test_bad_values_are_refused_at_the_door(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_what_is_legal_is_taken_as_its_kind():
    made = Made(step=1, limit=np.int32(4), rounds=np.int64(4), widths=[np.int8(2)], switch=np.True_)
    kinds = [type(getattr(made, f.name)) for f in dataclasses.fields(made)]
    assert kinds == [float, float, int, bool, tuple, str]
    assert type(made.widths[0]) is int


def test_every_field_needs_a_default_and_a_class_is_declared_once():
    with pytest.raises(TypeError, match=r"Bare\.step needs a default"):

        @settings
        class Bare:
            step: float

    fields = list(Made.__dataclass_fields__)
    with pytest.raises(TypeError, match="Made is declared already: inherit from it"):
        settings(Made)
    assert list(Made.__dataclass_fields__) == fields


def test_what_others_may_know_of_a_setting():
    assert with_role(Made(), "bound") == ["step"]  # the limit needs the switch
    assert with_role(Made(switch=True), "bound") == ["step", "limit"]
    assert with_role(object(), "bound") == []
    assert annealed(Made(), 0.5) == Made(step=0.1 * 0.5**2)
    assert annealed(pair := ((), ()), 0.5) is pair


# --- leaves ---------------------------------------------------------------------------------------


def test_floats_are_leaves_and_all_else_is_static():
    leaves = jax.tree_util.tree_leaves_with_path(Made())
    assert [(str(path[0]), leaf) for path, leaf in leaves] == [(".step", 0.1), (".limit", math.inf)]
    assert jax.tree.structure(Made()) == jax.tree.structure(Made(step=0.2))
    assert jax.tree.structure(Made()) != jax.tree.structure(Made(rounds=4))


def test_one_compilation_for_all_floats():
    traced = []

    @jax.jit
    def product(made):
        traced.append(made)
        # Made anew from tracers: nothing is known of them, and nothing is refused.
        return dataclasses.replace(made, step=-made.step).step * made.rounds

    np.testing.assert_allclose([product(Made(step=s)) for s in (0.1, 0.2)], [-0.3, -0.6], rtol=1e-6)
    assert len(traced) == 1
    product(Made(rounds=4))
    assert len(traced) == 2


def test_lanes_of_a_stack():
    many = [Made(step=s, rounds=2) for s in (0.1, 0.2, 0.3)]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *many)
    lanes = jax.vmap(lambda made: made.step * made.rounds)(stack)
    np.testing.assert_allclose(lanes, [0.2, 0.4, 0.6], rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"[Mm]ismatch|different pytree metadata"
    ):  # of another program
        jax.tree.map(lambda *x: jnp.stack(x), Made(), Made(rounds=4))


# --- the doors of learner and network -------------------------------------------------------------


def parts():
    env = known_envs.chain(4)
    return env, actor_critic(env, (8,))


class Duck:
    """An algorithm that inherits from nothing."""

    def init(self, params):
        return ()

    def update(self, policy, params, state, batch, key):
        return params, state, {"rows": jnp.float32(batch.advantage.size)}


class Named(UpdatePair):
    pass


PAIR = (Duck().init, Duck().update)


@pytest.mark.parametrize(
    "update", [Duck(), PAIR, UpdatePair(*PAIR), Named(*PAIR)], ids=lambda x: type(x).__name__
)
def test_whatever_has_init_and_update_is_an_algorithm(update):
    learner = make_learner(*parts(), update, num_envs=2, num_steps=16)
    _, metrics = jax.eval_shape(lambda key: learner.step(learner.init(key)), jax.random.key(0))
    assert metrics.extra.keys() == {"rows"}


def factory(*, rate=0.1):
    return PAIR


@pytest.mark.parametrize("planned", [None, 3])
@pytest.mark.parametrize(
    ("update", "message"),
    [
        (trpo, r"trpo is a class: call it, as in trpo\(\)"),
        (Duck, r"Duck is a class: call it, as in Duck\(\)"),
        (factory, "factory is no schedule, .*call it"),
        (trpo().update, "update is no schedule"),
        ((1, 2), r"two functions, init and update, got \(1, 2\)"),
        ("trpo", "an object, got the name 'trpo': use trpo()"),
        (None, "got None"),
    ],
    ids=["class", "duck", "factory", "method", "numbers", "name", "none"],
)
def test_what_is_no_algorithm_is_answered_with_the_remedy(update, message, planned):
    with pytest.raises(TypeError, match=message):
        make_learner(*parts(), update, planned_iterations=planned)


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (value_regression, "value_regression is a class: call it"),
        (1e-3, "init and update, got 0.001"),
    ],
)
def test_what_is_no_critic_likewise(critic, message):
    with pytest.raises(TypeError, match=message):
        make_learner(*parts(), trpo(), critic=critic)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden": [8]}, "setting of actor_critic 'hiden': did you mean hidden"),
        ({"hidden": [0]}, "every entry of hidden must be at least 1"),
        ({"hidden": 8}, "hidden must be a list or a tuple"),
        ({"activation": "tan"}, "unknown activation 'tan': did you mean tanh"),
        ({"activation": jnp.sin}, "activation must be a text"),
        ({"hidden": (), "cell": "gru"}, "hidden must hold at least one width"),
        ({"cell": "lstm"}, "unknown cell 'lstm'"),
    ],
)
def test_the_networks_door(changes, message):
    with pytest.raises(ValueError, match=message):
        actor_critic(known_envs.chain(4), **changes)


def test_help_lists_the_settings():
    """What a function takes as ``**changes`` has names and defaults in its signature."""
    for function, cls in ((make_learner, LearnerSettings), (actor_critic, NetworkSettings)):
        parameters = inspect.signature(function).parameters
        for field in dataclasses.fields(cls):
            if field.name != "hidden":  # an argument of its own
                assert parameters[field.name].default == field.default
        assert "changes" not in parameters


# --- the registry ---------------------------------------------------------------------------------


def test_a_class_of_ones_own():
    @algorithms.algorithm("mine")
    class Mine(Duck):
        step: float = setting(0.1, "A step.", above=0)

    assert algorithms.find_algorithm("mine") is Mine
    assert repr(Mine(step=0.2)) == "mine(step=0.2)"
    experiment = Experiment.from_dict({"algorithm": "mine", "env": "x", "update": {"step": 0.5}})
    assert experiment.update == Mine(step=0.5)
    with pytest.raises(ValueError, match="step must be"):
        Experiment.from_dict({"algorithm": "mine", "env": "x", "update": {"step": -0.5}})


@pytest.mark.parametrize("result", [PAIR, Duck()], ids=["pair", "object"])
def test_a_function_of_ones_own(result):
    seen = []

    def mine(*, step: float = setting(0.1, "A step.", above=0), rounds: int = 2, plain=False):
        """What it does."""
        seen.append((step, rounds, plain))
        return result

    made = algorithms.register_algorithm("mine", mine)
    assert algorithms.find_algorithm("mine") is made
    assert "What it does." in made.__doc__
    assert jax.tree.leaves(made(step=0.2, rounds=3)) == [0.2]
    for bad in ({"step": 0.0}, {"rounds": 1.5}, {"plain": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            made(**bad)
    learner = make_learner(*parts(), made(step=0.2), num_envs=2, num_steps=16)
    _, metrics = jax.eval_shape(lambda key: learner.step(learner.init(key)), jax.random.key(0))
    assert metrics.extra.keys() == {"rows"}
    assert set(seen) == {(0.2, 2, False)}


def bare(step):
    return PAIR


class Bare(Duck):
    step: float


class Still:
    def init(self, params):
        return ()


@pytest.mark.parametrize(
    ("name", "declaration", "error", "message"),
    [
        ("trpo", factory, ValueError, "'trpo' is registered already"),
        ("my algorithm", factory, ValueError, "letters, digits and underscores"),
        ("mine", bare, TypeError, "mine: give a default to step"),
        ("mine", Bare, TypeError, r"Bare\.step needs a default"),
        ("mine", Still, TypeError, "Still needs update"),
        ("mine", trpo, TypeError, "TRPO is declared already"),
    ],
)
def test_a_registration_that_fails_leaves_nothing_behind(name, declaration, error, message):
    known, trpo_before = algorithms.algorithm_names(), algorithms.find_algorithm("trpo")
    with pytest.raises(error, match=message):
        algorithms.register_algorithm(name, declaration)
    assert algorithms.algorithm_names() == known
    assert algorithms.find_algorithm("trpo") is trpo_before
    assert trpo.name == "trpo"


def test_an_unknown_algorithm_names_the_nearest():
    with pytest.raises(ValueError, match="unknown algorithm 'trop': did you mean trpo"):
        algorithms.find_algorithm("trop")


FIRST_ORDER = (
    *("ppo", "spo", "drift_ppo", "fr_ppo", "espo", "tr_ppo", "ppo_asymmetric", "spma"),
    *("trgppo", "ppo_ewma", "vmpo", "trpl"),
)


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
        **{name: {"learning_rate": 1} for name in FIRST_ORDER},
        "fixpo": {"learning_rate": 1, "max_state_kl": 2},
    }
    assert set(expected) == set(algorithms.algorithm_names())
    for name, shrunk in expected.items():
        fields = dataclasses.fields(algorithms.find_algorithm(name))
        assert {f.name: declared(f).anneal for f in fields if declared(f).anneal} == shrunk


OWNERS = "'clip_eps', a setting of ppo_adaptive_lr, ppo_asymmetric, ppo_clip and 3 more: "


def test_a_misplaced_setting_names_its_algorithms(said, tmp_path):
    table = {"algorithm": "trpo", "env": "CartPole-v1", "update": {"clip_eps": 0.2}}
    for make in (lambda: trpo(clip_eps=0.2), lambda: Experiment.from_dict(table)):
        with pytest.raises((TypeError, ValueError)) as error:
            make()
        assert OWNERS in str(error.value)
    for flag in ("--clip-eps", "--update.clip-eps", "--clip_eps=0.1"):
        status, _, err = said("train", "trpo", "CartPole-v1", "--dry-run", flag, "0.2")
        assert (status, OWNERS in err) == (1, True)
    entry = '[sweep]\nenvs = "CartPole-v1"\nalgorithms = "trpo"\npreset = "none"\n'
    for more in (
        "[[experiments]]\nupdate.clip_eps = 0.2",
        "[[experiments]]\ngrid.clip_eps = [0.1, 0.2]",
    ):
        (tmp_path / "spec.toml").write_text(entry + more)
        status, _, err = said("sweep", tmp_path / "spec.toml", "--dry-run")
        assert (status, OWNERS in err) == (1, True), err
    # A setting of few algorithms names them all; a name that nobody has names the nearest.
    with pytest.raises(TypeError, match="a setting of fr_ppo: "):
        trpo(tau=0.1)
    with pytest.raises(TypeError, match="did you mean max_kl"):
        trpo(max_k=0.1)
    # The critic's setting of the same name goes on to work.
    options = ("--critic.clip-eps", "0.2", "--dry-run")
    assert said("train", "trpo", "CartPole-v1", *options)[0] == 0
