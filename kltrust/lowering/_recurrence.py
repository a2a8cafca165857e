"""The gated recurrence along sequences, with few kernels per step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.types import Array

_TOGETHER = 16  # steps


@jax.custom_jvp
def gated_recurrence(x: Array, kernel: Array, bias: Array, start: Array, carry: Array) -> Array:
    """The hidden states of a gated recurrent unit (Cho et al. 2014): [T, B, H].

        r = sigmoid(x_r + h U_r),  z = sigmoid(x_z + h U_z),  n = tanh(x_n + r (h U_n + b))
        h' = (1 - z) n + z h

    The parts of ``x``, one product for all steps, are computed by the caller. A step is a product
    and the elementwise rest. The derivative, forward or backward, is a linear recurrence of as few
    kernels: everything that does not depend on the step before, such as the kernel's gradient, is
    one product for all steps, too. It is for GPUs and TPUs; on a CPU it saves nothing.

    Args:
        x: [T, B, 3 H], (x_r, x_z, x_n).
        kernel: [H, 3 H], (U_r, U_z, U_n).
        bias: [H], b.
        start: [T, B] bool; h is 0 before this step.
        carry: [B, H], h before the first step.
    """

    def step(h: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, start = xs
        h = jnp.where(start[:, None], 0, h)
        _, z, n, _ = _gates(x, h @ kernel, bias)
        h = (1 - z) * n + z * h
        return h, h

    return loops.scan(step, carry, (x, start), unroll=_TOGETHER)[1]


@gated_recurrence.defjvp
def _derivative(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The states, and h'* = d + z h* + (c_r, c_z, c_q) . (h* U), in which only h* is sequential."""
    x, kernel, bias, start, carry = primals
    dx, dkernel, dbias, _, dcarry = tangents
    states = gated_recurrence(*primals)
    begins = start[..., None]
    before = jnp.where(begins, 0, jnp.concatenate([carry[None], states[:-1]]))
    r, z, n, q = _gates(x, before @ kernel, bias)
    of_n = (1 - z) * (1 - jnp.square(n))
    of_r, of_z, of_q = of_n * q * r * (1 - r), (before - n) * z * (1 - z), of_n * r
    dx_r, dx_z, dx_n = jnp.split(dx, 3, -1)
    du_r, du_z, du_n = jnp.split(before @ dkernel, 3, -1)
    known = of_r * (dx_r + du_r) + of_z * (dx_z + du_z) + of_n * dx_n
    known += of_q * (du_n + dbias[None, None])
    kept = jnp.where(begins, 0, z)
    factors = jnp.where(begins, 0, jnp.concatenate([of_r, of_z, of_q], -1))

    def step(dh: Array, xs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        known, kept, factors = xs
        parts = jnp.split(factors * (dh @ kernel), 3, -1)
        dh = known + kept * dh + parts[0] + parts[1] + parts[2]
        return dh, dh

    return states, loops.scan(step, dcarry, (known, kept, factors), unroll=_TOGETHER)[1]


def _gates(x: Array, product: Array, bias: Array) -> tuple[Array, Array, Array, Array]:
    """r, z, n and h U_n + b, each [*E, H]."""
    x_r, x_z, x_n = jnp.split(x, 3, -1)
    u_r, u_z, u_n = jnp.split(product, 3, -1)
    r, z = jax.nn.sigmoid(x_r + u_r), jax.nn.sigmoid(x_z + u_z)
    q = u_n + bias.reshape((1,) * (x.ndim - 1) + (-1,))
    return r, z, jnp.tanh(x_n + r * q), q
