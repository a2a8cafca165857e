"""The steps that the algorithms approximate, each solved to the last digit.

All maximise a linear objective sum_s w(s) sum_a new(a|s) A(s, a) over policies near the old one.
Their closed forms are on the simplex, so policies are arrays [..., A], not parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.divergences import categorical_kl
from kltrust.tabular._bounds import trpo_coefficient
from kltrust.tabular._mdp import MDP, Solution, solve, state_distributions
from kltrust.tree import safe_divide
from kltrust.types import Array, Number

_BISECTIONS = 60  # reduce an interval of about 100 to the last digits of a double


def mirror_step(old: Array, advantage: Array, eta: Number) -> Array:
    """Old exp(eta A) / Z, which maximises eta E_new[A] - KL(new || old): [..., A].

    This is mirror descent with the negative entropy. On a tabular softmax it is also the natural
    gradient step theta + eta F^-1 E_{d, old}[A grad log pi] (Kakade 2001; Agarwal et al. 2021,
    lemma 15). The gradient of J is 1 / (1 - gamma) times larger; with it the step is
    ``mirror_step(old, A, eta / (1 - gamma))``. ``old`` and ``advantage`` are [..., A]; Q in place
    of A gives the same policy.
    """
    return jax.nn.softmax(jnp.log(old) + eta * advantage, axis=-1)


def reverse_kl_step(old: Array, advantage: Array, weight: Array, max_kl: Number) -> Array:
    """Maximises the mean of E_new[A] under mean KL(new || old) <= max_kl: [S, A].

    It is old exp(A / eta) / Z, one eta for all states (Peters et al. 2010), found by bisection.
    ``old`` and ``advantage`` are [S, A]. ``weight`` [S] holds the states' weights in both means,
    which sum to one. max_kl is in nats.
    """
    scale = jnp.max(_spread(advantage))

    def candidate(log_eta: Array) -> Array:
        return mirror_step(old, safe_divide(advantage, scale), jnp.exp(-log_eta))

    return candidate(
        _root(lambda x: jnp.sum(weight * categorical_kl(candidate(x), old)), max_kl, -50.0, 50.0)
    )


def forward_kl_step(old: Array, advantage: Array, max_kl: Number) -> tuple[Array, Array]:
    """Maximises E_new[A] in every state, each under KL(old || new) <= max_kl.

    The new policy is old lambda / (nu - A), with nu > max A and lambda the normaliser: one dual to
    search. ``old``, positive everywhere, and ``advantage`` are [..., A]; max_kl, in nats, is the
    bound in each state.

    Returns:
        The new policy [..., A] and the multiplier lambda [...], the gain per further nat of KL.
    """
    spread = _spread(advantage)
    shortfall = safe_divide(jnp.max(advantage, axis=-1, keepdims=True) - advantage, spread)

    def candidate(log_excess: Array) -> tuple[Array, Array]:
        # With nu = max A + e spread and z the shortfall, old / (e + z) = (old / e) / (1 + z / e).
        mass = old / (1 + shortfall * jnp.exp(-log_excess)[..., None])
        total = jnp.sum(mass, axis=-1)
        return mass / total[..., None], jnp.exp(log_excess) / total

    bounds = jnp.full(spread.shape[:-1], 50.0, old.dtype)
    log_excess = _root(lambda x: categorical_kl(old, candidate(x)[0]), max_kl, -bounds, bounds)
    new, multiplier = candidate(log_excess)
    return new, multiplier * spread[..., 0]


def exact_trpo_step(old: Array, advantage: Array, weight: Array, max_kl: Number) -> Array:
    """Maximises the mean of E_new[A] under mean KL(old || new) <= max_kl: [S, A].

    This is TRPO's problem (Schulman et al. 2015, eq. 14) without its two approximations, for
    policies without shared parameters. The solution is old lambda / (nu - A): an outer search finds
    one lambda, an inner one a nu for each state. The quadratic step tends to it as max_kl tends to
    0. Arguments as in `reverse_kl_step`; ``old`` is positive everywhere.
    """
    scale = jnp.max(_spread(advantage))
    shortfall = safe_divide(jnp.max(advantage, axis=-1, keepdims=True) - advantage, scale)

    def candidate(log_lambda: Array) -> Array:
        ratio = shortfall * jnp.exp(-log_lambda)

        def mass(v: Array) -> Array:
            return old / (v[..., None] + ratio)

        ones = jnp.ones(old.shape[:-1], old.dtype)
        # v = (nu - max A) / lambda: at most 1, at least the best action's old probability.
        v = _root(lambda v: jnp.sum(mass(v), axis=-1), 1.0, 0 * ones, ones)
        return mass(v) / jnp.sum(mass(v), axis=-1, keepdims=True)

    return candidate(
        _root(lambda x: jnp.sum(weight * categorical_kl(old, candidate(x))), max_kl, -50.0, 50.0)
    )


class PenalisedStep(NamedTuple):
    """The theoretical algorithm's step.

    Attributes:
        policy: [S, A] the new policy.
        kl_max: [] max_s KL(old || new), nats: the size of the step.
        surrogate_gain: [] L(new) - J(old).
        guaranteed_gain: [] surrogate_gain - penalty * kl_max, never negative.
    """

    policy: Array
    kl_max: Array
    surrogate_gain: Array
    guaranteed_gain: Array


def penalised_step(
    mdp: MDP,
    old: Array,
    *,
    penalty: Number | None = None,
    groups: Array | None = None,
    largest_kl: Number = 10.0,
) -> PenalisedStep:
    """Maximises L(new) - C max_s KL(old || new): policy iteration with a guarantee.

    This is algorithm 1 of Schulman et al. (2015), solved exactly. At max KL = delta every group's
    step is `forward_kl_step`; the best L is concave in delta, with the sum of the multipliers as
    its slope. The solution is the delta at which the slope has fallen to the penalty. With the
    default penalty J never falls.

    Args:
        mdp: S states, A actions.
        old: [S, A] probabilities, all positive, equal within each group.
        penalty: C; None for `trpo_coefficient`.
        groups: [S] integers below S: states of one group share their action probabilities.
            None makes every state a separate group.
        largest_kl: bound on delta, which would be infinite at a penalty of 0; nats.
    """
    num_states = mdp.start.shape[0]
    groups = jnp.arange(num_states) if groups is None else jnp.asarray(groups)
    solution = solve(mdp, old)
    coefficient = trpo_coefficient(mdp, old, solution) if penalty is None else penalty
    weighted = solution.visitation[:, None] * solution.advantage / (1 - mdp.gamma)
    objective = jax.ops.segment_sum(weighted, groups, num_segments=num_states)[groups]
    # A group counts once, whatever its size: its first state stands for it.
    first = jnp.argmax(groups[:, None] == groups[None, :], axis=-1) == jnp.arange(num_states)

    def slope(log_delta: Array) -> Array:
        return jnp.sum(first * forward_kl_step(old, objective, jnp.exp(log_delta))[1])

    log_delta = _root(slope, coefficient, -80.0, jnp.log(jnp.asarray(largest_kl, old.dtype)))
    new, _ = forward_kl_step(old, objective, jnp.exp(log_delta))
    kl_max = jnp.max(categorical_kl(old, new))
    gain = jnp.sum((new - old) * weighted)
    return PenalisedStep(new, kl_max, gain, gain - coefficient * kl_max)


class RegularisedOptimum(NamedTuple):
    """The optimum of J minus tau times the discounted KL to a reference policy.

    Attributes:
        policy: [S, A] reference exp(Q / tau) / Z.
        value: [S] tau log Z, the regularised return from each state.
        expected_return: [] of the regularised objective.
    """

    policy: Array
    value: Array
    expected_return: Array


def kl_regularised_optimum(
    mdp: MDP, reference: Array, tau: Number, max_iters: int = 1000
) -> RegularisedOptimum:
    """Maximises E sum_t gamma^t (r_t - tau KL(pi || reference)(s_t)) over all policies.

    pi = reference exp(Q / tau) / Z with Q = r + gamma P V and V = tau log Z. Policy iteration finds
    it in at most max_iters steps; it is Newton's method on this fixed point (Geist et al. 2019).
    ``reference`` is [S, A] in ``mdp``, and ``tau`` is the price of a nat.
    """
    rounding = 64 * jnp.finfo(reference.dtype).eps

    def evaluate(pi: Array) -> Solution:
        cost = tau * categorical_kl(pi, reference)
        return solve(mdp._replace(reward=mdp.reward - cost[:, None]), pi)

    def improve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        pi, _, k = state
        # The KL is the same for all actions of a state and drops out of the softmax.
        new = mirror_step(reference, evaluate(pi).action_value, 1 / tau)
        return new, jnp.max(jnp.abs(new - pi)), k + 1

    first = (reference, jnp.asarray(jnp.inf, reference.dtype), jnp.int32(0))
    pi, _, _ = loops.while_loop(lambda s: (s[1] > rounding) & (s[2] < max_iters), improve, first)
    solution = evaluate(pi)
    return RegularisedOptimum(pi, solution.value, solution.expected_return)


def trajectory_kl(mdp: MDP, old: Array, new: Array, num_steps: int) -> Array:
    """KL between the two distributions over trajectories of T actions, nats: [].

    It is sum_t E_{s_t ~ old}[KL(old || new)(s_t)]: the dynamics of ``mdp``, common to both, drop
    out. Unlike a mean over states, it grows with T = num_steps, which is static. old and new are
    [S, A] probabilities.
    """
    return jnp.sum(state_distributions(mdp, old, num_steps) @ categorical_kl(old, new))


def _root(
    decreasing: Callable[[Array], Array],
    target: Number | Array,
    low: Number | Array,
    high: Number | Array,
) -> Array:
    """The smallest known x with decreasing(x) <= target, elementwise, by bisection.

    It is ``high`` if even decreasing(high) exceeds the target. Callers that bound a KL choose a
    ``high`` at which the policy does not move.
    """
    shape = jnp.broadcast_shapes(jnp.shape(low), jnp.shape(high))
    dtype = jnp.result_type(low, high, float)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        inside = decreasing(middle) <= target
        return jnp.where(inside, low, middle), jnp.where(inside, middle, high)

    ends = tuple(jnp.broadcast_to(jnp.asarray(x, dtype), shape) for x in (low, high))
    return loops.fori_loop(0, _BISECTIONS, halve, ends)[1]


def _spread(advantage: Array) -> Array:
    """The range of each state's advantages; at 0 the state takes no step."""
    return jnp.max(advantage, axis=-1, keepdims=True) - jnp.min(advantage, axis=-1, keepdims=True)
