"""Surrogates minus a drift, -(r A - D): the losses of mirror learning, for each sample.

A drift D >= 0 bounds the step. If D and its gradient are 0 at the old policy, then the policy that
maximises the mean of r A - D at every state is guaranteed to improve (Kuba et al., 2022, "Mirror
learning"). Clipping is such a drift, D = relu((r - clip(r)) A): `clipped_surrogate_loss`. So are
the penalties on the KL: `penalty_surrogate_loss`. The drift of a loss is the loss minus
`surrogate_loss`.

No loss is computed as a difference of the two terms. So where the gradient should vanish, it is
exactly 0 and no rounding error, however large the ratio.
"""

from __future__ import annotations

import jax.numpy as jnp

from kltrust.checks import check, same_shape
from kltrust.losses.surrogates import importance_ratio, penalty_surrogate_loss, ratio_below
from kltrust.tree import floats, in_float32, weighted
from kltrust.types import Array, Number


@in_float32
def spo_loss(log_ratio: Array, advantage: Array, eps: Number) -> Array:
    """-(r A - |A| (r - 1)^2 / (2 eps)) (Xie et al., 2025, simple policy optimisation): [*E].

    D = |A| (r - 1)^2 / (2 eps). The optimum is r = 1 + eps where A > 0 and r = 1 - eps where A < 0.
    Beyond it a clip has no gradient, but this loss has one that points back.

    log_ratio and ``advantage`` are [*E]; ``eps`` is [] or [*E], greater than 0; inf leaves r A.

    Raises:
        ValueError: if eps is concrete and not greater than 0.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
    check(eps=(eps, False))
    ratio = ratio_below(log_ratio, 4)
    return -ratio * advantage + jnp.abs(advantage) * jnp.square(ratio - 1) / (2 * eps)


@in_float32
def fisher_rao_loss(log_ratio: Array, advantage: Array, tau: Number) -> Array:
    """-(r A - 2 (sqrt(r) - 1)^2 / tau), a penalty on the squared Fisher-Rao distance: [*E].

    E_old[4 (sqrt(r) - 1)^2] = 4 sum_a (sqrt(new(a)) - sqrt(old(a)))^2 = FR^2, and D is an unbiased
    estimate of FR^2 / (2 tau) (Lascu et al., 2025). As r falls to 0 the penalty never exceeds
    2 / tau. As r rises it grows like r. So a sample with A < 2 / tau has its optimum at
    r = (1 - tau A / 2)^-2, and a sample with A above that has none.

    ``log_ratio`` and ``advantage`` are [*E]; ``tau`` is [] or [*E], greater than 0; inf leaves r A.

    Raises:
        ValueError: if tau is concrete and not greater than 0.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
    check(tau=(tau, False))
    (log_ratio,) = floats(log_ratio)
    root = ratio_below(log_ratio / 2, 4)
    return -importance_ratio(log_ratio) * advantage + 2 * jnp.square(root - 1) / tau


@in_float32
def learned_drift_loss(
    log_ratio: Array, advantage: Array, alpha: Number = 2.0, beta: Number = 0.6
) -> Array:
    """-(r A - D) with the drift that meta-learning found (Lu et al., 2022, section 5): [*E].

    D = relu(x - alpha tanh(x / alpha)),  x = (r - 1) A,    where A >= 0,
    D = relu(x - beta tanh(x / beta)),    x = log(r) A,     where A < 0.

    Its authors call it discovered policy optimisation, DPO; it has nothing to do with preferences.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        alpha: [] or [*E], greater than 0, in units of the advantage.
        beta: likewise.

    Raises:
        ValueError: if alpha or beta is concrete and not greater than 0.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
    check(alpha=(alpha, False), beta=(beta, False))
    ratio = importance_ratio(log_ratio)
    gain = (ratio - 1) * advantage
    rising = jnp.where(gain > 0, alpha * jnp.tanh(gain / alpha), gain) + advantage
    # Where A >= 0 keep -inf times 0, a NaN, out of the gradient.
    fall = jnp.where(advantage < 0, log_ratio, 0) * advantage
    falling = ratio * advantage - jnp.where(fall > 0, fall - beta * jnp.tanh(fall / beta), 0)
    return -jnp.where(advantage >= 0, rising, falling)


@in_float32
def rollback_loss(log_ratio: Array, advantage: Array, clip_eps: Number, slope: Number) -> Array:
    """The clipped surrogate with a slope of opposite sign beyond its edges: [*E].

    The loss is -h A. Where r is beyond the edge b in the direction that A asks for,
    h = b - slope (r - b), else h = r. D = (1 + slope) relu((r - clip(r)) A). It is PPO-RB of Wang
    et al. (2019, "Truly proximal policy optimization"), who take a slope of 0.3 on MuJoCo. A slope
    of 0 is `clipped_surrogate_loss`.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        clip_eps: [] or [*E], at least 0; the edges are 1 +- clip_eps.
        slope: [] or [*E], at least 0.

    Raises:
        ValueError: if clip_eps or slope is concrete and negative.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage)
    check(clip_eps=(clip_eps, True), slope=(slope, True))
    ratio = importance_ratio(log_ratio)
    edge = jnp.where(advantage > 0, 1 + clip_eps, 1 - clip_eps)
    beyond = jnp.where(advantage > 0, ratio > edge, ratio < edge)
    return -jnp.where(beyond, edge - slope * (ratio - edge), ratio) * advantage


@in_float32
def kl_clipped_loss(log_ratio: Array, advantage: Array, kl: Array, max_kl: Number) -> Array:
    """-A where the state's KL is beyond ``max_kl`` and the sample has gained; else -r A: [*E].

    It clips by the KL of the state instead of the ratio: TR-PPO of Wang et al. (2019).
    D = (r - 1) A where kl > max_kl and (r - 1) A > 0, else 0.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        kl: [*E] the KL at each state, in nats.
        max_kl: [] or [*E], at least 0, in nats.

    Raises:
        ValueError: if max_kl is concrete and negative.
    """
    ratio, outside = _gained_outside(log_ratio, advantage, kl, max_kl)
    return -jnp.where(outside, 1, ratio) * advantage


@in_float32
def kl_rollback_loss(
    log_ratio: Array, advantage: Array, kl: Array, max_kl: Number, slope: Number
) -> Array:
    """-r A, plus slope (KL - max_kl) where the KL is beyond and the sample has gained: [*E].

    D = slope (kl - max_kl) where kl > max_kl and (r - 1) A > 0, else 0. It is Truly PPO of Wang et
    al. (2019). Their objective differs by a constant in each case, so the gradient is the same.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        kl: [*E] the KL at each state, in nats.
        max_kl: [] or [*E], at least 0, in nats.
        slope: [] or [*E], at least 0, in units of the advantage per nat.

    Raises:
        ValueError: if max_kl or slope is concrete and negative.
    """
    check(slope=(slope, True))
    ratio, outside = _gained_outside(log_ratio, advantage, kl, max_kl)
    return -ratio * advantage + slope * jnp.where(outside, kl - max_kl, 0)


@in_float32
def bounded_kl_loss(
    log_ratio: Array, advantage: Array, kl: Array, beta: Number, ceiling: Number
) -> Array:
    """-r A + beta c (1 - exp(-KL / c)): a penalty on a bounded kernel of the KL: [*E].

    Near old the penalty is beta KL. For a state far away it is at most beta c, and its gradient
    fades to 0. With an infinite ``ceiling`` c it is `penalty_surrogate_loss`.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        kl: [*E] the KL at each state, in nats.
        beta: [] or [*E], at least 0.
        ceiling: [] or [*E], c, greater than 0, in nats.

    Raises:
        ValueError: if beta is concrete and negative, or ceiling is concrete and not greater than 0.
    """
    check(ceiling=(ceiling, False))
    (kl,) = floats(kl)
    kernel = jnp.where(jnp.isposinf(ceiling), kl, -ceiling * jnp.expm1(-kl / ceiling))
    return penalty_surrogate_loss(log_ratio, advantage, kernel, beta)


@in_float32
def log_surrogate_loss(log_ratio: Array, advantage: Array, kl: Array, step_size: Number) -> Array:
    """-A log(r) + KL(old || new) / step_size: fits the target old (1 + step_size A): [*E].

    Up to a constant, its mean over old's actions is KL(target || new) / step_size, which is
    smallest at the target (Asad et al., 2025, SPMA). An A below -1 / step_size, where the target
    would be negative, is raised to that. This loss is no surrogate minus a drift: off old its
    gradient is that of a maximum likelihood. At old it is the policy gradient.

    Args:
        log_ratio: [*E].
        advantage: [*E].
        kl: [*E] the KL at each state, exact, in nats.
        step_size: [] or [*E], greater than 0; inf leaves -A log(r) for the good actions only.

    Raises:
        ValueError: if step_size is concrete and not greater than 0.
    """
    same_shape(log_ratio=log_ratio, advantage=advantage, kl=kl)
    check(step_size=(step_size, False))
    weight = jnp.maximum(advantage, -1 / jnp.asarray(step_size))
    # A sample of weight 0 contributes nothing, however unlikely its action has become.
    return -weighted(weight, log_ratio) + weighted(1 / jnp.asarray(step_size), kl)


def _gained_outside(
    log_ratio: Array, advantage: Array, kl: Array, max_kl: Number
) -> tuple[Array, Array]:
    """The ratio, and whether the KL is beyond its bound at a sample that gained: both [*E]."""
    same_shape(log_ratio=log_ratio, advantage=advantage, kl=kl)
    check(max_kl=(max_kl, True))
    ratio = importance_ratio(log_ratio)
    return ratio, (kl > max_kl) & ((ratio - 1) * advantage > 0)
