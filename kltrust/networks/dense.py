"""The convolution that image torsos are made of."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from kltrust.lowering import conv3x3
from kltrust.networks.orthogonal import gain
from kltrust.types import Array


class Conv(nn.Module):
    """A 3 x 3 convolution: parameters and values of ``nn.Conv(channels, (3, 3), padding="VALID")``.

    Attributes:
        channels: of the output.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [*E, H, W, C] to [*E, H - 2, W - 2, channels]."""
        shape = (3, 3, x.shape[-1], self.channels)
        kernel = self.param("kernel", gain(2**0.5), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        return conv3x3(x, kernel, bias)
