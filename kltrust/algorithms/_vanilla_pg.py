"""The unconstrained policy gradient: what a trust region is there to tame."""

from __future__ import annotations

import jax
import optax

from kltrust import tree
from kltrust.checks import check
from kltrust.types import Array, Number, Params, Policy, PolicyBatch, PolicyUpdate
from kltrust.updates.objectives import surrogate


def vanilla_pg(
    *,
    learning_rate: Number = 0.01,
    entropy_coef: Number = 0.0,
    max_grad_norm: Number = float("inf"),
) -> PolicyUpdate:
    """One plain gradient step on the whole batch: theta + learning_rate * g.

    g is the gradient at old of mean(r A) + entropy_coef * mean entropy, which at r = 1 is the
    policy gradient mean(A grad log pi(a|s)) of Sutton et al. (1999). Nothing bounds the KL of the
    step: it grows with learning_rate**2 g'Fg / 2.

    Args:
        learning_rate: the step size, in parameters.
        entropy_coef: weight of the mean entropy (nats).
        max_grad_norm: bound on the global norm of g; inf is no bound.

    Extra:
        - ``grad_norm``: |g|, the gradient's global norm before ``max_grad_norm`` cuts it.

    Raises:
        ValueError: on a negative setting.
    """
    check(
        learning_rate=(learning_rate, True),
        entropy_coef=(entropy_coef, True),
        max_grad_norm=(max_grad_norm, False),
    )
    clip = optax.clip_by_global_norm(max_grad_norm)

    def init(params: Params) -> tuple:
        return ()

    def update(
        policy: Policy, params: Params, state: tuple, batch: PolicyBatch, key: Array
    ) -> tuple[Params, tuple, dict[str, Array]]:
        gradient = jax.grad(lambda p: surrogate(policy, p, batch, entropy_coef)[0])(params)
        step, _ = clip.update(gradient, clip.init(params))
        extra = {"grad_norm": tree.norm(gradient)}
        return tree.add_scaled(params, learning_rate, step), state, extra

    return PolicyUpdate(init, update)
