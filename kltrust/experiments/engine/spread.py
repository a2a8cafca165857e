"""One large run over many devices: its environments are spread, everything else is replicated.

Each device steps its own environments and keeps their part of the batch, which stays contiguous
because rows are in environment-major order. The compiler sums over devices wherever the learner
sums over the batch: gradients, Fisher products, means. Every minibatch takes the same number of
rows from each device's part (``minibatch_blocks``), so that no row ever moves. With many runs,
spread the runs instead (`lanes`): they need no communication.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine import hosts
from kltrust.experiments.engine.program import Program, joined
from kltrust.learner import Learner, LearnerState
from kltrust.rollout.normalization import RewardScale
from kltrust.types import PyTree

AXIS = "envs"


def make_mesh(num_blocks: int) -> Mesh:
    """A mesh whose number of devices divides ``num_blocks``: each has whole blocks of environments.

    Raises:
        ValueError: on several hosts, if not all of their devices can take part.
    """
    devices = jax.devices()
    fitting = max(n for n in range(1, len(devices) + 1) if num_blocks % n == 0)
    if hosts.are_several() and fitting < len(devices):
        raise ValueError(
            f"minibatch_blocks={num_blocks} does not divide evenly over the "
            f"{len(devices)} devices of all "
            f"hosts: take a multiple of {len(devices)}"
        )
    return Mesh(np.asarray(devices[:fitting]), (AXIS,))


def shardings(state: LearnerState, mesh: Mesh, *, axis: int = 0) -> LearnerState:
    """The shardings of a state's parts, as a prefix of it; ``axis`` is the environments' axis."""
    everywhere: Any = NamedSharding(mesh, PartitionSpec())
    spread: Any = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    return LearnerState(*[everywhere] * len(LearnerState._fields))._replace(
        env_state=spread,
        obs=spread,
        episode_return=spread,
        episode_length=spread,
        reward_scale=state.reward_scale and RewardScale(everywhere, spread),
        policy_carry=spread,
        value_carry=spread,
    )


def over_devices(learner: Learner, mesh: Mesh) -> Learner:
    """``learner`` with its environments spread: ``init`` and ``step`` compiled, states placed.

    The ``mesh`` is from `make_mesh`, and its size divides the learner's ``minibatch_blocks``. With
    equal blocks, the results equal those of one device up to the rounding of sums.
    """
    placed = shardings(jax.eval_shape(learner.init, jax.random.key(0)), mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return Learner(
        jax.jit(learner.init, in_shardings=everywhere, out_shardings=placed),
        jax.jit(learner.step, in_shardings=(placed,), out_shardings=(placed, everywhere)),
    )


def with_blocks(experiment: Experiment) -> Experiment:
    """The experiment with a block for every device, unless it has blocks already.

    Raises:
        ValueError: if the environments do not divide evenly over the devices.
    """
    number = len(jax.devices())
    if experiment.learner.minibatch_blocks > 1:
        return experiment
    if experiment.learner.num_envs % number:
        raise ValueError(
            f"num_envs={experiment.learner.num_envs} does not divide evenly over {number} "
            f"devices: take a multiple of {number}, or set --minibatch-blocks to a divisor"
        )
    learner = dataclasses.replace(experiment.learner, minibatch_blocks=number)
    return dataclasses.replace(experiment, learner=learner)


class SpreadProgram(Program):
    """Like `Program`, but for a single lane, without padding; its environments are spread.

    The mesh comes from `make_mesh`.
    """

    def put(self, lanes: PyTree) -> PyTree:
        """Spreads the environments of a learner's state; replicates everything else."""
        return hosts.put(lanes, self._shardings(lanes))

    def _shardings(self, lanes: PyTree) -> PyTree:
        everywhere = NamedSharding(self.mesh, PartitionSpec())

        def sharding_of(x: Any) -> Any:
            # After the lane's axis.
            return shardings(x, self.mesh, axis=1) if isinstance(x, LearnerState) else everywhere

        return jax.tree.map(sharding_of, lanes, is_leaf=lambda x: isinstance(x, LearnerState))

    def _jitted(self, name: str) -> Any:
        function = self._functions[name]

        def of_the_lane(everywhere: tuple, own: tuple, given: tuple) -> Any:
            common, shared = everywhere
            (mine, each), given = jax.tree.map(lambda x: x[0], (own, given))
            result = function(joined(common, mine), *shared, *each, *given)
            result = jax.tree.map(lambda x: x[None], result)
            return jax.lax.with_sharding_constraint(result, self._shardings(result))

        return jax.jit(of_the_lane, donate_argnums=(2,) if name == "chunk" else ())
