"""The audit as a part of every iteration: what it says, by hand, and that it changes no bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import arrays

from kltrust import algorithms, value_regression
from kltrust.audit import _iteration, audit_update, normalizer_kl
from kltrust.divergences import kl_divergence
from kltrust.environments import make
from kltrust.learner import flatten, make_batch, make_learner, policy_of
from kltrust.networks import actor_critic
from kltrust.rollout import rollout
from kltrust.rollout.normalization import normalize
from kltrust.types import UpdatePair, Wanted
from kltrust.updates import mean_kl

NUM_ITERATIONS, EPOCHS, MINIBATCHES = 3, 3, 2
CRITIC = value_regression(num_epochs=1, num_minibatches=2)
SIZES = {"num_envs": 4, "num_steps": 16, "critic": CRITIC}
DAMPING = np.float32(0.03)


@functools.cache
def parts(env_name):
    env = make(env_name)
    return env, actor_critic(env, (8,))


def learner_of(env_name, algorithm, audit):
    update = {
        "trpo": lambda: algorithms.trpo(damping=DAMPING),
        "ppo_penalty": lambda: algorithms.ppo_penalty(
            learning_rate=0.02, num_epochs=EPOCHS, num_minibatches=MINIBATCHES, max_kl=0.02
        ),
    }[algorithm]()
    return make_learner(
        *parts(env_name),
        update,
        **SIZES,
        normalize_observations=True,
        audit=audit,
    )


@functools.cache
def trained(env_name, algorithm, audit):
    """(states before and after every iteration [1 + n], metrics [n]); compiled as users' are."""
    learner = learner_of(env_name, algorithm, audit)

    def history(key):
        def step(state, _):
            new, metrics = learner.step(state)
            return new, (new, metrics)

        first = learner.init(key)
        _, (states, metrics) = jax.lax.scan(step, first, length=NUM_ITERATIONS)
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, states), metrics

    return jax.jit(history)(jax.random.key(3))


CASES = [("Pendulum-v1", "trpo", "full"), ("Pendulum-v1", "ppo_penalty", "extended")]


@pytest.mark.parametrize(("env_name", "algorithm", "audit"), CASES)
def test_no_audit_changes_a_bit_of_the_training_or_of_the_other_metrics(env_name, algorithm, audit):
    states, metrics = trained(env_name, algorithm, audit)
    plain_states, plain_metrics = trained(env_name, algorithm, "default")
    assert plain_states.reference is None
    assert plain_metrics.audit[1:] == (None,) * 5
    assert metrics.audit.fresh is not None
    ours = (states._replace(reference=None), metrics._replace(audit=metrics.audit.update))
    plain = (plain_states, plain_metrics._replace(audit=plain_metrics.audit.update))
    for x, y in zip(arrays(ours), arrays(plain), strict=True):
        np.testing.assert_array_equal(x, y)


def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


@pytest.mark.parametrize(("env_name", "algorithm", "audit"), CASES)
def test_every_part_is_what_it_says(env_name, algorithm, audit, compile_fast):
    """From the states before and after an iteration alone, by functions tested elsewhere."""
    env, agent = parts(env_name)
    states, metrics = trained(env_name, algorithm, audit)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-7)
    num_steps = SIZES["num_steps"]

    @jax.jit
    def play(state, key):
        act = lambda obs, key: policy_of(agent, state)(obs).sample(seed=key)  # noqa: E731
        return rollout(env, act, state.env_state, state.obs, key, num_steps)[1]

    for i in (0, NUM_ITERATIONS - 1):
        old, new, got = at(states, i), at(states, i + 1), at(metrics.audit, i)
        transition = play(old, jax.random.split(old.key, 4)[0])
        batch = make_batch(
            agent.policy,
            old.policy_params,
            normalize(old.normalizer, transition.obs),
            transition.action,
            jnp.ones(transition.reward.shape),
        )
        update = audit_update(agent.policy, old.policy_params, new.policy_params, batch)
        close(got.update.kl.mean, metrics.kl[i])
        for name in ("kl", "kl_reverse", "tv", "ratio"):
            jax.tree.map(close, getattr(got.update, name), getattr(update, name))
        close(got.update.effective_sample_size, update.effective_sample_size)
        close(1 - got.update.inside, metrics.clip_fraction[i], atol=1e-6)
        # Fresh states: those of the new policy, from where the training goes on.
        key = jax.random.split(jax.random.fold_in(old.key, _iteration._AUDIT))[0]
        fresh = play(new._replace(normalizer=old.normalizer), key)
        obs = normalize(old.normalizer, flatten(fresh.obs))
        kl = kl_divergence(*(agent.policy(s.policy_params, obs) for s in (old, new)))
        close(got.fresh.kl.mean, kl.mean())
        close(got.fresh.kl.max, kl.max())
        assert abs(got.fresh.kl.mean - got.update.kl.mean) > 1e-3 * got.update.kl.mean
        # The first policy, its own normaliser included.
        raw = flatten(transition.obs)
        first = policy_of(agent, at(states, 0))(raw)
        now = policy_of(agent, new._replace(normalizer=old.normalizer))(raw)
        close(got.reference.from_reference.mean, kl_divergence(first, now).mean())
        close(got.reference.to_reference.max, kl_divergence(now, first).max())
        # What the next iteration's statistics change.
        moved = normalizer_kl(agent.policy, new.policy_params, old.normalizer, new.normalizer, raw)
        close(got.normalizer.mean, moved.mean)
        assert got.normalizer.mean > 0
    close(metrics.audit.reference.from_reference.mean[0], metrics.kl[0])  # one update, one distance
    assert (metrics.audit.path is None) == (algorithm == "trpo")


def test_the_curvature_is_of_the_update_and_the_algorithms_own_damping():
    _, metrics = trained("Pendulum-v1", "trpo", "full")
    got = metrics.audit.curvature
    np.testing.assert_allclose(got.kl, metrics.kl, rtol=1e-4)
    np.testing.assert_allclose(got.surrogate_gain, metrics.surrogate_gain, rtol=1e-3)
    added = got.kl_quadratic_damped - got.kl_quadratic
    np.testing.assert_allclose(added, DAMPING * got.step_norm**2 / 2, rtol=1e-4)
    assert np.all(np.abs(got.kl / got.kl_quadratic - 1) < 0.5)
    assert np.all(got.largest_eigenvalue.error < 1e-2 * got.largest_eigenvalue.value)


def case():
    _, agent = parts("CartPole-v1")
    params, _ = agent.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (12, 2, 4))
    action = agent.policy(params, obs).sample(seed=jax.random.key(2))
    advantage = jax.random.normal(jax.random.key(3), action.shape)
    return agent.policy, params, make_batch(agent.policy, params, obs, action, advantage)


def updated(num_minibatches, max_kl=float("inf"), recorded=True):
    policy, params, batch = case()
    algorithm = algorithms.ppo_clip(
        learning_rate=0.02, num_epochs=EPOCHS, num_minibatches=num_minibatches, max_kl=max_kl
    )
    batch = batch._replace(wanted=Wanted(path=recorded))
    new, _, report = _run(policy, algorithm, params, algorithm.init(params), batch)
    return new, report


@functools.partial(jax.jit, static_argnums=0)
def _run(policy, algorithm, params, state, batch):
    return algorithm.update(policy, params, state, batch, jax.random.key(4))


def test_the_loop_records_the_path_of_any_algorithm(compile_fast):
    policy, _, batch = case()
    new, report = updated(1)
    path = report.path
    # One minibatch is the whole batch: before the second epoch it is where the first one ended.
    assert abs(path.minibatch[0]) < 1e-7
    np.testing.assert_allclose(path.minibatch[1:], path.epoch[:-1], rtol=1e-4)
    np.testing.assert_allclose(path.epoch[-1], mean_kl(policy, new, batch), rtol=1e-4)
    assert np.all(np.diff(path.epoch) > 0)
    # Two are not: but their mean, within an epoch, is between the epoch's ends.
    path = updated(2)[1].path
    assert path.minibatch.shape == (EPOCHS * 2,)
    assert not np.allclose(path.minibatch[2::2], path.epoch[:-1], rtol=1e-3)


@pytest.mark.parametrize("audit", ["default", "extended"])
def test_a_column_named_as_the_path_is_the_users_own(audit, compile_fast):
    """A report may be a dict or have a path of its own; neither loses anything."""

    def update(policy, params, state, batch, key):
        mine = {"kl_path": jnp.float32(7)}
        report = updated(1)[1]._replace(extra=mine) if batch.wanted.path else mine
        return params, state, report

    pair = UpdatePair(lambda params: (), update)
    learner = make_learner(*parts("CartPole-v1"), pair, **SIZES, audit=audit)
    _, metrics = jax.jit(learner.step)(learner.init(jax.random.key(0)))
    assert metrics.extra == {"kl_path": 7}
    assert (metrics.audit.path is None) == (audit == "default")
