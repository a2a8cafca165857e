"""Matrix products whose gradients are cheap: of narrow heads, and convolutions as products."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.types import Array

_FEW = 3  # columns; of four, a minibatch of 256 rows is slower


def head_product(x: Array, kernel: Array, dimensions: Any = None, **options: Any) -> Array:
    """The product x @ kernel for few columns, with a gradient that is cheap on CPUs.

    Column by column where they are very few: the gradient of x is a sum of outer products then,
    which the compiler puts into the activation's derivative instead of making an array of it.

    Else the kernel's gradient becomes (d'x)' for the outputs' gradient d. Of d'x XLA makes one pass
    over x; of x'd, which automatic differentiation would ask for, a product with as large a
    transpose as x is. The barrier keeps the transpose from being folded into the product.

    x is [*E, in], the kernel [in, out] and the product [*E, out]; ``dimensions``, those of this
    product, as `flax.linen.Dense` names them, are not looked at. ``options`` are those of
    `jax.lax.dot_general`. On a GPU or TPU it is the plain product.
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
    """A 3 x 3 convolution without padding, as one matrix product over the patches.

    The gradient of ``jax.lax.conv`` takes XLA's CPU backend about ten times longer, and longer
    still under a `vmap` over runs, which makes a grouped convolution of it and a batched matrix
    product of this.

    From x [*E, H, W, C], the kernel [3, 3, C, channels] and the bias [channels] to
    [*E, H - 2, W - 2, channels].
    """
    height, width = x.shape[-3:-1]
    # Side by side along the width and then the height: fewer and longer pieces to copy.
    x = jnp.concatenate([x[..., j : width - 2 + j, :] for j in range(3)], -1)
    x = jnp.concatenate([x[..., i : height - 2 + i, :, :] for i in range(3)], -1)
    return x @ kernel.reshape(-1, kernel.shape[-1]) + bias.reshape((1,) * (x.ndim - 1) + (-1,))
