"""Surrogates less a drift: one table, the conditions of mirror learning, and their edges."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from kltrust import losses
from kltrust.divergences import categorical_kl_from_logits

# name: (loss of (log_ratio, advantage, kl), the settings of the oracle's drift of that name).
DRIFTS = {
    "free": (lambda x, a, k: losses.surrogate_loss(x, a), {}),
    "clip": (lambda x, a, k: losses.clipped_surrogate_loss(x, a, 0.2), {"eps": 0.2}),
    "asymmetric": (
        lambda x, a, k: losses.clipped_surrogate_loss(x, a, 0.2, clip_high=0.28),
        {"low": 0.2, "high": 0.28},
    ),
    "dual": (
        lambda x, a, k: losses.clipped_surrogate_loss(x, a, 0.2, dual_clip=3.0),
        {"eps": 0.2, "dual": 3.0},
    ),
    "spo": (lambda x, a, k: losses.spo_loss(x, a, 0.2), {"eps": 0.2}),
    "fisher_rao": (lambda x, a, k: losses.fisher_rao_loss(x, a, 0.5), {"tau": 0.5}),
    "learned": (lambda x, a, k: losses.learned_drift_loss(x, a), {"alpha": 2.0, "beta": 0.6}),
    "rollback": (
        lambda x, a, k: losses.rollback_loss(x, a, 0.2, 0.3),
        {"eps": 0.2, "slope": 0.3},
    ),
    "kl_clip": (lambda x, a, k: losses.kl_clipped_loss(x, a, k, 0.03), {"bound": 0.03}),
    "truly": (
        lambda x, a, k: losses.kl_rollback_loss(x, a, k, 0.03, 5.0),
        {"bound": 0.03, "slope": 5.0},
    ),
    "kl": (lambda x, a, k: losses.penalty_surrogate_loss(x, a, k, 2.0), {"beta": 2.0}),
    "bounded_kl": (
        lambda x, a, k: losses.bounded_kl_loss(x, a, k, 2.0, 0.1),
        {"beta": 2.0, "c": 0.1},
    ),
}
ADVANTAGE = np.array([[1.0, -0.7, 0.3], [-2.0, 0.5, 0.0]])
OLD = np.log(np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]))


def state_losses(loss, logits, reverse=False):
    """The loss of every action at two states, [2, 3], as a function of new's logits."""
    new = jax.nn.log_softmax(logits)
    pair = (logits, jnp.asarray(OLD)) if reverse else (jnp.asarray(OLD), logits)
    kl = jnp.broadcast_to(categorical_kl_from_logits(*pair)[:, None], new.shape)
    return loss(new - OLD, jnp.asarray(ADVANTAGE), kl)


def breaches(loss, reverse=False):
    """Which conditions of mirror learning a loss breaks, at logits around old's."""
    rng = np.random.default_rng(0)
    points = jnp.asarray(
        OLD + rng.normal(size=(200, 2, 3)) * rng.choice([0.03, 0.3, 2], (200, 1, 1))
    )

    def objective(logits, loss):
        return jnp.sum(jnp.exp(OLD) * state_losses(loss, logits, reverse))

    @jax.jit
    def computed(points):
        free = DRIFTS["free"][0]
        drift = jax.vmap(lambda y: state_losses(loss, y, reverse) - state_losses(free, y))(points)
        old = jnp.asarray(OLD)
        gradients = [jax.grad(objective)(old, f) for f in (loss, free)]
        at_old = state_losses(loss, old, reverse) - state_losses(free, old)
        return (
            jnp.min(drift),
            jnp.max(jnp.abs(at_old)),
            jnp.max(jnp.abs(gradients[0] - gradients[1])),
        )

    smallest, at_old, slope = computed(points)
    conditions = {"negative": smallest < -1e-12, "at old": at_old > 1e-12, "slope": slope > 1e-12}
    return {name for name, broken in conditions.items() if broken}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", DRIFTS)
def test_mirror_learning(name):
    # The dual clip gives back what a bad action has lost beyond it: it is no drift.
    assert breaches(DRIFTS[name][0]) == ({"negative"} if name == "dual" else set())
    if name in ("kl_clip", "truly", "kl", "bounded_kl"):
        assert breaches(DRIFTS[name][0], reverse=True) == set()


@pytest.mark.usefixtures("x64")
def test_mirror_learning_can_be_broken():
    free = losses.surrogate_loss
    assert breaches(lambda x, a, k: free(x, a) + x * a) == {"negative", "slope"}
    assert breaches(lambda x, a, k: free(x, a) - k) == {"negative"}
    assert breaches(lambda x, a, k: free(x, a) + 1) == {"at old"}


@pytest.mark.usefixtures("x64")
def test_drifts_by_hand():
    rng = np.random.default_rng(1)
    x, a = rng.normal(size=(2, 300))
    x[:3], a[3:6] = 0, 0
    k = np.abs(0.05 * rng.normal(size=300))
    arrays = [jnp.asarray(v) for v in (x, a, k)]
    found = jax.jit(lambda *given: {n: f(*given) for n, (f, _) in DRIFTS.items()})(*arrays)
    for name, (_, given) in DRIFTS.items():
        drift = oracles.DRIFTS[name](np.exp(x), a, k, **given)
        np.testing.assert_allclose(
            found[name], drift - np.exp(x) * a, rtol=1e-12, atol=1e-12, err_msg=name
        )


def test_edges():
    """Far ratios, ties and what new rules out: finite, exact, and told from NaN."""
    x = jnp.array([44.0, 89.0, 100.0, 1e4, -1e4, 100.0, 100.0, -jnp.inf])
    a = jnp.array([0.0, 1.0, 0.0, 1.0, 1.0, -1.0, 1.0, 1.0])
    k = jnp.array([1.0, 1.0, jnp.inf, 9.0, 9.0, 9.0, 0.0, 1.0])

    @jax.jit
    def all_losses(x, a, k):
        return {n: jax.vmap(jax.value_and_grad(f))(x, a, k) for n, (f, _) in DRIFTS.items()}

    found = all_losses(x, a, k)
    for name, (value, slope) in found.items():
        assert np.all(np.isfinite(slope)), name
        assert np.all(np.isfinite(value) | np.isinf(k) & (name == "kl")), name
        # What has gained too much has nothing more to gain, or a way back: exactly.
        far = slope[1], slope[3]
        assert (max(far) >= 0) == (name not in ("free", "kl", "bounded_kl", "truly")), name
        if name in ("clip", "asymmetric", "dual", "kl_clip", "learned"):
            assert far == (0, 0), name
            assert slope[5] > 0 or name == "dual", name
    assert found["dual"][1][5] == 0
    at_nan = all_losses(jnp.array([jnp.nan, 0.1]), jnp.array([1.0, 1.0]), jnp.array([1.0, 1.0]))
    for name, (value, _) in at_nan.items():
        np.testing.assert_array_equal(np.isnan(value), [True, False], err_msg=name)
    # At a tie the gradient is that of the side of old.
    two = jnp.float32(math.log(2))
    tied = jax.grad(losses.clipped_surrogate_loss)(two, -jnp.ones(()), 0.2, dual_clip=jnp.exp(two))
    np.testing.assert_allclose(tied, 2, rtol=1e-6)


SETTINGS = {
    "spo_loss": {"eps": (0.2, 0.0)},
    "fisher_rao_loss": {"tau": (0.5, 0.0)},
    "learned_drift_loss": {"alpha": (2.0, 0.0), "beta": (0.6, 0.0)},
    "rollback_loss": {"clip_eps": (0.2, -0.1), "slope": (0.3, -0.1)},
    "kl_clipped_loss": {"max_kl": (0.03, -0.1)},
    "kl_rollback_loss": {"max_kl": (0.03, -0.1), "slope": (5.0, -1.0)},
    "log_surrogate_loss": {"step_size": (0.8, 0.0)},
    "bounded_kl_loss": {"beta": (2.0, -1.0), "ceiling": (0.1, 0.0)},
    "clipped_surrogate_loss": {
        "clip_eps": (0.2, -1.0),
        "clip_high": (0.28, -1.0),
        "dual_clip": (3.0, 1.0),
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name):
    """Refused at the door where they are known; else traced, one for each sample, and of effect."""
    given = {k: good for k, (good, _) in SETTINGS[name].items()}
    rng = np.random.default_rng(2)
    arrays = jnp.asarray(rng.normal(size=(3, 40)), jnp.float32).at[2].set(0.035)
    loss = getattr(losses, name)
    arrays = arrays if "kl" in name or "log_" in name else arrays[:2]

    def of(arrays, settings):
        return loss(*arrays, **settings)

    each = {k: jnp.full(40, v) for k, v in given.items()}
    changed = [{**given, k: 1.3 * v} for k, v in given.items()]
    whole, rows, *others = jax.jit(lambda *all_given: [of(*g) for g in all_given])(
        (arrays, given), (arrays, each), *((arrays, c) for c in changed)
    )
    np.testing.assert_allclose(rows, whole, rtol=1e-5, atol=1e-6)
    assert whole.shape == (40,)
    assert whole.dtype == jnp.float32
    for other in others:
        assert np.max(np.abs(other - whole)) > 1e-4
    for setting, (_, bad) in SETTINGS[name].items():
        with pytest.raises(ValueError, match=f"{setting} must be"):
            of(arrays, {**given, setting: bad})
    with pytest.raises(ValueError, match="the shapes must be equal"):
        of([arrays[0], arrays[1][:1], *arrays[2:]], given)


def test_losses_with_a_neutral_setting():
    x, a, k = jnp.asarray(np.random.default_rng(3).normal(size=(3, 40)), jnp.float32)
    k = jnp.abs(k)
    free = losses.surrogate_loss(x, a)
    for same in (
        losses.spo_loss(x, a, jnp.inf),
        losses.fisher_rao_loss(x, a, jnp.inf),
        losses.kl_clipped_loss(x, a, k, jnp.inf),
        losses.kl_rollback_loss(x, a, k, jnp.inf, 5.0),
        losses.clipped_surrogate_loss(x, a, jnp.inf, dual_clip=jnp.inf),
    ):
        np.testing.assert_array_equal(same, free)
    chex.assert_trees_all_equal(
        losses.rollback_loss(x, a, 0.2, 0.0), losses.clipped_surrogate_loss(x, a, 0.2)
    )
    np.testing.assert_array_equal(
        losses.bounded_kl_loss(x, a, k, 2.0, jnp.inf), losses.penalty_surrogate_loss(x, a, k, 2.0)
    )
