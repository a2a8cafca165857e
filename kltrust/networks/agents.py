"""Policies and value functions as flax (linen) modules, behind the `ActorCritic` protocol.

Your network, in any framework, needs none of this: an `ActorCritic` is three functions, and two
more with memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.checks import as_env, spaces_and_functions
from kltrust.networks.cells import CELLS, Cell
from kltrust.networks.masks import check_masks, mask_of, space_leaves, without_mask
from kltrust.networks.modules import (
    ACTIVATIONS as ACTIVATIONS,
    LOG_STD_RANGE as LOG_STD_RANGE,
    PolicyNetwork,
    Torso,
    ValueNetwork,
)
from kltrust.networks.orthogonal import orthogonal_kernels
from kltrust.networks.settings import NetworkSettings
from kltrust.settings import changed, signature_with
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

_RESOLVED = 2**23
"""The number of steps that float32 resolves between -1 and 1."""


def features(space: Any, obs: PyTree) -> Array:
    """The network's input for an observation: float32, [*E, H, W, C] for an image, else [*E, F].

    Discrete observations become one-hot vectors. Integer boxes are mapped from their bounds to
    [-1, 1], unless the bounds are so wide that float32 would merge neighbouring integers. Images
    keep their shape, and everything else is flattened. A pytree of spaces gives the concatenation
    of its flattened leaves. A mask is no feature.

    ``space`` is the space of ``obs`` [*E, *O], or a pytree of spaces for a pytree of arrays.

    Raises:
        ValueError: if the structure of the observation differs from that of the space.
    """
    found: Any
    leaves, structure = space_leaves(space)
    parts, found = jax.tree.flatten(without_mask(obs))
    if structure != found:
        # Matching by order alone could mistake the observation of one key for that of another.
        raise ValueError(
            f"the observation is {found} and its space {structure}: give both one structure"
        )
    if len(leaves) == 1:
        return _leaf_features(leaves[0], parts[0], keep_image=True)
    pairs = zip(leaves, parts, strict=True)
    return jnp.concatenate([_leaf_features(*pair, keep_image=False) for pair in pairs], -1)


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
        # In integer arithmetic, since float32 may not hold low exactly.
        base = np.floor(low.astype(np.float64))
        above = (x.astype(jnp.int32) - base.astype(np.int64).astype(np.int32)).astype(jnp.float32)
        x = 2 * (above - (low - base).astype(np.float32)) / span.astype(np.float32) - 1
    x = x.astype(jnp.float32)
    if len(space.shape) == 3 and keep_image:
        return x
    return x.reshape(*x.shape[: x.ndim - len(space.shape)], -1)


def actor_critic(
    env: Env,
    hidden: Sequence[int] | None = None,
    *,
    settings: NetworkSettings | None = None,
    **changes: Any,
) -> ActorCritic:
    """A policy and a value network of the same shape that fit an environment's spaces.

    The defaults are PPO's for MuJoCo (Schulman et al. 2017): two hidden layers of 64 tanh units,
    no shared parameters, and a standard deviation that does not depend on the state. The head is
    categorical for Discrete, independent categoricals for MultiDiscrete, independent Bernoullis for
    MultiBinary, and a diagonal Gaussian for Box. If observations are `Masked`, forbidden actions
    have probability 0.

    Args:
        env: an `Env` or an environment of gymnax. It is used for its spaces, and for the shapes of
            its first observation.
        hidden: widths of the dense layers, the setting of that name.
        settings: None takes the defaults.
        **changes: other settings by name, see `NetworkSettings`.

    Raises:
        ValueError: on an unknown name, a bad value, a space that has no head, an image too small
            for the convolutions, or a mask that does not fit the actions.
    """
    env = as_env(env)
    if hidden is not None:
        changes["hidden"] = hidden
    own = changed(settings or NetworkSettings(), changes, "setting of actor_critic")
    channels = own.channels
    if not isinstance(env.action_space, Space):
        raise ValueError(
            f"no policy head for the action space {env.action_space!r}, of "
            f"{type(env.action_space).__module__}: use kltrust's Discrete, MultiDiscrete, "
            "MultiBinary or Box, or pass an ActorCritic of your own"
        )
    spaces, _ = space_leaves(env.observation_space)
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
        agent = _without_memory(observe, example, *heads(torso))
        # `check_agent` need not try an agent that was made for these spaces.
        agent.policy.fits = spaces_and_functions(env, agent)  # type: ignore[attr-defined]
        return agent
    linear = Torso((), (), own.activation, is_image=False)
    return _with_memory(observe, example, torso, CELLS[own.cell](own.hidden[-1]), *heads(linear))


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
    """Policy and critic of torso, cell and head each; only the cell runs step by step."""

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

    def with_carries(head: Callable[..., Any], params: PyTree, sequences: Sequences) -> Any:
        x = torso.apply({"params": params["torso"]}, observe(sequences.obs))
        y = cell.on_sequences(params["cell"], sequences._replace(obs=x))
        return y, head(params["head"], y, sequences.obs)

    def on_sequences(head: Callable[..., Any]) -> Callable[[PyTree, Sequences], Any]:
        return lambda params, sequences: with_carries(head, params, sequences)[1]

    def step(head: Callable[..., Any]) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Any]]:
        def function(params: PyTree, carry: PyTree, obs: PyTree) -> tuple[PyTree, Any]:
            x: Any = torso.apply({"params": params["torso"]}, observe(obs))
            carry, y = cell.step(params["cell"], carry, x)
            return carry, head(params["head"], y, obs)

        return function

    steps, value_on_sequences = (
        (step(policy_head), step(value_head)),
        partial(with_carries, value_head),
    )
    memory = Memory(*steps, cell.carry, cell.carry, value_on_sequences)
    return ActorCritic(init, on_sequences(policy_head), on_sequences(value_head), memory)
