"""Guarantees about J(new) from quantities of the old policy.

Policies are arrays [S, A]; d, A and V are those of the old one, d normalised. With

    L(new) = J(old) + E_{s~d, a~new}[A] / (1 - gamma)

every ``*_penalty`` bounds the gap: abs(J(new) - L(new)) <= penalty, so J(new) can't fall below
L - penalty. Each penalty contains the *largest* KL over states, or a total variation: with the mean
KL in its place, nothing is proven.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from kltrust.divergences import categorical_kl, total_variation
from kltrust.tabular._mdp import MDP, Solution, expected_return, solve
from kltrust.tree import safe_divide
from kltrust.types import Array, Number


def performance_difference(
    mdp: MDP, old: Array, new: Array, solution: Solution | None = None
) -> Array:
    """J(new) - J(old) = E_{s~d_new, a~new}[A_old] / (1 - gamma), an identity: [].

    Kakade and Langford (2002), lemma 6.1. With d_new the "objective" is the return itself: exact,
    but it can't be estimated from the old policy's data. old and new are [S, A] probabilities in
    ``mdp``; ``solution`` is that of `solve` for old, None to compute it here.
    """
    advantage = (solution or solve(mdp, old)).advantage
    visitation = solve(mdp, new).visitation
    return jnp.sum(visitation[:, None] * new * advantage) / (1 - mdp.gamma)


def surrogate_return(mdp: MDP, old: Array, new: Array) -> Array:
    """L(new) = J(old) + E_{s~d_old, a~new}[A_old] / (1 - gamma): [].

    It equals J in value and gradient at new = old (Schulman et al. 2015, eq. 3 and 4). Arguments
    as in `performance_difference`.
    """
    return expected_return(mdp, old) + surrogate_gain(mdp, old, new) / (1 - mdp.gamma)


def surrogate_gain(mdp: MDP, old: Array, new: Array, solution: Solution | None = None) -> Array:
    """E_{s~d_old, a~new}[A_old] = (1 - gamma) (L(new) - J(old)), which a batch estimates: [].

    Arguments as in `performance_difference`.
    """
    solution = solution or solve(mdp, old)
    # sum_a old A is zero up to rounding; subtracting it makes the gain at new = old exactly 0.
    return jnp.sum(solution.visitation[:, None] * (new - old) * solution.advantage)


def trpo_coefficient(mdp: MDP, old: Array, solution: Solution | None = None) -> Array:
    """C = 4 eps gamma / (1 - gamma)^2, eps = max abs(A): [] (Schulman et al. 2015, eq. 9).

    Arguments as in `performance_difference`.
    """
    eps = jnp.max(jnp.abs((solution or solve(mdp, old)).advantage))
    return 4 * eps * mdp.gamma / (1 - mdp.gamma) ** 2


def trpo_tv_penalty(mdp: MDP, old: Array, new: Array, solution: Solution | None = None) -> Array:
    """C max_s TV(old, new)^2: [] (Schulman et al. 2015, theorem 1).

    Arguments as in `performance_difference`.
    """
    return trpo_coefficient(mdp, old, solution) * jnp.max(total_variation(old, new)) ** 2


def trpo_kl_penalty(mdp: MDP, old: Array, new: Array, solution: Solution | None = None) -> Array:
    """C max_s KL(old || new): [], since TV^2 <= KL (Schulman et al. 2015, eq. 9).

    Arguments as in `performance_difference`.
    """
    return trpo_coefficient(mdp, old, solution) * jnp.max(categorical_kl(old, new))


def trpo_pinsker_penalty(
    mdp: MDP, old: Array, new: Array, solution: Solution | None = None
) -> Array:
    """C / 2 max_s KL(old || new): [], since TV^2 <= KL / 2 (Pinsker).

    Arguments as in `performance_difference`.
    """
    return trpo_kl_penalty(mdp, old, new, solution) / 2


def trpo_coupling_penalty(
    mdp: MDP, old: Array, new: Array, solution: Solution | None = None
) -> Array:
    """4 eps gamma t^2 / ((1 - gamma)(1 - gamma (1 - t))), t = max_s TV(old, new): [].

    The sum over time in the paper's appendix A, before the theorem rounds it up: the policies agree
    through step k with probability (1 - t)^k. It stays near 4 eps t / (1 - gamma).

    Arguments as in `performance_difference`.
    """
    tv = jnp.max(total_variation(old, new))
    shorter = (1 - mdp.gamma) / (1 - mdp.gamma * (1 - tv))
    return trpo_tv_penalty(mdp, old, new, solution) * shorter


def cpo_penalty(mdp: MDP, old: Array, new: Array, solution: Solution | None = None) -> Array:
    """2 gamma eps_new / (1 - gamma)^2 E_{s~d_old}[TV], eps_new = max_s abs(E_{a~new} A): [].

    Achiam et al. (2017), theorem 1. Its mean over states is of TV, not of KL. It is never above
    `trpo_tv_penalty`, since eps_new <= 2 max abs(A) max TV; with max abs(A) in place of eps_new it
    would not be tighter. Arguments as in `performance_difference`.
    """
    solution = solution or solve(mdp, old)
    mean_tv = jnp.sum(solution.visitation * total_variation(old, new))
    eps = expected_advantage_bound(solution.advantage, old, new)
    return 2 * mdp.gamma * eps * mean_tv / (1 - mdp.gamma) ** 2


def expected_advantage_bound(advantage: Array, old: Array, new: Array) -> Array:
    """eps_new = max_s abs(E_{a~new}[A]), at most max abs(A): [].

    advantage [S, A] is that of ``old``; old and new are [S, A] probabilities.
    """
    return jnp.max(jnp.abs(jnp.sum((new - old) * advantage, axis=-1)))


def practical_guarantee(max_kl: Number, gamma: Number, eps_new: Number) -> Array:
    """-sqrt(2 max_kl) gamma eps_new / (1 - gamma)^2 <= J(new) - J(old): [].

    This is all that a mean KL(old || new) <= max_kl and a surrogate gain of at least 0 guarantee:
    CPO's bound with E[TV] <= sqrt(max_kl / 2) (Achiam et al. 2017, proposition 1). It is
    -1,400 eps_new for max_kl = 0.01 and gamma = 0.99.
    """
    return -jnp.sqrt(2 * jnp.asarray(max_kl)) * gamma * eps_new / (1 - gamma) ** 2


def conservative_mixture(old: Array, target: Array, alpha: Number) -> Array:
    """(1 - alpha) old + alpha target: [S, A] (Kakade and Langford 2002).

    old and target are [S, A] probabilities; alpha, within [0, 1], is the target's share.
    """
    return (1 - alpha) * old + alpha * target


def conservative_penalty(mdp: MDP, old: Array, target: Array, alpha: Number) -> Array:
    """2 eps gamma alpha^2 / ((1 - gamma)(1 - gamma (1 - alpha))): [].

    eps = max_s abs(E_{a~target}[A]). Kakade and Langford (2002), theorem 4.1, for the mixture of
    the two policies. Arguments as in `conservative_mixture`; both policies act in ``mdp``.
    """
    eps = expected_advantage_bound(solve(mdp, old).advantage, old, target)
    tail = (1 - mdp.gamma) * (1 - mdp.gamma * (1 - alpha))
    return 2 * eps * mdp.gamma * jnp.square(alpha) / tail


def conservative_step_size(mdp: MDP, old: Array, target: Array) -> Array:
    """The alpha that maximises the guaranteed gain with 1 - gamma for 1 - gamma (1 - alpha): [].

    alpha = (1 - gamma) G / (4 gamma eps), G = E_{d, target}[A], clipped to [0, 1]. Inside the
    interval it guarantees a gain of G^2 / (8 gamma eps) (Kakade and Langford 2002, corollary 4.2).
    Arguments as in `conservative_mixture`; both policies act in ``mdp``.
    """
    eps = expected_advantage_bound(solve(mdp, old).advantage, old, target)
    gain = (1 - mdp.gamma) * surrogate_gain(mdp, old, target)
    return jnp.clip(safe_divide(gain, 4 * mdp.gamma * eps), 0, 1)


class Certificate(NamedTuple):
    """The theory's bounds on one update; every field is [].

    Attributes:
        improvement: J(new) - J(old).
        surrogate_gain: L(new) - J(old), in units of the return.
        gap: J(new) - L(new).
        trpo_tv, trpo_kl, trpo_pinsker, trpo_coupling, cpo: the penalties, each at least abs(gap).
        certified: the best lower bound on the improvement; above 0 it proves that the update helps.
        kl_mean: E_{d_old} KL(old || new), nats.
        kl_max: the largest KL(old || new) over all states, nats.
        practical: `practical_guarantee` at ``kl_mean``, given a surrogate gain of at least 0.
    """

    improvement: Array
    surrogate_gain: Array
    gap: Array
    trpo_tv: Array
    trpo_kl: Array
    trpo_pinsker: Array
    trpo_coupling: Array
    cpo: Array
    certified: Array
    kl_mean: Array
    kl_max: Array
    practical: Array


def certificate(mdp: MDP, old: Array, new: Array) -> Certificate:
    """All the bounds on one update; gap / penalty is a bound's slack.

    Arguments as in `performance_difference`.
    """
    solution = solve(mdp, old)
    pair = (mdp, old, new, solution)
    improvement, gain = performance_difference(*pair), surrogate_gain(*pair) / (1 - mdp.gamma)
    coupling, cpo = trpo_coupling_penalty(*pair), cpo_penalty(*pair)
    kl = categorical_kl(old, new)
    kl_mean = jnp.sum(solution.visitation * kl)
    eps_new = expected_advantage_bound(solution.advantage, old, new)
    return Certificate(
        improvement=improvement,
        surrogate_gain=gain,
        gap=improvement - gain,
        trpo_tv=trpo_tv_penalty(*pair),
        trpo_kl=trpo_kl_penalty(*pair),
        trpo_pinsker=trpo_pinsker_penalty(*pair),
        trpo_coupling=coupling,
        cpo=cpo,
        certified=gain - jnp.minimum(coupling, cpo),
        kl_mean=kl_mean,
        kl_max=jnp.max(kl),
        practical=practical_guarantee(kl_mean, mdp.gamma, eps_new),
    )
