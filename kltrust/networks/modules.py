"""The flax (linen) modules that policies and value functions are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from kltrust.divergences import masked_logits
from kltrust.lowering import conv3x3, head_product, log_softmax
from kltrust.networks.masks import allowed_actions, existing_actions
from kltrust.networks.orthogonal import gain
from kltrust.types import Array, Discrete, MultiBinary, MultiDiscrete, Space

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
}
"""The activations by name."""

LOG_STD_RANGE = (-10.0, 2.0)
"""Far wider than the useful range. Beyond it a log deviation grows logarithmically."""


class Conv(nn.Module):
    """A 3 x 3 convolution: parameters and values of ``nn.Conv(channels, (3, 3), padding="VALID")``.

    Attributes:
        channels: the number of output channels.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [*E, H, W, C] to [*E, H - 2, W - 2, channels]."""
        shape = (3, 3, x.shape[-1], self.channels)
        kernel = self.param("kernel", gain(2**0.5), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        return conv3x3(x, kernel, bias)


class Torso(nn.Module):
    """The hidden layers: convolutions if the input is an image, then dense layers."""

    hidden: tuple[int, ...]
    channels: tuple[int, ...]
    activation: str
    is_image: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [*E, F] or [*E, H, W, C] to [*E, hidden[-1]]."""
        activation = ACTIVATIONS[self.activation]
        if self.is_image:
            for channels in self.channels:
                x = activation(Conv(channels)(x))
            x = x.reshape(*x.shape[:-3], -1)
        for width in self.hidden:
            x = activation(nn.Dense(width, kernel_init=gain(2**0.5))(x))
        return x


class PolicyNetwork(nn.Module):
    """A torso and the head for its action space."""

    action_space: Space
    torso: Torso
    init_log_std: Any
    state_dependent_std: bool

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Any:
        """Maps features, and the mask of `Masked`, to a distribution over actions."""
        x = self.torso(x)

        # The small last layer starts every policy near uniform (or near its mean 0): Andrychowicz
        # et al. 2021 found it to be among the choices that matter most.
        def dense(size: int) -> Array:
            return nn.Dense(size, kernel_init=gain(0.01), dot_general=head_product)(x)

        space = self.action_space
        if isinstance(space, Discrete):
            logits = dense(space.n)
            logits = logits if mask is None else masked_logits(logits, mask)
            return categorical(logits)
        if isinstance(space, MultiBinary):
            return distrax.Independent(distrax.Bernoulli(logits=dense(space.n)), 1)
        if isinstance(space, MultiDiscrete):
            most = max(space.nvec)
            logits = dense(len(space.nvec) * most)
            logits = logits.reshape(*x.shape[:-1], len(space.nvec), most)
            if mask is not None:
                logits = masked_logits(logits, allowed_actions(space, mask))
            elif min(space.nvec) < most:
                exists = jnp.broadcast_to(existing_actions(space), logits.shape)
                logits = masked_logits(logits, exists)
            return distrax.Independent(categorical(logits), 1)
        size = math.prod(space.shape)
        loc = dense(size)
        if self.state_dependent_std:
            log_std = self.init_log_std + dense(size)
        else:
            constant = nn.initializers.constant(self.init_log_std)
            log_std = self.param("log_std", constant, (size,), jnp.float32)
        # Every leaf has the full leading shape, so that minibatches can index it.
        std = jnp.broadcast_to(jnp.exp(_slowed(log_std, *LOG_STD_RANGE)), loc.shape)
        shape = (*loc.shape[:-1], *space.shape)
        normal = distrax.Normal(loc.reshape(shape), std.reshape(shape))
        return distrax.Independent(normal, len(space.shape))


def categorical(logits: Array) -> distrax.Categorical:
    """``distrax.Categorical(logits=logits)``, normalised in the way that suits the platform: [*E].

    The ``logits`` are [*E, K].
    """
    made = jax.eval_shape(lambda logits: distrax.Categorical(logits=logits), logits)
    return jax.tree.unflatten(jax.tree.structure(made), [log_softmax(logits)])


def _slowed(x: Array, low: float, high: float) -> Array:
    """``x`` within the range; outside, the nearer end plus or minus log(1 + distance to it).

    So its exponential grows no faster than linearly in ``x``. A clipped ``x`` would have no
    gradient outside the range, and would never come back.
    """
    above, below = jnp.maximum(x - high, 0), jnp.maximum(low - x, 0)
    beyond = jnp.where(x > high, high + jnp.log1p(above), low - jnp.log1p(below))
    return jnp.where((x < low) | (x > high), beyond, x)


class ValueNetwork(nn.Module):
    """A torso and one linear output."""

    torso: Torso

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps features to values [*E]."""
        head = nn.Dense(1, kernel_init=gain(1.0), dot_general=head_product)
        return head(self.torso(x))[..., 0]
