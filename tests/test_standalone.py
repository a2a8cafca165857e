"""Layer 1 where neither flax, optax, gymnax nor anything built on them can be imported."""

import subprocess
import sys
import textwrap

import pytest

BLOCK = """
import sys

BLOCKED = {"flax", "optax", "gymnax", "orbax", "haiku", "equinox", "brax", "pandas", "matplotlib"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""

USE = """
import jax
import jax.numpy as jnp
import distrax
from kltrust import advantages, divergences, fisher, losses, solvers

obs = jax.random.normal(jax.random.key(0), (64, 4))
params = {"kernel": 0.1 * jnp.ones((4, 3)), "bias": jnp.zeros(3)}

def policy(params, obs):
    return distrax.Categorical(obs @ params["kernel"] + params["bias"])

old = policy(params, obs)
action = old.sample(seed=jax.random.key(1))
reward = (action == 0).astype(jnp.float32)
never = jnp.zeros(64, bool)
value = jnp.zeros(64)
advantage = advantages.standardize(
    advantages.gae(reward, value, value, never, never, gamma=0.9, lam=0.5)
)

def log_ratio(params):
    return policy(params, obs).log_prob(action) - old.log_prob(action)

def loss(params):
    return losses.weighted_mean(losses.surrogate_loss(log_ratio(params), advantage))

gradient = jax.grad(loss)(params)
product = fisher.fisher_vector_product(policy, params, obs)
damped = lambda v: jax.tree.map(lambda f, x: f + 0.1 * x, product(v), v)
step, residual = solvers.conjugate_gradient(damped, gradient, 10)
new = jax.tree.map(lambda p, s: p - 0.1 * s, params, step)
kl = losses.kl_constraint(divergences.kl_divergence(old, policy(new, obs)), 0.0)
assert 0 < kl < 1, kl
assert loss(new) < loss(params)
assert jnp.isfinite(residual)
assert losses.clipped_surrogate_loss(log_ratio(new), advantage, 0.2).shape == (64,)
assert losses.entropy_loss(old).shape == (64,)
"""

REPORT = """
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
print("fine")
"""


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_layer_one_runs_without_the_rest():
    done = python(BLOCK + USE + REPORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"


@pytest.mark.parametrize("name", ["flax", "optax", "gymnax"])
def test_the_block_blocks(name):
    done = python(BLOCK + f"import {name}")
    assert f"No module named '{name}'" in done.stderr
