"""The learner: what an update sees, what is measured, what compiles, and what is the same bits."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect

import distrax
import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import oracles
import pytest
from toys import KINDS, arrays, few, gaussian_start, same_bits

from kltrust import algorithms, tree, value_regression
from kltrust.divergences import kl_divergence
from kltrust.environments import make
from kltrust.learner import (
    LearnerSettings,
    _learner as learner_module,
    evaluate,
    make_learner,
    policy_of,
    run,
    train,
)
from kltrust.networks import actor_critic
from kltrust.rollout.normalization import Moments, normalize, update_moments
from kltrust.settings import is_traced
from kltrust.types import ActorCritic, UpdatePair

ENVS = ("CartPole-v1", "Pendulum-v1")
NUM_ITERATIONS = 6
# Small, more than one of everything, and steps that move the policy by more than rounding.
FEW = {"num_epochs": 2, "num_minibatches": 2}
UPDATES = {name: few(name, 1.0 if name == "vanilla_pg" else 0.02) for name in KINDS}
CRITIC = value_regression(**FEW)
SIZES = {"num_envs": 4, "num_steps": 16, "critic": CRITIC}
# Programs whose bits and rounding are looked at are compiled as users' are, the rest in less time.
OPTIMISED = [("CartPole-v1", "trpo"), ("Pendulum-v1", "ppo_clip")]


@contextlib.contextmanager
def quick_compile(quick=True):
    """Less optimised programs: most of this file's time would be the compiler's."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# --- a spy ----------------------------------------------------------------------------------------


@jax.tree_util.register_pytree_node_class
class Noting:
    """A distribution whose samples carry the log-probability that they were drawn with."""

    def __init__(self, base):
        self.base = base

    def sample(self, *, seed):
        raw = self.base.sample(seed=seed)
        return {"raw": raw, "log_prob": self.base.log_prob(raw)}

    def log_prob(self, action):
        return self.base.log_prob(action["raw"])

    def kl_divergence(self, other):
        return kl_divergence(self.base, other.base)

    def entropy(self):
        return self.base.entropy()

    def tree_flatten(self):
        return (self.base,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def noting(env, agent):
    """The same environment and agent, acting with noted log-probabilities."""

    def step(key, state, action):
        return env.step(key, state, action["raw"])

    def policy(params, obs):
        return Noting(agent.policy(params, obs))

    return env._replace(step=step), agent._replace(policy=policy)


def recording(inner):
    """An algorithm that also reports what it was given, measured before it moves anything."""

    def update(policy, params, state, batch, key):
        new = policy(params, batch.obs)
        seen = {
            "log_ratio": new.log_prob(batch.action) - batch.action["log_prob"],
            "log_ratio_old": batch.old.log_prob(batch.action) - batch.action["log_prob"],
            "kl": kl_divergence(batch.old, new),
            "obs": batch.obs,
            "action": batch.action["raw"],
            "advantage": batch.advantage,
        }
        plain = batch._replace(old=batch.old.base, action=batch.action["raw"])
        params, state, report = inner.update(
            lambda p, obs: policy(p, obs).base, params, state, plain, key
        )
        return params, state, {**getattr(report, "extra", report), "seen": seen}

    return UpdatePair(inner.init, update)


# The rollout's passes, of B rows, are compiled apart from the update's, of N: they may differ by
# some roundings of log-probabilities, which are sums of several units.
def assert_starts_at_old(seen, ratio_tolerance=2e-6, kl_tolerance=1e-7):
    assert np.max(np.abs(seen["log_ratio"])) <= ratio_tolerance
    assert np.max(np.abs(seen["log_ratio_old"])) <= ratio_tolerance
    assert np.max(np.abs(seen["kl"])) <= kl_tolerance


def network_of(env):
    return gaussian_start(actor_critic(env, (8,)))


# --- one program for each algorithm and environment -----------------------------------------------


def numbers_of(owner):
    """The settings that may be traced."""
    return {f.name: getattr(owner, f.name) for f in dataclasses.fields(owner) if is_traced(f)}


def settings_of(algorithm, factor=1.0):
    """Algorithm, critic and numbers of the learner, each moved by a factor: float32 arrays."""

    def moved(number):
        if number == float("inf"):
            return number if factor == 1 else 1.0
        return number * factor if number else 0.01 * (1 - factor)

    def all_moved(owner):
        numbers = {k: moved(v) for k, v in numbers_of(owner).items()}
        return dataclasses.replace(owner, **numbers)

    numbers = {"planned_iterations": float(NUM_ITERATIONS), **numbers_of(LearnerSettings())}
    settings = {
        "update": all_moved(UPDATES[algorithm]),
        "critic": all_moved(CRITIC),
        "learner": {k: moved(v) for k, v in numbers.items()},
    }
    return jax.tree.map(np.float32, settings)


@functools.cache
def parts_of(env_name):
    env = make(env_name)
    return env, *noting(env, network_of(env))


def learner_of(env_name, algorithm, settings):
    """Everything on; CartPole with standardised advantages, Pendulum without."""
    _, env, agent = parts_of(env_name)
    critic = settings["critic"]

    def slower(fraction):
        return dataclasses.replace(critic, learning_rate=critic.learning_rate * (1 - fraction))

    return make_learner(
        env,
        agent,
        recording(settings["update"]),
        **SIZES | {"critic": slower},
        **settings["learner"],
        normalize_advantages=env_name == "CartPole-v1",
        normalize_observations=True,
        normalize_rewards=env_name == "Pendulum-v1",
    )


def history(env_name, algorithm, settings, key):
    """(states at the start of every iteration, the last state, metrics)."""
    learner = learner_of(env_name, algorithm, settings)

    def step(state, _):
        new, metrics = learner.step(state)
        return new, (state, metrics)

    last, (states, metrics) = jax.lax.scan(step, learner.init(key), length=NUM_ITERATIONS)
    return states, last, metrics


@functools.cache
def program(env_name, algorithm):
    return jax.jit(functools.partial(history, env_name, algorithm))


@functools.cache
def result(env_name, algorithm, seed=0, factor=1.0):
    with quick_compile((env_name, algorithm) not in OPTIMISED):
        return program(env_name, algorithm)(settings_of(algorithm, factor), jax.random.key(seed))


everywhere = pytest.mark.parametrize(
    ("env_name", "algorithm"), [(ENVS[i % 2], name) for i, name in enumerate(KINDS)]
)
"""Every kind of algorithm, and either kind of action."""


# --- the start of an update -----------------------------------------------------------------------


@everywhere
def test_every_update_starts_at_the_policy_that_acted(env_name, algorithm):
    """The rollout's own log-probabilities against the update's, normaliser moving in between."""
    states, last, metrics = result(env_name, algorithm)
    assert np.shape(metrics.extra["seen"]["log_ratio"]) == (NUM_ITERATIONS, 64)
    assert_starts_at_old(metrics.extra["seen"])
    np.testing.assert_array_equal(states.normalizer.num_samples, 64 * np.arange(NUM_ITERATIONS))
    assert last.normalizer.num_samples == 64 * NUM_ITERATIONS
    moved = metrics.extra.get("accepted", np.ones(NUM_ITERATIONS, bool))
    assert np.sum(moved) >= NUM_ITERATIONS / 2
    assert np.all(np.asarray(metrics.kl)[moved] > 0)
    if algorithm == "trpo":
        assert np.all(metrics.kl <= 0.01 * (1 + 1e-5))


def _spied_run(**keywords):
    """Four iterations on the chain with a small plain agent."""
    env, agent = noting(known_envs.chain(4), linear_agent(4, 2))
    update = recording(algorithms.vanilla_pg(learning_rate=0.1))
    learner = make_learner(env, agent, update, **SIZES, normalize_observations=True, **keywords)
    with quick_compile():
        return jax.jit(lambda key: train(learner, key, 4))(jax.random.key(0))


def test_a_normaliser_that_moves_before_the_update_is_caught(monkeypatch):
    def moves_first(moments, x):
        of_a_rollout = jax.tree.leaves(x)[0].ndim == 3
        return normalize(update_moments(moments, x) if of_a_rollout else moments, x)

    assert_starts_at_old(_spied_run()[1].extra["seen"])
    monkeypatch.setattr(learner_module, "normalize", moves_first)
    with pytest.raises(AssertionError):
        assert_starts_at_old(_spied_run()[1].extra["seen"])


def test_an_old_that_is_rebuilt_from_other_parameters_is_caught(monkeypatch):
    make_batch = learner_module.make_batch

    def rebuilt(policy, params, *rest):
        return make_batch(policy, tree.scale(1.01, params), *rest)

    monkeypatch.setattr(learner_module, "make_batch", rebuilt)
    with pytest.raises(AssertionError):
        assert_starts_at_old(_spied_run()[1].extra["seen"])


def test_the_start_is_exact_in_double_precision(x64):
    env, agent = noting(known_envs.chain(4), linear_agent(4, 2, jnp.float64))
    learner = make_learner(
        env, agent, recording(algorithms.trpo()), **SIZES, normalize_observations=True
    )
    _, metrics = jax.jit(lambda key: train(learner, key, 4))(jax.random.key(0))
    assert metrics.kl.dtype == jnp.float64
    assert_starts_at_old(metrics.extra["seen"], 1e-12, 1e-12)
    assert np.all(metrics.kl > 1e-6)


# --- one iteration by hand ------------------------------------------------------------------------


def linear_agent(num_features, num_actions, dtype=jnp.float32):
    """Plain functions: logits x W, value x w."""

    def init(key):
        keys = jax.random.split(key)
        return (
            jax.random.normal(keys[0], (num_features, num_actions), dtype),
            jax.random.normal(keys[1], (num_features,), dtype),
        )

    return ActorCritic(
        init,
        lambda w, obs: distrax.Categorical(logits=obs.astype(dtype) @ w),
        lambda w, obs: obs.astype(dtype) @ w,
    )


def test_an_iteration_by_hand():
    """The chain is deterministic: from the actions alone all the rest follows, in numpy."""
    length, num_envs, num_steps, gamma, lam, rate = 4, 4, 40, 0.9, 0.8, 3.0
    env, agent = noting(known_envs.chain(length), linear_agent(length, 2))
    learner = make_learner(
        env,
        agent,
        recording(algorithms.vanilla_pg(learning_rate=rate)),
        num_envs=num_envs,
        num_steps=num_steps,
        gamma=gamma,
        gae_lambda=lam,
        critic=value_regression(num_minibatches=1),
    )
    state = learner.init(jax.random.key(3))
    with quick_compile():
        new, metrics = jax.jit(learner.step)(state)
    seen = metrics.extra["seen"]
    policy, value = np.float64(state.policy_params), np.float64(state.value_params)

    action = np.asarray(seen["action"]).reshape(num_envs, num_steps)
    cell = np.zeros((num_envs, num_steps), int)
    next_cell, terminated, truncated = cell.copy(), cell > 0, cell > 0
    returns, lengths = [], []
    for b in range(num_envs):
        at, steps = 0, 0
        for t in range(num_steps):
            cell[b, t] = at
            at, steps = (at + 1 if action[b, t] else 0), steps + 1
            next_cell[b, t] = at
            terminated[b, t], truncated[b, t] = at == length - 1, steps == 4 * length
            if terminated[b, t] or truncated[b, t]:
                returns.append(float(terminated[b, t]))
                lengths.append(steps)
                at, steps = 0, 0
    assert terminated.any()
    assert truncated.any()
    np.testing.assert_array_equal(np.argmax(seen["obs"], -1), cell.reshape(-1))

    trajectories = (1.0 * terminated, value[cell], value[next_cell], terminated, truncated)
    advantage = np.ravel([oracles.gae(*one, gamma, lam) for one in zip(*trajectories, strict=True)])
    target = advantage + value[cell].reshape(-1)
    residual = target - value[cell].reshape(-1)
    advantage = (advantage - advantage.mean()) / advantage.std()
    np.testing.assert_allclose(seen["advantage"], advantage, rtol=2e-4, atol=2e-5)

    x = np.eye(length)[cell.reshape(-1)]
    chosen = np.eye(2)[action.reshape(-1)]
    gradient = x.T @ ((chosen - oracles.softmax(x @ policy)) * advantage[:, None]) / len(x)
    np.testing.assert_allclose(new.policy_params, policy + rate * gradient, rtol=1e-4, atol=1e-5)

    # What is measured of the update.
    old, after = (oracles.softmax(x @ p) for p in (policy, np.float64(new.policy_params)))
    kl, kl_reverse = oracles.rows(oracles.kl, old, after), oracles.rows(oracles.kl, after, old)
    ratio = np.sum(chosen * after / old, -1)
    for name, want in {
        "kl": kl.mean(),
        "kl_reverse": kl_reverse.mean(),
        "kl_max": kl.max(),
        "surrogate_gain": np.mean((ratio - 1) * advantage),
        "max_ratio": ratio.max(),
        "entropy": oracles.rows(oracles.entropy, after).mean(),
        "clip_fraction": np.mean(np.abs(ratio - 1) > 0.2),
    }.items():
        np.testing.assert_allclose(getattr(metrics, name), want, rtol=1e-3, atol=2e-6, err_msg=name)
    # The two directions are told apart.
    assert abs(kl.mean() - kl_reverse.mean()) > 2 * (1e-3 * kl.mean() + 2e-6)

    np.testing.assert_allclose(metrics.value_loss, 0.5 * np.mean(residual**2), rtol=1e-4)
    explained = 1 - residual.var() / target.var()
    np.testing.assert_allclose(metrics.explained_variance, explained, rtol=1e-4)
    assert metrics.num_episodes == len(returns)
    assert metrics.return_sum == sum(returns)
    assert metrics.length_sum == sum(lengths)


# --- programs -------------------------------------------------------------------------------------


@everywhere
def test_one_compilation_for_all_settings_and_seeds(env_name, algorithm):
    base, other = result(env_name, algorithm), result(env_name, algorithm, 0, 0.9)
    seeded = result(env_name, algorithm, 1)
    assert program(env_name, algorithm)._cache_size() == 1
    assert not same_bits(base[1].policy_params, other[1].policy_params)
    assert not same_bits(base[1].policy_params, seeded[1].policy_params)
    assert np.all(np.isfinite(np.concatenate([x.ravel() for x in arrays(other[1].policy_params)])))
    again = program(env_name, algorithm)(settings_of(algorithm), jax.random.key(0))
    assert same_bits(base, again)
    assert program(env_name, algorithm)._cache_size() == 1


@pytest.mark.parametrize(("env_name", "algorithm"), OPTIMISED)
def test_chunks_give_the_same_bits(env_name, algorithm):
    """Six iterations in one program, and one iteration six times."""
    states, last, metrics = result(env_name, algorithm)
    chunk = jax.jit(
        lambda settings, state: run(learner_of(env_name, algorithm, settings), state, 1)
    )
    state = tree.take_rows(states, 0)
    for i in range(NUM_ITERATIONS):
        assert same_bits(state, tree.take_rows(states, i))
        state, one = chunk(settings_of(algorithm), state)
        assert same_bits(tree.take_rows(one, 0), tree.take_rows(metrics, i))
    assert same_bits(state, last)
    assert state.iteration == NUM_ITERATIONS
    assert chunk._cache_size() == 1


def test_lanes_over_seeds_and_settings_are_lone_runs():
    """In float32 lanes round differently; after one iteration they agree to 1e-4."""
    env_name, algorithm = "Pendulum-v1", "npg"
    lanes = jax.jit(jax.vmap(functools.partial(history, env_name, algorithm)))
    seeds, factors = (0, 1, 0), (1.0, 1.0, 0.9)
    settings = jax.tree.map(lambda *x: np.stack(x), *(settings_of(algorithm, f) for f in factors))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    with quick_compile():
        states, _, metrics = lanes(settings, keys)
        lanes(jax.tree.map(lambda x: 0.99 * x, settings), keys)
    assert lanes._cache_size() == 1
    for i, (seed, factor) in enumerate(zip(seeds, factors, strict=True)):
        alone, _, alone_metrics = result(env_name, algorithm, seed, factor)
        for name in ("policy_params", "value_params", "normalizer", "obs"):
            got, want = getattr(states, name), getattr(alone, name)
            for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                np.testing.assert_allclose(x[i, 1], y[1], rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(metrics.kl[i, 0], alone_metrics.kl[0], rtol=1e-3)


@pytest.mark.parametrize("algorithm", ["npg", "ppo_clip"])
def test_float32_stays_float32_where_x64_is_on(algorithm):
    env_name = "Pendulum-v1"

    def avals(x):
        return [(leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in x]

    want = avals(jax.tree.leaves(result(env_name, algorithm)))
    with jax.enable_x64(True):
        got = jax.eval_shape(
            functools.partial(history, env_name, algorithm),
            settings_of(algorithm),
            jax.random.key(0),
        )
    assert avals(jax.tree.leaves(got)) == want
    dtypes = {dtype for _, dtype, _ in want}
    assert jnp.dtype("float64") not in dtypes
    assert jnp.dtype("int64") not in dtypes


# --- schedules ------------------------------------------------------------------------------------


def _trained(update, num_iterations, env=None, **keywords):
    env = env or known_envs.chain(4)
    learner = make_learner(env, linear_agent(4, 2), update, **(SIZES | keywords))

    def step(state, _):
        new, metrics = learner.step(state)
        return new, (new, metrics)

    with quick_compile():
        return jax.jit(lambda key: jax.lax.scan(step, learner.init(key), length=num_iterations)[1])(
            jax.random.key(0)
        )


def test_a_schedule_sees_the_fraction_of_the_plan():
    def update(fraction):
        inner = algorithms.vanilla_pg(learning_rate=jnp.where(fraction < 0.5, 0.1, 0))

        def report(*args):
            params, state, extra = inner.update(*args)
            return params, state, {**extra, "fraction": fraction}

        return inner.init, report

    states, metrics = _trained(
        update,
        4,
        critic=lambda fraction: value_regression(
            learning_rate=jnp.where(fraction < 0.75, 0.1, 0), **FEW
        ),
        planned_iterations=4,
    )
    np.testing.assert_array_equal(metrics.extra["fraction"], [0, 0.25, 0.5, 0.75])
    policy, value = np.asarray(states.policy_params), np.asarray(states.value_params)
    assert (policy[0] != policy[1]).any()
    np.testing.assert_array_equal(policy[1], policy[3])  # frozen by a step of 0, bit for bit
    assert (value[1] != value[2]).any()
    np.testing.assert_array_equal(value[2], value[3])
    np.testing.assert_array_equal(metrics.kl[2:], 0)


class Doubling:
    """A critic of one's own, which keeps what it was given in its state."""

    def init(self, params):
        return {"updates": jnp.int32(0), "error": jnp.float32(0), "targets": jnp.float32(0)}

    def update(self, value, params, state, batch, key):
        now = value(params, batch.obs)
        error, targets = jnp.max(jnp.abs(now - batch.value)), jnp.std(batch.target)
        state = {"updates": state["updates"] + 1, "error": error, "targets": targets}
        return tree.scale(2, params), state


def test_a_critic_of_ones_own():
    states, _ = _trained(algorithms.vanilla_pg(), 3, critic=Doubling())
    np.testing.assert_array_equal(states.value_params[1:], 2 * states.value_params[:-1])
    np.testing.assert_array_equal(states.value_state["updates"], [1, 2, 3])
    assert np.max(states.value_state["error"]) < 1e-6  # of the values that it has now
    assert np.min(states.value_state["targets"]) > 1e-3
    scheduled, _ = _trained(
        algorithms.vanilla_pg(), 3, critic=lambda fraction: Doubling(), planned_iterations=3
    )
    assert same_bits(scheduled, states)


# --- options --------------------------------------------------------------------------------------

TRACED_CHANGES = {
    "learner": {"gamma": 0.5, "gae_lambda": 0.3, "planned_iterations": 9},
    "critic": {"learning_rate": 0.01, "clip_eps": 1e-3, "max_grad_norm": 1e-6},
}
CRITIC_CHANGES = {"num_epochs": 3, "num_minibatches": 4, "optimizer": "sgd"}
STATIC_CHANGES = {
    "num_envs": 2,
    "num_steps": 8,
    "normalize_advantages": False,
    "normalize_observations": True,
    "normalize_rewards": True,
    "minibatch_blocks": 2,
    "stagger_steps": 5,
}


def test_every_option_of_the_learner_is_tested():
    options = set(inspect.signature(make_learner).parameters)
    options -= {"env", "agent", "update", "critic", "settings"}
    # What `audit` changes is what is measured: test_learner_audit.py.
    assert options == TRACED_CHANGES["learner"].keys() | STATIC_CHANGES.keys() | {"audit"}
    fields = {f.name for f in dataclasses.fields(CRITIC)}
    assert fields == TRACED_CHANGES["critic"].keys() | CRITIC_CHANGES.keys()


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in TRACED_CHANGES.items() for name in names]
)
def test_every_number_changes_the_computation(part, name):
    env_name, algorithm = "CartPole-v1", "trpo"
    settings = settings_of(algorithm)
    change = {name: np.float32(TRACED_CHANGES[part][name])}
    if part == "critic":
        settings["critic"] = dataclasses.replace(settings["critic"], **change)
    else:
        settings["learner"] |= change
    result(env_name, algorithm)
    _, last, _ = program(env_name, algorithm)(settings, jax.random.key(0))
    assert not same_bits(last.value_params, result(env_name, algorithm)[1].value_params)
    assert program(env_name, algorithm)._cache_size() == 1


@functools.cache
def _with_option(name=None):
    changed = {name: STATIC_CHANGES[name]} if name in STATIC_CHANGES else {}
    if name in CRITIC_CHANGES:
        changed = {"critic": dataclasses.replace(CRITIC, **{name: CRITIC_CHANGES[name]})}
    # Episodes that end, rewards that vary.
    states, metrics = _trained(algorithms.vanilla_pg(learning_rate=0.1), 3, **changed)
    return [np.asarray(x) for x in (states.policy_params, states.value_params, metrics.value_loss)]


@pytest.mark.parametrize("name", [*STATIC_CHANGES, *CRITIC_CHANGES])
def test_every_flag_and_count_changes_the_computation(name):
    assert any((x != y).any() for x, y in zip(_with_option(name), _with_option(), strict=True))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 2.5}, "num_envs"),
        ({"num_steps": -1}, "num_steps"),
        ({"critic": value_regression(num_minibatches=7)}, "critic.num_minibatches=7 does not"),
        ({"update": algorithms.ppo_clip(num_minibatches=7)}, "update.num_minibatches=7 does not"),
        ({"gamma": -0.1}, "gamma"),
        ({"gamma": 1.01}, "gamma must be .* at most 1"),
        ({"gamma": float("nan")}, "gamma"),
        ({"gae_lambda": -0.1}, "gae_lambda"),
        ({"gae_lambda": 1.5}, "gae_lambda must be .* at most 1"),
        ({"normalize_rewards": 1}, "normalize_rewards must be True or False"),
        ({"minibatch_blocks": 3}, "minibatch_blocks=3 does not divide num_envs=4"),
        ({"minibatch_blocks": 0}, "minibatch_blocks must be at least 1"),
        (
            {"minibatch_blocks": 4, "critic": value_regression(num_minibatches=32)},
            "num_minibatches=32 does not divide each of 4 blocks of 16 rows",
        ),
        ({"gama": 0.9}, "setting of make_learner 'gama': did you mean gamma"),
        ({"planned_iterations": 0}, "planned_iterations"),
        ({"stagger_steps": -1}, "stagger_steps must be at least 0"),
        ({"stagger_steps": 2.5}, "stagger_steps must be a whole number"),
        ({"audit": "deep"}, "unknown audit 'deep': .*default, extended, full"),
        ({"critic": lambda fraction: CRITIC}, "planned_iterations"),
        ({"update": lambda fraction: algorithms.trpo()}, "planned_iterations"),
    ],
    ids=lambda x: ", ".join(x) if isinstance(x, dict) else "",
)
def test_bad_options_are_refused_before_anything_is_traced(keywords, message):
    untraceable = ActorCritic(*(lambda *args: pytest.fail("traced"),) * 3)
    arguments = {"update": algorithms.trpo()} | SIZES | keywords
    with pytest.raises(ValueError, match=message):
        make_learner(known_envs.chain(4), untraceable, **arguments)


def test_settings_as_one_value():
    settings = LearnerSettings(num_envs=2, num_steps=8, gamma=0.5)
    update = algorithms.vanilla_pg()
    whole, changed, by_name = (
        _trained(update, 2, **keywords)
        for keywords in (
            {"settings": settings, "num_envs": 2, "num_steps": 8},
            {"settings": settings, "num_envs": 2, "num_steps": 8, "gamma": 0.9},
            {"num_envs": 2, "num_steps": 8, "gamma": 0.5},
        )
    )
    assert same_bits(whole, by_name)
    assert not same_bits(changed, by_name)


# --- how a training begins ------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 10, 25])
def test_episodes_that_begin_at_different_times(most):
    """A reward of 1 at every step, a time limit of 10: state, length and return are one number."""
    env, agent = known_envs.reward_one(10), linear_agent(1, 2)
    sizes = SIZES | {"num_envs": 300}

    def begun(**keywords):
        learner = make_learner(env, agent, algorithms.vanilla_pg(), **sizes, **keywords)
        return jax.jit(learner.init)(jax.random.key(0))

    state, together = begun(stagger_steps=most), begun()
    assert not together.episode_length.any()
    np.testing.assert_array_equal(state.episode_length, state.env_state)
    np.testing.assert_array_equal(state.episode_return, state.env_state)
    counts = np.bincount(np.asarray(state.episode_length), minlength=10)
    # Steps 0 to most - 1 are as likely as each other, and 0 comes after 9.
    expected = np.bincount(np.arange(most) % 10, minlength=10) / most
    assert (counts[expected == 0] == 0).all()
    np.testing.assert_allclose(counts / 300, expected, atol=4 * (0.25 / 300) ** 0.5)
    for name in ("policy_params", "value_params", "value_state", "normalizer", "iteration"):
        assert same_bits(getattr(state, name), getattr(together, name))


# --- what is measured -----------------------------------------------------------------------------


@everywhere
def test_episodes_are_counted_across_iterations(env_name, algorithm):
    _, last, metrics = result(env_name, algorithm)
    steps = SIZES["num_steps"] * NUM_ITERATIONS
    if env_name == "CartPole-v1":
        # It pays 1 a step: every step is in an episode that ended or in one that is under way.
        whole = steps * SIZES["num_envs"]
        assert np.sum(metrics.length_sum) + np.sum(last.episode_length) == whole
        assert np.sum(metrics.return_sum) + np.sum(last.episode_return) == whole
        assert np.sum(metrics.num_episodes) > 0
        return
    # No episode of Pendulum ends within these 96 steps: that is said, and nothing is NaN.
    np.testing.assert_array_equal(metrics.num_episodes, 0)
    np.testing.assert_array_equal(metrics.return_sum, 0)
    np.testing.assert_array_equal(last.episode_length, steps)
    assert all(np.isfinite(x).all() for x in arrays(metrics))
    for name in ("nonfinite_rewards", "nonfinite_observations", "nonfinite_update"):
        np.testing.assert_array_equal(getattr(metrics, name), 0)


def test_returns_are_raw_and_add_up_over_iterations():
    """Episodes of 10 steps in iterations of 16: 1, 2, 1, 2, 2 of them end, whatever is scaled."""
    env = known_envs.reward_one(10)
    agent = network_of(env)
    learner = make_learner(env, agent, algorithms.vanilla_pg(), **SIZES, normalize_rewards=True)
    with quick_compile():
        state, metrics = jax.jit(lambda key: train(learner, key, 5))(jax.random.key(0))
    np.testing.assert_array_equal(metrics.num_episodes, 4 * np.array([1, 2, 1, 2, 2]))
    np.testing.assert_array_equal(metrics.return_sum, 40 * np.array([1, 2, 1, 2, 2]))
    np.testing.assert_array_equal(metrics.length_sum, metrics.return_sum)
    np.testing.assert_array_equal(state.episode_return, 0)
    assert state.reward_scale.moments.num_samples == 4 * 16 * 5


@pytest.mark.parametrize(
    ("env", "rewards", "observations"),
    # After three steps: 13 of the first 16 and all later ones, in 4 environments.
    [(known_envs.nan_reward(3), [52, 64], 0), (known_envs.nan_obs(3), 0, [52, 64])],
    ids=["reward", "obs"],
)
@pytest.mark.parametrize("algorithm", ["vanilla_pg", "trpo"])
def test_what_is_not_finite_is_counted(env, rewards, observations, algorithm):
    agent = network_of(env)
    learner = make_learner(env, agent, getattr(algorithms, algorithm)(), **SIZES)
    with quick_compile():
        state, metrics = jax.jit(lambda key: train(learner, key, 2))(jax.random.key(0))
    np.testing.assert_array_equal(metrics.nonfinite_rewards, np.broadcast_to(rewards, 2))
    np.testing.assert_array_equal(metrics.nonfinite_observations, np.broadcast_to(observations, 2))
    np.testing.assert_array_equal(metrics.nonfinite_update, 1)
    if algorithm == "trpo":  # the search finds no step that improves on NaN, and restores
        assert not np.any(metrics.extra["accepted"])
        assert all(np.isfinite(x).all() for x in arrays(state.policy_params))


# --- evaluation -----------------------------------------------------------------------------------


def _evaluator(env, policy, **keywords):
    """``returns(params, normalizer, key)`` of a policy, compiled once."""
    agent = ActorCritic(lambda key: (jnp.zeros(2), ()), policy, lambda params, obs: obs[..., 0])
    learner = make_learner(env, agent, algorithms.vanilla_pg(), **SIZES)
    state = learner.init(jax.random.key(0))

    @jax.jit
    def returns(params, normalizer, key):
        moved = state._replace(policy_params=params, normalizer=normalizer)
        return evaluate(env, agent, moved, key, **keywords)

    return returns


def _same_everywhere(params, obs):
    return distrax.Categorical(logits=jnp.broadcast_to(params, (*obs.shape[:-1], 2)))


def _chance(length, limit):
    """Of `length - 1` heads in a row within so many tosses of a fair coin."""
    at = np.eye(length)[0]
    for _ in range(limit):
        at = np.concatenate([[at[:-1].sum() / 2], at[:-2] / 2, [at[-1] + at[-2] / 2]])
    return at[-1]


def test_evaluation_by_mode_and_by_sample():
    env, key = known_envs.chain(5), jax.random.key(0)
    by_mode = _evaluator(env, _same_everywhere, num_episodes=4)
    by_sample = _evaluator(env, _same_everywhere, num_episodes=4000, deterministic=False)
    nearly_fair = jnp.array([0.0, 1e-4])
    np.testing.assert_array_equal(by_mode(nearly_fair, None, key), [1] * 4)
    np.testing.assert_array_equal(by_mode(-nearly_fair, None, key), [0] * 4)
    assert by_mode._cache_size() == 1
    returns = by_sample(nearly_fair, None, key)
    chance = _chance(5, 20)
    assert 0.2 < chance < 0.8
    assert abs(np.mean(returns) - chance) < 4 * np.sqrt(chance * (1 - chance) / 4000)
    np.testing.assert_array_equal(returns, by_sample(nearly_fair, None, key))
    assert np.any(returns != by_sample(nearly_fair, None, jax.random.key(1)))


def test_evaluation_needs_a_limit():
    def always_right(params, obs):
        return _same_everywhere(jnp.array([0.0, 9.0]), obs)

    key = jax.random.key(0)
    endless = known_envs.nan_reward(100)
    with pytest.raises(ValueError, match="nan_reward has no time limit: pass max_steps"):
        _evaluator(endless, always_right, num_episodes=3)((), None, key)
    cut = _evaluator(endless, always_right, num_episodes=3, max_steps=7)
    np.testing.assert_array_equal(cut((), None, key), [7] * 3)
    # The environment's own limit is overruled: three steps do not reach the fifth cell.
    short = _evaluator(known_envs.chain(5), always_right, num_episodes=3, max_steps=3)
    np.testing.assert_array_equal(short((), None, key), [0] * 3)


def test_evaluation_uses_the_normaliser():
    """Right if the entries' sum is positive: raw one-hot vectors are, centred about 1 are not."""

    def policy(params, obs):
        return distrax.Categorical(logits=jnp.stack([0 * obs[..., 0], jnp.sum(obs, -1)], -1))

    returns = _evaluator(known_envs.chain(4), policy, num_episodes=4)
    moments = Moments(jnp.float32(9), jnp.ones(4), jnp.ones(4))
    key = jax.random.key(0)
    np.testing.assert_array_equal(returns((), moments, key), [0] * 4)
    np.testing.assert_array_equal(returns((), None, key), [1] * 4)  # negative control


def test_the_deployable_policy_is_the_one_that_acts():
    states, _, metrics = result("CartPole-v1", "trpo")
    _, _, agent = parts_of("CartPole-v1")
    state = tree.take_rows(states, 3)
    acting = policy_of(agent, state)(state.obs).base
    seen = tree.take_rows(metrics.extra["seen"], 3)
    first = slice(None, None, SIZES["num_steps"])  # environment-major: each one's first step
    log_prob = acting.log_prob(seen["action"][first])
    # The spy's ratio is zero, so the update's own probabilities are those of the rollout.
    new = agent.policy(state.policy_params, seen["obs"]).base.log_prob(seen["action"])[first]
    np.testing.assert_allclose(log_prob, new, atol=1e-6)
    unnormalised = agent.policy(state.policy_params, state.obs).base
    assert np.max(np.abs(unnormalised.log_prob(seen["action"][first]) - new)) > 1e-6


def test_learning_rates_are_used_as_adams():
    """The critic's first step of Adam moves each weight by its learning rate."""
    states, _ = _trained(
        algorithms.vanilla_pg(),
        1,
        critic=value_regression(num_epochs=1, num_minibatches=1, learning_rate=0.01),
    )
    learner = make_learner(
        known_envs.chain(4), linear_agent(4, 2), algorithms.vanilla_pg(), **SIZES
    )
    start = learner.init(jax.random.key(0)).value_params
    moved = np.abs(states.value_params[0] - start)
    assert moved.any()
    np.testing.assert_allclose(moved[moved > 0], 0.01, rtol=0.05)
