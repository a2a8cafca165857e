"""Losses over tokens: values and gradients by listing all sequences of two tokens.

The batch here *is* old's distribution: its probabilities are multiples of 1/16, and each sequence
stands in the batch as often. A mean over the batch is then an expectation, without noise.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from all_sequences import V, flat, gradient, listed, logits_of, policy, probabilities

import kltrust
from kltrust import tokens
from kltrust.divergences import categorical_kl_from_logits, kl_k2, kl_k3
from kltrust.losses import clipped_surrogate_loss, kl_clipped_loss, surrogate_loss

pytestmark = pytest.mark.usefixtures("x64")

SIXTEENTHS = np.log(np.array([[2, 1, 1], [1, 2, 1], [1, 1, 2], [2, 1, 1]]) / 4)
OLD = {"first": SIXTEENTHS[0], "second": SIXTEENTHS[1:]}
NEW = jax.tree.map(lambda old, move: old + 0.7 * move, OLD, policy(3))
KINDS, COUNTED = listed(ends=True)
COPIES = np.rint(16 * np.asarray(probabilities(OLD, ends=True))).astype(int)
Y, MASK = np.repeat(KINDS, COPIES, axis=0), np.repeat(COUNTED, COPIES, axis=0)
REWARD = np.random.default_rng(5).normal(size=len(KINDS))
A = np.repeat(REWARD, COPIES)  # of sequences
"""Advantages of the sequences: [16]. They do not sum to 0, no baseline is needed here."""
TOKEN_A = np.where(MASK, A[:, None], np.nan)


def log_probs(theta):
    return tokens.token_log_probs(logits_of(theta, Y), Y, MASK)


def log_ratio(theta, old=OLD):
    return tokens.token_log_ratio(log_probs(theta), log_probs(old), MASK)


def test_the_batch_is_the_distribution():
    assert COPIES.sum() == 16
    np.testing.assert_allclose(probabilities(OLD, ends=True), COPIES / 16, rtol=1e-12)


# --- losses: each in the library's words, and in one loop over sequences -----------------------

EPS, HIGH, DELTA = 0.1, 0.3, 0.06


def gated(lr, divergence):
    log_old = log_probs(OLD)
    return kl_clipped_loss(lr, TOKEN_A, divergence(log_old, log_old + lr), DELTA)


def clipped(lr, advantage=TOKEN_A):
    return clipped_surrogate_loss(lr, advantage, EPS, clip_high=HIGH, dual_clip=1.5)


LOSSES = {
    "GRPO": (clipped, "sequence_mean"),
    "DAPO": (clipped, "token_mean"),
    "surrogate": (lambda lr: surrogate_loss(lr, TOKEN_A), "token_mean"),
    "CISPO": (lambda lr: tokens.clipped_weight_loss(lr, TOKEN_A, 0, 1.2), "token_mean"),
    "CISPO, both": (lambda lr: tokens.clipped_weight_loss(lr, TOKEN_A, 0.8, 1.2), "sequence_sum"),
    "SAPO": (lambda lr: tokens.soft_gate_loss(lr, TOKEN_A, 1.0, 3.0), "sequence_mean"),
    "DPPO, TV": (lambda lr: gated(lr, tokens.binary_tv), "token_mean"),
    "DPPO, KL": (lambda lr: gated(lr, tokens.binary_kl), "constant_length"),
    "GSPO-token": (
        lambda lr: clipped(tokens.sequence_log_ratio(lr, MASK)),
        "sequence_mean",
    ),
    "GSPO": (lambda lr: clipped(tokens.sequence_mean(lr, MASK), A), None),
    "GMPO": (
        lambda lr: surrogate_loss(
            tokens.sequence_mean(tokens.clipped_log_ratio(lr, TOKEN_A, EPS, eps_high=HIGH), MASK),
            A,
        ),
        None,
    ),
}


def loss_of(name, theta):
    loss, by = LOSSES[name]
    losses = loss(log_ratio(theta))
    return jnp.mean(losses) if by is None else tokens.reduce_tokens(losses, MASK, by)


def clipped_by_hand(r, reward):
    pessimistic = min(r * reward, min(max(r, 1 - EPS), 1 + HIGH) * reward)
    return -max(pessimistic, 1.5 * reward) if reward < 0 else -pessimistic


def by_hand(name, theta, at):
    """The same loss in probabilities, sequence by sequence; what is held constant is ``at``'s."""
    total, weight = 0.0, 0.0
    tables = [
        {k: np.exp(z) / np.exp(z).sum(-1, keepdims=True) for k, z in t.items()}
        for t in (theta, at, OLD)
    ]
    for (first, second), counted, reward, copies in zip(
        KINDS, COUNTED, REWARD, COPIES, strict=True
    ):
        places = [("first", first), ("second", (first, second))][: counted.sum()]
        now, fixed, old = ([table[k][i] for k, i in places] for table in tables)
        ratios = [p / q for p, q in zip(now, old, strict=True)]
        length = len(places)
        terms = []
        for p, held, q in zip(now, fixed, old, strict=True):
            r, at_r = p / q, held / q
            if name.startswith("CISPO"):
                bounded = min(max(at_r, 0.8 if "both" in name else 0), 1.2)
                # Its value is of the ratio, its gradient that of the log-probability.
                terms.append(-bounded * reward * (1 + np.log(p / held)))
            elif name == "SAPO":
                tau = 1.0 if reward > 0 else 3.0
                terms.append(-4 / tau / (1 + np.exp(-tau * (r - 1))) * reward)
            elif name.startswith("DPPO"):
                kl = q * np.log(q / held) + (1 - q) * np.log((1 - q) / (1 - held))
                distance = abs(held - q) if "TV" in name else kl
                kept = distance <= DELTA or (held - q) * reward <= 0
                terms.append(-r * reward if kept else -reward)
            elif name in ("GRPO", "DAPO"):
                terms.append(clipped_by_hand(r, reward))
            elif name == "GMPO":
                edge = np.exp(HIGH) if reward > 0 else np.exp(-EPS)
                terms.append(min(r, edge) if reward > 0 else max(r, edge))
            else:
                terms.append(-r * reward)
        if name.startswith("GSPO"):
            value, count = clipped_by_hand(math.prod(ratios) ** (1 / length), reward), 1
        elif name == "GMPO":
            value, count = -reward * math.prod(terms) ** (1 / length), 1
        else:
            by = LOSSES[name][1]
            value = sum(terms) / {"sequence_mean": length, "constant_length": 2}.get(by, 1)
            count = length if by == "token_mean" else 1
        total, weight = total + copies * value, weight + copies * count
    return total / weight


def slope_by_hand(name, theta, step=1e-6):
    """By differences, parameter by parameter."""
    x = flat(theta)

    def at(i, change):
        moved = x + change * np.eye(x.size)[i]
        return by_hand(name, {"first": moved[:V], "second": moved[V:].reshape(V, V)}, theta)

    return np.array([(at(i, step) - at(i, -step)) / (2 * step) for i in range(x.size)])


@functools.cache
def found(where):
    """Values [losses] and gradients [losses, parameters] of all losses, from one program."""
    with jax.enable_x64(True):
        theta = {"on policy": OLD, "off policy": NEW}[where]

        def all_of_them(theta):
            values = jnp.stack([loss_of(name, theta) for name in LOSSES])
            return values, values

        slopes, values = jax.jit(jax.jacrev(all_of_them, has_aux=True))(theta)
        rows = np.concatenate([x.reshape(len(LOSSES), -1) for x in jax.tree.leaves(slopes)], 1)
        return dict(zip(LOSSES, zip(values, rows, strict=True), strict=True))


@pytest.mark.parametrize("where", ["on policy", "off policy"])
def test_value_and_gradient_of_every_loss(where):
    theta = OLD if where == "on policy" else NEW
    slopes = []
    for name, (value, slope) in found(where).items():
        np.testing.assert_allclose(value, by_hand(name, theta, theta), rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(slope, slope_by_hand(name, theta), atol=2e-9, err_msg=name)
        slopes += [slope] if name != "GSPO-token" else []
    if where == "off policy":
        # The control: where the ratios are not 1, no two losses are the same.
        assert min(np.max(np.abs(x - y)) for x, y in itertools.combinations(slopes, 2)) > 1e-3
        np.testing.assert_allclose(found(where)["GSPO"][1], found(where)["GSPO-token"][1])


def expected(theta, reward=REWARD):
    return jnp.sum(probabilities(theta, ends=True) * reward)


def test_on_policy_each_loss_is_a_policy_gradient_and_the_mean_over_sequences_another_one():
    """Of the reward, up to a factor; or of the reward divided by the length of the sequence."""
    length = COUNTED.sum(-1)
    exact = gradient(lambda t: -expected(t), OLD)[1]
    shortened = gradient(lambda t: -expected(t, REWARD / length), OLD)[1]
    factor = {"token_mean": 16 / MASK.sum(), "sequence_sum": 1, "constant_length": 1 / 2}
    for name, (_, by) in LOSSES.items():
        slope = found("on policy")[name][1]
        want = factor[by] * exact if by in factor else shortened
        np.testing.assert_allclose(slope, want, atol=1e-14, err_msg=name)
    cosine = exact @ shortened / np.linalg.norm(exact) / np.linalg.norm(shortened)
    assert cosine < 0.98


def test_off_policy_only_the_ratio_of_the_sequence_is_exact():
    want = gradient(lambda t: -expected(t), NEW)

    def whole(theta):
        return jnp.mean(surrogate_loss(tokens.sequence_sum(log_ratio(theta), MASK), A))

    value, slope = gradient(whole, NEW)
    np.testing.assert_allclose(value, want[0], rtol=1e-12)
    np.testing.assert_allclose(slope, want[1], atol=1e-14)
    frozen = gradient(
        lambda t: tokens.reduce_tokens(surrogate_loss(log_ratio(t), TOKEN_A), MASK, "sequence_sum"),
        NEW,
    )
    assert np.max(np.abs(frozen[1] - want[1])) > 0.02


def test_the_door_ends_all_padding():
    """Log-probabilities, advantages and logits that are masked: to the bit, gradients as well."""

    def everything(log_new, log_old, advantage, logits):
        lr = tokens.token_log_ratio(log_new, log_old, MASK)
        losses = [
            surrogate_loss(lr, advantage),
            tokens.clipped_weight_loss(lr, advantage, 0.8, 1.2),
            tokens.soft_gate_loss(lr, advantage),
            kl_clipped_loss(lr, advantage, tokens.binary_kl(log_old, log_new), 0.01),
            tokens.clipped_log_ratio(lr, advantage, 0.1),
            tokens.sequence_log_ratio(lr, MASK),
            tokens.with_gradient_of(kl_k3(lr), kl_k2(lr)),
            tokens.truncated_weight(log_new) * surrogate_loss(lr, advantage),
            tokens.masked_weight(log_new) * surrogate_loss(lr, advantage),
            tokens.token_log_probs(logits, Y, MASK),
            tokens.token_covariance(log_new, advantage, MASK) * lr,
            jnp.where(tokens.kl_cov_tokens(log_new, advantage, MASK, share=0.2), kl_k2(lr), 0),
        ]
        reduced = [tokens.reduce_tokens(x, MASK, by) for x in losses for by in tokens.REDUCTIONS]
        largest = jnp.sum(tokens.sequence_max(lr, MASK))
        return jnp.stack([*reduced, largest]), jnp.stack(reduced).sum() + largest

    rng = np.random.default_rng(0)
    clean = [-rng.exponential(size=MASK.shape) for _ in range(2)]
    clean += [rng.normal(size=MASK.shape), rng.normal(size=(*MASK.shape, V))]
    differentiate = jax.jit(
        jax.value_and_grad(lambda *x: everything(*x)[::-1], argnums=(0, 3), has_aux=True)
    )
    want = differentiate(*clean)
    assert np.all(np.isfinite(flat(want)))
    for garbage in (np.nan, np.inf, -np.inf, 1e300):
        dirty = [
            np.where(MASK.reshape(MASK.shape + (1,) * (x.ndim - 2)), x, garbage) for x in clean
        ]
        np.testing.assert_array_equal(flat(differentiate(*dirty)), flat(want), str(garbage))
    # The control: without the door a NaN gets through.
    bare = jax.grad(lambda x: tokens.reduce_tokens(jnp.exp(x - x), MASK, "token_mean"))
    assert np.isnan(bare(jnp.where(MASK, 0.0, jnp.inf))).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_in_fewer_bits(dtype):
    """Against doubles of the same, rounded, log-probabilities."""
    new, old = (log_probs(t).astype(dtype) for t in (NEW, OLD))

    def all_of_them(new):
        lr = tokens.token_log_ratio(new, old.astype(new.dtype), MASK)
        every = []
        for loss, by in LOSSES.values():
            losses = loss(lr)
            every.append(jnp.mean(losses) if by is None else tokens.reduce_tokens(losses, MASK, by))
        return jnp.stack(every)

    few, many = (jax.jit(jax.jacrev(all_of_them))(x) for x in (new, new.astype(jnp.float64)))
    assert few.dtype == dtype
    scale = np.max(np.abs(many), axis=(1, 2), keepdims=True)
    assert np.all(scale > 1e-3)
    tolerance = 2e-6 if dtype == jnp.float32 else 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(few.astype(np.float64) / scale, many / scale, atol=tolerance)


# --- KL terms -----------------------------------------------------------------------------------


def test_the_value_of_one_estimator_and_the_gradient_of_another():
    """On policy, tokens from pi: k3's value, the KL, with k2's gradient, the KL's."""
    tokens_only = {"first": OLD["first"], "second": jnp.zeros((V, V))}  # nothing lacks: V alike

    def kl(theta, ref):
        p, q = (jax.nn.log_softmax(t["first"]) for t in (theta, ref))
        return jnp.sum(jnp.exp(p) * (p - q))

    ref = {**policy(4), "second": jnp.zeros((V, V))}

    def loss(theta):
        lr = tokens.token_log_ratio(log_probs(theta), log_probs(ref), MASK)  # log pi - log ref
        mixed = tokens.with_gradient_of(kl_k3(-lr), kl_k2(-lr))
        return tokens.reduce_tokens(
            jnp.where(np.array([True, False]), mixed, 0), MASK, "sequence_sum"
        )

    value, slope = gradient(loss, tokens_only)
    want, want_slope = gradient(lambda t: kl(t, ref), tokens_only)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(slope, want_slope, atol=1e-14)
    other = gradient(lambda t: kl(ref, t), tokens_only)[1]  # k3's own gradient
    assert np.max(np.abs(other - slope)) > 0.02


def test_straight_through_is_the_value_to_the_bit():
    value, other = jnp.float32([0.1, jnp.inf, jnp.nan]), jnp.float32([1e30, jnp.inf, 1.0])
    np.testing.assert_array_equal(tokens.with_gradient_of(value, other), value)
    slopes = jax.grad(lambda a, b: jnp.sum(tokens.with_gradient_of(a, 3 * b)), (0, 1))(value, other)
    np.testing.assert_array_equal(slopes[0], [0, 0, 0])
    np.testing.assert_array_equal(slopes[1], [3, 3, 3])
    hessian = jax.hessian(lambda x: tokens.with_gradient_of(x, x**3))(2.0)
    assert hessian == 12


def test_weights_of_whole_sequences_make_up_for_another_engine():
    """Tokens from mu, losses for old: the ratio of the sequence is exact, that of tokens is not."""
    engine = jax.tree.map(lambda old, move: old + 0.4 * move, OLD, policy(8))
    mu = probabilities(engine, ends=True)
    every = np.array([0, *np.cumsum(COPIES)[:-1]])  # one row of each kind
    log_w = (log_probs(OLD) - log_probs(engine))[every]
    mask, losses = COUNTED, -(log_ratio(NEW) * TOKEN_A)[every]
    want = jnp.sum(probabilities(OLD, ends=True) * tokens.sequence_sum(losses, mask))
    whole = tokens.truncated_weight(tokens.sequence_sum(log_w, mask), high=np.inf)
    np.testing.assert_allclose(mu @ (whole * tokens.sequence_sum(losses, mask)), want, rtol=1e-12)
    by_token = tokens.truncated_weight(log_w, high=np.inf)
    assert abs(mu @ tokens.sequence_sum(by_token * losses, mask) / want - 1) > 0.02


# --- over a vocabulary --------------------------------------------------------------------------


def test_top_k_is_between_and_the_binary_kl_is_the_first_of_them():
    rng = np.random.default_rng(1)
    p, q = (np.log(rng.dirichlet(np.full(30, 0.5), size=4)) for _ in range(2))
    order = np.argsort(-p, axis=-1)
    p, q = (np.take_along_axis(x, order, -1) for x in (p, q))
    whole, before = np.sum(np.exp(p) * (p - q), -1), -1
    top_k = jax.jit(tokens.top_k_kl)
    for k in (1, 4, 12, 30):
        rest = np.max((p - q)[:, k:], axis=-1, initial=-np.inf)
        found = top_k(p[:, :k], q[:, :k], rest)
        assert np.all(np.asarray(found.kl) >= before - 1e-12)
        assert np.all(found.kl <= whole + 1e-12)
        assert np.all(whole <= np.asarray(found.kl) + found.left_out + 1e-12)
        before = np.asarray(found.kl)
        if k == 1:
            np.testing.assert_allclose(jax.jit(tokens.binary_kl)(p[:, 0], q[:, 0]), before)
        if k == 12:  # the controls: a bound on the ratio that is none, and no bound
            unbounded = top_k(p[:, :k], q[:, :k], np.full(4, np.inf))
            assert np.all(np.isinf(unbounded.left_out))
            assert np.any(whole > before + top_k(p[:, :k], q[:, :k], rest - 3).left_out + 1e-12)
    np.testing.assert_allclose(found.kl, whole, rtol=1e-12)
    np.testing.assert_array_equal(found.left_out, 0)
    total = 0.5 * np.sum(np.abs(np.exp(p) - np.exp(q)), -1, keepdims=True)
    assert np.all(np.asarray(tokens.binary_tv(p, q)) <= total + 1e-12)


def test_what_is_known_of_a_vocabulary_in_float32():
    """Near probability 1, and where the whole vocabulary is given: no infinity from rounding."""
    log_p, log_q = np.float32([-1e-7, -3e-6, 0]), np.float32([-2e-7, -1e-6, 0])
    binary = jax.jit(tokens.binary_kl)
    want = binary(np.float64(log_p), np.float64(log_q))
    np.testing.assert_allclose(binary(log_p, log_q), want, rtol=2e-5, atol=0)
    rng = np.random.default_rng(2)
    p, q = (np.log(rng.dirichlet(np.full(500, 0.2), 64) + 1e-30).astype("f4") for _ in range(2))

    def of_all(p, q):
        return jnp.sum(tokens.top_k_kl(p, q).kl), tokens.top_k_kl(p, q).kl

    slopes, kl = jax.jit(jax.grad(of_all, has_aux=True))(p, q)
    assert kl.dtype == jnp.float32
    np.testing.assert_allclose(kl, np.sum(np.exp(p) * (p - q), -1), rtol=1e-4)
    assert np.all(np.isfinite(slopes))
    # Where p has a rest and q none that can be seen, the KL is a lower bound and no infinity.
    p, q = jnp.log(jnp.float32([[0.5, 0.4]])), jnp.log(jnp.float32([[0.5, 0.5]]))
    assert np.isfinite(jax.jit(of_all)(p, q)[0])


def test_chunks_change_no_value_and_no_gradient():
    rng = np.random.default_rng(6)
    hidden, ref = rng.normal(size=(2, 7, 4))
    head, ref_head = rng.normal(size=(2, 4, 11))

    def naive(hidden, head):
        return jnp.sum(jnp.sin(categorical_kl_from_logits(hidden @ head, ref @ ref_head)))

    def chunked(hidden, head):
        def kl(h, g):
            return categorical_kl_from_logits(h @ head, g @ ref_head)

        return jnp.sum(jnp.sin(tokens.over_chunks(kl, hidden, ref, chunk=3)))

    want, got = (jax.jit(jax.value_and_grad(f, (0, 1)))(hidden, head) for f in (naive, chunked))
    np.testing.assert_allclose(flat(got), flat(want), rtol=1e-12)
    assert tokens.over_chunks(lambda x: {"twice": 2 * x}, np.arange(3), chunk=8)["twice"][2] == 4
    with pytest.raises(ValueError, match="chunk must be a whole number"):
        tokens.over_chunks(jnp.sum, hidden, chunk=0)
    with pytest.raises(ValueError, match="one leading axis"):
        tokens.over_chunks(jnp.add, hidden, head, chunk=2)


def test_a_large_vocabulary_fits():
    """150,000 entries x 8,192 tokens, compiled and not run: memory beside arguments and result."""
    size, width, vocabulary = 8192, 32, 150_000
    hidden = jax.ShapeDtypeStruct((size, width), jnp.float32)
    head = jax.ShapeDtypeStruct((width, vocabulary), jnp.float32)

    def kl_of(heads):
        return lambda h, g: categorical_kl_from_logits(h @ heads[0], g @ heads[1])

    def naive(hidden, ref, *heads):
        return jnp.mean(kl_of(heads)(hidden, ref))

    def chunked(hidden, ref, *heads):
        return jnp.mean(tokens.over_chunks(kl_of(heads), hidden, ref, chunk=64))

    def memory(function):
        lowered = jax.jit(function).lower(hidden, hidden, head, head)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    logits = 4 * size * vocabulary
    for transform in (lambda f: f, lambda f: jax.grad(f, (0, 2))):
        assert memory(transform(naive)) >= 2 * logits
        assert memory(transform(chunked)) < 0.05 * logits


# --- reductions and selection -------------------------------------------------------------------


def test_reductions_by_hand():
    x = jnp.asarray([[1.0, 2.0, 4.0], [8.0, 0.0, 0.0], [jnp.nan, jnp.inf, 5.0]])
    mask = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    by_hand = {
        "token_mean": 15 / 4,
        "sequence_mean": (7 / 3 + 8) / 2,
        "sequence_sum": 15 / 2,
        "constant_length": 15 / (3 * 3),
    }
    assert set(by_hand) == set(tokens.REDUCTIONS)
    for by, want in by_hand.items():
        np.testing.assert_allclose(tokens.reduce_tokens(x, mask, by), want, rtol=1e-12)
        assert tokens.reduce_tokens(x, 0 * mask, by) == 0
        # The weights are the reduction's, up to a factor: that of one token tells it.
        weight = tokens.token_weights(mask, by)
        first = tokens.reduce_tokens(jnp.zeros((3, 3)).at[0, 0].set(1), mask, by)
        mean = jnp.sum(jnp.where(mask > 0, weight * x, 0)) * first / weight[0, 0]
        np.testing.assert_allclose(mean, want, rtol=1e-12)
    assert tokens.reduce_tokens(x, mask, "constant_length", length=10) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, m: tokens.reduce_tokens(x, m, "token-mean"), "did you mean token_mean"),
        (lambda x, m: tokens.token_weights(m, "mean"), "unknown reduction"),
        (lambda x, m: tokens.reduce_tokens(x, m, "token_mean", length=4), "constant_length"),
        (lambda x, m: tokens.reduce_tokens(x, m, "constant_length", length=0), "length must be"),
        (lambda x, m: tokens.clipped_weight_loss(x, x, -1, 2), "low must be at least 0"),
        (lambda x, m: tokens.soft_gate_loss(x, x, 0.0), "tau_positive must be greater than 0"),
        (lambda x, m: tokens.clipped_log_ratio(x, x, -0.1), "eps must be"),
        (lambda x, m: tokens.truncated_weight(x, low=3.0), "low must not exceed high"),
        (lambda x, m: tokens.within(x, low=1.0, high=0.0), "low must not exceed high"),
        (lambda x, m: tokens.kl_cov_tokens(x, x, m, share=2), "share must be between"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((2, 3)), jnp.ones((2, 3), bool))


def test_covariances_say_how_fast_the_entropy_falls():
    """A step of the natural gradient, logits + step * A, on the batch that is the distribution."""
    advantage = np.array([1.0, -2.0, 0.5])
    p = jax.nn.softmax(OLD["first"])

    def entropy(step):
        q = jax.nn.softmax(OLD["first"] + step * advantage)
        return -jnp.sum(q * jnp.log(q))

    first = np.array([[a] for a in (0, 0, 1, 2)])  # p = 2, 1, 1 quarters
    found = tokens.token_covariance(jnp.log(p)[first], advantage[first], np.ones_like(first))
    np.testing.assert_allclose(jnp.mean(found), -jax.grad(entropy)(0.0), rtol=1e-12)


def test_which_tokens_a_covariance_selects():
    rng = np.random.default_rng(7)
    log_prob, advantage = -rng.exponential(size=(6, 10)), 2 * rng.normal(size=(6, 10))
    mask = rng.random((6, 10)) < 0.7
    x, y = (z[mask] - z[mask].mean() for z in (log_prob, advantage))
    want = np.zeros(mask.shape)
    want[mask] = x * y
    found = tokens.token_covariance(log_prob, advantage, mask)
    np.testing.assert_allclose(found, want, atol=1e-13)
    for share, number in ((0.0, 1), (0.1, int(0.1 * mask.sum())), (1.0, mask.sum())):
        chosen = np.asarray(tokens.kl_cov_tokens(log_prob, advantage, mask, share=share))
        assert chosen.sum() == number
        assert np.all(mask[chosen])
        assert want[chosen].min() >= np.max(want[mask & ~chosen], initial=-np.inf)
    candidates = mask & (want > 0.5) & (want < 2)
    assert candidates.sum() > 4
    draws = [
        np.asarray(
            tokens.clip_cov_tokens(
                jax.random.key(seed), log_prob, advantage, mask, share=0.05, low=0.5, high=2.0
            )
        )
        for seed in range(40)
    ]
    assert {d.sum() for d in draws} == {int(0.05 * mask.sum())}
    assert np.array_equal(np.any(draws, axis=0), candidates)  # each has its turn
    alone = tokens.clip_cov_tokens(
        jax.random.key(0), log_prob, advantage, mask, share=1.0, low=0.5, high=2.0
    )
    np.testing.assert_array_equal(alone, candidates)
    assert not np.any(tokens.kl_cov_tokens(log_prob, advantage, 0 * mask, share=1.0))


def test_weights_and_bounds():
    log_weight = jnp.log(jnp.asarray([0.1, 0.5, 1.0, 5.0, 6.0]))
    np.testing.assert_allclose(tokens.truncated_weight(log_weight), [0.1, 0.5, 1, 2, 2])
    np.testing.assert_allclose(
        tokens.masked_weight(log_weight, low=0.4, high=5.5), [0, 0.5, 1, 5, 0]
    )
    assert tokens.masked_weight(jnp.asarray([jnp.nan, jnp.inf, -jnp.inf])).tolist() == [0, 0, 0]
    assert np.all(jax.grad(lambda x: jnp.sum(tokens.truncated_weight(x)))(log_weight) == 0)
    assert tokens.within(jnp.asarray([jnp.nan, 0.0, 2.0]), high=1.0).tolist() == [
        False,
        True,
        False,
    ]


# --- advantages ---------------------------------------------------------------------------------


def test_groups_by_hand():
    rng = np.random.default_rng(9)
    reward = rng.normal(size=(2, 3, 5))
    mask = rng.random(reward.shape) < 0.8
    mask[0, 0] = True
    dirty = np.where(mask, reward, np.nan)
    scaled, single = (
        jax.jit(f)(dirty, mask) for f in (tokens.group_advantages, tokens.leave_one_out_advantages)
    )
    for group in np.ndindex(2, 3):
        kept = np.flatnonzero(mask[group])
        r = reward[group][kept]
        np.testing.assert_allclose(scaled[group][kept], (r - r.mean()) / (r.std() + 1e-8))
        others = [r[i] - np.delete(r, i).mean() for i in range(len(r))]
        np.testing.assert_allclose(single[group][kept], others)
        assert np.all(np.delete(np.asarray(single[group]), kept) == 0)


@pytest.mark.parametrize("function", ["group_advantages", "leave_one_out_advantages"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_group_that_tells_nothing_is_zero(function, dtype):
    """Equal rewards, whose mean may round to something else, a group of one, and one of none."""
    find = jax.jit(getattr(tokens, function))
    equal = jnp.full((3, 7), 0.1, dtype) * jnp.asarray([[1], [1e4], [-3]], dtype)
    assert np.all(find(equal) == 0)
    assert find(equal).dtype == dtype
    assert np.all(find(equal[:, :1]) == 0)
    mask = np.zeros((3, 7), bool)
    assert np.all(find(equal, mask) == 0)
    mask[:, 2] = True
    assert np.all(find(jnp.where(mask, equal, jnp.nan), mask) == 0)


def test_leave_one_out_is_unbiased_and_the_others_are_not():
    """Of three sampled actions, all 27 groups: the mean of A grad log p against the gradient."""
    theta, reward, size = jnp.asarray([0.3, -0.2, 0.1]), np.array([1.0, 0.0, 2.0]), 3
    groups = np.array(list(itertools.product(range(3), repeat=size)))

    def estimate(theta, advantages):
        log_p = jax.nn.log_softmax(theta)[groups]
        chance = jax.lax.stop_gradient(jnp.exp(jnp.sum(log_p, -1)))
        return jnp.sum(chance * jnp.mean(advantages(reward[groups]) * log_p, -1))

    want = jax.grad(lambda t: jax.nn.softmax(t) @ reward)(theta)
    gradient_by = jax.jit(jax.grad(estimate), static_argnums=1)
    found = gradient_by(theta, tokens.leave_one_out_advantages)
    np.testing.assert_allclose(found, want, rtol=1e-12)
    mean = gradient_by(theta, lambda r: r - r.mean(-1, keepdims=True))
    np.testing.assert_allclose(mean, want * (size - 1) / size, rtol=1e-12)
    scaled = gradient_by(theta, tokens.group_advantages)
    cosine = scaled @ want / jnp.linalg.norm(scaled) / jnp.linalg.norm(want)
    assert cosine < 0.9999  # not even the direction


# --- what others expect -------------------------------------------------------------------------


def close(found, want):
    np.testing.assert_allclose(found, want, rtol=1e-3)  # they print four digits


def test_the_figures_of_nemo_rl():
    """NVIDIA-NeMo/RL at 7ea279a, tests/unit/algorithms/test_loss_functions.py: its hand-computed
    values of test_clipped_pg_loss_{ppo_clipping, dual_clip, gspo, cispo}, ..._{icepop, on_policy
    _truncated}_importance_sampling and test_calculate_kl.
    """
    ones = np.ones((1, 3), bool)
    advantage = np.array([[1.0, -1.0, 2.0]])
    new, old = np.array([[-1.69315, -1.0, -0.59453]]), np.full((1, 3), -1.0)
    lr = tokens.token_log_ratio(new, old, ones)
    close(jnp.exp(lr), [[0.5, 1.0, 1.5]])
    of_sequence = tokens.sequence_log_ratio(lr, ones)
    close(jnp.exp(of_sequence), [[0.9086] * 3])
    losses = clipped_surrogate_loss(of_sequence, advantage, 0.2)
    close(losses, [[-0.9086, 0.9086, -1.8171]])
    close(tokens.reduce_tokens(losses, ones, "token_mean"), -0.6057)
    close(clipped_surrogate_loss(lr, advantage, 0.2), [[-0.5, 1.0, -2.4]])
    tall = np.array([[-1.69315, -1.0, -0.69741]]) - np.array([[-1.0, -1.0, -3.0]])
    dual = clipped_surrogate_loss(tall, np.array([[1.0, -1.0, -4.0]]), 0.2, dual_clip=3.0)
    close(dual, [[-0.5, 1.0, 12.0]])
    # Theirs has the log-probability in it, which a value does not need.
    close(tokens.clipped_weight_loss(lr, advantage, 0.8, 1.2), [[-0.8, 1.0, -2.4]])
    slope = jax.grad(lambda x: jnp.sum(tokens.clipped_weight_loss(x, advantage, 0.8, 1.2)))(lr)
    close(slope, [[-0.8, 1.0, -2.4]])
    engine = np.array([[-0.5, -1.5, -0.8]])
    close(jnp.exp(old - engine), [[0.6065, 1.6487, 0.8187]])
    weight = tokens.truncated_weight(old - engine, high=0.8)
    close(weight, [[0.6065, 0.8, 0.8]])
    close(weight * np.array([[-0.5, 1.0, -2.4]]), [[-0.3033, 0.8, -1.92]])
    whole = tokens.truncated_weight(tokens.sequence_sum(old - engine, ones), high=0.8)[..., None]
    close(whole * losses, [[-0.7268, 0.7268, -1.4537]])
    stale = np.array([[-0.5, -3.5, -0.8]])
    close(tokens.masked_weight(old - stale), [[0.6065, 0, 0.8187]])
    log_pi, log_ref = np.full((1, 3), -1.0), np.array([[0.0, -15.0, -30.0]])
    close(kl_k2(log_ref - log_pi), [[0.5, 98.0, 420.5]])
    close(kl_k3(log_ref - log_pi), [[0.7183, 13.0, 28.0]])


def test_the_figures_of_trl():
    """huggingface/trl at f2cd577, tests/test_grpo_trainer.py: test_get_off_policy_mask and
    test_get_off_policy_mask_padding, a sequence mask by the mean of log old - log new.
    """
    advantage = np.array([1.0, -1.0, -1.0])
    new = np.array([-2.0, -0.5, -2.0])[:, None] * np.ones((3, 4))
    found = tokens.sequence_mean(-new, np.ones((3, 4)))
    keep = tokens.within(found, high=1.0) | (advantage >= 0)
    assert keep.tolist() == [True, True, False]
    mask = np.array([[1.0, 1.0, 0.0, 0.0]])
    for log_prob, want in ((-2.0, False), (-0.5, True)):
        padded = np.array([[log_prob, log_prob, -1e4, 1e4]])
        assert tokens.within(tokens.sequence_mean(-padded, mask), high=1.0).tolist() == [want]


# --- trust regions ------------------------------------------------------------------------------


def token_policy(theta, sequences):
    import distrax

    return distrax.Categorical(logits=logits_of(theta, sequences))


def test_trpo_and_the_audit_take_token_sequences():
    """A batch [16, 2] with padding is the same to them as its tokens in a row."""
    import distrax

    theta = jax.tree.map(jnp.asarray, OLD)
    batch = kltrust.PolicyBatch(
        Y, Y, jnp.asarray(TOKEN_A), token_policy(theta, Y), tokens.token_weights(MASK, "token_mean")
    )

    def in_a_row(theta, obs):
        first, place = obs
        rows = jnp.where(place[:, None] == 0, theta["first"], theta["second"][first])
        return distrax.Categorical(logits=rows)

    first, place = np.broadcast_to(Y[:, :1], Y.shape)[MASK], np.broadcast_to([0, 1], Y.shape)[MASK]
    rows = kltrust.PolicyBatch(
        (first, place), Y[MASK], TOKEN_A[MASK], in_a_row(theta, (first, place))
    )
    algorithm = kltrust.trpo(max_kl=0.02, damping=1e-3, cg_iters=4)
    found = []
    for policy_of, data in ((token_policy, batch), (in_a_row, rows)):

        @jax.jit
        def step(theta, data, policy_of=policy_of):
            new, _, extra = algorithm.update(policy_of, theta, (), data, jax.random.key(0))
            audit = kltrust.audit.audit_update(policy_of, theta, new, data, quantiles=())
            return new, audit, extra["accepted"]

        found.append(step(theta, data))
    np.testing.assert_allclose(flat(found[0]), flat(found[1]), rtol=1e-6, atol=1e-9)
    new, audit, accepted = found[0]
    assert accepted
    logits = logits_of(theta, Y), logits_of(new, Y)
    kl = tokens.reduce_tokens(categorical_kl_from_logits(*logits), MASK, "token_mean")
    np.testing.assert_allclose(audit.kl.mean, kl, rtol=1e-9)
    assert 0.005 < kl <= 0.02
    # Old wrote the sequences: the sum over tokens is the KL of the sequences' distributions.
    p, q = (probabilities(t, ends=True) for t in (theta, new))
    whole = jnp.mean(tokens.token_kl_exact(*logits, MASK))
    np.testing.assert_allclose(whole, jnp.sum(p * jnp.log(p / q)), rtol=1e-9)


def test_every_public_name_is_listed():
    for home in ("groups", "kl", "losses", "selection", "sums", "vocabulary"):
        module = getattr(tokens, home)
        own = {
            n
            for n, x in vars(module).items()
            if getattr(x, "__module__", "") == module.__name__ and n[0] != "_"
        }
        assert own
        assert own - {"zero_masked"} <= set(tokens.__all__), home
    # Those that were at the top of the package stay there.
    assert all(
        getattr(kltrust, n) is getattr(tokens, n)
        for n in tokens.__all__
        if kltrust._HOMES.get(n) == "kltrust.tokens"
    )
