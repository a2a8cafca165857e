"""KL terms of token sequences: values and gradients by listing all sequences of two tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from all_sequences import END, V, flat, gradient, listed, logits_of, policy, probabilities

from kltrust.divergences.samples import kl_k1, kl_k2, kl_k3
from kltrust.tokens import (
    rewards_to_go,
    sequence_kl,
    sequence_kl_exact,
    sequence_mean,
    sequence_sum,
    token_kl,
    token_kl_exact,
    token_log_probs,
)

pytestmark = pytest.mark.usefixtures("x64")


def whole_kl(p_theta, q_theta, ends):
    p, q = (probabilities(t, ends) for t in (p_theta, q_theta))
    return jnp.sum(p * jnp.log(p / q))


def frozen_kl(p_theta, q_theta, prefixes, ends):
    """KL at both tokens, the first drawn from ``prefixes`` whatever the two policies are."""

    def kl(x, y):
        x, y = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
        return jnp.sum(jnp.exp(x) * (x - y))

    weight = jax.nn.softmax(prefixes["first"])
    total = kl(p_theta["first"], q_theta["first"])
    for a in range(V):
        if not (ends and a == END):
            total += weight[a] * kl(p_theta["second"][a], q_theta["second"][a])
    return total


LOSSES = {
    "k1": functools.partial(token_kl, estimator=kl_k1),
    "k2": functools.partial(token_kl, estimator=kl_k2),
    "k3": token_kl,
    "sequence": sequence_kl,
}


def expected_loss(name, theta, ref, drawn_from=None, ends=True):
    """E[loss], sequences from ``drawn_from`` (None: pi itself), which is not differentiated."""
    tokens, mask = listed(ends)
    logits, ref_logits = logits_of(theta, tokens), logits_of(ref, tokens)
    log_pi, log_ref = (token_log_probs(x, tokens) for x in (logits, ref_logits))
    behaviour = {}
    if drawn_from is not None:
        behaviour = {"log_behaviour": token_log_probs(logits_of(drawn_from, tokens), tokens)}
    if name == "exact":
        losses = token_kl_exact(logits, ref_logits, mask)
    elif name == "sequence_exact":
        losses = sequence_kl_exact(logits, ref_logits, tokens, mask, **behaviour)
    else:
        losses = LOSSES[name](log_pi, log_ref, mask, **(behaviour if name == "sequence" else {}))
    weight = jax.lax.stop_gradient(probabilities(theta if drawn_from is None else drawn_from, ends))
    assert losses.shape == weight.shape
    return jnp.sum(weight * losses)


PI, REF, MU = policy(0), policy(1), policy(2)
ends_or_not = pytest.mark.parametrize("ends", [True, False])


@ends_or_not
def test_the_whole_kl_is_the_sum_of_its_parts(ends):
    total = sum(np.asarray(probabilities(PI, ends)))
    np.testing.assert_allclose(total, 1, rtol=1e-14)
    np.testing.assert_allclose(whole_kl(PI, REF, ends), frozen_kl(PI, REF, PI, ends), rtol=1e-12)


@pytest.mark.parametrize("drawn_from", [None, "mu"])
@pytest.mark.parametrize("name", ["sequence", "sequence_exact"])
@ends_or_not
def test_value_and_gradient_of_whole_sequences(name, drawn_from, ends):
    mu = MU if drawn_from else None
    value, slope = gradient(lambda t: expected_loss(name, t, REF, mu, ends), PI)
    want, want_slope = gradient(lambda t: whole_kl(t, REF, ends), PI)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(slope, want_slope, atol=1e-13)


def test_a_token_weighs_as_the_prefix_before_it():
    """Of each sequence: with the token's own ratio the mean over sequences would be right, too."""
    tokens, mask = listed(ends=True)
    logits, ref_logits, of_mu = (logits_of(theta, tokens) for theta in (PI, REF, MU))
    log_mu = token_log_probs(of_mu, tokens)
    got = sequence_kl_exact(logits, ref_logits, tokens, mask, log_behaviour=log_mu)
    for i, (of, kept) in enumerate(zip(np.asarray(tokens), np.asarray(mask), strict=True)):
        want, weight = 0.0, 1.0
        for t in range(kept.sum()):
            p, ref, mu = (np.asarray(jax.nn.softmax(x[i, t])) for x in (logits, ref_logits, of_mu))
            want += weight * np.sum(p * np.log(p / ref))
            weight *= p[of[t]] / mu[of[t]]
        np.testing.assert_allclose(got[i], want, rtol=1e-12)


@ends_or_not
def test_token_losses_freeze_the_prefixes(ends):
    """k2 and the exact KL of each token: the gradient of the frozen sum, which is another one."""
    _, whole = gradient(lambda t: whole_kl(t, REF, ends), PI)
    _, frozen = gradient(lambda t: frozen_kl(t, REF, PI, ends), PI)
    _, other_way = gradient(lambda t: frozen_kl(REF, t, PI, ends), PI)
    for name, want in (("k1", 0 * frozen), ("k2", frozen), ("exact", frozen), ("k3", other_way)):
        value, slope = gradient(lambda t, name=name: expected_loss(name, t, REF, ends=ends), PI)
        np.testing.assert_allclose(slope, want, atol=1e-13, err_msg=name)
        assert np.max(np.abs(slope - whole)) > 0.02, name
        unbiased = abs(value / float(whole_kl(PI, REF, ends)) - 1) < 1e-12
        assert unbiased == (name != "k2")
    # What is lacking is in the first token's logits alone: nothing comes after the second.
    assert np.max(np.abs((whole - frozen)[V:])) < 1e-14


def test_frozen_is_whole_where_every_prefix_has_the_same_ahead():
    """The control: with one second distribution after all first tokens nothing is lacking."""

    def alike(theta):
        return {**theta, "second": jnp.broadcast_to(theta["second"][:1], (V, V))}

    pi, ref = alike(PI), alike(REF)
    for name in ("k2", "exact"):
        _, slope = gradient(lambda t, name=name: expected_loss(name, t, ref, ends=False), pi)
        np.testing.assert_allclose(
            slope, gradient(lambda t: whole_kl(t, ref, False), pi)[1], atol=1e-13
        )
    # Unless a first token can end the sequence, and so evade what is ahead of the others.
    _, slope = gradient(lambda t: expected_loss("exact", t, ref, ends=True), pi)
    assert np.max(np.abs(slope - gradient(lambda t: whole_kl(t, ref, True), pi)[1])) > 0.02


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3, "exact"])
@ends_or_not
def test_where_old_wrote_the_prefixes_token_sums_are_whole(estimator, ends):
    """Setting A: KL(old || new) in new, sequences from old."""
    old = REF
    tokens, mask = listed(ends)

    def loss(new):
        p, q = logits_of(old, tokens), logits_of(new, tokens)
        if estimator == "exact":
            losses = token_kl_exact(p, q, mask)
        else:
            log_p, log_q = (token_log_probs(x, tokens) for x in (p, q))
            losses = token_kl(log_p, log_q, mask, estimator)
        return jnp.sum(probabilities(old, ends) * losses)

    value, slope = gradient(loss, PI)
    want, want_slope = gradient(lambda t: whole_kl(old, t, ends), PI)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(slope, want_slope, atol=1e-13)


@ends_or_not
def test_k1_rewards_to_go_are_the_whole_gradient_and_immediate_ones_the_frozen(ends):
    tokens, mask = listed(ends)

    def log_probs(theta):
        return token_log_probs(logits_of(theta, tokens), tokens)

    cost = log_probs(PI) - log_probs(REF)

    def policy_gradient(cost):
        def loss(theta):
            return jnp.sum(probabilities(PI, ends) * sequence_sum(cost * log_probs(theta), mask))

        return gradient(loss, PI)[1]

    whole = gradient(lambda t: whole_kl(t, REF, ends), PI)[1]
    frozen = gradient(lambda t: frozen_kl(t, REF, PI, ends), PI)[1]
    np.testing.assert_allclose(policy_gradient(rewards_to_go(cost, mask)), whole, atol=1e-13)
    np.testing.assert_allclose(policy_gradient(cost), frozen, atol=1e-13)
    # Per sequence it is what `sequence_kl` differentiates.
    per_sequence = jax.jacobian(lambda t: sequence_kl(log_probs(t), log_probs(REF), mask))(PI)
    by_hand = jax.jacobian(lambda t: sequence_sum(rewards_to_go(cost, mask) * log_probs(t), mask))(
        PI
    )
    np.testing.assert_allclose(flat(per_sequence), flat(by_hand), atol=1e-13)


def test_exact_token_kls_leave_less_noise():
    tokens, mask = listed(True)
    logits, ref_logits = logits_of(PI, tokens), logits_of(REF, tokens)
    log_pi, log_ref = (token_log_probs(x, tokens) for x in (logits, ref_logits))
    weight = probabilities(PI, True)

    def variance(x):
        return weight @ x**2 - (weight @ x) ** 2

    exact = sequence_kl_exact(logits, ref_logits, tokens, mask)
    assert variance(exact) < 0.5 * variance(sequence_kl(log_pi, log_ref, mask))


def test_the_token_that_ends_a_sequence_counts():
    """A mask that leaves it out looks at the token itself, and the sum is no KL any more."""
    tokens, mask = listed(True)
    log_pi, log_ref = (token_log_probs(logits_of(t, tokens), tokens) for t in (PI, REF))
    weight, kl = probabilities(PI, True), whole_kl(PI, REF, True)
    np.testing.assert_allclose(weight @ token_kl(log_pi, log_ref, mask, kl_k1), kl, rtol=1e-12)
    without = mask & (tokens != END)
    assert abs(weight @ token_kl(log_pi, log_ref, without, kl_k1) / kl - 1) > 0.05


# --- padding and shapes ---------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [-jnp.inf, jnp.nan, 1e9])
def test_padding_may_hold_anything(garbage):
    """On either side of the tokens; and log-probabilities given as they are keep finite slopes."""
    rng = np.random.default_rng(3)
    mask = np.array([[False, True, True, False], [True, True, True, True]])
    log_pi, log_ref, log_mu = (jnp.asarray(-rng.exponential(size=mask.shape)) for _ in range(3))
    padded = [jnp.where(mask, x, garbage) for x in (log_pi, log_ref, log_mu)]

    def losses(log_pi, log_ref, log_mu):
        return [
            *(token_kl(log_pi, log_ref, mask, k) for k in (kl_k1, kl_k2, kl_k3)),
            sequence_kl(log_pi, log_ref, mask),
            sequence_kl(log_pi, log_ref, mask, log_behaviour=log_mu),
            sequence_sum(log_pi, mask),
            sequence_mean(log_pi, mask),
        ]

    slopes = [jax.jacobian(losses)(*x) for x in ((log_pi, log_ref, log_mu), padded)]
    for clean, dirty in zip(losses(log_pi, log_ref, log_mu), losses(*padded), strict=True):
        assert clean.shape == (2,)
        np.testing.assert_array_equal(clean, dirty)
    np.testing.assert_array_equal(slopes[0], slopes[1])
    # The tokens that count are those that are summed.
    np.testing.assert_allclose(sequence_sum(log_pi, mask)[0], log_pi[0, 1] + log_pi[0, 2])
    np.testing.assert_allclose(sequence_mean(log_pi, mask)[0], (log_pi[0, 1] + log_pi[0, 2]) / 2)


def test_rewards_to_go_by_hand():
    x = jnp.asarray([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]])
    mask = np.array([[True, True, True, True], [False, True, True, False]])
    np.testing.assert_array_equal(rewards_to_go(x, mask), [[15, 14, 12, 8], [0, 6, 4, 0]])


def test_a_sequence_of_nothing_is_zero():
    nothing = jnp.zeros((1, 3), bool)
    x = jnp.full((1, 3), jnp.nan)
    for function in (sequence_sum, sequence_mean):
        np.testing.assert_array_equal(function(x, nothing), [0])


def test_leading_axes_and_masks_of_numbers():
    tokens, mask = listed(False)
    logits, ref_logits = logits_of(PI, tokens), logits_of(REF, tokens)
    whole = sequence_kl_exact(logits, ref_logits, tokens, mask)
    split = sequence_kl_exact(
        *(x.reshape(3, 3, *x.shape[1:]) for x in (logits, ref_logits, tokens, mask.astype(int)))
    )
    np.testing.assert_array_equal(whole.reshape(3, 3), split)


def test_float32_stays_float32():
    tokens, mask = listed(True)
    theta = jax.tree.map(lambda x: x.astype(jnp.float32), PI)
    logits = logits_of(theta, tokens)
    log_pi = token_log_probs(logits, tokens)
    outputs = [
        log_pi,
        token_kl(log_pi, log_pi, mask),
        token_kl_exact(logits, logits, mask),
        sequence_kl(log_pi, log_pi, mask),
        sequence_kl_exact(logits, logits, tokens, mask),
        sequence_mean(log_pi, mask),
        rewards_to_go(log_pi, mask),
    ]
    assert {x.dtype for x in outputs} == {np.dtype("float32")}


def test_shapes_that_do_not_match_are_refused():
    tokens, mask = listed(True)
    logits = logits_of(PI, tokens)
    log_pi = token_log_probs(logits, tokens)
    for call in (
        lambda: token_log_probs(logits, tokens[:, :1]),
        lambda: token_kl(log_pi, log_pi[:, :1], mask),
        lambda: token_kl_exact(logits, logits, mask[:, :1]),
        lambda: sequence_kl(log_pi, log_pi, mask[:1]),
        lambda: sequence_kl(log_pi, log_pi, mask, log_behaviour=log_pi[:1]),
        lambda: rewards_to_go(log_pi, mask[0]),
    ):
        with pytest.raises(ValueError, match="the shapes must be equal"):
            call()
