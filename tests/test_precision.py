"""Products that round their factors, as on GPUs and TPUs: simulated, beside what happens then."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kltrust import algorithms, audit, fisher, tree, updates
from kltrust.divergences import kl_divergence
from kltrust.rollout.batches import make_batch

KINDS = {"tf32": 10, "bfloat16": 7}  # bits of the mantissa that a product keeps
FULL = 23


def rounded(x, bits):
    mantissa, exponent = jnp.frexp(x)
    kept = jnp.ldexp(jnp.round(jnp.ldexp(mantissa, bits + 1)), exponent - bits - 1)
    return x + jax.lax.stop_gradient(kept - x)


def policy(params, obs):
    """A Gaussian of rounding products: exact ones at the highest precision, unless it is deaf."""
    exact = jax.config.jax_default_matmul_precision == "highest"
    bits = jnp.where(exact & ~params["deaf"], FULL, params["bits"])
    h = obs
    for w in params["hidden"]:
        h = jnp.tanh(rounded(h, bits) @ rounded(w, bits))
    loc = rounded(h, bits) @ rounded(params["head"], bits)
    return distrax.Independent(distrax.Normal(loc, jnp.broadcast_to(params["scale"], loc.shape)), 1)


def parameters(key, bits, deaf):
    keys, make = jax.random.split(key, 3), jax.nn.initializers.orthogonal
    return {
        "hidden": [make(2**0.5)(keys[0], (17, 64)), make(2**0.5)(keys[1], (64, 64))],
        "head": make(1.0)(keys[2], (64, 6)),
        "scale": jnp.full(6, 0.4),
        "bits": jnp.int32(bits),
        "deaf": jnp.asarray(deaf),
    }


@jax.jit
def one_update(bits, deaf, max_kl):
    """TRPO's report and step, measured by the audit and in truth, which no product rounds."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = parameters(keys[0], bits, deaf)
    obs = jax.random.normal(keys[1], (32, 16, 17))
    action = policy(params, obs).sample(seed=keys[2])
    noise = jax.random.normal(keys[3], (32, 16))
    batch = make_batch(policy, params, obs, action, jnp.tanh(obs[..., 0]) * action[..., 0] + noise)
    trpo = algorithms.trpo(max_kl=max_kl)
    new, _, report = trpo.update(policy, params, (), batch, keys[0])

    def true(params):
        return policy({**params, "bits": jnp.int32(FULL)}, batch.obs)

    exact = tree.in_full_precision(policy)
    return {
        "report": report,
        "true": jnp.mean(kl_divergence(true(params), true(new))),
        "measured": updates.mean_kl(policy, new, batch),
        "audited": audit.audit_update(policy, None, new, batch, quantiles=()).kl.mean,
        "gate": updates.kl_gate(policy, max_kl)(new, batch),
        "start": updates.log_ratio(exact(params, batch.obs), batch),
        "first": updates.log_ratio(policy(params, batch.obs), batch),
        "off": kl_divergence(batch.old, true(params)),
    }


@pytest.mark.parametrize("max_kl", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("kind", KINDS)
def test_bound_controls_and_metrics_hold(kind, max_kl):
    seen = one_update(KINDS[kind], False, max_kl)
    assert seen["report"]["accepted"]
    assert seen["report"]["backtracks"] == 0
    assert seen["gate"]
    assert 0.3 * max_kl < seen["true"] <= max_kl
    np.testing.assert_allclose(seen["measured"], seen["true"], rtol=1e-3)
    np.testing.assert_allclose(seen["audited"], seen["true"], rtol=1e-3)
    assert not np.any(seen["start"])
    assert np.max(seen["off"]) < 1e-11
    # What a gradient sees at the start is rounded: nothing of the above came for free.
    assert np.max(np.abs(seen["first"])) > 1e-4


def test_what_happens_where_all_products_round():
    """The control: a policy that keeps its rounding whatever precision it is asked for."""
    seen = one_update(KINDS["bfloat16"], True, 1e-4)
    assert seen["report"]["backtracks"] > 2
    assert seen["true"] < 0.2 * 1e-4
    assert np.abs(seen["audited"] - seen["true"]) > 0.5 * seen["true"]
    assert np.mean(seen["off"]) > 1e-5
    seen = one_update(KINDS["bfloat16"], True, 1e-6)
    assert not seen["report"]["accepted"]


def test_derivatives_have_the_precision_of_their_products():
    seen = []

    def watching(params, obs):
        seen.append(jax.config.jax_default_matmul_precision)
        return distrax.Categorical(logits=obs @ params)

    obs, params = jnp.ones((4, 3)), jnp.zeros((3, 2))
    batch = make_batch(watching, params, obs[None], jnp.zeros((1, 4), int), jnp.ones((1, 4)))
    ppo = algorithms.ppo_clip(num_epochs=1, num_minibatches=1, max_kl=1.0)
    jax.eval_shape(lambda: ppo.update(watching, params, ppo.init(params), batch, jax.random.key(0)))
    assert seen == ["highest", None, "highest"]  # old, the gradient, the gate
    seen.clear()
    fisher.fisher_operator(watching, params, obs, precision=None)
    assert set(seen) == {None}
