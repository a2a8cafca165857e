"""Agents that remember: resets, start carries, V(next_obs), and algorithms on sequences."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import chex
import distrax
import jax
import jax.numpy as jnp
import known_envs
import numpy as np
import pytest
import test_learner
from jax.sharding import PartitionSpec
from toys import few, gaussian_start, tiny

from kltrust import algorithms, tree, value_regression
from kltrust.checks import check_minibatches
from kltrust.environments import check_env, hide_observations, make
from kltrust.experiments import cli
from kltrust.experiments.engine import spread
from kltrust.experiments.engine.program import build
from kltrust.experiments.jobs import run as jobs
from kltrust.experiments.reading import deploy
from kltrust.experiments.reading.results import load
from kltrust.experiments.reading.trained import evaluate_runs, find_runs
from kltrust.experiments.store.record import Record
from kltrust.learner import (
    _learner as learner_module,
    evaluate,
    make_learner,
    policy_of,
    policy_step_of,
    train,
)
from kltrust.networks import actor_critic, recurrent
from kltrust.networks.recurrent import recurrent_agent, swap_axes
from kltrust.rollout.batches import value_estimates
from kltrust.rollout.normalization import init_moments, normalize
from kltrust.types import ActorCritic, Discrete, Masked, Memory, Sequences
from kltrust.updates.minibatches import minibatch_epoch

CELLS = 4
SIZES = {
    "num_envs": 4,
    "num_steps": 24,
    "critic": value_regression(num_epochs=2, num_minibatches=1),
}
NUM_ITERATIONS = 3


def update_of(name):
    """Of whole batches, in steps that move the policy by more than rounding."""
    return few(name, 3.0 if name == "vanilla_pg" else 0.02, num_minibatches=1)


# --- a memory without parameters, as an agent's and as the environment's --------------------------

POLICY_DECAY, VALUE_DECAY = 0.5, 0.8


def linear_init(key):
    keys = jax.random.split(key)
    return jax.random.normal(keys[0], (CELLS, 2)), jax.random.normal(keys[1], (CELLS,))


def fading():
    """Policy and critic are linear in sums of what they saw, which fade at different rates."""

    def policy_step(params, carry, obs):
        carry = POLICY_DECAY * carry + obs
        return carry, distrax.Categorical(logits=carry @ params)

    def value_step(params, carry, obs):
        carry = VALUE_DECAY * carry + obs
        return carry, carry @ params

    zeros = jnp.zeros(CELLS)
    return recurrent_agent(linear_init, Memory(policy_step, value_step, zeros, zeros))


def fading_env():
    """The chain, which shows both sums: an agent that remembers nothing sees the same."""
    env = known_envs.chain(CELLS)
    decays = jnp.array([POLICY_DECAY, VALUE_DECAY])[:, None]

    def reset(key):
        state, obs = env.reset(key)
        sums = jnp.stack([obs, obs])
        return (state, sums), sums

    def step(key, state, action):
        inner, sums = state
        inner, obs, outcome = env.step(key, inner, action)
        after = decays * sums + outcome.next_obs[None]
        done = outcome.terminated | outcome.truncated
        sums = jnp.where(done, jnp.stack([obs, obs]), after)
        return (inner, sums), sums, outcome._replace(next_obs=after)

    return env._replace(reset=reset, step=step)


def of_sums():
    return ActorCritic(
        linear_init,
        lambda params, obs: distrax.Categorical(logits=obs[..., 0, :] @ params),
        lambda params, obs: obs[..., 1, :] @ params,
    )


def trained(env, agent, update, num_iterations=NUM_ITERATIONS, **keywords):
    learner = make_learner(env, agent, update, **{**SIZES, **keywords})
    return jax.jit(lambda key: train(learner, key, num_iterations))(jax.random.key(5))


def with_memory(update, **keywords):
    return trained(known_envs.chain(CELLS), fading(), update, **keywords)


def without_memory(update, **keywords):
    return trained(fading_env(), of_sums(), update, **keywords)


def assert_same_training(one, other, **tolerance):
    (state, metrics), (expected, expected_metrics) = one, other
    tolerance = {"rtol": 2e-4, "atol": 2e-5, **tolerance}
    for name in ("policy_params", "value_params", "update_state", "value_state", "episode_length"):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, **tolerance),
            getattr(state, name),
            getattr(expected, name),
        )
    assert jax.tree.structure(metrics) == jax.tree.structure(expected_metrics)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **tolerance), metrics, expected_metrics
    )


@pytest.mark.parametrize("name", ["vanilla_pg", "trpo", "ppo_penalty", "ppo_adaptive_lr"])
def test_algorithms_learn_from_sequences_what_they_learn_from_rows(name):
    """Iteration by iteration, critic, advantages, update and measurement."""
    ours = with_memory(update_of(name))
    assert_same_training(ours, without_memory(update_of(name)))
    state, metrics = ours
    assert state.policy_carry.shape == state.value_carry.shape == (4, CELLS)
    assert np.any(state.episode_length > 0)
    assert np.all(metrics.num_episodes > 0)
    assert np.all(np.asarray(metrics.kl) > 1e-7)


def test_what_is_remembered_when_a_training_begins_in_midst_of_episodes():
    ours = with_memory(update_of("vanilla_pg"), num_iterations=1, stagger_steps=7)
    assert_same_training(
        ours, without_memory(update_of("vanilla_pg"), num_iterations=1, stagger_steps=7)
    )
    learner = make_learner(
        known_envs.chain(CELLS), fading(), update_of("vanilla_pg"), **SIZES, stagger_steps=7
    )
    state = learner.init(jax.random.key(5))
    begun = np.asarray(state.episode_length) > 0
    assert begun.sum() > 0
    assert (np.asarray(state.policy_carry) != 0).any(-1)[begun].all()
    assert (np.asarray(state.value_carry) != 0).any(-1)[begun].all()


def test_the_audit_of_sequences_is_that_of_rows():
    """Curvature, reference and path too; the fresh states go on from the carries that were left."""
    audited = {"audit": "full", "num_iterations": 2}
    ours = with_memory(update_of("ppo_clip"), **audited)
    assert_same_training(ours, without_memory(update_of("ppo_clip"), **audited), rtol=5e-3)
    assert np.all(np.isfinite(ours[1].audit.fresh.kl.mean))
    assert np.all(ours[1].audit.curvature.largest_eigenvalue.value > 0)


def no_reset(monkeypatch):
    monkeypatch.setattr(recurrent, "restart", lambda start, initial, carry: carry)


def no_carry(monkeypatch):
    """Of the steps before the batch."""
    make_batch = learner_module.make_batch

    def forgetting(*arguments):
        *others, carry = arguments
        return make_batch(*others, jax.tree.map(jnp.zeros_like, carry))

    monkeypatch.setattr(learner_module, "make_batch", forgetting)


@pytest.mark.parametrize("fault", [no_reset, no_carry])
def test_a_fault_of_the_memory_is_caught(fault, monkeypatch):
    """By both: what is learned is another thing, and no update starts at the policy that acted."""
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same_training(
            with_memory(update_of("vanilla_pg")), without_memory(update_of("vanilla_pg"))
        )
    with pytest.raises(AssertionError):
        test_learner.assert_starts_at_old(starts(known_envs.chain(CELLS), fading()))


def test_rows_of_no_weight_and_every_other_sequence():
    """Weights [B, T], TRPO's stride and chunks over sequences, minibatches of whole ones."""
    agent, key = fading(), jax.random.key(0)
    params, _ = linear_init(key)
    start = jax.random.bernoulli(key, 0.2, (4, 6))
    sequences = Sequences(jax.random.normal(key, (4, 6, CELLS)), start, jnp.ones((4, CELLS)))
    old = agent.policy(params, sequences)
    weight = jnp.ones((4, 6)).at[:, 4:].set(0).at[1::2].set(0)
    batch = learner_module.make_batch(
        agent.policy,
        params,
        *swap_axes((sequences.obs, old.sample(seed=key), jax.random.normal(key, (4, 6)))),
        swap_axes(start),
        sequences.carry,
    )
    weighted = batch._replace(weight=weight, advantage=batch.advantage.at[weight == 0].set(jnp.nan))
    chosen = tree.take_rows(batch, np.array([0, 2]))
    short = jax.tree.map(lambda x: x[:, :4], (chosen.obs.obs, chosen.obs.start, chosen[1:4]))
    short = chosen._replace(
        obs=Sequences(*short[:2], chosen.obs.carry),
        **dict(zip(("action", "advantage", "old"), short[2], strict=True)),
    )
    for name in ("trpo", "ppo_clip"):
        update = update_of(name)
        moved = [
            jax.jit(update.update, static_argnums=0)(
                agent.policy, params, update.init(params), part, key
            )[0]
            for part in (weighted, short)
        ]
        np.testing.assert_allclose(*moved, rtol=1e-4, atol=1e-6)
        assert np.max(np.abs(moved[0] - params)) > 1e-3
    strided, whole = (
        jax.jit(u.update, static_argnums=0)(agent.policy, params, (), part, key)[0] - params
        for u, part in (
            (algorithms.trpo(fisher_stride=2, fisher_chunks=2), batch),
            (algorithms.trpo(), batch),
        )
    )
    assert np.max(np.abs(strided - whole)) > 1e-4  # of other states


def test_minibatches_are_whole_sequences():
    rows = jnp.arange(24).reshape(8, 3)
    data = (Sequences(rows, rows > 0, rows[:, 0]), rows)
    _, (seen, beside) = minibatch_epoch(
        lambda carry, part: (carry, part), (), data, jax.random.key(0), 4
    )
    assert seen.obs.shape == (4, 2, 3)
    np.testing.assert_array_equal(seen.obs, beside)
    np.testing.assert_array_equal(seen.obs[..., 0], seen.carry)
    np.testing.assert_array_equal(np.sort(seen.carry.ravel()), 3 * np.arange(8))
    with pytest.raises(ValueError, match=r"does not divide a batch of 8 sequences \(num_envs\)"):
        minibatch_epoch(lambda carry, part: (carry, part), (), data, jax.random.key(0), 3)


# --- V(next_obs) ----------------------------------------------------------------------------------


def test_values_by_hand():
    """One step after another, an environment at a time, in NumPy."""
    num_steps, num_envs = 7, 3
    random = np.random.default_rng(0)
    obs, next_obs = random.normal(size=(2, num_steps, num_envs, CELLS)).astype(np.float32)
    start = random.random((num_steps, num_envs)) < 0.3
    carry = random.normal(size=(num_envs, CELLS)).astype(np.float32)
    params = random.normal(size=CELLS).astype(np.float32)
    value, next_value, last = value_estimates(
        fading(), params, *map(jnp.asarray, (obs, next_obs, start, carry))
    )
    assert start[0].any()
    assert not start[0].all()
    for b in range(num_envs):
        memory = carry[b]
        for t in range(num_steps):
            memory = np.zeros(CELLS) if start[t, b] else memory
            memory = VALUE_DECAY * memory + obs[t, b]
            np.testing.assert_allclose(value[t, b], memory @ params, rtol=1e-4, atol=1e-5)
            beyond = (VALUE_DECAY * memory + next_obs[t, b]) @ params
            np.testing.assert_allclose(next_value[t, b], beyond, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(last[b], memory, rtol=1e-4, atol=1e-5)
    # The control: a second pass over next_obs comes from other carries.
    second, _, _ = value_estimates(fading(), params, next_obs, next_obs, jnp.asarray(start), carry)
    assert np.max(np.abs(second - next_value)) > 0.1


# --- the library's cells --------------------------------------------------------------------------


@functools.cache
def small(cell, env_name="CartPole-v1"):
    env = make(env_name)
    return env, gaussian_start(actor_critic(env, (6,), cell=cell), 0.5)


cells = pytest.mark.parametrize("cell", ["gru", "mingru"])


@cells
def test_a_sequence_is_its_steps(cell):
    _, agent = small(cell, "Pendulum-v1")
    keys = jax.random.split(jax.random.key(1), 4)
    policy_params, value_params = agent.init(keys[0])
    obs = jax.random.normal(keys[1], (3, 5, 3))
    start = jax.random.bernoulli(keys[2], 0.3, (3, 5))
    carry = jax.random.normal(keys[3], (3, 6))
    whole = agent.policy(policy_params, Sequences(obs, start, carry))
    value = agent.value(value_params, Sequences(obs, start, carry))
    assert whole.batch_shape == value.shape == (3, 5)
    assert all(leaf.shape[:2] == (3, 5) for leaf in jax.tree.leaves(whole))
    assert start.any()
    for b in range(3):
        memories = [carry[b], carry[b]]
        for t in range(5):
            if start[b, t]:
                memories = [agent.memory.policy_carry, agent.memory.value_carry]
            memories[0], one = agent.memory.policy_step(policy_params, memories[0], obs[b, t])
            memories[1], v = agent.memory.value_step(value_params, memories[1], obs[b, t])
            np.testing.assert_allclose(one.mean(), whole.mean()[b, t], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(v, value[b, t], rtol=1e-4, atol=1e-5)
    # What came before the first start matters, and only up to there.
    other = agent.value(value_params, Sequences(obs, start, carry + 1)) != value
    np.testing.assert_array_equal(other, np.cumsum(start, 1) == 0)


def test_a_gru_has_the_same_derivatives_in_both_lowerings(monkeypatch):
    """Forward as Fisher products take them, and backward; values and carries too."""
    _, agent = small("gru", "Pendulum-v1")
    keys = jax.random.split(jax.random.key(1), 6)
    params = agent.init(keys[0])[1]
    obs = jax.random.normal(keys[1], (6, 3, 3))
    start = jax.random.bernoulli(keys[2], 0.2, (6, 3))
    carry = jax.random.normal(keys[3], (3, 6))
    leaves, structure = jax.tree.flatten(params)
    shaped = [
        jax.random.normal(k, x.shape)
        for k, x in zip(jax.random.split(keys[4], len(leaves)), leaves, strict=True)
    ]
    along = jax.tree.unflatten(structure, shaped)
    weight = jax.random.normal(keys[5], (3, 6))

    def found():
        def function(params, carry):
            return agent.value(params, Sequences(*swap_axes((obs, start)), carry))

        value, push = jax.linearize(function, params, carry)
        pulled = jax.linear_transpose(push, params, carry)(weight)
        moved = push(along, 2 * carry)
        return value, moved, pulled, value_estimates(agent, params, obs, obs + 1, start, carry)

    def compiled(function):
        quick = {"xla_backend_optimization_level": 0}
        return jax.jit(lambda: function(), compiler_options=quick)()

    by_steps, taken = compiled(found), []

    def plain(*operands, default, **_):
        taken.append(default.__name__)
        return default(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", plain)
    as_scan = compiled(found)
    assert {"as_scan", "on_sequences"} <= set(taken)
    chex.assert_trees_all_close(as_scan, by_steps, rtol=1e-5, atol=1e-6)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(as_scan))


@cells
def test_a_mask_goes_along_the_sequence(cell):
    env = known_envs.legal_arms(barren=0.2)
    agent = actor_critic(env, hidden=(4,), cell=cell)
    learner = make_learner(
        env,
        agent,
        algorithms.trpo(),
        num_envs=4,
        num_steps=8,
        critic=value_regression(num_epochs=1, num_minibatches=2),
    )
    state, metrics = jax.jit(lambda key: train(learner, key, 1))(jax.random.key(0))
    assert metrics.fully_masked.sum() > 0
    assert np.all(np.isfinite(metrics.kl))
    assert metrics.nonfinite_update.sum() == 0

    mask = jnp.asarray([[[1, 0, 1, 0], [0, 1, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]], bool)
    obs = Masked(jnp.ones((2, 2, 1)), mask)
    carry = jnp.zeros((2, 4))
    sequences = Sequences(obs, jnp.zeros((2, 2), bool), carry)
    along = agent.policy(state.policy_params, sequences).probs
    allowed = mask | ~mask.any(-1, keepdims=True)
    np.testing.assert_array_equal(along > 0, allowed)
    _, first = agent.memory.policy_step(
        state.policy_params, carry, jax.tree.map(lambda x: x[:, 0], obs)
    )
    np.testing.assert_allclose(first.probs, along[:, 0], rtol=1e-6)


@pytest.mark.parametrize("cell", ["none", "gru", "mingru"])
def test_no_initialiser_is_a_qr_decomposition(cell):
    """Batched ones, of many lanes of many layers, can deadlock in XLA's CPU backend."""
    agent = actor_critic(make("CartPole-v1"), (6,), cell=cell)
    program = str(jax.make_jaxpr(agent.init)(jax.random.key(0)))
    assert "while" in program or "scan" in program
    decomposition = re.compile(r"= (qr|geqrf|householder_product)[\[ ]")  # not a variable's name
    assert not decomposition.search(program)
    usual = jax.make_jaxpr(lambda key: jax.nn.initializers.orthogonal()(key, (6, 6)))(
        jax.random.key(0)
    )
    assert decomposition.search(str(usual))
    if cell == "none":
        return
    params, _ = jax.jit(agent.init)(jax.random.key(0))
    kernel = params["cell"]["hn" if cell == "gru" else "new"]["kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(6), atol=1e-5)
    assert set(map(str, {x.dtype for x in jax.tree.leaves(params)})) == {"float32"}
    # A gate that keeps half at every step would let nothing through ten of them.
    bias = params["cell"]["iz"]["bias"] if cell == "gru" else -params["cell"]["gate"]["bias"]
    assert 0 <= bias.min() < bias.max() <= np.log(100)


# --- the start of an update, and what is the same bits --------------------------------------------


def starts(env, agent):
    """What four updates saw and the acting noted, parameters and normaliser moving in between."""
    env, noted = test_learner.noting(env, agent)

    def policy_step(params, carry, obs):
        carry, distribution = agent.memory.policy_step(params, carry, obs)
        return carry, test_learner.Noting(distribution)

    noted = noted._replace(memory=agent.memory._replace(policy_step=policy_step))
    update = test_learner.recording(update_of("vanilla_pg"))
    _, metrics = trained(env, noted, update, 4, normalize_observations=True)
    assert metrics.num_episodes.sum() > 0
    return metrics.extra["seen"]


@cells
def test_every_update_starts_at_the_policy_that_acted(cell):
    test_learner.assert_starts_at_old(starts(known_envs.chain(CELLS), fading()))
    seen = starts(*small(cell))
    assert seen["log_ratio"].shape == (4, 4, 24)
    test_learner.assert_starts_at_old(seen)
    assert np.max(np.abs(seen["log_ratio"] - seen["log_ratio_old"])) <= 1e-6


def learner_of(learning_rate):
    """With all that is optional on."""
    return make_learner(
        known_envs.chain(CELLS),
        fading(),
        algorithms.vanilla_pg(learning_rate=learning_rate),
        **SIZES,
        normalize_observations=True,
        normalize_rewards=True,
    )


def test_a_run_that_is_spread_spreads_its_carries():
    state = jax.eval_shape(learner_of(1.0).init, jax.random.key(0))
    placed = spread.shardings(state, spread.make_mesh(1))
    for name in ("policy_carry", "value_carry", "obs"):
        assert getattr(placed, name).spec == PartitionSpec(spread.AXIS)
    assert placed.policy_params.spec == PartitionSpec()


# --- acting ---------------------------------------------------------------------------------------


def knows_the_chain(forgets=False):
    """The context of MemoryChain is shown once: it is added to nothing, and kept."""

    def policy_step(params, carry, obs):
        carry = carry + obs[..., 2]
        logits = jnp.stack([-carry, carry], -1)
        return jnp.zeros_like(carry) if forgets else carry, distrax.Categorical(logits=logits)

    step = lambda params, carry, obs: (carry, obs[..., 0])  # noqa: E731
    return recurrent_agent(lambda key: ((), ()), Memory(policy_step, step, jnp.zeros(()), ()))


@pytest.mark.parametrize("forgets", [False, True])
def test_evaluation_remembers_within_an_episode(forgets):
    env, agent = make("MemoryChain-bsuite"), knows_the_chain(forgets)
    state = Deployed((), None)
    returns = jax.jit(lambda key: evaluate(env, agent, state, key, 64))(jax.random.key(0))
    assert set(np.unique(returns)) == ({-1, 1} if forgets else {1})


class Deployed(NamedTuple):
    policy_params: Any
    normalizer: Any


def test_the_policy_of_a_recurrent_agent_takes_sequences():
    env, agent = small("gru")
    moments = init_moments(jnp.zeros(4))._replace(mean=jnp.full(4, 0.1))
    state = Deployed(agent.init(jax.random.key(0))[0], moments)
    obs = jax.random.normal(jax.random.key(1), (2, 3, 4))
    carry = recurrent.initial_carry(agent.memory.policy_carry, 2)
    sequences = Sequences(obs, jnp.zeros((2, 3), bool), carry)
    normal = normalize(moments, sequences)
    assert normal.carry is carry
    np.testing.assert_array_equal(normal.obs, normalize(moments, obs))
    logits = policy_of(agent, state)(sequences).logits
    np.testing.assert_array_equal(logits, agent.policy(state.policy_params, normal).logits)
    step = policy_step_of(agent, state)
    for t in range(3):
        carry, distribution = step(carry, obs[:, t])
        np.testing.assert_allclose(distribution.logits, logits[:, t], rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="policy_step_of"):
        policy_of(agent, state)(obs)
    # Without memory the same function acts, with the carry ().
    plain = actor_critic(env, (6,))
    state = Deployed(plain.init(jax.random.key(0))[0], None)
    carry, distribution = policy_step_of(plain, state)((), obs)
    assert carry == ()
    np.testing.assert_array_equal(distribution.logits, policy_of(plain, state)(obs).logits)


# --- an experiment --------------------------------------------------------------------------------

EXPERIMENT = tiny(
    "ppo_clip",
    update={"num_epochs": 2, "learning_rate": 0.01},
    learner={"normalize_observations": True},
    network={"cell": "gru"},
    budget={"total_steps": 128, "num_evals": 2, "eval_episodes": 4},
)


@pytest.fixture(scope="module")
def pole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "pole"
    return jobs.train(EXPERIMENT, [3, 8], path)


def test_an_experiment_with_a_cell(pole):
    (run, _) = find_runs(pole)
    assert run.experiment.network.cell == "gru"
    states = run.states()
    assert states.policy_carry.shape == states.value_carry.shape == (2, 4, 8)
    assert len(load(pole.path).evaluations) == 4
    assert evaluate_runs(find_runs(pole), num_episodes=3).shape == (2, 3)


def test_a_policy_that_remembers_plays_elsewhere(pole):
    """From call to call in NumPy, until it is told that new episodes begin."""
    (_, run) = find_runs(pole)
    agent = build(run.experiment).agent
    state = jax.tree.map(lambda x: x[run.lane], run.states())
    step, carry = policy_step_of(agent, state), recurrent.initial_carry(jnp.zeros(8), 5)
    act = deploy.numpy_policy(Record(pole.path), seed=8, deterministic=False)
    obs = np.random.default_rng(0).normal(size=(4, 5, 4)).astype(np.float32)
    actions = [act(o, key) for key, o in enumerate(obs)]
    for key, o in enumerate(obs):
        carry, distribution = step(carry, o)
        np.testing.assert_array_equal(actions[key], distribution.sample(seed=jax.random.key(key)))
    with pytest.raises(ValueError, match=r"leading shape \(5,\), and got \(2,\): call reset\(\)"):
        act(obs[0, :2])
    act.reset()
    np.testing.assert_array_equal(act(obs[0], 0), actions[0])
    act.reset()
    assert act(obs[0, 0]).shape == ()
    returns = [deploy.gymnasium_returns(act, "CartPole-v1", 3, num_envs=2) for _ in range(2)]
    np.testing.assert_array_equal(*returns)


# --- errors ---------------------------------------------------------------------------------------


def test_minibatches_that_cut_sequences_are_refused(capsys):
    agent = fading()
    with pytest.raises(
        ValueError, match=r"critic.num_minibatches=32 does not divide a batch of 8 seq"
    ):
        make_learner(known_envs.chain(CELLS), agent, algorithms.trpo())
    with pytest.raises(ValueError, match=r"each of 2 blocks of 4 rows: choose .*, 2 or 4, say"):
        check_minibatches(8, "rows", 2, num_minibatches=8)
    check_minibatches(24, "rows", 2, num_minibatches=12)
    line = "train ppo_clip CartPole-v1 --preset none --cell gru --critic.num-minibatches 4"
    assert cli.main(line.split()) == 1
    assert "update.num_minibatches=32 does not divide a batch of 8 seq" in capsys.readouterr().err


def test_steps_that_change_the_carry_are_refused():
    agent = fading()
    step = agent.memory.value_step
    wrong = {
        "value": lambda p, c, o: (step(p, c, o)[0][:2], step(p, c, o)[1]),
        "policy": lambda p, c, o: ((c, c), agent.memory.policy_step(p, c, o)[1]),
    }
    for name, function in wrong.items():
        memory = agent.memory._replace(**{f"{name}_step": function})
        learner = make_learner(
            known_envs.chain(CELLS),
            recurrent_agent(linear_init, memory),
            algorithms.trpo(),
            **SIZES,
        )
        with pytest.raises(ValueError, match=rf"{name}_step returns the carry .*{name}_carry"):
            jax.eval_shape(learner.init, jax.random.key(0))


# --- hidden observations --------------------------------------------------------------------------


def test_hidden_observations():
    env = make("CartPole-v1")
    hidden = hide_observations(env, keep=(0, 2))
    check_env(hidden)
    assert hidden.observation_space.shape == (2,)
    np.testing.assert_array_equal(
        hidden.observation_space.high, np.asarray(env.observation_space.high)[[0, 2]]
    )
    key = jax.random.key(0)
    state, obs = env.reset(key)
    np.testing.assert_array_equal(hidden.reset(key)[1], obs[np.array([0, 2])])
    _, after, outcome = env.step(key, state, 1)
    _, shown, told = hidden.step(key, state, 1)
    np.testing.assert_array_equal(shown, after[np.array([0, 2])])
    np.testing.assert_array_equal(told.next_obs, outcome.next_obs[np.array([0, 2])])
    assert told.reward == outcome.reward


@pytest.mark.parametrize("keep", [(), (0, 4), (-1,), (1, 1)])
def test_entries_that_are_not_there_are_refused(keep):
    with pytest.raises(ValueError, match="different entries among 0 to 3"):
        hide_observations(make("CartPole-v1"), keep)


def test_only_a_vector_has_entries_to_hide():
    env = make("CartPole-v1")._replace(observation_space=Discrete(3))
    with pytest.raises(ValueError, match="only the entries of a vector"):
        hide_observations(env, (0,))
