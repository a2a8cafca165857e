"""Estimates the device memory that lanes take, and chooses how many run together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import hosts
from kltrust.experiments.engine.program import build
from kltrust.experiments.store.checkpoint import is_key
from kltrust.settings import with_role

FEW_ROWS = 64
"""On a CPU lanes run one by one, unless their minibatches have fewer rows than this."""
FEW_TOGETHER = 4
"""With fewer rows than `FEW_ROWS`, at most this many lanes run together."""
SLACK = {"tpu": 4}
"""How many times the estimate a compiled program may take, by platform; 2 for all others. TPUs pad
arrays to tiles."""
UNTOLD_MEMORY = 16 * 10**9
"""The bytes assumed for an accelerator that does not report its memory."""


class Memory(NamedTuple):
    """Bytes that lanes are expected to take on one device.

    Attributes:
        lane: one run's state, before and after, and its metrics of a chunk.
        work: what each lane of the running block takes in addition: its batch and activations.
        total: ``lane`` for all lanes of the device, and ``work`` for one block.
    """

    lane: int
    work: int
    total: int


def estimate_memory(
    experiment: Experiment, num_lanes: int, width: int, chunk_length: int, num_devices: int = 1
) -> Memory:
    """Estimates the memory of lanes from shapes alone: nothing is computed or compiled."""
    learner = build(experiment).learner
    state = jax.eval_shape(learner.init, jax.random.key(0))
    metrics = jax.eval_shape(learner.step, state)[1]
    lane = 2 * _bytes(state) + chunk_length * _bytes(metrics)
    observation = _bytes(state.obs) // experiment.learner.num_envs
    # Per row: observations before and after, raw and normalised; two networks' activations,
    # forwards and backwards, a cell's as those of four layers; some ten scalars.
    hidden = experiment.network.hidden
    cell = 4 * hidden[-1] if experiment.network.cell != "none" else 0
    images = _image_floats(state.obs, experiment.network.channels)
    row = 4 * observation + 4 * (4 * (sum(hidden) + cell + images) + 10)
    work = row * experiment.batch_size
    blocks = min(num_devices, -(-num_lanes // width))
    lanes = -(-num_lanes // (width * blocks)) * width
    return Memory(lane, work, lanes * lane + width * work)


def _image_floats(obs: Any, channels: Sequence[int]) -> int:
    """The numbers in the patches and outputs of convolutions on one image; 0 without an image."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(obs)]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return 0
    _, height, width, depth = shapes[0]
    total = 0
    for number in channels:
        height, width = height - 2, width - 2
        total += height * width * (9 * depth + number)
        depth = number
    return total


def _bytes(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * (8 if is_key(leaf) else leaf.dtype.itemsize) for leaf in leaves)


def choose_width(
    experiment: Experiment, num_lanes: int, chunk_length: int, devices: Sequence[Any]
) -> int:
    """Lanes per block: all lanes of a device at once if they fit; on a CPU one or a few.

    Counts the devices of all hosts; every host gets the same answer.
    """
    per_device = -(-num_lanes // len(devices))
    if devices[0].platform == "cpu":
        # A single lane has no batch axis: its products are plain, and conditions compute one side.
        # On two cores wider blocks were up to 1.4 times slower. The exception: if a lane's products
        # are so small that they hardly pay for their call, four together were 1.3 times as fast.
        parts = (experiment.update, experiment.critic)
        counts = [getattr(p, name) for p in parts for name in with_role(p, "minibatches")]
        few = experiment.batch_size // max([1, *counts]) < FEW_ROWS
        return _equal_blocks(per_device, FEW_TOGETHER if few else 1)
    memory = estimate_memory(experiment, num_lanes, per_device, chunk_length, len(devices))
    # A device of another host does not report its memory; all hosts take the same width.
    limit = hosts.on_first(lambda: memory_of(devices))
    room = limit // SLACK.get(devices[0].platform, 2) - per_device * memory.lane
    return _equal_blocks(per_device, max(1, min(per_device, room // memory.work)))


def _equal_blocks(lanes: int, most: int) -> int:
    """The width for the fewest blocks, about equal in size: padding lanes cost time, too."""
    return -(-lanes // -(-lanes // most))


def memory_of(devices: Sequence[Any]) -> int:
    """Bytes that JAX may take of each device of this host; 0 on a CPU."""
    mine = [d for d in devices if d.process_index == jax.process_index()]
    if mine[0].platform == "cpu":
        return 0
    return (mine[0].memory_stats() or {}).get("bytes_limit") or UNTOLD_MEMORY
