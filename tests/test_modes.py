"""The modes that JAX has for debugging and for devices: every algorithm, the audit and a learner.

But for the first one they are a matter of tracing: types are checked there, and nothing is run.
"""

import functools
import re
from pathlib import Path

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from toys import ALGORITHMS, FITTED

import kltrust
from kltrust import algorithms, audit, checks, loops
from kltrust.types import CriticBatch, PolicyBatch, UpdateReport, Wanted

PARAMS = np.asarray([[0.3, -0.2, 0.1], [-0.5, 0.4, 0.0]])
OBS = np.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5], [0.2, -1.0], [2.0, 0.3]])
ADVANTAGE = np.asarray([1.0, -1.0, 0.5, 2.0, -0.5, 0.3])


def policy(params, obs):
    return distrax.Categorical(logits=obs @ params)


def batch_of(params, obs, advantage):
    action = jnp.asarray([0, 1, 2, 0, 1, 2], jnp.int32)
    return PolicyBatch(obs, action, advantage, policy(params, obs), wanted=Wanted(path=True))


def an_update(name, params, obs, advantage, **changes):
    small = {"num_epochs": 1, "num_minibatches": 2} if name in FITTED else {"cg_iters": 2}
    update = getattr(algorithms, name)(**({} if name == "vanilla_pg" else small | changes))
    batch, key = batch_of(params, obs, advantage), jax.random.key(0)
    new, _, report = update.update(policy, params, update.init(params), batch, key)
    if isinstance(report, UpdateReport):
        return new, (report.extra, report.path)
    return new, report


def an_audit(params, obs, advantage):
    batch = batch_of(params, obs, advantage)
    new = params + 0.1
    return new, audit.audit_update(policy, params, new, batch, quantiles=(0.5,))


def a_curvature(params, obs, advantage):
    batch, key = batch_of(params, obs, advantage), jax.random.key(0)
    new = params + 0.1
    few = {"cg_iters": 2, "num_lanczos": 2, "num_probes": 2, "probe_iters": 2}
    return new, audit.audit_curvature(policy, params, new, batch, key=key, **few)


def a_critic(params, obs, advantage):
    critic = kltrust.value_regression(num_epochs=1, num_minibatches=2)
    weights, batch = params[:, 0], CriticBatch(obs, advantage, advantage)
    value = lambda w, obs: obs @ w  # noqa: E731
    new, state = critic.update(value, weights, critic.init(weights), batch, jax.random.key(0))
    return jnp.stack([new] * 3, 1), state


WORK = {name: functools.partial(an_update, name) for name in ALGORITHMS}
WORK |= {"audit": an_audit, "critic": a_critic}
TRACED = WORK | {"curvature": a_curvature}
"""Also what takes too long operator by operator."""


def inputs(dtype=jnp.float32):
    return tuple(jnp.asarray(x, dtype) for x in (PARAMS, OBS, ADVANTAGE))


@pytest.mark.parametrize("name", WORK)
def test_without_jit_and_without_a_nan(name):
    """Every operation by itself, as under ``JAX_DISABLE_JIT``, and none makes a NaN."""
    params, *rest = inputs()
    with jax.disable_jit(), jax.debug_nans(True):
        new, told = WORK[name](params, *rest)
    assert np.any(new != params)
    assert jax.tree.leaves(told) or name == "vanilla_pg"


def test_what_was_not_measured_is_no_nan_where_those_are_mistakes():
    report = jax.jit(functools.partial(an_update, "ppo_clip", num_epochs=3, max_kl=1e-12))
    assert np.isnan(report(*inputs())[1][1].epoch[1:]).all()
    with jax.debug_nans(True):
        again = jax.jit(functools.partial(an_update, "ppo_clip", num_epochs=3, max_kl=1e-12))
        assert np.isposinf(again(*inputs())[1][1].epoch[1:]).all()


def spread(work, *over):
    """The work in a `jax.shard_map` as it comes: one device is enough for its check."""
    mesh, devices = Mesh(jax.devices()[:1], "d"), PartitionSpec("d")
    specs = tuple(devices if x else PartitionSpec() for x in over)
    local = lambda *xs: jax.tree.map(lambda x: jnp.asarray(x)[None], work(*xs))  # noqa: E731
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=devices)


@pytest.mark.parametrize("name", TRACED)
def test_in_a_shard_map_that_checks_what_varies(name):
    """Rows of each device and parameters of all; and parameters of each device, too."""
    jax.eval_shape(spread(TRACED[name], False, True, True), *inputs())
    jax.eval_shape(spread(TRACED[name], True, True, True), *inputs())


def test_loops_start_as_their_steps_go_on():
    """What varies comes from a carry, from xs, or from outside of the loop."""
    x = jnp.arange(3.0)
    zero = jnp.zeros(())
    uses = {
        "scan": lambda x: loops.scan(lambda c, y: (c + y, c), zero, x),
        "outside": lambda x: loops.scan(lambda c, _: (c + x[0], c), zero, length=2),
        "while": lambda x: loops.while_loop(lambda c: c < 3, lambda c: c + x[1], zero),
        "fori": lambda x: loops.fori_loop(0, 2, lambda i, c: (c[1], x[i]), (zero, zero)),
        "cond": lambda x: loops.cond(x[0] > 0, lambda: zero, lambda: x[1]),
        "platform": lambda x: loops.platform_dependent(x, cpu=jnp.sum, default=lambda _: zero),
    }
    for name, use in uses.items():
        got, expected = (jax.tree.leaves(tree) for tree in (spread(use, True)(x), use(x)))
        np.testing.assert_array_equal([y[0] for y in got[:1]], expected[:1], err_msg=name)
    with pytest.raises(TypeError, match="varying"):  # the control
        spread(lambda x: jax.lax.scan(lambda c, y: (c + y, c), zero, x), True)(x)


def test_all_loops_of_the_core_are_these():
    """JAX's own end in an error in a `jax.shard_map` that checks what varies."""
    core, theirs = (
        Path(kltrust.__file__).parent,
        r"lax\.(scan|while|fori|cond|switch|platform)\w*\(",
    )
    files = {str(path.relative_to(core)): path.read_text("utf-8") for path in core.rglob("*.py")}
    found = {name for name, text in files.items() if re.search(theirs, text)}
    assert {name for name in found if not name.startswith("experiments")} == KEPT


KEPT = {"loops.py", "environments/_check.py", "tabular/_tabulate.py"}
"""Modules with loops of JAX's own: the mechanism, and two that run nothing of the caller's."""


@pytest.mark.parametrize("name", TRACED)
def test_where_types_are_not_promoted(name):
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(TRACED[name], *inputs())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TRACED)
def test_in_double_precision_types_stay(name, dtype):
    with jax.enable_x64(True):
        new, _ = jax.eval_shape(TRACED[name], *inputs(dtype))
        assert new.dtype == dtype


def a_training(audit="full"):
    env = kltrust.make("Pendulum-v1")
    learner = kltrust.make_learner(
        env,
        kltrust.actor_critic(env, hidden=(4,)),
        algorithms.ppo_clip(num_epochs=1, num_minibatches=2),
        critic=kltrust.value_regression(num_epochs=1, num_minibatches=2),
        num_envs=2,
        num_steps=4,
        audit=audit,
        normalize_observations=True,
        normalize_rewards=True,
    )
    return lambda key: kltrust.train(learner, key, 1)


def test_a_training_in_every_mode():
    key = jax.random.key(0)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(a_training(), key)
    with jax.enable_x64(True):
        jax.eval_shape(a_training(), key)
    program = str(jax.make_jaxpr(spread(lambda keys: a_training()(keys[0]), True))(key[None]))
    assert "pvary" in program or "pcast" in program
    assert "psum" not in program  # trainings with keys of their own have nothing in common


def test_untyped_keys_stand_for_typed_ones():
    typed, untyped = (make(7) for make in (jax.random.key, jax.random.PRNGKey))
    data = [jax.random.key_data(checks.typed_key(k)) for k in (typed, untyped)]
    np.testing.assert_array_equal(*data)
    state, _ = jax.eval_shape(a_training("default"), untyped)
    assert state.key.dtype == typed.dtype
    for no_key in (0, jnp.zeros(2), np.uint32(3)):
        with pytest.raises(TypeError, match=r"jax\.random\.key\(0\)"):
            checks.typed_key(no_key)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_only_floats_are_parameters(name):
    """Others reach the policy, and come back as they were."""

    def with_others(params, obs):
        assert params["count"].dtype == jnp.int32
        return policy(params["w"] * params["count"], obs)

    weights, obs, advantage = inputs()
    params = {"w": weights, "count": jnp.int32(1), "key": jax.random.key(3)}
    small = {"num_epochs": 1, "num_minibatches": 1} if name in FITTED else {}
    update = getattr(algorithms, name)(**small)
    state = update.init(params)
    plain = update.init({"w": weights, "count": None, "key": None})
    assert jax.tree.structure(state) == jax.tree.structure(plain)
    batch = batch_of(weights, obs, advantage)
    new = jax.eval_shape(
        lambda p: update.update(with_others, p, state, batch, jax.random.key(0))[0], params
    )
    assert new == jax.eval_shape(lambda p: p, params)
