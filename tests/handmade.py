"""Policies by hand with a batch each, and every algorithm at small settings."""

import dataclasses
import functools
import math
from types import MappingProxyType
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree
from toys import ALGORITHMS, FITTED, KINDS, having

from kltrust import algorithms
from kltrust.audit import measure_update
from kltrust.lowering import permutation
from kltrust.types import PolicyBatch, UpdateReport
from kltrust.updates import sample_loss

NUM_ROWS = 24

# --- the table ------------------------------------------------------------------------------------

# Small, and strong enough that every algorithm moves. The solves end by their tolerance.
SMALL = {
    "learning_rate": 0.01,
    "init_learning_rate": 0.01,
    "max_learning_rate": 0.1,
    "target_kl": 0.01,
    "num_epochs": 3,
    "num_minibatches": 4,
    "cg_iters": 100,
}
NATURAL = having("cg_iters")
PENALISED = ("ppo_penalty", "ppo_reverse_kl", "mdpo", "fixpo")
FORWARD = ("ppo_penalty", "fixpo")
LOOPS = tuple(n for n in KINDS if n in FITTED)
LOSSES = tuple(n for n in FITTED if hasattr(getattr(algorithms, n), "losses"))
"""Those that declare the losses of rows: the rest have a loop of their own."""
OWN_LOOPS = tuple(n for n in FITTED if n not in LOSSES)
UPDATES = tuple(
    {getattr(algorithms, n).update: n for n in sorted(KINDS, key="ppo_clip".__eq__)}.values()
)
"""One algorithm for each function that updates: other kinds steer a coefficient beside it."""
DRAWN = (*PENALISED, "trpl")
"""Old is a minimum of their losses, but one that Adam does not hold."""


def options(name: str) -> dict[str, Any]:
    """Every setting of an algorithm with its value here."""
    small = SMALL | ({"learning_rate": 0.1} if name == "vanilla_pg" else {})
    fields = dataclasses.fields(getattr(algorithms, name))
    return {f.name: small.get(f.name, f.default) for f in fields}


def is_traced(value: Any) -> bool:
    return isinstance(value, float)


def numbers(name: str, **changes: float) -> dict[str, jax.Array]:
    """The options that may be traced, all as arrays of the default float dtype."""
    values = {k: v for k, v in options(name).items() if is_traced(v)}
    assert set(changes) <= set(values)
    return {k: jnp.asarray(v, float) for k, v in (values | changes).items()}


def build(name: str, traced: dict[str, Any], **static: Any):
    return getattr(algorithms, name)(**(options(name) | traced | static))


# --- policies by hand -----------------------------------------------------------------------------


def with_one(x):
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], -1)


def outputs(params, obs):
    return with_one(jnp.tanh(with_one(obs) @ params["hidden"])) @ params["out"]


def categorical(params, obs):
    return distrax.Categorical(logits=outputs(params, obs))


def gaussian(params, obs):
    y = outputs(params, obs)
    return distrax.Independent(distrax.Normal(y[..., :3], jnp.exp(0.3 * y[..., 3:])), 1)


def multi_discrete(params, obs):
    y = outputs(params, obs)
    # Two digits of three and two values: the padded logit is -inf.
    logits = y.reshape(*y.shape[:-1], 2, 3)
    exists = jnp.broadcast_to(np.array([[True] * 3, [True, True, False]]), logits.shape)
    return distrax.Independent(distrax.Categorical(logits=jnp.where(exists, logits, -jnp.inf)), 1)


def bernoulli(params, obs):
    return distrax.Independent(distrax.Bernoulli(logits=outputs(params, obs)), 1)


def masked_sequences(params, obs):
    """Two masked digits, by a memory: the sum of what the sequence showed so far."""
    x, allowed = obs
    hidden = jnp.cumsum(jnp.tanh(with_one(x) @ params["hidden"]), axis=-2)
    logits = (with_one(hidden) @ params["out"]).reshape(allowed.shape)
    logits = jnp.where(allowed, logits, -jnp.inf)
    return distrax.Independent(distrax.Categorical(logits=logits), 1)


def of_images(params, obs):
    """A Gaussian whose means and scales are of the state, after a convolution."""
    shape, kernel = obs.shape[:-3], params["hidden"].reshape(2, 2, 1, 5)
    images = obs.reshape(-1, *obs.shape[-3:])
    layout = ("NHWC", "HWIO", "NHWC")
    seen = jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout)
    y = with_one(jnp.tanh(seen).mean((1, 2)).reshape(*shape, 5)) @ params["out"]
    return distrax.Independent(distrax.Normal(y[..., :3], jnp.exp(0.3 * y[..., 3:])), 1)


POLICIES = MappingProxyType(
    {
        "categorical": categorical,
        "gaussian": gaussian,
        "multi_discrete": multi_discrete,
        "bernoulli": bernoulli,
    }
)
SHAPED = MappingProxyType({"masked_sequences": masked_sequences, "of_images": of_images})
"""Observations that are no vectors: sequences with masks [B, T, ...], and images."""
EVERYWHERE = MappingProxyType({**POLICIES, **SHAPED})


class Case(NamedTuple):
    params: Any
    batch: PolicyBatch


def case(policy: str, seed: int = 0, dtype: Any = None) -> Case:
    return _case(policy, seed, jnp.dtype(dtype or jnp.zeros(()).dtype), jax.config.jax_enable_x64)


@functools.cache
def _case(policy: str, seed: int, dtype: Any, x64: bool) -> Case:
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    params = {"hidden": 0.5 * normal(4, 5), "out": 0.5 * normal(6, 6)}
    obs, advantage = normal(NUM_ROWS, 3), normal(NUM_ROWS)
    if policy == "of_images":
        obs = normal(NUM_ROWS, 4, 3, 1)
    if policy == "masked_sequences":
        obs, advantage = obs.reshape(8, 3, 3), advantage.reshape(8, 3)
        allowed = rng.random((8, 3, 2, 3)) < 0.5
        obs = obs, jnp.asarray(allowed | (np.arange(3) == rng.integers(3, size=(8, 3, 2, 1))))
    old = EVERYWHERE[policy](params, obs)
    with jax.numpy_rank_promotion("allow"):  # distrax's Bernoulli promotes when it samples
        action = old.sample(seed=jax.random.key(seed))
    return Case(params, PolicyBatch(obs, action, advantage, old))


@functools.cache
def compiled(policy: str):
    """(algorithm, params, state or None for a fresh one, batch, key) -> (params, state, extra)."""

    def update(algorithm, params, state, batch, key):
        state = algorithm.init(params) if state is None else state
        params, state, report = algorithm.update(EVERYWHERE[policy], params, state, batch, key)
        return params, state, report.extra if isinstance(report, UpdateReport) else report

    return jax.jit(update)


@functools.cache
def audited(policy: str):
    return jax.jit(functools.partial(measure_update, EVERYWHERE[policy]))


def run(name, policy, c, *, key=0, state=None, static=MappingProxyType({}), **changes):
    algorithm = build(name, numbers(name, **changes), **static)
    return compiled(policy)(algorithm, c.params, state, c.batch, jax.random.key(key))


def max_difference(x, y):
    def difference(a, b):
        return np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)))

    return max(jax.tree.leaves(jax.tree.map(difference, x, y)))


every = pytest.mark.parametrize("policy", POLICIES)
each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
each_kind = pytest.mark.parametrize("name", KINDS)
each_update = pytest.mark.parametrize("name", UPDATES)


def declared_loss(algorithm, policy, batch):
    """Of the parameters: an algorithm's mean loss, in its first iteration."""
    known = batch._replace(known=algorithm.prepare(batch))

    def loss(params):
        coefficient = None if algorithm.State is None else algorithm.init(params)[1]
        losses = lambda sample: algorithm.losses(sample, coefficient)  # noqa: E731
        return sample_loss(EVERYWHERE[policy], losses, algorithm.entropy_coef)(params, known)

    return loss


# --- one update by hand ---------------------------------------------------------------------------

FAMILIES = {"categorical": oracles.Softmax, "gaussian": oracles.Gaussian}

families = pytest.mark.parametrize("policy", FAMILIES)


def flat(params):
    return np.asarray(ravel_pytree(params)[0])


def problem(c: Case, policy: str) -> oracles.Problem:
    return oracles.Problem(
        FAMILIES[policy],
        flat(c.params),
        *(np.asarray(x) for x in (c.batch.obs, c.batch.action, c.batch.advantage)),
    )


def minibatch_orders(key, num_epochs, num_minibatches):
    """The rows of each minibatch of each epoch, as the update draws them."""
    if num_minibatches == 1:
        return [[np.arange(NUM_ROWS)]] * num_epochs
    keys = jax.random.split(jax.random.key(key), num_epochs)
    return [np.asarray(permutation(k, NUM_ROWS)).reshape(num_minibatches, -1) for k in keys]


BY_HAND = {
    "drift_ppo": ("learned", {"drift_alpha": 0.3, "drift_beta": 0.2}, {"alpha": 0.2, "beta": 0.3}),
    "espo": ("free", {"max_change": math.inf}, None),
    "fr_ppo": ("fisher_rao", {"tau": 0.3}, {"tau": 0.6}),
    "ppo_asymmetric": (
        "asymmetric",
        {"clip_eps": 0.05, "clip_high": 0.1},
        {"low": 0.1, "high": 0.1},
    ),
    "spo": ("spo", {"eps": 0.1}, {"eps": 0.2}),
    "spma": ("log", {"step_size": 0.8}, {"eta": 0.6}),
    "tr_ppo": ("truly", {"state_kl": 1e-3, "kl_slope": 5.0}, {"bound": 1e-3, "slope": 9.0}),
}

HAND_NAMES = {
    "clip_eps": "low",
    "clip_high": "high",
    "state_kl": "bound",
    "kl_slope": "slope",
    "step_size": "eta",
    "drift_alpha": "alpha",
    "drift_beta": "beta",
}


def loss_by_hand(name, weight, entropy_coef, reverse=None):
    """(part of a problem, theta) -> loss; the weight is a penalty's, or the clip's half width."""
    reverse = name not in FORWARD if reverse is None else reverse

    def loss(part, theta):
        if name in PENALISED:
            return part.penalty_loss(theta, weight, entropy_coef, reverse)
        return part.clip_loss(theta, weight, entropy_coef)

    return loss
