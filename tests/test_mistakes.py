"""Mistakes that people make, and what they are told: the remedy, before anything is compiled."""

from pathlib import Path

import distrax
import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kltrust as kt
from kltrust import environments, updates
from kltrust.checks import as_space
from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.config.spec_source import files_like
from kltrust.experiments.engine.program import validate
from kltrust.types import (
    Discrete,
    MaskedSpace,
    MultiBinary,
    MultiDiscrete,
    PolicyBatch,
    UpdateReport,
)

ENV, PENDULUM = kt.make("CartPole-v1"), kt.make("Pendulum-v1")
AGENT = kt.actor_critic(ENV, hidden=(8,))
KEY = jax.random.key(0)
SMALL = {"num_envs": 2, "num_steps": 4, "critic": kt.value_regression(num_minibatches=1)}
LOGITS = jnp.zeros((3, 2))


def learner(env=ENV, agent=AGENT, update=None, **more):
    update = kt.trpo() if update is None else update
    return kt.make_learner(env, agent, update, **{**SMALL, **more})


def step(update):
    """One iteration by an algorithm that is this function, traced."""

    class Own:
        def init(self, params):
            return ()

    Own.update = staticmethod(update)
    made = learner(update=Own())
    return jax.eval_shape(lambda key: made.step(made.init(key)), KEY)


def state(runs=None):
    made = learner()
    return jax.eval_shape(made.init if runs is None else jax.vmap(made.init), keys(runs))


def keys(runs):
    return KEY if runs is None else jax.random.split(KEY, runs)


def gymnax_env():
    return gymnax.make("CartPole-v1")[0]


def gymnax_spaces():
    raw, params = gymnax.make("CartPole-v1")
    return ENV._replace(action_space=raw.action_space(params))


def five_results(key, state, action):
    state, obs, outcome = ENV.step(key, state, action)
    return obs, outcome.reward, False, False, {}


ROW = jnp.zeros(3)


def stepped(transition):
    space = kt.Box(-1.0, 1.0, ())
    env = environments.from_functions(
        lambda key: (0.0, 0.0), transition, space, kt.Discrete(2), max_steps=5
    )
    env.step(KEY, env.reset(KEY)[0], 0)


def own_update(losses):
    policy = lambda params, obs: distrax.Categorical(obs * params)  # noqa: E731
    obs = jnp.ones((3, 2))
    batch = PolicyBatch(obs, jnp.zeros(3, int), ROW, policy(1.0, obs))
    updates.sample_loss(policy, losses, 0.0)(1.0, batch)


MISTAKES = {
    # Arguments
    "a KL of each action": (
        lambda: kt.penalty_surrogate_loss(ROW, ROW, jnp.zeros((3, 4)), 1.0),
        "log_ratio [3], advantage [3], kl [3, 4]: kl has an axis too many",
    ),
    "a column of advantages": (
        lambda: kt.surrogate_loss(ROW, ROW[:, None]),
        "drop the last axis of advantage",
    ),
    "a mean KL": (
        lambda: kt.penalty_surrogate_loss(ROW, ROW, ROW.mean(), 1.0),
        "kl is one number, give one for each row",
    ),
    "several keys": (
        lambda: kt.train(learner(), jax.random.split(KEY, 2), 1),
        "one key is needed, got [2] keys: vmap over them",
    ),
    "a name of another library": (lambda: kt.PPO, "did you mean ppo"),
    "a number of units": (lambda: kt.actor_critic(ENV, hidden=64), "write (64,)"),
    "a step with four results": (
        lambda: stepped(lambda *_: (0.0, 0.0, 0.0, False)),
        "(state, obs, reward, terminated, truncated), got 4 results",
    ),
    "a step with an info": (
        lambda: stepped(lambda *_: (0.0, 0.0, 0.0, False, {})),
        "got a dict in place of truncated",
    ),
    "losses that are a mean": (
        lambda: own_update(lambda sample: jnp.mean(sample.log_ratio)),
        "losses [], advantage [3]",
    ),
    "an algorithm without losses": (
        lambda: updates.FirstOrder().losses(None, None),
        "FirstOrder defines no losses(self, sample, coefficient)",
    ),
    "a list of ratios": (lambda: kt.surrogate_loss([1.0], ROW[:1]), "jnp.asarray makes one"),
    "a distribution as a ratio": (
        lambda: kt.surrogate_loss(distrax.Categorical(ROW), ROW),
        "log_ratio must be an array, got",
    ),
    "an integer as a key": (lambda: kt.train(learner(), 0, 1), "jax.random.key(0)"),
    "a key in the learner's place": (lambda: kt.train(KEY, learner(), 1), "a key must come from"),
    "no learner": (
        lambda: kt.train(ENV, KEY, 1),
        "as kltrust.make_learner returns, got an object of Env",
    ),
    "a name of an environment": (lambda: learner("CartPole-v1"), "kltrust.make('CartPole-v1')"),
    "a name for an agent": (lambda: kt.actor_critic("CartPole-v1"), "kltrust.make('CartPole-v1')"),
    "a name of an algorithm": (lambda: learner(update="trpo"), "got the name 'trpo': use trpo()"),
    "a forgotten call": (lambda: learner(update=kt.trpo), "call it, as in trpo()"),
    "a critic not called": (
        lambda: learner(critic=kt.value_regression),
        "as in value_regression()",
    ),
    "agent and environment swapped": (lambda: learner(AGENT, ENV), "the environment comes first"),
    "swapped in evaluate": (
        lambda: kt.evaluate(AGENT, ENV, state(), KEY, 2),
        "environment comes first",
    ),
    "an array for an agent": (lambda: learner(agent=LOGITS), "got an array of shape [3, 2]"),
    "parameters in evaluate": (
        lambda: kt.evaluate(ENV, AGENT, {}, KEY, 2),
        "must be a LearnerState",
    ),
    "many runs in evaluate": (lambda: kt.evaluate(ENV, AGENT, state(2), KEY, 2), "vmap evaluate"),
    # Settings
    "a name spelled wrongly": (lambda: kt.trpo(max_k=0.1), "did you mean max_kl"),
    "a setting of another": (lambda: kt.trpo(clip_eps=0.1), "unknown setting of trpo 'clip_eps'"),
    "a setting without its name": (lambda: kt.trpo(0.1), "by name, as in trpo(max_kl=0.1)"),
    "a learner's setting": (lambda: learner(gama=0.9), "did you mean gamma"),
    "a text for a number": (lambda: kt.trpo(max_kl="0.1"), "max_kl must be a number, got '0.1'"),
    "nothing for a number": (lambda: kt.trpo(max_kl=None), "max_kl must be a number"),
    "a negative bound": (lambda: kt.trpo(max_kl=-1.0), "greater than 0"),
    "half an iteration": (lambda: kt.trpo(cg_iters=2.5), "whole number of at least 1, got 2.5"),
    "an array for a size": (lambda: learner(num_envs=jnp.array(2)), "must be a whole number"),
    "a schedule of another number": (
        lambda: kt.ppo_clip(clip_eps=optax.constant_schedule(1.0)),
        "got a function: a learning rate may be a schedule of optax",
    ),
    "an optimiser that is made": (
        lambda: kt.ppo_clip(optimizer=optax.adam(1e-3)),
        "or a function of the learning rate",
    ),
    "one width": (lambda: kt.actor_critic(ENV, hidden=64), "must be a list or a tuple, got 64"),
    "an activation of another": (
        lambda: kt.actor_critic(ENV, activation="tan"),
        "did you mean tanh",
    ),
    "a batch that does not divide": (
        lambda: learner(num_envs=3, update=kt.ppo_clip()),
        "a divisor of",
    ),
    # Parts of one's own
    "another environment's actions": (
        lambda: learner(ENV, kt.actor_critic(ENV._replace(action_space=kt.Discrete(3)))),
        "policy has 3 actions, CartPole-v1 has 2",
    ),
    "another environment's observations": (lambda: learner(PENDULUM), "does not fit Pendulum-v1"),
    "a value head of one column": (
        lambda: learner(agent=AGENT._replace(value=lambda p, o: AGENT.value(p, o)[..., None])),
        "take the last axis off",
    ),
    "logits for a distribution": (
        lambda: learner(agent=AGENT._replace(policy=lambda p, o: AGENT.policy(p, o).logits)),
        "distrax.Categorical(logits=logits)",
    ),
    "an update of two results": (lambda: step(lambda f, p, s, b, k: (p, s)), "got 2 results"),
    "an update of no results": (
        lambda: step(lambda f, p, s, b, k: None),
        "must return (params, state",
    ),
    "an update of two arguments": (
        lambda: step(lambda p, b: p),
        "(policy, params, state, batch, key)",
    ),
    "a report that is a list": (
        lambda: step(lambda f, p, s, b, k: (p, s, UpdateReport([1.0]))),
        "a dict of arrays by name, got an object of list",
    ),
    "parameters of another shape": (
        lambda: step(lambda f, p, s, b, k: (jax.tree.map(lambda x: x[None], p), s, {})),
        "must return parameters like those it got: ",
    ),
    "a step with gym's five results": (
        lambda: kt.check_env(ENV._replace(step=five_results)),
        "step must return (state, obs, Outcome)",
    ),
    # Functions
    "logits in a KL": (lambda: kt.kl_divergence(LOGITS, LOGITS), "categorical_kl_from_logits"),
    "a pair in a KL": (lambda: kt.kl_divergence((0, 1), (0, 1)), "got an object of tuple"),
    "two families in a KL": (
        lambda: kt.kl_divergence(distrax.Categorical(LOGITS), distrax.Normal(0.0, 1.0)),
        "",
    ),
    "an environment's case": (lambda: kt.make("cartpole"), "did you mean 'CartPole-v1'"),
    "a parameter it has not": (lambda: kt.make("CartPole-v1", gravit=1.0), "no parameter 'gravit'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_its_remedy(mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises((AttributeError, NotImplementedError, TypeError, ValueError)) as error:
        make()
    assert message in str(error.value)


def test_a_vector_in_a_report_is_no_cell_of_a_table():
    @kt.algorithm("of_vectors")
    class OfVectors:
        size: int = kt.setting(3, "Of the vector.")

        def init(self, params):
            return ()

        def update(self, policy, params, state, batch, key):
            return params, state, {"x": jnp.zeros(self.size)}

    experiment = Experiment.from_dict({"algorithm": "of_vectors", "env": "CartPole-v1"})
    with pytest.raises(ValueError, match=r"of_vectors reports \['x'\] of shape \[3\]"):
        validate(experiment)


@pytest.mark.parametrize("library", [gymnax.environments.spaces, gymnasium.spaces])
def test_spaces_of_others_are_taken_where_ours_are(library):
    low, high = np.float32([-1, -2]), np.float32([1, 2])
    box = library.Box(low, high, (2,), np.float32)
    ours = as_space(box)
    assert ours.shape == (2,)
    np.testing.assert_array_equal([ours.low, ours.high], [low, high])
    assert as_space(ours) is ours
    assert as_space(library.Discrete(3)) == Discrete(3)
    nested = as_space(library.Dict({"a": library.Discrete(2), "b": box}))
    assert nested["a"] == Discrete(2)
    assert as_space(nested) is nested
    assert as_space(library.Tuple((library.Discrete(2), library.Discrete(3)))) == (
        Discrete(2),
        Discrete(3),
    )
    assert as_space(MaskedSpace(library.Discrete(2))) == MaskedSpace(Discrete(2))
    assert environments.sample_action(library.Discrete(3), KEY) in range(3)
    env = environments.from_functions(
        lambda key: (jnp.zeros(2), jnp.zeros(2)),
        lambda key, state, action: (state, state, 0.0, False, False),
        box,
        library.Discrete(3),
        max_steps=2,
    )
    assert env.action_space == Discrete(3)
    kt.check_env(env)


def test_only_gymnasium_has_these_spaces():
    assert as_space(gymnasium.spaces.MultiDiscrete([2, 3])) == MultiDiscrete((2, 3))
    assert as_space(gymnasium.spaces.MultiBinary(4)) == MultiBinary(4)
    for other in (gymnasium.spaces.Discrete(3, start=1), gymnasium.spaces.Text(3), None):
        assert as_space(other) is other


def test_what_people_write_and_may():
    assert kt.make(gymnax_env()).name == "CartPole-v1"
    assert kt.make(gymnax_env(), gravity=1.0).action_space == ENV.action_space
    agent = kt.actor_critic(gymnax_spaces(), hidden=[4])
    for env in (gymnax_env(), gymnax.make("CartPole-v1"), gymnax_spaces()):
        kt.check_env(env)
        kt.check_agent(env, agent)
        small = {"num_envs": 2, "num_steps": 16}
        made = kt.make_learner(env, kt.actor_critic(env, hidden=[4]), kt.vanilla_pg(), **small)
        state = jax.eval_shape(made.init, KEY)
        jax.eval_shape(lambda s, env=env: kt.evaluate(env, agent, s, KEY, 2), state)
    assert environments.hide_observations(gymnax_env(), [0, 2]).observation_space.shape == (2,)
    kt.register("theirs", type(gymnax_env()))
    assert kt.make("theirs").name == "theirs"
    kt.check_agent(ENV, kt.actor_critic(ENV, hidden=[8], activation=jax.nn.relu))
    legacy, typed = (
        jax.eval_shape(learner().init, key) for key in (jax.random.PRNGKey(0), jax.random.key(0))
    )
    assert jax.tree.structure(legacy) == jax.tree.structure(typed)
    jax.eval_shape(lambda s: kt.evaluate(ENV, AGENT, s, jax.random.PRNGKey(0), 2), typed)


def test_a_file_that_is_not_there_is_told_what_is_near(tmp_path):
    (tmp_path / "quick.toml").touch()
    assert files_like(tmp_path / "qick.toml") == f": did you mean {tmp_path / 'quick.toml'}?"
    names = " Known are tuned, none, and paths of TOML files"
    assert files_like(Path("tunned"), ("tuned", "none")) == f": did you mean tuned?{names}"
    assert files_like(tmp_path / "other", ("tuned", "none")) == f".{names}"
    assert files_like(tmp_path / "other") == ""
