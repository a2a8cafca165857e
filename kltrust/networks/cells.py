"""Recurrent cells: one step, and the same step along sequences that contain resets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kltrust import loops
from kltrust.lowering import gated_recurrence
from kltrust.networks.orthogonal import orthogonal
from kltrust.networks.recurrent import scan_sequences, swap_axes
from kltrust.types import Array, Params, PyTree, Sequences

_LONGEST = 100.0


def time_scales(key: Array, size: int) -> Array:
    """Biases for a gate that keeps the carry, so that units forget within 1 to 100 steps: [size].

    A gate sigmoid(b) keeps its unit for about 1 + exp(b) steps; at b = 0 little is left after ten.
    Tallec and Ollivier (2018) draw exp(b) uniformly. Here b is uniform, so short time scales are as
    frequent as long ones. The ``key`` is typed.
    """
    return jax.random.uniform(key, (size,), jnp.float32, maxval=math.log(_LONGEST))


class Cell(NamedTuple):
    """A recurrent cell of H units, to be put between feed-forward layers.

    Its output is its carry after the step.

    Attributes:
        init: ``init(key, x [*E, F]) -> params``.
        step: ``step(params, carry [*E, ...], x [*E, F]) -> (carry, y [*E, H])``.
        on_sequences: ``on_sequences(params, Sequences of x [B, T, F]) -> y [B, T, H]``.
        carry: the carry at the start of an episode, for one environment.
    """

    init: Callable[[Array, Array], Params]
    step: Callable[[Params, PyTree, Array], tuple[PyTree, Array]]
    on_sequences: Callable[[Params, Sequences], Array]
    carry: PyTree


def gru(size: int) -> Cell:
    """The gated recurrent unit (Cho et al. 2014) of ``size`` H, scanned along sequences.

    Its three square kernels start `orthogonal`.
    """
    module = nn.GRUCell(size, recurrent_kernel_init=orthogonal())
    carry = jnp.zeros(size, jnp.float32)

    def init(key: Array, x: Array) -> Params:
        kernel_key, bias_key = jax.random.split(key)
        zeros = jnp.zeros((*x.shape[:-1], size), jnp.float32)
        params = module.init(kernel_key, zeros, x)["params"]
        return {**params, "iz": {**params["iz"], "bias": time_scales(bias_key, size)}}

    def step(params: Params, carry: Array, x: Array) -> tuple[Array, Array]:
        return module.apply({"params": params}, carry, x)  # type: ignore[return-value]

    def by_steps(params: Params, sequences: Sequences) -> Array:
        return scan_sequences(lambda c, x: step(params, c, x), carry, sequences)

    def as_scan(params: Params, sequences: Sequences) -> Array:
        """The layers of the input for all steps at once; only those of the carry step by step."""
        x, start = swap_axes((sequences.obs, sequences.start))
        of_x: Any = nn.Dense(3 * size).apply({"params": side_by_side(params, "ir", "iz", "in")}, x)
        of_h = side_by_side(params, "hr", "hz", "hn")
        states = gated_recurrence(of_x, of_h["kernel"], of_h["bias"], start, sequences.carry)
        return swap_axes(states)

    def on_sequences(params: Params, sequences: Sequences) -> Array:
        return loops.platform_dependent(params, sequences, cpu=by_steps, default=as_scan)

    return Cell(init, step, on_sequences, carry)


def side_by_side(params: Params, *names: str) -> dict[str, Array]:
    """The kernels and the biases of these layers, each concatenated along the outputs."""
    layers = [params[name] for name in names]
    kinds = dict.fromkeys(kind for layer in layers for kind in layer)
    return {kind: jnp.concatenate([x[kind] for x in layers if kind in x], -1) for kind in kinds}


class _MinGRU(nn.Module):
    """z and g in h' = (1 - z) h + z g. Both depend on the input only."""

    size: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps x [*E, F] to z and g, both [*E, H]."""
        gate = nn.Dense(self.size, kernel_init=orthogonal(), name="gate")(x)
        return nn.sigmoid(gate), nn.Dense(self.size, kernel_init=orthogonal(), name="new")(x)


def min_gru(size: int) -> Cell:
    """The minimal gated recurrent unit (Feng et al. 2024, "Were RNNs all we needed?").

        h' = (1 - z) h + z g,  z = sigmoid(W x + b), g = U x + c

    It is linear in h, so a sequence takes about log T sequential steps instead of T. Use it for
    long sequences on an accelerator. It takes longer to compile. ``size`` is H. Both kernels start
    `orthogonal`.
    """
    module = _MinGRU(size)

    def init(key: Array, x: Array) -> Params:
        kernel_key, bias_key = jax.random.split(key)
        params = module.init(kernel_key, x)["params"]
        return {**params, "gate": {**params["gate"], "bias": -time_scales(bias_key, size)}}

    def gates(params: Params, x: Array) -> tuple[Array, Array]:
        return module.apply({"params": params}, x)  # type: ignore[return-value]

    def step(params: Params, carry: Array, x: Array) -> tuple[Array, Array]:
        z, g = gates(params, x)
        new = (1 - z) * carry + z * g
        return new, new

    def on_sequences(params: Params, sequences: Sequences) -> Array:
        z, g = gates(params, sequences.obs)
        keep = jnp.where(sequences.start[..., None], 0, 1 - z)

        def after(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
            return one[0] * two[0], two[0] * one[1] + two[1]

        kept, added = jax.lax.associative_scan(after, (keep, z * g), axis=1)
        return kept * sequences.carry[:, None] + added

    return Cell(init, step, on_sequences, jnp.zeros(size, jnp.float32))


CELLS: dict[str, Callable[[int], Cell]] = {"gru": gru, "mingru": min_gru}
"""The cells by name."""
