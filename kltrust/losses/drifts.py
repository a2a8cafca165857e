"""Surrogates less a drift, -(r A - D): what bounds a step of mirror learning, sample by sample.

Any drift D >= 0 that is 0 at the old policy, and whose gradient is 0 there, keeps the guarantee of
improvement of the policy that maximises the mean of r A - D at every state (Kuba et al., 2022,
"Mirror learning"). Clipping is one, D = relu((r - clip(r)) A), and so are the penalties on the KL:
these are `clipped_surrogate_loss` and `penalty_surrogate_loss`. The drift of a loss is the loss
less `surrogate_loss`.

Each is written as it is minimised, not as a difference: where its gradient is to vanish, it is 0
and no rounding error, however large the ratio.
"""

from __future__ import annotations

import chex
import jax.numpy as jnp

from kltrust.checks import check
from kltrust.losses.surrogates import importance_ratio, penalty_surrogate_loss, ratio_below
from kltrust.tree import floats, in_float32, weighted
from kltrust.types import Array, Number


@in_float32
def spo_loss(log_ratio: Array, advantage: Array, eps: Number) -> Array:
    """-(r A - |A| (r - 1)^2 / (2 eps)) (Xie et al., 2025, simple policy optimisation): [*E].

    D = |A| (r - 1)^2 / (2 eps). The optimum is r = 1 + eps where A > 0 and r = 1 - eps where A < 0.
    Unlike a clip it has a gradient beyond, one that points back.

    log_ratio and ``advantage`` are [*E]; ``eps`` is [] or [*E], greater than 0; inf leaves r A.

    Raises:
        ValueError: if eps is concrete and not greater than 0.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    check(eps=(eps, False))
    ratio = ratio_below(log_ratio, 4)
    return -ratio * advantage + jnp.abs(advantage) * jnp.square(ratio - 1) / (2 * eps)


@in_float32
def fisher_rao_loss(log_ratio: Array, advantage: Array, tau: Number) -> Array:
    """-(r A - 2 (sqrt(r) - 1)^2 / tau), a penalty on the squared Fisher-Rao distance: [*E].

    E_old[4 (sqrt(r) - 1)^2] = 4 sum_a (sqrt(new(a)) - sqrt(old(a)))^2 = FR^2, and D is an unbiased
    estimate of FR^2 / (2 tau) (Lascu et al., 2025). The penalty never exceeds 2 / tau where r falls
    to 0, and grows like r where it rises: a sample whose A is below 2 / tau has its optimum at
    r = (1 - tau A / 2)^-2, and one whose A is above has none.

    log_ratio and ``advantage`` are [*E]; ``tau`` is [] or [*E], greater than 0; inf leaves r A.

    Raises:
        ValueError: if tau is concrete and not greater than 0.
    """
    chex.assert_equal_shape([log_ratio, advantage])
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

    log_ratio and ``advantage`` are [*E]; ``alpha`` and ``beta`` are [] or [*E], greater than 0, in
    units of the advantage.

    Raises:
        ValueError: if alpha or beta is concrete and not greater than 0.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    check(alpha=(alpha, False), beta=(beta, False))
    ratio = importance_ratio(log_ratio)
    gain = (ratio - 1) * advantage
    rising = jnp.where(gain > 0, alpha * jnp.tanh(gain / alpha), gain) + advantage
    # Where A >= 0 no -inf may meet a 0, nor its NaN the gradient.
    fall = jnp.where(advantage < 0, log_ratio, 0) * advantage
    falling = ratio * advantage - jnp.where(fall > 0, fall - beta * jnp.tanh(fall / beta), 0)
    return -jnp.where(advantage >= 0, rising, falling)


@in_float32
def rollback_loss(log_ratio: Array, advantage: Array, clip_eps: Number, slope: Number) -> Array:
    """The clipped surrogate with a slope of the other sign beyond its edges: [*E].

    -h A, h = r within 1 +- clip_eps, and b - slope (r - b) where r is beyond the edge b in the
    direction that A asks for; D = (1 + slope) relu((r - clip(r)) A). It is PPO-RB of Wang et al.
    (2019, "Truly proximal policy optimization"), 0.3 on MuJoCo; a slope of 0 is
    `clipped_surrogate_loss`.

    log_ratio and ``advantage`` are [*E]; ``clip_eps`` and ``slope`` are [] or [*E], at least 0.

    Raises:
        ValueError: if clip_eps or slope is concrete and negative.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    check(clip_eps=(clip_eps, True), slope=(slope, True))
    ratio = importance_ratio(log_ratio)
    edge = jnp.where(advantage > 0, 1 + clip_eps, 1 - clip_eps)
    beyond = jnp.where(advantage > 0, ratio > edge, ratio < edge)
    return -jnp.where(beyond, edge - slope * (ratio - edge), ratio) * advantage


@in_float32
def kl_clipped_loss(log_ratio: Array, advantage: Array, kl: Array, max_kl: Number) -> Array:
    """-A where the state's KL is beyond ``max_kl`` and the sample has gained; else -r A: [*E].

    A clip that looks at the KL of the state in place of the ratio, TR-PPO of Wang et al. (2019):
    D = (r - 1) A where ``kl`` > max_kl and (r - 1) A > 0, else 0.

    log_ratio, ``advantage`` and kl are [*E]; max_kl is [] or [*E], at least 0, in nats.

    Raises:
        ValueError: if max_kl is concrete and negative.
    """
    ratio, outside = _gained_outside(log_ratio, advantage, kl, max_kl)
    return -jnp.where(outside, 1, ratio) * advantage


@in_float32
def kl_rollback_loss(
    log_ratio: Array, advantage: Array, kl: Array, max_kl: Number, slope: Number
) -> Array:
    """-r A, and slope (KL - max_kl) more where the KL is beyond and the sample has gained: [*E].

    D = slope (kl - max_kl) where ``kl`` > max_kl and (r - 1) A > 0, else 0: Truly PPO of Wang et
    al. (2019), whose objective differs by a constant in each case. Its gradient is theirs.

    log_ratio, ``advantage`` and kl are [*E]; max_kl, in nats, and ``slope``, in units of the
    advantage per nat, are [] or [*E], at least 0.

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

    Near old it is beta KL; a state that is far away costs beta c at most and pulls no more. With
    an infinite ``ceiling`` c it is `penalty_surrogate_loss`.

    log_ratio, ``advantage`` and ``kl`` are [*E]; ``beta`` and c, in nats, are [] or [*E], beta at
    least 0 and c greater than 0.

    Raises:
        ValueError: if beta is concrete and negative, or the ceiling and not greater than 0.
    """
    check(ceiling=(ceiling, False))
    (kl,) = floats(kl)
    kernel = jnp.where(jnp.isposinf(ceiling), kl, -ceiling * jnp.expm1(-kl / ceiling))
    return penalty_surrogate_loss(log_ratio, advantage, kernel, beta)


@in_float32
def log_surrogate_loss(log_ratio: Array, advantage: Array, kl: Array, step_size: Number) -> Array:
    """-A log(r) + KL(old || new) / step_size: fits the target old (1 + step_size A): [*E].

    Its mean over old's actions is, but for a constant, KL(target || new) / step_size, which is
    smallest at the target (Asad et al., 2025, SPMA). A below -1 / step_size, where the target would
    be negative, counts as that. It is no surrogate less a drift: off old its gradient is that of a
    maximum likelihood, and its gradient at old the policy gradient.

    log_ratio, ``advantage`` and ``kl``, exact, are [*E]; ``step_size`` is [] or [*E], greater than
    0; inf leaves -A log(r) with the bad actions out.

    Raises:
        ValueError: if step_size is concrete and not greater than 0.
    """
    chex.assert_equal_shape([log_ratio, advantage, kl])
    check(step_size=(step_size, False))
    weight = jnp.maximum(advantage, -1 / jnp.asarray(step_size))
    # What has a weight of 0 is absent, however unlikely its action has become.
    return -weighted(weight, log_ratio) + weighted(1 / jnp.asarray(step_size), kl)


def _gained_outside(
    log_ratio: Array, advantage: Array, kl: Array, max_kl: Number
) -> tuple[Array, Array]:
    """The ratio, and whether the KL is beyond its bound at a sample that gained: both [*E]."""
    chex.assert_equal_shape([log_ratio, advantage, kl])
    check(max_kl=(max_kl, True))
    ratio = importance_ratio(log_ratio)
    return ratio, (kl > max_kl) & ((ratio - 1) * advantage > 0)
