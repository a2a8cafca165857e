"""Exact moments and gradients of the KL estimators, from a list of all outcomes: no sampling.

The precision is JAX's current one: work within ``jax.enable_x64(True)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kltrust import tokens
from kltrust.divergences import categorical_kl_from_logits as kl, samples

Loss = Callable[[Any], jax.Array]
"""``loss(theta)``, [K] one per outcome."""


class Facts(NamedTuple):
    """The exact moments of one estimator, for one sample."""

    value: float
    """Its mean."""
    std: float
    gradient: np.ndarray
    """The mean of its gradients, [P]."""
    noise: float
    """The root of the mean squared distance of its gradients from their mean."""


def facts(losses: Loss, theta: Any, probs: Any) -> Facts:
    """The moments of ``losses(theta)``, [K] one per outcome, and of their gradients."""
    flat, unflatten = ravel_pytree(theta)
    by_outcome = lambda x: losses(unflatten(x))  # noqa: E731
    values, slopes = np.asarray(by_outcome(flat)), np.asarray(jax.jacobian(by_outcome)(flat))
    p = np.asarray(probs)
    value, gradient = p @ values, p @ slopes
    noise = np.sqrt(p @ np.sum((slopes - gradient) ** 2, axis=-1))
    return Facts(value, np.sqrt(p @ (values - value) ** 2), gradient, noise)


class Both(NamedTuple):
    """An estimator as a term of the loss, and as a reward without a gradient."""

    loss: Facts
    reward: Facts


def with_best_coefficient(log_ratio: jax.Array, log_p: jax.Array) -> jax.Array:
    best = samples.control_variate_coefficient(log_ratio, jnp.exp(log_p))
    return samples.kl_control_variate(log_ratio, jax.lax.stop_gradient(best))


def elementwise(name: str) -> Callable[..., jax.Array]:
    return lambda log_ratio, log_p: getattr(samples, name)(log_ratio)


BEST, EXACT = "`kl_control_variate`, best c", "exact (`kl_divergence`)"
ESTIMATORS: dict[str, Callable[..., jax.Array]] = {
    **{f"`{name}`": elementwise(name) for name in ("kl_k1", "kl_k2", "kl_k3")},
    BEST: with_best_coefficient,
    **{f"`{name}`": elementwise(name) for name in ("kl_reverse_k1", "kl_reverse_k3")},
}
"""``k(log_ratio, log_p)``, where p is the policy that the samples come from."""
log_softmax = jax.nn.log_softmax


def weighted(log_ratio: Loss, detached: bool) -> Callable[[Loss], Loss]:
    """Estimates times a differentiated ratio; ``detached`` estimates are not differentiated."""
    of = jax.lax.stop_gradient if detached else lambda x: x
    return lambda estimate: lambda t: samples.ratio_weighted(of(estimate(t)), log_ratio(t))


def setting_a(old: np.ndarray, new: np.ndarray) -> dict[str, Both]:
    """a ~ old; log_ratio = log new - log old; differentiated in new.

    As a reward: ratio * stop_gradient(k), the surrogate's.
    """
    log_old = log_softmax(old)
    p, log_ratio = jnp.exp(log_old), lambda t: log_softmax(t) - log_old
    losses = {name: lambda t, k=k: k(log_ratio(t), log_old) for name, k in ESTIMATORS.items()}
    losses[EXACT] = lambda t: jnp.broadcast_to(kl(old, t), p.shape)
    reward = weighted(log_ratio, detached=True)
    return {n: Both(facts(k, new, p), facts(reward(k), new, p)) for n, k in losses.items()}


def setting_b(
    pi: np.ndarray, ref: np.ndarray, behaviour: np.ndarray | None = None
) -> dict[str, Both]:
    """a ~ pi (or ``behaviour``); log_ratio = log ref - log pi; differentiated in pi.

    As a reward: stop_gradient(k) log pi, or ratio * stop_gradient(k) if there is a ratio.
    """
    log_ref, log_mu = log_softmax(ref), log_softmax(pi if behaviour is None else behaviour)
    p, log_importance = jnp.exp(log_mu), lambda t: log_softmax(t) - log_mu

    def estimate(k: Callable[..., jax.Array]) -> Loss:
        return lambda t: k(log_ref - log_softmax(t), log_softmax(t))

    def score(k: Loss) -> Loss:
        return lambda t: log_softmax(t) * jax.lax.stop_gradient(k(t))

    loss, reward = (weighted(log_importance, detached) for detached in (False, True))
    losses = {name: estimate(k) for name, k in ESTIMATORS.items()}
    pairs = {name: (k, score(k)) for name, k in losses.items()}
    for name in ("`kl_k1`", "`kl_k3`"):
        pairs[f"`ratio_weighted` {name}"] = loss(losses[name]), reward(losses[name])
    exact = lambda t: jnp.broadcast_to(kl(t, ref), p.shape)  # noqa: E731
    pairs[EXACT] = exact, score(exact)
    return {name: Both(*(facts(of, pi, p) for of in pair)) for name, pair in pairs.items()}


def both_kls(fixed: np.ndarray, moving: np.ndarray) -> tuple[tuple[float, np.ndarray], ...]:
    """Value and gradient in ``moving`` of KL(fixed || moving) and of KL(moving || fixed)."""
    toward = jax.value_and_grad(lambda x: kl(fixed, x))(moving)
    away = jax.value_and_grad(lambda x: kl(x, fixed))(moving)
    return tuple((float(value), np.asarray(slope)) for value, slope in (toward, away))


# --- N(0, 1) against N(mu, 1) ---------------------------------------------------------------------


def gaussian(mu: float) -> dict[str, tuple[float, float]]:
    """Bias / KL and std / KL of samples of N(0, 1), log_ratio that of N(mu, 1) to it.

    By the trapezoidal rule, which converges faster than any power here.
    """
    x = np.linspace(-14, 14, 4001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    log_ratio, kl = mu * x - mu**2 / 2, mu**2 / 2
    best = samples.control_variate_coefficient(log_ratio, density)
    names = ("kl_k1", "kl_k2", "kl_k3")
    values = {f"`{name}`": getattr(samples, name)(log_ratio) for name in names}
    values[BEST] = samples.kl_control_variate(log_ratio, best)
    found = {}
    for name, of in values.items():
        of = np.asarray(of)
        mean = density @ of
        found[name] = (mean / kl - 1, np.sqrt(density @ (of - mean) ** 2) / kl)
    return found


def gaussian_closed_forms(mu: float) -> dict[str, tuple[float, float]]:
    """The results of `gaussian` as formulas."""
    grown = np.expm1(mu**2)
    return {
        "`kl_k1`": (0.0, 2 / abs(mu)),
        "`kl_k2`": (mu**2 / 4, np.sqrt(2 + mu**2)),
        "`kl_k3`": (0.0, 2 * np.sqrt(grown - mu**2) / mu**2),
        "`kl_control_variate`, best c": (0.0, 2 * np.sqrt(mu**2 - mu**4 / grown) / mu**2),
    }


# --- sequences of two tokens ----------------------------------------------------------------------

TOKENS = np.array([(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)])
MASK = np.array([(True, token > 0) for token, _ in TOKENS])
"""All sequences over three tokens; the token 0 ends a sequence."""


def sequence_policy(seed: float) -> dict[str, np.ndarray]:
    """Logits of the first token, and of the second token after each first one; fixed numbers.

    Policies differ much in the token after a 1, and little in the first token and the one after a
    2.
    """
    waves = np.sin(seed + 2.3 * np.arange(12))
    reach = np.array([0.0, 2.0, 0.2])
    return {"first": 0.2 * waves[:3], "second": reach[:, None] * waves[3:].reshape(3, 3)}


def next_logits(theta: dict[str, jax.Array]) -> jax.Array:
    first = jnp.broadcast_to(theta["first"], (len(TOKENS), 3))
    return jnp.stack([first, theta["second"][TOKENS[:, 0]]], axis=1)


def chosen(theta: dict[str, jax.Array]) -> jax.Array:
    return tokens.token_log_probs(next_logits(theta), TOKENS)


def sequence_probs(theta: dict[str, jax.Array]) -> jax.Array:
    return jnp.exp(jnp.sum(jnp.where(MASK, chosen(theta), 0), axis=-1))


def sequences(off_policy: bool) -> tuple[dict[str, Facts], float, np.ndarray]:
    """Facts of all losses, and the value and gradient of the KL between whole sequences."""
    pi, ref, mu = sequence_policy(0.0), sequence_policy(1.0), sequence_policy(2.0)
    probs = sequence_probs(mu if off_policy else pi)
    log_ref, ref_logits = chosen(ref), next_logits(ref)
    behaviour = {"log_behaviour": chosen(mu)} if off_policy else {}

    def of_tokens(name: str) -> Loss:
        return lambda t: tokens.token_kl(chosen(t), log_ref, MASK, getattr(samples, name))

    losses: dict[str, Loss] = {
        **{f"`token_kl`, `{name}`": of_tokens(name) for name in ("kl_k1", "kl_k2", "kl_k3")},
        "`token_kl_exact`": lambda t: tokens.token_kl_exact(next_logits(t), ref_logits, MASK),
        "`sequence_kl`": lambda t: tokens.sequence_kl(chosen(t), log_ref, MASK, **behaviour),
        "`sequence_kl_exact`": lambda t: tokens.sequence_kl_exact(
            next_logits(t), ref_logits, TOKENS, MASK, **behaviour
        ),
    }

    def whole(t: Any) -> jax.Array:
        p, q = sequence_probs(t), sequence_probs(ref)
        return jnp.sum(p * jnp.log(p / q))

    theta = jax.tree.map(jnp.asarray, pi)
    value, slope = jax.value_and_grad(whole)(theta)
    found = {name: facts(loss, theta, probs) for name, loss in losses.items()}
    return found, float(value), np.asarray(ravel_pytree(slope)[0])
