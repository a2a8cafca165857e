"""Environments: the contract over all of them, gymnax's own numbers, parameters, bounds, names."""

from __future__ import annotations

import functools
import urllib.error
from collections import OrderedDict

import gymnax
import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import pytest
from gymnax.environments.classic_control import cartpole
from gymnax.utils import load_mnist
from toys import output

from kltrust import environments
from kltrust.environments import (
    bound_actions,
    check_env,
    from_functions,
    hide_observations,
    make,
    sample_action,
)
from kltrust.environments._build import Drawn
from kltrust.networks.recurrent import with_memory
from kltrust.types import Box, Discrete, MultiDiscrete, Outcome

OFFLINE = [name for name in gymnax.registered_envs if name != "MNISTBandit-bsuite"]

KNOWN = {
    "reward_one": known_envs.reward_one(),
    "reward_one terminating": known_envs.reward_one(termination=0.3),
    "continuous": known_envs.nothing(known_envs.unbounded(1)),
    "digits": known_envs.nothing(MultiDiscrete((3, 2, 4))),
    "chain": known_envs.chain(),
}


def _avals(tree):
    return jax.tree.map(lambda x: f"{x.dtype}{x.shape}{' weak' * x.weak_type}", tree)


# The contract, over everything.


@pytest.mark.parametrize("name", OFFLINE)
def test_contract(name):
    check_env(make(name), num_steps=12)


@pytest.mark.parametrize("name", OFFLINE)
def test_32_bits_under_x64(name):
    key = jax.random.key(0)
    with jax.enable_x64(True):
        env = make(name)
        state, obs = jax.eval_shape(env.reset, key)
        action = jax.eval_shape(lambda k: sample_action(env.action_space, k), key)
        next_state, next_obs, outcome = jax.eval_shape(env.step, key, state, action)
    before = _avals((state, obs))
    assert not any("64" in x or "weak" in x for x in jax.tree.leaves(before))
    assert before == _avals((next_state, next_obs)) == _avals((next_state, outcome.next_obs))
    assert _avals(outcome[:3]) == ("float32()", "bool()", "bool()")


@pytest.mark.parametrize("env", KNOWN.values(), ids=KNOWN)
def test_known_environments_keep_the_contract(env):
    with jax.numpy_rank_promotion("raise"):
        check_env(env)


def test_gymnax_states_are_weakly_typed_without_the_adapter():
    """The control of the two tests above: gymnax's own avals change between reset and step."""
    env, params = gymnax.make("Pendulum-v1")
    key = jax.random.key(0)
    _, state = jax.eval_shape(lambda: env.reset_env(key, params))
    _, stepped, *_ = jax.eval_shape(lambda s: env.step_env(key, s, jnp.ones(1), params), state)
    assert _avals(state) != _avals(stepped)


def test_works_in_x64_and_with_strict_promotion():
    """gymnax's own code mixes widths and ranks; the caller's settings must not reach it."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        check_env(make("FourRooms-misc", use_visual_obs=True), num_steps=4)
        env = make("Pendulum-v1", g=9, dt=jnp.asarray(0.1))
        assert "64" not in str(_avals(_roll(env, jnp.ones(1), 3)))
        with jax.numpy_dtype_promotion("strict"):
            jax.eval_shape(make("MetaMaze-misc").reset, jax.random.key(0))


# gymnax's own numbers.


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_same_episodes_as_gymnax(name):
    env, (theirs, params) = make(name), gymnax.make(name)
    step, key = jax.jit(env.step), jax.random.key(3)
    state, obs = jax.jit(env.reset)(key)
    their_obs, their_state = theirs.reset(key, params)
    returns, their_returns, total, their_total = [], [], 0.0, 0.0
    for t in range(401):
        key_action, key_step = jax.random.split(jax.random.fold_in(key, t))
        raw = sample_action(env.action_space, key_action)
        bounded = 2.0 * jnp.clip(raw, -1.0, 1.0) if name == "Pendulum-v1" else raw
        state, obs, outcome = step(key_step, state, raw)
        their_obs, their_state, reward, terminated, truncated, info = theirs.step(
            key_step, their_state, bounded, params
        )
        assert (outcome.terminated, outcome.truncated) == (terminated, truncated)
        np.testing.assert_allclose(outcome.next_obs, info["final_observation"], atol=1e-4)
        np.testing.assert_allclose(obs, their_obs, atol=1e-4)
        total, their_total = total + outcome.reward, their_total + reward
        if terminated or truncated:
            returns.append(float(total))
            their_returns.append(float(their_total))
            total = their_total = 0.0
    assert len(returns) >= 2
    np.testing.assert_allclose(returns, their_returns, rtol=1e-5)


def _roll(env, action, num_steps):
    """Observations and outcomes of one lane that always does the same."""

    def body(state, key):
        state, obs, outcome = env.step(key, state, jnp.asarray(action))
        return state, (obs, outcome)

    def episodes(key):
        return jax.lax.scan(body, env.reset(key)[0], jax.random.split(key, num_steps))[1]

    return jax.jit(episodes)(jax.random.key(0))


@functools.cache
def _falling_cartpole():
    """Twelve steps to the left, as a function of the (traced) time limit."""
    return jax.jit(lambda limit: _roll(make("CartPole-v1", max_steps_in_episode=limit), 0, 12))


def test_time_limit_truncates_and_a_fall_terminates():
    obs, fall = _falling_cartpole()(500)
    assert fall.terminated.any()
    assert not fall.truncated.any()
    _, limit = _falling_cartpole()(4)
    assert not limit.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(limit.truncated), [3, 7, 11])
    # A fall at the very limit keeps both flags: which of them wins is the advantages' matter.
    end = int(np.flatnonzero(fall.terminated)[0])
    _, both = _falling_cartpole()(end + 1)
    assert both.terminated[end]
    assert both.truncated[end]
    # next_obs is before the reset.
    assert abs(fall.next_obs[end, 2]) > 0.2
    assert np.all(np.abs(obs[end]) <= 0.05)
    np.testing.assert_array_equal(obs[:end], fall.next_obs[:end])
    _, car = _roll(make("MountainCar-v0"), 1, 400)
    assert not car.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(car.truncated), [199, 399])


@pytest.mark.parametrize("name", [name for name in OFFLINE if name.endswith("-MinAtar")])
def test_minatar_s_time_limits_truncate(name):
    assert make(name).max_steps == (2500 if name.startswith("Freeway") else 1000)
    _, limit = _roll(make(name, max_steps_in_episode=3), 0, 7)
    assert not limit.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(limit.truncated), [2, 5])


def test_max_steps():
    assert make("CartPole-v1").max_steps == 500
    assert make("CartPole-v1", max_steps_in_episode=7).max_steps == 7
    assert make("FrozenLake-misc", map_name="8x8").max_steps == 200
    assert make("BernoulliBandit-misc").max_steps == 100
    traced = jax.jit(lambda n: make("CartPole-v1", max_steps_in_episode=n).max_steps)(9)
    assert traced == 9
    assert traced.dtype == jnp.int32


# Parameters.


@pytest.mark.parametrize(("name", "field"), [("Pendulum-v1", "g"), ("CartPole-v1", "gravity")])
def test_a_traced_parameter_sweeps_in_one_compilation(name, field):
    traces = []

    def final_obs(value):
        traces.append(value)
        env = make(name, **{field: value})
        action = jnp.full(1, 0.5) if isinstance(env.action_space, Box) else 1
        return _roll(env, action, 5)[1].next_obs[-1]

    sweep = jax.jit(jax.vmap(final_obs))
    values = jnp.array([5.0, 9.8, 20.0])
    lanes = sweep(values)
    sweep(values + 1)
    assert len(traces) == 1
    assert len(np.unique(np.asarray(lanes), axis=0)) == 3
    np.testing.assert_allclose(final_obs(20.0), lanes[2], rtol=1e-5, atol=1e-6)


def test_spaces_are_concrete_inside_a_trace():
    @jax.jit
    def inside(g, speed):
        env = make("Pendulum-v1", g=g, max_speed=speed, dt=0.1)
        assert isinstance(env.observation_space.high, np.ndarray)
        np.testing.assert_array_equal(env.observation_space.high, [1.0, 1.0, 8.0])
        return _roll(env, jnp.ones(1), 3)[1].reward

    inside(10.0, 5.0)
    high = make("Pendulum-v1", max_speed=5.0).observation_space.high
    np.testing.assert_array_equal(high, [1.0, 1.0, 5.0])


def test_an_argument_of_the_factory_is_static():
    assert make("DeepSea-bsuite", size=5).observation_space.shape == (5, 5)
    assert make("FrozenLake-misc", map_name="8x8").observation_space == Discrete(64)
    with pytest.raises(ValueError, match="static"):
        jax.jit(lambda n: make("DeepSea-bsuite", size=n).reset(jax.random.key(0)))(5)


def test_cartpole_masses_and_length_are_not_ignored():
    """gymnax keeps their sum and product as fields of their own: alone, masscart does nothing."""
    variants = {
        "reference": {},
        "masscart": {"masscart": 2.0},
        "masspole": {"masspole": 0.7},
        "length": {"length": 0.7},
        "total": {"total_mass": 2.1},
        "pinned": {"masscart": 2.0, "total_mass": 1.1},
    }
    obs = jax.jit(
        lambda: {
            name: _roll(make("CartPole-v1", **params), 1, 3)[1].next_obs
            for name, params in variants.items()
        }
    )()
    for changed in ("masscart", "masspole", "length"):
        assert np.any(np.asarray(obs[changed]) != obs["reference"]), changed
    np.testing.assert_allclose(obs["masscart"], obs["total"], rtol=1e-6)
    np.testing.assert_allclose(obs["pinned"], obs["reference"], rtol=1e-6)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gravitas": 1.0}, "gravitas.*gravity.*no arguments"),
        ({"gravity": jnp.ones(3)}, "shape"),
        ({"max_steps_in_episode": 2.5}, "int32"),
        ({"max_steps_in_episode": 0}, "at least 1"),
        ({"action_bound": "tanh"}, "no bounds"),
        ({"action_bound": "clamp"}, "clip, tanh, none"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        make("CartPole-v1", **params)


def test_a_wrong_action_shape_is_named():
    env = make("CartPole-v1")
    state, _ = env.reset(jax.random.key(0))
    with pytest.raises(ValueError, match="vmap"):
        env.step(jax.random.key(0), state, jnp.zeros(3, jnp.int32))


# Bounded actions.


def _first_step(name, raw, **params):
    """The state and the outcome after the first step of lanes with different raw actions."""

    def lane(raw):
        env = make(name, **params)
        state, _, outcome = env.step(jax.random.key(1), env.reset(jax.random.key(0))[0], raw)
        return state, outcome

    return jax.jit(jax.vmap(lane))(jnp.array(raw)[:, None])


def _torque(raw, **params):
    return _first_step("Pendulum-v1", raw, **params)[0].last_u


def test_raw_units_span_the_bounds():
    raw = [5.0, 1.0, 0.5, 0.0, -7.0, np.nan]
    np.testing.assert_array_equal(_torque(raw), [2.0, 2.0, 1.0, 0.0, -2.0, np.nan])
    # Pendulum clips for itself, in its own units.
    bare = _torque(raw, action_bound="none")
    np.testing.assert_array_equal(bare, [2.0, 1.0, 0.5, 0.0, -2.0, np.nan])
    squashed = _torque(raw, action_bound="tanh")
    np.testing.assert_allclose(squashed, 2 * np.tanh(raw), rtol=1e-6)
    assert np.all(np.abs(_torque([50.0, -50.0], action_bound="tanh")) == 2.0)


def test_the_map_follows_a_traced_bound():
    torque = jax.jit(lambda bound: _torque([5.0, 0.5], max_torque=bound))
    np.testing.assert_allclose(torque(4.0), [4.0, 2.0])
    np.testing.assert_allclose(torque(1.0), [1.0, 0.5])
    np.testing.assert_allclose(_torque([5.0, 0.5], max_torque=4.0), [4.0, 2.0])


def test_the_reward_sees_the_bounded_action():
    """MountainCarContinuous charges for the action as given: unbounded it would charge 2.5."""
    for bound, charge in (("clip", 0.1), ("none", 2.5)):
        _, outcome = _first_step("MountainCarContinuous-v0", [5.0], action_bound=bound)
        np.testing.assert_allclose(outcome.reward, [-charge], rtol=1e-6)


def test_action_spaces():
    clip, tanh, none = (
        make("Pendulum-v1", action_bound=bound).action_space for bound in ("clip", "tanh", "none")
    )
    assert (clip.low, clip.high) == ([-1.0], [1.0])
    assert (tanh.low, tanh.high) == ([-np.inf], [np.inf])
    assert (none.low, none.high) == ([-2.0], [2.0])
    assert make("CartPole-v1", action_bound="none").action_space == Discrete(2)


def _echo(low, high):
    """An environment whose observation is the action that reached it."""
    low, high = np.array(low, np.float32), np.array(high, np.float32)
    return from_functions(
        lambda key: (jnp.zeros(()), jnp.zeros(low.shape)),
        lambda key, state, action: (state, action, 0.0, False, False),
        known_envs.unbounded(*low.shape),
        Box(low, high, low.shape),
    )


@pytest.mark.parametrize("how", ["clip", "tanh"])
def test_mixed_bounds(how):
    """Two-sided dimensions are rescaled, one-sided ones clipped, open ones left alone."""
    largest = np.finfo(np.float32).max
    env = bound_actions(_echo([-2, 0, -np.inf, -largest], [6, np.inf, np.inf, largest]), how)
    state, _ = env.reset(jax.random.key(0))
    squash = np.tanh if how == "tanh" else lambda a: np.clip(a, -1, 1)
    for raw in (-3.0, 0.25, 3.0):
        _, obs, _ = env.step(jax.random.key(0), state, jnp.full(4, raw))
        expected = [2 + 4 * squash(raw), max(raw, 0), raw, raw]
        np.testing.assert_allclose(obs, expected, rtol=1e-6)
    edge = np.inf if how == "tanh" else 1.0
    np.testing.assert_array_equal(env.action_space.low, [-edge, 0, -np.inf, -largest])
    np.testing.assert_array_equal(env.action_space.high, [edge, np.inf, np.inf, largest])
    wide = bound_actions(_echo([-3e38], [3e38]), how)
    np.testing.assert_array_equal(wide.native_action(jnp.zeros(1)), 0)


def test_bounds_that_do_not_make_sense():
    with pytest.raises(ValueError, match="reversed"):
        bound_actions(_echo([1.0], [-1.0]))
    with pytest.raises(ValueError, match="no bounds"):
        bound_actions(known_envs.nothing(known_envs.unbounded(1)))


# Names.


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(ValueError, match="'CartPole-v1'"):
        make("cartpole")
    with pytest.raises(ValueError, match="'Pendulum-v1'"):
        environments.describe("Pendulum-v0")
    with pytest.raises(ValueError, match="kltrust envs"):
        make("qqqq")


def test_what_a_user_registers_is_found():
    environments.register("my arms", known_envs.legal_arms)
    env = make("my arms", num_arms=3)
    assert (env.name, env.action_space) == ("my arms", Discrete(3))
    assert environments.available()[0] == "my arms"
    assert environments.describe("my arms").arguments["barren"] == 0.0
    with pytest.raises(ValueError, match=r"'arms'.*num_arms, barren"):
        make("my arms", arms=3)
    with pytest.raises(ValueError, match="overwrite"):
        environments.register("my arms", known_envs.chain)
    environments.register("my arms", known_envs.chain, overwrite=True)
    assert make("my arms").observation_space.shape == (5,)
    # Bounded on request only.
    environments.register("echo", lambda: _echo([-2.0], [2.0]))
    assert make("echo").action_space.high == [2.0]
    assert make("echo", action_bound="clip").action_space.high == [1.0]
    environments.register("number", lambda: 3)
    with pytest.raises(TypeError, match="Env"):
        make("number")


def test_gymnax_registrations_count_at_the_time_of_the_call(monkeypatch):
    def anything(**kwargs):
        assert kwargs.keys() <= {"colour"}
        return cartpole.CartPole()

    assert "Heavy-v0" not in environments.available()
    ours = {"Heavy-v0": lambda: cartpole.CartPole(), "Open-v0": anything}
    registry = gymnax.registration._registry | ours
    monkeypatch.setattr(gymnax.registration, "_registry", registry)
    assert make("Open-v0", colour="red", max_steps_in_episode=3).max_steps == 3
    assert "Heavy-v0" in environments.available()
    assert make("Heavy-v0", gravity=20.0).action_space == Discrete(2)


def test_describe():
    info = environments.describe("DeepSea-bsuite")
    assert info.arguments["size"] == 8
    assert info.fields["unscaled_move_cost"] == 0.01
    assert (info.action_space, info.max_steps, info.source) == (Discrete(2), 8, "gymnax")


def test_mnist_without_its_data(monkeypatch):
    def unreachable(*args):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(load_mnist, "load_mnist", unreachable)
    with pytest.raises(RuntimeError, match=r"Name or service not known.*network") as raised:
        make("MNISTBandit-bsuite")
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    assert "download" in environments.describe("MNISTBandit-bsuite").note


def test_mnist_with_its_data(monkeypatch):
    images = np.arange(4 * 28 * 28).reshape(4, 28, 28).astype(np.int8)
    data = images, np.array([3, 1, 4, 1], np.uint8)
    monkeypatch.setattr(load_mnist, "load_mnist", lambda: (data, data))
    check_env(make("MNISTBandit-bsuite", fraction=0.5), num_steps=4)


def test_importing_environments_does_not_import_gymnax():
    output("-c", "import sys, kltrust.environments; assert 'gymnax' not in sys.modules")


# Environments of one's own, and what check_env says of broken ones.


def test_a_traced_time_limit():
    def lengths(max_steps):
        env = from_functions(
            lambda key: (jnp.zeros(()), jnp.ones(1)),
            lambda key, state, action: (state, jnp.ones(1), 0.0, False, False),
            known_envs.unbounded(1),
            Discrete(2),
            max_steps=max_steps,
        )
        return _roll(env, 0, 6)[1].truncated

    flags = jax.jit(jax.vmap(lengths))(jnp.array([2, 3]))
    np.testing.assert_array_equal(flags, [[0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 0, 1]])
    with pytest.raises(ValueError, match="at least 1"):
        lengths(0)


BATCHED = {
    "alone": lambda: make("CartPole-v1"),
    "bounded": lambda: make("Pendulum-v1", max_steps_in_episode=3),
    "images": lambda: make("Catch-bsuite"),
    "hidden": lambda: hide_observations(make("CartPole-v1"), keep=(2, 0)),
    "with_memory": lambda: with_memory(make("CartPole-v1"), jnp.ones(3)),
}


@pytest.mark.parametrize("name", BATCHED)
def test_a_batch_of_steps_is_a_vmap_of_steps(name, users_options):
    env = BATCHED[name]()
    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 8))
    compiled = functools.partial(jax.jit, compiler_options=users_options)
    batch, alone = compiled(env.step_batch), compiled(jax.vmap(env.step))
    ended = []
    for t in range(40):
        key, act_key = jax.random.split(jax.random.key(t))
        keys = jax.random.split(key, 8)
        action = jax.vmap(functools.partial(sample_action, env.action_space))(
            jax.random.split(act_key, 8)
        )
        if name == "with_memory":
            action = action, jax.random.normal(act_key, (8, 3))
        expected = alone(keys, state, action)
        jax.tree.map(np.testing.assert_array_equal, batch(keys, state, action), expected)
        state, _, outcome = expected
        ended.append(int(np.sum(outcome.terminated | outcome.truncated)))
    assert 0 in ended  # with and without a reset
    assert max(ended) > 0


def test_a_batch_resets_nothing_where_no_episode_ended():
    env = known_envs.chain()
    keys = jax.random.split(jax.random.key(0), 2)
    state, _ = jax.vmap(env.reset)(keys)
    args = keys, state, jnp.zeros(2, jnp.int32)
    # Lanes of one program do the same work at every step.
    lanes = jax.tree.map(lambda x: jnp.stack([x, x]), args)
    for step, arguments, branches in (
        (env.step_batch, args, True),
        (jax.vmap(env.step_batch), lanes, False),
    ):
        program = jax.jit(step).lower(*arguments).compile().as_text()
        assert (" conditional(" in program) == branches


def test_another_step_drops_the_batch_of_the_old_one():
    """Which rollouts would take in its place."""
    env = known_envs.chain()
    free = lambda key, state, action: env.step(key, state, 0 * action)  # noqa: E731
    assert env.step_batch is not None
    assert env._replace(step=free).step_batch is env._replace(step=free).draw is None
    assert env._replace(name="other").step_batch is env.step_batch
    assert hide_observations(env, keep=(0,)).draw is env.draw is not None
    alone = env._replace(step=free)
    for wrapped in (hide_observations(alone, keep=(0,)), with_memory(alone, ())):
        assert wrapped.step_batch is None
    assert env._replace(step=free, step_batch=jax.vmap(free)).step_batch is not None
    stale = jax.vmap(hide_observations(known_envs.chain(), keep=(0, 1)).step)
    with pytest.raises(ValueError, match="step_batch returns"):
        check_env(env._replace(step_batch=stale))
    assert env._replace(step_batch=stale).draw is None

    def fractions(key):
        state, obs = env.reset(key)
        return Drawn(key, (jax.tree.map(lambda x: x + 0.5, state), obs))

    with pytest.raises(ValueError, match="step with draw returns"):
        check_env(env._replace(draw=fractions))


def test_typed_keys_and_pytrees_in_the_state():
    def reset(key):
        return {"key": key, "count": 0}, jnp.zeros(1)

    def transition(key, state, action):
        key, key_noise = jax.random.split(state["key"])
        state = {"key": key, "count": state["count"] + 1}
        return state, jax.random.normal(key_noise, (1,)), 0, state["count"] >= 4, False

    check_env(from_functions(reset, transition, known_envs.unbounded(1), Discrete(2)))


@pytest.mark.parametrize("after", [known_envs.nan_reward, known_envs.nan_obs])
def test_nan_is_passed_on_and_found(after):
    _, outcome = _roll(after(3), 0, 6)
    broken = outcome.reward if after is known_envs.nan_reward else outcome.next_obs[:, 0]
    np.testing.assert_array_equal(np.isnan(broken), [0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="not finite"):
        check_env(after(3))
    check_env(after(100))


def _with_step(change):
    """The two-armed bandit, its step's results changed."""
    env = known_envs.reward_one(max_steps=4)
    return env._replace(step=lambda key, state, action: change(*env.step(key, state, action)))


def _random_outside(state, obs, outcome):
    shape = jax.ShapeDtypeStruct((), np.float32)
    noise = jax.pure_callback(
        lambda _: np.float32(np.random.default_rng().random()),
        shape,
        obs,
        vmap_method="sequential",
    )
    return state, obs, outcome._replace(reward=noise)


BROKEN = {
    "not an Outcome": (lambda s, o, out: (s, o, tuple(out)), "Outcome"),
    "double": (lambda s, o, out: (s.astype(jnp.float32), o, out), "compile twice"),
    "two flags in one": (lambda s, o, out: (s, o, out._replace(truncated=1.0)), "truncated"),
    "integer reward": (
        lambda s, o, out: (s, o, out._replace(reward=jnp.zeros((), jnp.int32))),
        "reward is int32",
    ),
    "shapeless next_obs": (lambda s, o, out: (s, o, out._replace(next_obs=o[0])), "next_obs"),
    "stale next_obs": (lambda s, o, out: (s, o, out._replace(next_obs=o - 1)), "differs"),
    "random": (_random_outside, "same keys"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_check_env_finds(change, message):
    with pytest.raises(ValueError, match=message):
        check_env(_with_step(change))


def test_check_env_finds_bad_spaces_and_weak_types():
    env = known_envs.reward_one()
    with pytest.raises(ValueError, match="space"):
        check_env(env._replace(observation_space=known_envs.unbounded(2)))
    with pytest.raises(ValueError, match="space"):
        check_env(env._replace(observation_space=Discrete(3)))
    rows = {"z": known_envs.unbounded(1), "a": known_envs.unbounded(1)}
    pair = from_functions(
        lambda key: (jnp.int32(0), {k: jnp.zeros(1) for k in rows}),
        lambda key, state, action: (state, {k: jnp.zeros(1) for k in rows}, 0.0, False, False),
        rows,
        Discrete(2),
    )
    check_env(pair)
    for other in (OrderedDict(rows), {"z": rows["z"], "b": rows["a"]}):
        with pytest.raises(ValueError, match="space"):
            check_env(pair._replace(observation_space=other))
    lake = make("FrozenLake-misc")._replace(observation_space=Discrete(1))
    with pytest.raises(ValueError, match="outside"):
        check_env(lake)

    def step(key, state, action):
        obs, flag = jnp.ones(1), jnp.zeros((), bool)
        return state + 0, obs, Outcome(jnp.zeros(()), flag, flag, obs)

    weak = env._replace(reset=lambda key: (jnp.asarray(0.0), jnp.ones(1)), step=step)
    with pytest.raises(ValueError, match="weakly typed"):
        check_env(weak)


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("flag", [0.0, 1.0, 1, True, np.float32(1)])
def test_flags_are_numbers_of_any_kind(flag, limit):
    env = from_functions(
        lambda key: (jnp.zeros(1), jnp.zeros(1)),
        lambda key, state, action: (state, state, 1.0, jnp.asarray(flag), flag),
        known_envs.unbounded(1),
        Discrete(2),
        max_steps=limit,
    )
    outcome = _roll(env, 0, 2)[1]
    np.testing.assert_array_equal([outcome.terminated, outcome.truncated], bool(flag))


def test_from_functions_does_not_cut_floats():
    """A reset that says 0 where the step says 0.5 is an error, not a counter that never moves."""
    env = from_functions(
        lambda key: (0, jnp.zeros(1)),
        lambda key, state, action: (state + 0.5, jnp.zeros(1), 0.0, False, False),
        known_envs.unbounded(1),
        Discrete(2),
    )
    with pytest.raises(ValueError, match=r"weak|int32.*float32"):
        _roll(env, 0, 2)
