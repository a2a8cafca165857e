"""Matrix products with cheap gradients: narrow heads, and convolutions as products."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.types import Array

_FEW = 3  # columns; with four, a minibatch of 256 rows is slower


def head_product(x: Array, kernel: Array, dimensions: Any = None, **options: Any) -> Array:
    """The product x @ kernel for few columns, with a gradient that is cheap on CPUs: [*E, out].

    With very few columns it is computed column by column. The gradient of x is then a sum of outer
    products, which the compiler fuses into the activation's derivative instead of storing an array.

    Otherwise the kernel's gradient is computed as (d'x)', with d the gradient of the outputs. XLA
    computes d'x in one pass over x. Automatic differentiation would ask for x'd, for which XLA
    transposes all of x. The barrier keeps the transpose from being folded into the product. On a
    GPU or TPU it is the plain product.

    Args:
        x: [*E, in].
        kernel: [in, out].
        dimensions: ignored; `flax.linen.Dense` passes those of this product.
        **options: those of `jax.lax.dot_general`.
    """

    def plain(x: Array, kernel: Array) -> Array:
        return jnp.dot(x, kernel, **options)

    return loops.platform_dependent(x, kernel, cpu=partial(_narrow, **options), default=plain)


def _narrow(x: Array, kernel: Array, **options: Any) -> Array:
    if kernel.shape[-1] <= _FEW:
        columns = jnp.unstack(kernel, axis=-1)
        return jnp.stack([jnp.dot(x, column, **options) for column in columns], axis=-1)
    transposed = jax.lax.optimization_barrier(kernel.T)
    return jax.lax.dot_general(x, transposed, (((x.ndim - 1,), (1,)), ((), ())), **options)


def conv3x3(x: Array, kernel: Array, bias: Array) -> Array:
    """A 3 x 3 convolution without padding: [*E, H - 2, W - 2, channels].

    ``x`` is [*E, H, W, C], ``kernel`` [3, 3, C, channels] and ``bias`` [channels].

    It is one matrix product over the patches. The gradient of ``jax.lax.conv`` takes XLA's CPU
    backend about ten times longer. It takes longer still under a `vmap` over runs, which turns it
    into a grouped convolution, but this into a batched matrix product.
    """
    height, width = x.shape[-3:-1]
    # Side by side along the width and then the height: fewer and longer pieces to copy.
    x = jnp.concatenate([x[..., j : width - 2 + j, :] for j in range(3)], -1)
    x = jnp.concatenate([x[..., i : height - 2 + i, :, :] for i in range(3)], -1)
    return x @ kernel.reshape(-1, kernel.shape[-1]) + bias.reshape((1,) * (x.ndim - 1) + (-1,))
