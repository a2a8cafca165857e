"""The audit of an update against joint outcomes listed one by one in numpy, and its promises."""

import functools
import itertools
import math
import textwrap
from typing import Any, NamedTuple

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from handmade import bernoulli, gaussian, multi_discrete, outputs

from kltrust import audit
from kltrust.audit import audit_update, exact_total_variation, normal_total_variation
from kltrust.divergences import kl_divergence
from kltrust.losses import clipped_surrogate_loss
from kltrust.rollout.normalization import init_moments, update_moments
from kltrust.types import PolicyBatch

NUM_ROWS, NUM_PARAMS = 24, 56
QUANTILES = (0.0, 0.5, 0.95, 1.0)
MASK = np.array([True, True, False, True, True, True])


# --- one network, five policies, each written twice -----------------------------------------------


def masked_categorical(theta, obs):
    y = outputs(theta, obs)
    return distrax.Categorical(logits=jnp.where(jnp.broadcast_to(MASK, y.shape), y, -jnp.inf))


def scalar_gaussian(theta, obs):
    y = outputs(theta, obs)
    return distrax.Independent(distrax.Normal(y[..., :1], jnp.exp(0.3 * y[..., 3:4])), 1)


def of_a_vector(policy):
    """A policy of handmade with its parameters as one flat vector, as `oracles` has them."""
    cut = (oracles.NUM_INPUTS + 1) * oracles.NUM_HIDDEN

    def flat(theta, obs):
        hidden = theta[:cut].reshape(oracles.NUM_INPUTS + 1, -1)
        return policy(
            {"hidden": hidden, "out": theta[cut:].reshape(oracles.NUM_HIDDEN + 1, -1)}, obs
        )

    return flat


POLICIES = {
    "categorical": of_a_vector(masked_categorical),
    "multi_discrete": of_a_vector(multi_discrete),
    "bernoulli": of_a_vector(bernoulli),
    "gaussian": of_a_vector(gaussian),
    "scalar_gaussian": of_a_vector(scalar_gaussian),
}


def joint_outcomes(name, y):
    """{action: log-probability} of every joint outcome of one row of six outputs."""

    def log_softmax(z):
        return z - np.log(np.exp(z).sum())

    if name == "categorical":
        kept = [a for a in range(6) if MASK[a]]
        return dict(zip([(a,) for a in kept], log_softmax(y[kept]), strict=True))
    if name == "multi_discrete":
        factors = [log_softmax(y[:3]), log_softmax(y[3:5])]
    else:
        factors = [log_softmax(np.array([0 * z, z])) for z in y]
    digits = [range(len(f)) for f in factors]
    return {
        a: sum(f[i] for f, i in zip(factors, a, strict=True)) for a in itertools.product(*digits)
    }


def gaussian_row(name, y):
    d = 3 if name == "gaussian" else 1
    return y[:d], np.exp(0.3 * y[3 : 3 + d])


class Row(NamedTuple):
    """One state and sample: KLs, its parts, TV and log ratio, by definition."""

    kl: float
    kl_reverse: float
    from_mean: float
    from_scale: float
    tv: float
    log_ratio: float


def finite_row(name, y, z, action):
    old, new = joint_outcomes(name, y), joint_outcomes(name, z)
    assert math.isclose(sum(map(math.exp, old.values())), 1)
    kl = sum(math.exp(old[a]) * (old[a] - new[a]) for a in old)
    reverse = sum(math.exp(new[a]) * (new[a] - old[a]) for a in old)
    tv = sum(max(math.exp(old[a]) - math.exp(new[a]), 0) for a in old)
    action = tuple(np.atleast_1d(action).tolist())
    return Row(kl, reverse, math.nan, math.nan, tv, new[action] - old[action])


def gaussian_kls(m, s, n, t):
    from_mean = (((m - n) / t) ** 2).sum() / 2
    return from_mean, oracles.normal_kl(m, s, m, t).sum(), oracles.normal_kl(m, s, n, t).sum()


def gaussian_density(x, m, s):
    return np.exp(-(((x - m) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))


def tv_by_quadrature(m, s, n, t):
    low, high = min(m - 12 * s, n - 12 * t), max(m + 12 * s, n + 12 * t)
    x = np.linspace(low, high, 100_001)
    gap = np.abs(gaussian_density(x, m, s) - gaussian_density(x, n, t))
    return gap.sum() * (x[1] - x[0]) / 2


def gaussian_row_oracle(name, y, z, action):
    (m, s), (n, t) = gaussian_row(name, y), gaussian_row(name, z)
    from_mean, from_scale, kl = gaussian_kls(m, s, n, t)
    ratio = np.prod(gaussian_density(action, n, t) / gaussian_density(action, m, s))
    tv = tv_by_quadrature(m[0], s[0], n[0], t[0]) if name == "scalar_gaussian" else math.nan
    reverse = gaussian_kls(n, t, m, s)[2]
    return Row(kl, reverse, from_mean, from_scale, tv, math.log(ratio))


class Case(NamedTuple):
    name: str
    old: Any
    new: Any
    batch: PolicyBatch

    @property
    def policy(self):
        return POLICIES[self.name]

    def rows(self):
        """A `Row` for every row that has weight, as columns, and the weights."""
        kept = np.flatnonzero(np.asarray(self.batch.weight) > 0)
        row = gaussian_row_oracle if "gaussian" in self.name else finite_row
        y, z = (oracles.outputs(np.asarray(t), np.asarray(self.batch.obs)) for t in self[1:3])
        action = np.asarray(self.batch.action)
        table = [row(self.name, y[i], z[i], action[i]) for i in kept]
        return Row(*np.array(table, float).T), np.asarray(self.batch.weight)[kept], kept


def own_update(theta):
    """An update that is nobody's algorithm."""
    return theta + 0.6 * jnp.sin(3 * theta)


@functools.cache
def case(name, seed=0, dtype=np.float64):
    """A third of the rows is padding whose advantage is NaN."""
    rng = np.random.default_rng(seed)
    theta = jnp.asarray(0.6 * rng.normal(size=NUM_PARAMS), dtype)
    obs = jnp.asarray(rng.normal(size=(NUM_ROWS, 3)), dtype)
    weight = np.where(np.arange(NUM_ROWS) % 3 == 0, 0, rng.uniform(0.5, 2, NUM_ROWS))
    advantage = np.where(weight > 0, rng.normal(size=NUM_ROWS), np.nan)
    advantage[1] = 0.0
    old = POLICIES[name](theta, obs)
    with jax.numpy_rank_promotion("allow"):  # distrax's Bernoulli promotes when it samples
        action = old.sample(seed=jax.random.key(seed))
    batch = PolicyBatch(obs, action, jnp.asarray(advantage, dtype), old, jnp.asarray(weight, dtype))
    return Case(name, theta, own_update(theta), batch)


@functools.cache
def compiled(name, **options):
    return jax.jit(lambda *args: audit_update(POLICIES[name], *args, **options))


def audited(c, **options):
    return compiled(c.name, **options)(c.old, c.new, c.batch)


def check_summary(summary, x, weight, rtol):
    np.testing.assert_allclose(summary.mean, np.average(x, weights=weight), rtol=rtol)
    np.testing.assert_allclose(summary.max, x.max(), rtol=rtol)
    for q in QUANTILES:
        expected = np.quantile(x, q, weights=weight, method="inverted_cdf")
        np.testing.assert_allclose(summary.quantiles[f"q{100 * q:g}"], expected, rtol=rtol)


# --- against the second implementation ------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_every_field_is_what_the_outcomes_say(name, x64):
    c, eps = case(name), 0.3
    result = audited(c, quantiles=QUANTILES, clip_eps=eps)
    row, weight, kept = c.rows()
    rtol = 1e-9
    check_summary(result.kl, row.kl, weight, rtol)
    check_summary(result.kl_reverse, row.kl_reverse, weight, rtol)
    check_summary(result.pinsker, np.sqrt(row.kl / 2), weight, rtol)
    check_summary(result.bretagnolle_huber, np.sqrt(1 - np.exp(-row.kl)), weight, rtol)
    ratio, advantage = np.exp(row.log_ratio), np.asarray(c.batch.advantage)[kept]
    check_summary(result.ratio, ratio, weight, rtol)
    np.testing.assert_allclose(result.ratio_min, ratio.min(), rtol=rtol)

    def mean(x):
        return sum(w * v for w, v in zip(weight, x, strict=True)) / sum(weight)

    np.testing.assert_allclose(result.ratio_deviation, mean(abs(ratio - 1)), rtol=rtol)
    np.testing.assert_allclose(result.tv_sampled, mean(np.maximum(1 - ratio, 0)), rtol=rtol)
    np.testing.assert_allclose(
        result.effective_sample_size, mean(ratio) ** 2 / mean(ratio**2), rtol=rtol
    )
    np.testing.assert_allclose(result.surrogate_gain, mean((ratio - 1) * advantage), rtol=rtol)
    shares = {"inside": 0.0, "gradient_removed": 0.0, "gradient_kept": 0.0}
    for r, a, w in zip(ratio, advantage, weight / weight.sum(), strict=True):
        if abs(r - 1) <= eps:
            shares["inside"] += w
        else:
            shares["gradient_removed" if (r > 1) == (a > 0) and a != 0 else "gradient_kept"] += w
    assert min(shares.values()) > 0
    for key, share in shares.items():
        np.testing.assert_allclose(getattr(result, key), share, rtol=rtol)
    if "gaussian" in name:
        np.testing.assert_allclose(result.kl_from_mean, mean(row.from_mean), rtol=rtol)
        np.testing.assert_allclose(result.kl_from_scale, mean(row.from_scale), rtol=rtol)
    else:
        assert result.kl_from_mean is None
        assert result.kl_from_scale is None
    if name == "gaussian":
        assert result.tv is None
    else:  # the trapezoidal rule has an error of its own at the densities' crossings
        check_summary(result.tv, row.tv, weight, 1e-7 if "gaussian" in name else rtol)
    # The controls: what a wrong direction or weights that are ignored would have given.
    assert abs(result.kl.mean - mean(row.kl_reverse)) > 0.01 * result.kl.mean
    assert abs(result.kl.mean - row.kl.mean()) > 1e-3 * result.kl.mean


def test_lanes_agree_with_one_batch_alone(x64):
    cases = [case("gaussian", seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(c[1:] for c in cases))
    together = jax.jit(jax.vmap(compiled("gaussian")))(*stacked)
    for i, c in enumerate(cases):
        lane = jax.tree.map(lambda x, i=i: x[i], together)
        chex.assert_trees_all_close(lane, audited(c), rtol=1e-12)


def test_sequences_and_float32_agree_with_rows_in_float64(x64):
    c = case("categorical")
    rows = audited(c)
    # [N] rows as [B, T] sequences of a policy that keeps both axes.
    fold = lambda tree: jax.tree.map(lambda x: x.reshape(4, 6, *x.shape[1:]), tree)  # noqa: E731
    chex.assert_trees_all_close(audited(c._replace(batch=fold(c.batch))), rows, rtol=1e-12)
    to_single = lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x  # noqa: E731
    single = audited(Case(c.name, *jax.tree.map(to_single, tuple(c[1:]))))
    assert single.kl.mean.dtype == jnp.float32
    chex.assert_trees_all_close(jax.tree.map(np.float64, single), rows, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 20])
def test_quantiles_are_values_of_the_batch(size):
    rng = np.random.default_rng(size)
    x = rng.normal(size=size).round(1).astype(np.float32)  # ties, and either sign
    quantiles = (0.0, 0.05, 0.25, 0.5, 0.95, 1.0)
    summarise = jax.jit(lambda x, weight: audit.summarise(x, weight, quantiles))
    for weight in (None, np.ones(size), np.arange(size) % 4 != 1, rng.uniform(0.1, 3, size)):
        got = summarise(x, weight if weight is None else weight.astype(np.float32))
        expected = np.quantile(x, quantiles, weights=weight, method="inverted_cdf")
        np.testing.assert_array_equal([got.quantiles[f"q{100 * q:g}"] for q in quantiles], expected)
        assert got.max == expected[-1]
    lost = audit.summarise(jnp.asarray([1.0, jnp.nan, -jnp.nan, -jnp.inf]), None, (0.25, 0.5, 0.75))
    np.testing.assert_array_equal(list(lost.quantiles.values()), [-np.inf, 1, np.nan])


def test_one_loop_finds_the_quantiles_of_all():
    """Each loop is one more to compile."""
    c = case("categorical", dtype=np.float32)

    def loops(function, *args):
        return str(jax.make_jaxpr(function)(*args)).count("scan[")

    assert loops(functools.partial(audit_update, c.policy), c.old, c.new, c.batch) == 1
    both = lambda x: [audit.summarise(y, None) for y in (x, -x)]  # noqa: E731
    assert loops(both, c.batch.advantage) == 2  # the control


# --- where nothing moved, where nothing counts, where all is lost ---------------------------------


@pytest.mark.parametrize("name", ["categorical", "gaussian", "scalar_gaussian"])
def test_an_update_that_changes_nothing_measures_as_nothing(name):
    c = case(name, dtype=np.float32)
    still = audited(c._replace(new=c.old))
    chex.assert_tree_all_finite(still)
    assert all(leaf.shape == () for leaf in jax.tree.leaves(still))
    zeros = (still.kl, still.kl_reverse, still.tv, still.kl_from_mean, still.kl_from_scale)
    assert all(abs(leaf) <= 1e-7 for leaf in jax.tree.leaves(zeros))
    assert still.tv_sampled <= 1e-6
    assert abs(still.surrogate_gain) <= 1e-6
    np.testing.assert_allclose(still.effective_sample_size, 1, atol=1e-6)
    np.testing.assert_allclose([still.ratio.max, still.ratio_min, still.inside], 1, atol=1e-6)
    assert audited(c).kl.mean > 1e-3  # the control


def test_a_batch_of_padding_alone_is_zero():
    c = case("categorical", dtype=np.float32)
    nothing = c.batch._replace(weight=jnp.zeros(NUM_ROWS), advantage=jnp.full(NUM_ROWS, jnp.nan))
    chex.assert_trees_all_close(
        audited(c._replace(batch=nothing)), jax.tree.map(jnp.zeros_like, audited(c))
    )


def test_an_action_ruled_out_makes_the_kl_infinite_and_nothing_nan():
    logits = jnp.zeros((4, 3)).at[:, 2].set(jnp.array([0.0, -jnp.inf, 0.0, 0.0]))
    policy = lambda logits, obs: distrax.Categorical(logits=logits)  # noqa: E731
    batch = PolicyBatch(
        jnp.zeros(4), jnp.array([2, 2, 1, 0]), jnp.ones(4), policy(jnp.zeros((4, 3)), None)
    )
    result = jax.jit(audit_update, static_argnums=0)(policy, jnp.zeros((4, 3)), logits, batch)
    assert not any(jnp.isnan(leaf) for leaf in jax.tree.leaves(result))
    assert result.kl.max == result.pinsker.max == jnp.inf
    assert result.bretagnolle_huber.max == 1
    assert result.ratio_min == 0
    assert result.kl.quantiles["q50"] == 0
    np.testing.assert_allclose([result.kl_reverse.max, result.tv.max], [math.log(1.5), 1 / 3], 1e-5)
    np.testing.assert_allclose(result.effective_sample_size, 3**2 / (4 * 3), rtol=1e-6)


def test_bad_settings_are_refused():
    c = case("categorical", dtype=np.float32)
    with pytest.raises(ValueError, match=r"0\.95, not 95"):
        audited(c, quantiles=(95,))
    with pytest.raises(ValueError, match="clip_eps"):
        audited(c, clip_eps=-0.1)


# --- total variation and its bounds ---------------------------------------------------------------

CASES = 10_000


def test_bounds_hold_in_random_cases_and_half_of_them_does_not(x64):
    rng = np.random.default_rng(0)
    scale = 10 ** rng.uniform(-3, 1.3, (CASES, 1))
    y = jnp.asarray(2 * rng.normal(size=(CASES, 4)))
    moved = y + scale * rng.normal(size=y.shape)
    loc, log_scale = jnp.asarray(scale[:, 0] * rng.normal(size=CASES)), rng.normal(size=CASES)
    spread = jnp.asarray(np.exp(np.minimum(scale[:, 0], 3) * log_scale))
    one = jnp.ones(CASES)
    pairs = [
        (distrax.Categorical(logits=y), distrax.Categorical(logits=moved)),
        (distrax.Normal(0 * one, one), distrax.Normal(loc, spread)),
    ]
    for old, new in pairs:
        tv = exact_total_variation(old, new)
        assert float(tv.max()) <= 1 + 1e-12
        assert float(tv.min()) >= 0
        for p, q in ((old, new), (new, old)):
            kl = kl_divergence(p, q)
            pinsker, huber = jnp.sqrt(kl / 2), audit.bretagnolle_huber_bound(kl)
            assert float((tv - jnp.minimum(pinsker, huber)).max()) <= 1e-9
            assert float((tv - pinsker / math.sqrt(2)).max()) > 1e-3  # controls: C / 2 is caught
            assert float((tv - 0.7 * huber).max()) > 1e-3


def test_the_crossing_points_of_two_gaussians(x64):
    rng = np.random.default_rng(1)
    spread = np.array([1.0, 1.0, 1 + 1e-9, 0.5, 3.0, 1.0, *np.exp(rng.normal(size=14))])
    loc = np.array([0.0, 2.0, 1e-3, 0.0, 0.0, -1e-4, *rng.normal(size=14)])
    tv = normal_total_variation(jnp.full(20, 0.4), jnp.full(20, 1.7), 0.4 + 1.7 * loc, 1.7 * spread)
    expected = [tv_by_quadrature(0.0, 1.0, n, t) for n, t in zip(loc, spread, strict=True)]
    np.testing.assert_allclose(tv, expected, rtol=1e-6, atol=1e-10)
    assert tv[0] == 0
    np.testing.assert_allclose(tv[1], math.erf(2 / math.sqrt(8)), rtol=1e-12)


def test_total_variation_of_components_is_exact_or_absent(x64):
    p, q = jnp.array([[[0.5, 0.5]] * 3]), jnp.array([[[0.6, 0.4]] * 3])
    old, new = (distrax.Independent(distrax.Categorical(probs=x), 1) for x in (p, q))
    by_hand = sum(max(0.125 - 0.6**k * 0.4 ** (3 - k), 0) * math.comb(3, k) for k in range(4))
    np.testing.assert_allclose(exact_total_variation(old, new), [by_hand], rtol=1e-12)
    assert abs(by_hand - 0.3) > 0.05  # the sum over components is something else
    assert exact_total_variation(old, new, max_outcomes=7) is None
    members = [(d, distrax.Bernoulli(probs=x[:, 0, 0])) for d, x in ((old, p), (new, q))]
    joint = exact_total_variation(*map(distrax.Joint, members))
    four = sum(max(0.0625 - 0.6**k * 0.4 ** (4 - k), 0) * math.comb(4, k) for k in range(5))
    np.testing.assert_allclose(joint, [four], rtol=1e-12)
    one = distrax.MultivariateNormalDiag(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    assert exact_total_variation(one, one) == 0
    assert exact_total_variation(one, old) is None


def test_gaussian_parts_of_joint_distributions():
    normal = distrax.Normal(jnp.array([0.0]), jnp.array([1.0]))
    moved = distrax.MultivariateNormalDiag(jnp.ones((1, 2)), 2 * jnp.ones((1, 2)))
    still = distrax.MultivariateNormalDiag(jnp.zeros((1, 2)), jnp.ones((1, 2)))
    parts = audit.gaussian_kl_parts(distrax.Joint((normal, still)), distrax.Joint((normal, moved)))
    np.testing.assert_allclose(parts, [[2 / 8], [2 * (math.log(2) - 0.375)]], rtol=1e-6)
    assert audit.gaussian_kl_parts(normal, distrax.Bernoulli(logits=jnp.zeros(1))) is None
    mixed = distrax.Joint((normal, distrax.Bernoulli(logits=jnp.zeros(1))))
    assert audit.gaussian_kl_parts(mixed, mixed) is None


# --- samples --------------------------------------------------------------------------------------


def test_the_partition_is_that_of_the_clipped_loss(x64):
    rng = np.random.default_rng(2)
    log_ratio, advantage = jnp.asarray(0.4 * rng.normal(size=2000)), rng.normal(size=2000)
    gradient = jax.grad(lambda x: clipped_surrogate_loss(x, advantage, 0.2).sum())(log_ratio)
    inside, gradient_removed, gradient_kept = audit.clip_partition(
        jnp.exp(log_ratio), advantage, 0.2
    )
    np.testing.assert_array_equal(inside.astype(int) + gradient_removed + gradient_kept, 1)
    np.testing.assert_array_equal(gradient_removed, gradient == 0)
    np.testing.assert_array_equal(inside, abs(jnp.exp(log_ratio) - 1) <= 0.2)
    assert min(map(jnp.sum, (inside, gradient_removed, gradient_kept))) > 0
    for part in audit.clip_partition(jnp.full(3, jnp.nan), jnp.array([1.0, -1.0, 0.0]), 0.2):
        np.testing.assert_array_equal(part, False)


def test_the_effective_sample_size_of_ratios_beyond_every_float():
    ratios = jnp.array([500.0, 500.0, -500.0, jnp.nan])
    share = audit.effective_sample_size(ratios, jnp.array([1.0, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(share, 2 / 3, rtol=1e-6)
    assert jnp.isnan(audit.effective_sample_size(ratios))


# --- beyond one update ----------------------------------------------------------------------------


def test_a_reference_and_a_moved_normaliser(x64):
    c = case("categorical")
    obs, weight = c.batch.obs, c.batch.weight
    update, flipped = audited(c), audited(c._replace(old=c.new, new=c.old))
    reference = jax.jit(audit.reference_kl, static_argnums=0)(c.policy, c.new, c.old, obs, weight)
    chex.assert_trees_all_close(tuple(reference), (flipped.kl, update.kl), rtol=1e-12)
    assert abs(reference.to_reference.mean - reference.from_reference.mean) > 1e-3
    # On states that the new policy acted in the ratios are 1, and the update is what it was.
    fresh = audited(c._replace(batch=c.batch._replace(old=c.policy(c.new, obs))))
    chex.assert_trees_all_close((fresh.kl, fresh.tv), (update.kl, update.tv), rtol=1e-12)
    assert fresh.ratio_deviation <= 1e-12 < update.ratio_deviation
    before = update_moments(init_moments(obs[0]), obs)
    after = update_moments(before, 3 + 2 * obs)
    normalizer_kl = jax.jit(audit.normalizer_kl, static_argnums=0)
    moved = normalizer_kl(c.policy, c.old, before, after, obs, weight)
    raw, moments = np.asarray(obs), (jax.tree.map(np.asarray, m) for m in (before, after))
    by_hand = [(raw - m.mean) / np.sqrt(m.variance + 1e-8) for m in moments]
    y, z = (oracles.outputs(np.asarray(c.old), x) for x in by_hand)
    action = np.asarray(c.batch.action)
    kl = [finite_row(c.name, y[i], z[i], action[i]).kl for i in range(NUM_ROWS)]
    np.testing.assert_allclose(moved.mean, np.average(kl, weights=weight), rtol=1e-6)
    assert normalizer_kl(c.policy, c.old, before, before, obs, weight).max <= 1e-15


def test_the_path_through_minibatches(x64):
    c = case("gaussian")
    path = jnp.stack([c.old + share * (c.new - c.old) for share in (0, 0.3, 1)])
    kl = jax.jit(audit.kl_path, static_argnums=0)(c.policy, path, c.batch)
    ends = [audited(c._replace(new=point)).kl.mean for point in path]
    np.testing.assert_allclose(kl, ends, rtol=1e-12, atol=1e-15)


def test_the_length_of_a_path_and_what_bounds_it(x64):
    # A Gaussian's mean on a straight line: every step's sqrt(2 KL) is its exact length.
    loc = jnp.array([0.0, 0.3, 0.4, 1.0])
    kl = distrax.Normal(loc[:-1], jnp.full(3, 0.5)).kl_divergence(
        distrax.Normal(loc[1:], jnp.full(3, 0.5))
    )
    np.testing.assert_allclose(audit.fisher_rao_length(kl), 1.0 / 0.5, rtol=1e-12)
    # Detours count: random paths of seven policies over five states, 500 of them.
    rng = np.random.default_rng(3)
    steps = 10 ** rng.uniform(-2, 0.7, (500, 1, 1, 1)) * rng.normal(size=(500, 7, 5, 3))
    p = oracles.softmax(np.cumsum(steps, axis=1))
    kl = (p[:, :-1] * np.log(p[:, :-1] / p[:, 1:])).sum(-1).mean(-1)
    length = audit.fisher_rao_length(kl, axis=1)
    assert length.shape == (500,)
    overlap = np.sqrt(p[:, 0] * p[:, -1]).sum(-1)
    angle = np.sqrt(np.mean((2 * np.arccos(np.minimum(overlap, 1))) ** 2, axis=-1))
    assert np.all(angle <= math.sqrt(2) * length * (1 + 1e-12) + 1e-9)
    # The KL itself has no triangle inequality: here the way is shorter than sqrt(2 KL) of its ends.
    heads = np.sin(np.linspace(np.pi / 4, 1e-9, 1000)) ** 2
    line = np.stack([heads, 1 - heads], -1)
    ends = math.sqrt(2 * oracles.kl(line[0], line[-1]))
    way = audit.fisher_rao_length((line[:-1] * np.log(line[:-1] / line[1:])).sum(-1)[:-1])
    assert way < 0.5 * ends


def test_the_example_of_the_package_runs(capsys):
    example = audit.__doc__.split("::\n")[1].split("\nAll of it")[0]
    scope = {}
    with jax.numpy_rank_promotion("allow"):
        exec(textwrap.dedent(example), scope)
    assert 0 < scope["audit"].kl.mean < scope["audit"].kl.max
    assert 0.5 < scope["model"].kl / scope["model"].kl_quadratic < 2
    assert len(capsys.readouterr().out.split()) == 6
