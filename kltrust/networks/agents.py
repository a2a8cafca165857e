"""Policies and value functions as flax (linen) modules, behind the `ActorCritic` protocol.

One's own network, in any framework, needs none of this: an `ActorCritic` is three functions, with
memory two more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kltrust.divergences import masked_logits
from kltrust.lowering import head_product
from kltrust.networks.cells import CELLS, Cell
from kltrust.networks.dense import Conv
from kltrust.networks.masks import (
    allowed_actions,
    check_masks,
    existing_actions,
    mask_of,
    without_mask,
)
from kltrust.networks.orthogonal import gain, orthogonal, orthogonal_kernels
from kltrust.networks.settings import NetworkSettings
from kltrust.settings import check_names, signature_with
from kltrust.types import (
    ActorCritic,
    Array,
    Box,
    Discrete,
    Env,
    Memory,
    MultiBinary,
    MultiDiscrete,
    PyTree,
    Sequences,
    Space,
)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
}
"""The activations by name."""

LOG_STD_RANGE = (-10.0, 2.0)
"""Far outside anything useful. Beyond, the logarithm of a deviation grows logarithmically."""


_RESOLVED = 2**23
"""A float32 resolves so many steps between -1 and 1."""


def features(space: Any, obs: PyTree) -> Array:
    """What a network sees of an observation: float32, [*E, H, W, C] of an image, else [*E, F].

    Discrete observations become one-hot vectors, integer boxes are mapped by their bounds to
    [-1, 1], images keep their shape, everything else is flattened; a pytree of spaces gives the
    concatenation of its flattened leaves. Bounds so wide that neighbours would meet are no bounds.

    Args:
        space: of the observation; a pytree of spaces for one of arrays. A mask is no feature.
        obs: [*E, *O].

    Raises:
        ValueError: if the observation has another structure than the space.
    """
    space, obs = without_mask(space), without_mask(obs)
    structure: Any
    found: Any
    leaves, structure = jax.tree.flatten(space, is_leaf=_is_space)
    parts, found = jax.tree.flatten(obs)
    if structure != found:
        # By their order alone another key's observation would take the place of this one's.
        raise ValueError(
            f"the observation is {found} and its space {structure}: give both one structure"
        )
    if len(leaves) == 1:
        return _leaf_features(leaves[0], parts[0], keep_image=True)
    pairs = zip(leaves, parts, strict=True)
    return jnp.concatenate([_leaf_features(*pair, keep_image=False) for pair in pairs], -1)


def _is_space(x: Any) -> bool:
    return isinstance(x, Discrete | MultiDiscrete | MultiBinary | Box)


def _leaf_features(space: Space, x: Array, *, keep_image: bool) -> Array:
    if isinstance(space, Discrete):
        return jax.nn.one_hot(x, space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        parts = enumerate(space.nvec)
        one_hots = [jax.nn.one_hot(x[..., i], n, dtype=jnp.float32) for i, n in parts]
        return jnp.concatenate(one_hots, -1)
    if isinstance(space, MultiBinary):
        return x.astype(jnp.float32)
    low, high = (np.broadcast_to(bound, space.shape) for bound in (space.low, space.high))
    span = high.astype(np.float64) - low
    if jnp.issubdtype(x.dtype, jnp.integer) and np.all((span > 0) & (span < _RESOLVED)):
        lead = (1,) * (x.ndim - len(space.shape))
        low, span = low.reshape(lead + space.shape), span.reshape(lead + space.shape)
        # Counted in integers: low may be beyond those that a float32 holds.
        base = np.floor(low.astype(np.float64))
        above = (x.astype(jnp.int32) - base.astype(np.int64).astype(np.int32)).astype(jnp.float32)
        x = 2 * (above - (low - base).astype(np.float32)) / span.astype(np.float32) - 1
    x = x.astype(jnp.float32)
    if len(space.shape) == 3 and keep_image:
        return x
    return x.reshape(*x.shape[: x.ndim - len(space.shape)], -1)


class Torso(nn.Module):
    """Hidden layers: convolutions if the input is an image, then dense layers."""

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
    """A torso and the head that its action space asks for."""

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
            return distrax.Categorical(logits=logits)
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
            return distrax.Independent(distrax.Categorical(logits=logits), 1)
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


def _slowed(x: Array, low: float, high: float) -> Array:
    """``x`` within the range, and a logarithm of how far beyond outside of it.

    The exponential of it grows no faster than ``x`` does. Clipped, ``x`` would have no gradient out
    there, and never come back.
    """
    above, below = jnp.maximum(x - high, 0), jnp.maximum(low - x, 0)
    return jnp.where(
        x > high, high + jnp.log1p(above), jnp.where(x < low, low - jnp.log1p(below), x)
    )


class ValueNetwork(nn.Module):
    """A torso and one linear output."""

    torso: Torso

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps features to values [*E]."""
        head = nn.Dense(1, kernel_init=gain(1.0), dot_general=head_product)
        return head(self.torso(x))[..., 0]


def actor_critic(
    env: Env,
    hidden: Sequence[int] | None = None,
    *,
    settings: NetworkSettings | None = None,
    **changes: Any,
) -> ActorCritic:
    """A policy and a value network of the same shape that fit an environment's spaces.

    The defaults are PPO's for MuJoCo (Schulman et al. 2017): two hidden layers of 64 tanh units,
    no shared parameters, a standard deviation that does not depend on the state. Heads: Discrete
    a categorical, MultiDiscrete and MultiBinary independent ones, Box a diagonal Gaussian. Where
    observations are `Masked`, what the mask forbids has the probability 0.

    Args:
        env: only its spaces are read.
        hidden: widths of the dense layers, as among the settings.
        settings: None takes the defaults.
        **changes: settings by name, see `NetworkSettings`.

    Raises:
        ValueError: on an unknown name, a bad value, a space that has no head, an image too small
            for the convolutions, or a mask that does not fit the actions.
    """
    check_names(NetworkSettings, changes, "setting of actor_critic")
    if hidden is not None:
        changes["hidden"] = hidden
    own = dataclasses.replace(settings or NetworkSettings(), **changes)
    channels = own.channels
    if not _is_space(env.action_space):
        raise ValueError(
            f"no policy head for the action space {env.action_space!r}: use Discrete, "
            "MultiDiscrete, MultiBinary or Box, or pass an ActorCritic of your own"
        )
    spaces = jax.tree.leaves(env.observation_space, is_leaf=_is_space)
    is_image = len(spaces) == 1 and isinstance(spaces[0], Box) and len(spaces[0].shape) == 3
    if is_image and min(spaces[0].shape[:2]) <= 2 * len(channels):
        height, width, _ = spaces[0].shape
        raise ValueError(
            f"channels={channels!r} are {len(channels)} convolutions, each of which takes 2 pixels "
            f"of an image's height and width, and the image has {height} x {width}: use fewer, or "
            "channels=() for dense layers alone"
        )

    def heads(torso: Torso) -> tuple[PolicyNetwork, ValueNetwork]:
        policy = PolicyNetwork(env.action_space, torso, own.init_log_std, own.state_dependent_std)
        return policy, ValueNetwork(torso)

    def observe(obs: PyTree) -> Array:
        return features(env.observation_space, obs)

    first = jax.eval_shape(lambda key: env.reset(key)[1], jax.random.key(0))
    check_masks(env, first)

    def example() -> Array:
        return observe(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first))

    torso = Torso(own.hidden, channels, own.activation, is_image)
    if own.cell == "none":
        return _without_memory(observe, example, *heads(torso))
    linear = Torso((), (), own.activation, is_image=False)
    cell = CELLS[own.cell](own.hidden[-1], orthogonal())
    return _with_memory(observe, example, torso, cell, *heads(linear))


actor_critic.__signature__ = signature_with(actor_critic, NetworkSettings)  # type: ignore[attr-defined]


def _without_memory(
    observe: Callable[[PyTree], Array],
    example: Callable[[], Array],
    policy_network: PolicyNetwork,
    value_network: ValueNetwork,
) -> ActorCritic:
    def init(key: Array) -> tuple[PyTree, PyTree]:
        x, networks = example(), (policy_network, value_network)
        return orthogonal_kernels(key, tuple(net.init(key, x)["params"] for net in networks))

    def policy(params: PyTree, obs: PyTree) -> Any:
        return policy_network.apply({"params": params}, observe(obs), mask_of(obs))

    def value(params: PyTree, obs: PyTree) -> Array:
        return value_network.apply({"params": params}, observe(obs))  # type: ignore[return-value]

    return ActorCritic(init, policy, value)


def _with_memory(
    observe: Callable[[PyTree], Array],
    example: Callable[[], Array],
    torso: Torso,
    cell: Cell,
    policy: PolicyNetwork,
    value: ValueNetwork,
) -> ActorCritic:
    """Torso, cell and head, of policy and critic; only the cell goes step by step."""

    def init(key: Array) -> tuple[PyTree, PyTree]:
        layers_key, *cell_keys = jax.random.split(key, 3)
        x, variables = torso.init_with_output(key, example())
        cells = [cell.init(cell_key, x) for cell_key in cell_keys]
        y = cell.step(cells[0], cell.carry, x)[1]
        gains = [
            {"torso": variables["params"], "head": head.init(key, y)["params"]}
            for head in (policy, value)
        ]
        of_policy, of_value = orthogonal_kernels(layers_key, gains)
        return {**of_policy, "cell": cells[0]}, {**of_value, "cell": cells[1]}

    def policy_head(params: PyTree, y: Array, obs: PyTree) -> Any:
        return policy.apply({"params": params}, y, mask_of(obs))

    def value_head(params: PyTree, y: Array, _: PyTree) -> Any:
        return value.apply({"params": params}, y)

    def along(head: Callable[..., Any]) -> Callable[[PyTree, Sequences], Any]:
        def function(params: PyTree, sequences: Sequences) -> Any:
            x = torso.apply({"params": params["torso"]}, observe(sequences.obs))
            y = cell.along(params["cell"], sequences._replace(obs=x))
            return head(params["head"], y, sequences.obs)

        return function

    def step(head: Callable[..., Any]) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Any]]:
        def function(params: PyTree, carry: PyTree, obs: PyTree) -> tuple[PyTree, Any]:
            x: Any = torso.apply({"params": params["torso"]}, observe(obs))
            carry, y = cell.step(params["cell"], carry, x)
            return carry, head(params["head"], y, obs)

        return function

    memory = Memory(step(policy_head), step(value_head), cell.carry, cell.carry)
    return ActorCritic(init, along(policy_head), along(value_head), memory)
