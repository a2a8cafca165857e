"""How well the critic fits its targets."""

import jax.numpy as jnp
import numpy as np
import pytest

from kltrust.advantages import gae
from kltrust.critic import measure_critic

VALUE = jnp.linspace(-1, 1, 2048)


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.3, 1000.1, 1e-20])
def test_targets_that_do_not_vary_are_not_explained(constant):
    """Nor are those of one-step episodes of one reward, which vary by rounding."""
    assert measure_critic(VALUE, jnp.full(2048, constant))["explained_variance"] == 0
    done, reward = jnp.ones((1, 2048), bool), jnp.full((1, 2048), constant)
    advantage = gae(reward, VALUE[None], VALUE[None], done, done, gamma=0.99, lam=0.95)
    assert measure_critic(VALUE, advantage[0] + VALUE)["explained_variance"] == 0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_explained_variance_and_loss_by_their_definitions(scale):
    target = scale * np.random.default_rng(0).normal(size=2048).astype(np.float32)
    value = np.float32(0.7) * target + scale * np.float32(0.1)
    found = measure_critic(jnp.asarray(value), jnp.asarray(target))
    np.testing.assert_allclose(found["explained_variance"], 1 - 0.3**2, rtol=1e-5)
    error = (target - value).astype(np.float64)
    np.testing.assert_allclose(found["value_loss"], np.mean(error**2) / 2, rtol=1e-5)
