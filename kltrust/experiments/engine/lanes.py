"""Many independent runs as one program: blocks of lanes, spread over devices.

A lane is one run. Each device computes its lanes in blocks of a fixed width W, one block after
another; ``vmap`` computes the lanes of a block together. At equal W a lane's bits depend neither on
the number of devices nor on its neighbours. At another W the compiler may order its sums
differently.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from kltrust.experiments.engine import hosts
from kltrust.experiments.store.checkpoint import is_key
from kltrust.tree import leading_size
from kltrust.types import Array, PyTree

AXIS = "lanes"


def make_mesh(num_lanes: int, width: int) -> Mesh:
    """The mesh of devices over which lanes are spread: at most one device per block.

    With several hosts, all their devices, since each has to take part.
    """
    number = None if hosts.are_several() else -(-num_lanes // width)
    return Mesh(np.asarray(jax.devices()[:number]), (AXIS,))


def compiler_options(mesh: Mesh) -> dict[str, Any]:
    """The compiler options for a program of `map_lanes` on these devices."""
    # For several devices, but not for one, the compiler simplifies a program once more before it
    # partitions it: sums come out in another order. Lanes need no clever partitioner.
    flags = os.environ.get("XLA_FLAGS", "")
    # An option replaces the flag of the same name: passes that a user disabled stay disabled.
    users = re.findall(r"--xla_disable_hlo_passes=[\"']?([\w,-]+)", flags)[-1:]
    options: dict[str, Any] = {
        "xla_disable_hlo_passes": ",".join(["spmd-cleanup,spmd-simplify", *users])
    }
    level = "xla_backend_optimization_level"
    asked = jax.config.read("jax_disable_most_optimizations") or level in flags
    if mesh.devices.flat[0].platform == "cpu" and not asked:
        # LLVM's third level, the default, takes 1.4 to 1.9 times the second's CPU seconds to
        # compile, and the code is no faster.
        options[level] = 2
    return options


def padded_size(num_lanes: int, width: int, mesh: Mesh) -> int:
    """The smallest number of lanes that fills whole blocks on every device."""
    unit = width * mesh.size
    return -(-num_lanes // unit) * unit


def keys_of(seeds: np.ndarray) -> tuple[Array, Array]:
    """For each seed, a key for training and one for evaluation."""
    keys = jax.vmap(jax.random.key)(seeds)
    both = jax.vmap(jax.random.split)(keys)
    return both[:, 0], both[:, 1]


def split_shared(given: Sequence[PyTree], among: Sequence[PyTree], size: int) -> PyTree:
    """The numbers of the ``given`` lanes as one tree: [] where all ``among`` agree, else [size].

    A shared number has no batch axis, so a condition on it computes only one side. All trees have
    the same structure. Copies of the last lane fill up to ``size``.
    """

    def stack(number: int, *leaves: Any) -> np.ndarray:
        mine, theirs = np.stack(leaves[:number]), np.stack(leaves[number:])
        if len({x.tobytes() for x in theirs}) == 1:
            return mine[0]
        return np.concatenate([mine, np.repeat(mine[-1:], size - number, axis=0)])

    return jax.tree.map(partial(stack, len(given)), *given, *among)


def pad(lanes: PyTree, size: int) -> PyTree:
    """Repeats the last lane until there are ``size``; results of the copies are dropped later."""
    number = leading_size(lanes)
    return lanes if number == size else _pad(lanes, size - number)


def to_host(lanes: PyTree, number: int) -> PyTree:
    """The first ``number`` lanes as copies on the host, which outlive a donation of ``lanes``.

    They are cut on the host: on devices, a cut through the lanes may need communication.
    """

    def copy(leaf: jax.Array) -> np.ndarray | jax.Array:
        if not is_key(leaf):
            return np.array(np.asarray(leaf)[:number])
        data = jnp.asarray(np.array(np.asarray(jax.random.key_data(leaf))[:number]))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    return jax.tree.map(copy, hosts.to_host(lanes) if hosts.are_several() else lanes)


def split_parts(lanes: PyTree, parts: int) -> list[PyTree]:
    """Lanes on the host, cut into equal parts: what `join_parts` joins."""
    size = leading_size(lanes) // parts

    def part(i: int) -> Callable[[Any], Any]:
        return lambda x: _kind_of(x).wrapped(_rows_of(x)[i * size : (i + 1) * size])

    return [jax.tree.map(part(i), lanes) for i in range(parts)]


def join_parts(parts: Sequence[PyTree]) -> PyTree:
    """Lanes on the host, one part after the other, as new arrays."""

    def joined(*leaves: Any) -> Any:
        return _kind_of(leaves[0]).wrapped(np.concatenate([_rows_of(leaf) for leaf in leaves]))

    return jax.tree.map(joined, *parts)


class _Rows(NamedTuple):
    """Arrays as NumPy's, keys by their data: JAX would compile every cut and every join anew."""

    implementation: Any = None

    def wrapped(self, rows: np.ndarray) -> Any:
        if self.implementation is None:
            return rows
        return jax.random.wrap_key_data(jnp.asarray(rows), impl=self.implementation)


def _kind_of(leaf: Any) -> _Rows:
    return _Rows(jax.random.key_impl(leaf)) if is_key(leaf) else _Rows()


def _rows_of(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


# Compiled as a whole: leaf by leaf, every shape would be another compilation.
@partial(jax.jit, static_argnums=1)
def _pad(lanes: PyTree, more: int) -> PyTree:
    return jax.tree.map(lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], more, axis=0)]), lanes)


def _alone(function: Callable[[PyTree, PyTree], PyTree], shared: PyTree) -> Callable:
    """Like a `vmap` over one lane, but a condition computes one side; a `vmap` computes both."""

    def of_one(lane: PyTree) -> PyTree:
        result = function(shared, jax.tree.map(lambda x: x[0], lane))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], result)

    return of_one


def _has_no_entries(x: Any) -> bool:
    return np.size(x) == 0 and not is_key(x)


def _kept(tree: PyTree) -> PyTree:
    """The tree with None for arrays without entries."""
    return jax.tree.map(lambda x: None if _has_no_entries(x) else x, tree)


def _filled(kept: PyTree, like: PyTree, parts: int) -> PyTree:
    """What `_kept` left out of ``like``, put back, where ``kept`` is one of equal parts of it."""
    rest = iter(jax.tree.leaves(kept))

    def leaf(x: Any) -> Any:
        if not _has_no_entries(x):
            return next(rest)
        return jnp.zeros((x.shape[0] // parts, *x.shape[1:]), x.dtype)

    return jax.tree.map(leaf, like)


def _without_empty_constants(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function, but arrays without entries that it closes over are made within it."""

    def traced(*args: PyTree) -> PyTree:
        closed, result = jax.make_jaxpr(function, return_shape=True)(*args)
        constants = [_filled(_kept(x), x, 1) for x in closed.consts]
        leaves = jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(result), leaves)

    return traced


def map_lanes(
    function: Callable[[PyTree, PyTree], PyTree], mesh: Mesh, width: int
) -> Callable[[PyTree, PyTree], PyTree]:
    """``function(shared, lane)`` for every lane: ``(shared, lanes [L, ...]) -> results [L, ...]``.

    The width times the mesh's size must divide L. The caller compiles it, with `compiler_options`:
    without them, the bits differ between one device and several.
    """

    def in_blocks(shared: PyTree, lanes: PyTree) -> PyTree:
        # No -1 in the shape: states of physics engines hold arrays without entries.
        blocks = jax.tree.map(lambda x: x.reshape(len(x) // width, width, *x.shape[1:]), lanes)
        block = _alone(function, shared) if width == 1 else jax.vmap(partial(function, shared))
        results = jax.lax.map(block, blocks)
        return jax.tree.map(lambda x: x.reshape(len(x) * width, *x.shape[2:]), results)

    def on_devices(shared: PyTree, lanes: PyTree) -> PyTree:
        # jaxlib 0.11 crashes (a segmentation fault) while it compiles a `jax.shard_map` over
        # several devices that takes, or closes over, an array without entries. States of physics
        # engines hold such arrays, and ``x.at[...].set(y)`` closes over one.
        def on_device(of_shared: PyTree, of_lanes: PyTree) -> PyTree:
            filled = _filled(of_shared, shared, 1), _filled(of_lanes, lanes, mesh.size)
            return _without_empty_constants(in_blocks)(*filled)

        # Lanes are independent: no check that devices agree is needed.
        return jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )(_kept(shared), _kept(lanes))

    return on_devices
