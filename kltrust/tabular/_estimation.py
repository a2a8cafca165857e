"""The effects of sampling: moments of the advantage estimator, and how often updates do harm."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from kltrust import loops
from kltrust.checks import check, check_count, check_share
from kltrust.divergences import categorical_kl
from kltrust.tabular._bounds import performance_difference
from kltrust.tabular._mdp import MDP, solve
from kltrust.tabular._policies import exact_batch, probabilities, sampled_batch
from kltrust.types import Array, Number, Params, Policy, PolicyUpdate


class GaeMoments(NamedTuple):
    """Moments of the advantage estimate at a state and action, over the steps that follow.

    Attributes:
        mean: [S, A].
        bias: [S, A] mean - A. With lam = 1 and infinitely many steps it is V_pi - V, the same for
            all actions of a state: a baseline, and no bias of the gradient.
        gradient_bias: [S, A] bias less its mean over the policy's actions: the part that biases a
            gradient.
        variance: [S, A].
    """

    mean: Array
    bias: Array
    gradient_bias: Array
    variance: Array


def gae_moments(mdp: MDP, pi: Array, value: Array, lam: Number, num_steps: int) -> GaeMoments:
    """Bias and variance of generalised advantage estimation with any critic, exact.

    The estimate is X_T = sum_{k < T} (gamma lam)^k delta_k, delta = r + gamma V(s') - V(s). The
    recursion X_T = delta + gamma lam X_{T-1}(s', a') gives its first two moments without drawing or
    listing trajectories. With V = V_pi the bias is 0 at every lam.

    Args:
        mdp: the MDP.
        pi: [S, A] the policy that acts.
        value: [S] the critic V, right or wrong.
        lam: in [0, 1].
        num_steps: T, static: the remaining steps of the rollout, the last one bootstrapped. A large
            T gives the limit: the rest has weight (gamma lam)^T.
    """
    check_share(lam=lam)
    check_count(num_steps=num_steps)
    # [S, A, S]
    delta = mdp.reward[:, :, None] + mdp.gamma * value[None, None, :] - value[:, None, None]
    decay = mdp.gamma * lam

    def one_more_step(moments: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        mean, square = (jnp.sum(pi * x, axis=-1) for x in moments)  # of X_{T-1} at a state
        squares = delta**2 + 2 * decay * delta * mean + decay**2 * square
        both = delta + decay * mean, squares
        mean, square = (jnp.sum(mdp.transition * x, axis=-1) for x in both)
        return (mean, square), None

    nothing = jnp.zeros_like(mdp.reward)
    (mean, square), _ = loops.scan(one_more_step, (nothing, nothing), length=num_steps)
    bias = mean - solve(mdp, pi).advantage
    baseline = jnp.sum(pi * bias, axis=-1, keepdims=True)
    return GaeMoments(mean, bias, bias - baseline, square - mean**2)


def compatible_weights(mdp: MDP, policy: Policy, params: Params) -> Params:
    """The advantage regressed on grad log pi: the natural gradient itself, like ``params``.

    w = argmin E_{s~d, a~pi}[(A(s, a) - w' grad log pi(a|s))^2]; if there are several, the shortest.
    The normal equations are F w = E[A grad log pi]. The right side is (1 - gamma) times the
    gradient of J, so w = F^-1 g for a batch's surrogate (Sutton et al. 1999; Kakade 2001). V as a
    baseline changes nothing, since grad log pi has mean 0 in every state.

    Arguments as in `policy_gradient`.
    """
    batch = exact_batch(mdp, policy, params)
    flat, unflatten = ravel_pytree(params)

    def log_probs(x: Array) -> Array:
        return policy(unflatten(x), batch.obs).log_prob(batch.action)

    scale = jnp.sqrt(jnp.asarray(batch.weight))
    features = jax.jacobian(log_probs)(flat)
    weights, *_ = jnp.linalg.lstsq(scale[:, None] * features, scale * batch.advantage)
    return unflatten(weights)


class Degradation(NamedTuple):
    """The results of many updates from one policy, each on a separate batch.

    Attributes:
        share: [] the share of updates after which J is smaller, beyond rounding.
        mean_change: [] the mean of J(new) - J(old).
        worst_change: [] the smallest J(new) - J(old).
        mean_kl: [] mean over updates and over d of KL(old || new), nats.
    """

    share: Array
    mean_change: Array
    worst_change: Array
    mean_kl: Array


def degradation(
    mdp: MDP,
    policy: Policy,
    params: Params,
    algorithm: PolicyUpdate,
    key: Array,
    *,
    num_updates: int,
    num_samples: int,
    noise: Number = 0.0,
) -> Degradation:
    """How often an update makes things worse, and by how much: J is exact, the batch is sampled.

    Use ``vmap`` for a curve against the step size or the region: an algorithm's settings may be
    traced::

        jax.vmap(lambda kl: harm(mdp, policy, params, trpo(max_kl=kl), key, ...).share)(sizes)

    Args:
        mdp: the MDP.
        policy: the policy on its states.
        params: every update starts from these.
        algorithm: every update starts from its initial state.
        key: a typed key.
        num_updates: static; the share's standard error is at most 1 / sqrt(4 num_updates).
        num_samples: independent rows of `sampled_batch` in each update, static.
        noise: as in `sampled_batch`.
    """
    check(noise=(noise, True))
    check_count(num_updates=num_updates, num_samples=num_samples)
    num_states = mdp.start.shape[0]
    old = probabilities(policy, params, num_states)
    solution = solve(mdp, old)

    def one(key: Array) -> tuple[Array, Array]:
        batch_key, update_key = jax.random.split(key)
        batch = sampled_batch(mdp, policy, params, batch_key, num_samples, noise=noise)
        state = algorithm.init(params)
        new_params, _, _ = algorithm.update(policy, params, state, batch, update_key)
        new = probabilities(policy, new_params, num_states)
        change = performance_difference(mdp, old, new, solution)
        return change, jnp.sum(solution.visitation * categorical_kl(old, new))

    change, kl = jax.vmap(one)(jax.random.split(key, num_updates))
    rounding = 64 * jnp.finfo(change.dtype).eps * jnp.max(jnp.abs(solution.action_value))
    share = jnp.mean((change < -rounding).astype(change.dtype))
    return Degradation(share, jnp.mean(change), jnp.min(change), jnp.mean(kl))
