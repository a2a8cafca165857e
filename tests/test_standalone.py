"""Layer 1 where neither flax, optax, gymnax nor anything built on them can be imported."""

from toys import output, python

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

obs, never = jax.random.normal(jax.random.key(0), (64, 4)), jnp.zeros(64, bool)
params = 0.1 * jnp.ones((4, 3))
policy = lambda params, obs: distrax.Categorical(obs @ params)
old = policy(params, obs)
action = old.sample(seed=jax.random.key(1))
reward = (action == 0).astype(float)
gae = advantages.gae(reward, 0 * reward, 0 * reward, never, never, gamma=0.9, lam=0.5)
advantage = advantages.standardize(gae)

def loss(params):
    new = policy(params, obs)
    log_ratio = new.log_prob(action) - old.log_prob(action)
    clipped = losses.clipped_surrogate_loss(log_ratio, advantage, 0.2)
    return losses.weighted_mean(clipped + 0.01 * losses.entropy_loss(new))

product = fisher.fisher_vector_product(policy, params, obs)
step, _ = solvers.conjugate_gradient(lambda v: product(v) + 0.1 * v, jax.grad(loss)(params), 10)
new = params - 0.1 * step
kl = losses.kl_constraint(divergences.kl_divergence(old, policy(new, obs)), 0.0)
assert 0 < kl < 1, kl
assert loss(new) < loss(params)
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
"""


def test_layer_one_runs_without_the_rest():
    output("-W", "ignore", "-c", BLOCK + USE)


def test_the_block_blocks():
    done = python("-c", BLOCK + "import optax")
    assert "No module named 'optax'" in done.stderr
