"""An experiment as three compiled functions over lanes: init, chunk, evaluate.

Each function takes the settings as arguments and rebuilds the learner from them. So a float setting
can take any value, also one per lane, without another compilation. A setting of shape [] is the
same for all lanes; one of shape [L] has a value for each lane.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kltrust.environments import UnknownParameterError, make, sample_action
from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.config.stand_in import check_here
from kltrust.experiments.engine import hosts
from kltrust.experiments.engine.lanes import AXIS, compiler_options, map_lanes
from kltrust.learner import Learner, LearnerState, Metrics, evaluate, make_learner
from kltrust.lowering import recording_loop
from kltrust.networks.agents import actor_critic
from kltrust.settings import annealed
from kltrust.tree import where
from kltrust.types import ActorCritic, Array, Env, Number, PyTree


class Parts(NamedTuple):
    """The parts of an experiment, for one set of (possibly traced) settings."""

    env: Env
    agent: ActorCritic
    learner: Learner


def traced_settings(experiment: Experiment) -> Experiment:
    """The experiment with its float settings cast to float32, so that all have one type."""
    return jax.tree.map(np.float32, experiment)


def build(experiment: Experiment) -> Parts:
    """Environment, agent and learner; float settings may be traced.

    Where the environment's parameters are schedules, the learner follows them, and the environment
    has their last values.

    Raises:
        ValueError: on an unknown name, a bad value, a batch that does not divide.
    """
    check_here(experiment.update)
    params = experiment.env_params
    env = make(experiment.env, **experiment.final.env_params)
    agent = actor_critic(env, settings=experiment.network)

    def schedule(part: Any) -> Callable[[Number], Any]:
        return lambda fraction: annealed(part, 1 - experiment.budget.anneal * fraction)

    def env_at(fraction: Number) -> Env:
        now = {name: params[name](fraction) for name in experiment.scheduled}
        made = make(experiment.env, **{**params, **now})
        # The agent is made for the spaces of the final environment.
        return made._replace(observation_space=env.observation_space, action_space=env.action_space)

    learner = make_learner(
        env_at if experiment.scheduled else env,
        agent,
        schedule(experiment.update),
        critic=schedule(experiment.critic),
        settings=experiment.learner,
        planned_iterations=max(experiment.num_iterations, 1),
    )
    return Parts(env, agent, learner)


def check_values(experiment: Experiment) -> Parts:
    """Checks that settings fit together; quick, traces nothing.

    Raises:
        ValueError: names the setting and the remedy.
    """
    parts = build(experiment)
    if experiment.num_iterations < 1:
        raise ValueError(
            f"total_steps={experiment.budget.total_steps} is less than one iteration of "
            f"num_envs * num_steps = {experiment.batch_size} steps: raise it or make the batch "
            "smaller"
        )
    if experiment.num_iterations > 2**31 - 1:
        raise ValueError(
            f"total_steps={experiment.budget.total_steps} are {experiment.num_iterations} "
            "iterations, and they are counted in 32 bits: make the batch larger"
        )
    if experiment.batch_size > 2**30:
        raise ValueError(
            f"num_envs * num_steps = {experiment.batch_size} are too many rows for one batch: at "
            f"most {2**30}"
        )
    if parts.env.max_steps is None:
        raise ValueError(f"{experiment.env} has no time limit: wrap it with one to evaluate on it")
    return parts


def check_schedules(experiment: Experiment) -> None:
    """Refuses schedules of parameters that the environment can't take as traced numbers.

    It traces a reset and a step, and compiles nothing.

    Raises:
        ValueError: names the parameter and the remedy.
    """
    for name in experiment.scheduled:

        def trial(value: Array, key: Array, name: str = name) -> Any:
            env = make(experiment.env, **{**experiment.final.env_params, name: value})
            action = sample_action(env.action_space, key)
            return env.step(key, env.reset(key)[0], action)[0]

        try:
            jax.eval_shape(trial, jnp.float32(0), jax.random.key(0))
        except UnknownParameterError as error:
            raise ValueError(f"env_params.{name}: {error}") from error
        except (ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"env_params.{name} can't be a schedule in {experiment.env}: {reason}. Only a "
                "number that the environment uses as an array can: give this parameter one value"
            ) from error


def validate(experiment: Experiment) -> None:
    """Finds errors in an experiment before anything is compiled or written.

    Raises:
        ValueError: names the setting and the remedy.
    """
    learner = check_values(experiment).learner
    # Traces, without compiling, the parts that the checks above can't see: shapes, a user's parts.
    _, metrics = jax.eval_shape(lambda key: learner.step(learner.init(key)), jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(metrics.extra):
        if leaf.shape:
            raise ValueError(
                f"{experiment.algorithm} reports {jax.tree_util.keystr(path)} of shape "
                f"{list(leaf.shape)}, and a table has one number in a cell: report a mean, or one "
                "name for each entry"
            )


class Program:
    """The compiled functions of one static group.

    ``compilations``, ``compile_seconds`` and ``memory`` are by function name. ``memory`` is the
    bytes that the function takes on one device besides its code.
    """

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        width: int,
        chunk_length: int | None = None,
        *,
        freeze: bool = False,
    ):
        """Compiles nothing yet. Without ``chunk_length``, a chunk ends at the next evaluation.

        With ``freeze``, a lane that meets a NaN or an infinity stays in the state before that
        iteration; ``iteration`` in its state then gives that iteration's number.
        """
        self.experiment = experiment
        self.mesh = mesh
        self.width = width
        self.chunk_length = chunk_length or experiment.chunk_length
        self.compile_seconds: dict[str, float] = {}
        self.compilations: dict[str, int] = {}
        self.memory: dict[str, int] = {}
        self._compiled: dict[str, Any] = {}

        def init(settings: Experiment, key: Array) -> LearnerState:
            return build(settings).learner.init(key)

        def chunk(settings: Experiment, length: Array, state: LearnerState) -> Any:
            learner = build(settings).learner
            if freeze:
                learner = Learner(learner.init, _freezing(learner.step))
            return _run_up_to(learner, state, self.chunk_length, length)

        def evaluation(settings: Experiment, deployed: tuple, key: Array) -> Array:
            policy_params, normalizer, iteration = deployed
            # With equal start states every time, the best checkpoint would be the luckiest.
            key = jax.random.fold_in(key, iteration)
            parts = build(settings)
            state: Any = SimpleNamespace(policy_params=policy_params, normalizer=normalizer)
            episodes = experiment.budget.eval_episodes
            # Both halves at once: a step of so few environments costs little more than one of half.
            by_mode = jnp.arange(2 * episodes) < episodes
            returns = evaluate(parts.env, parts.agent, state, key, 2 * episodes, by_mode)
            # One array: if it is cut in two here, the loop above takes a third longer on a CPU.
            return returns.reshape(2, episodes)

        self._functions: dict[str, Any] = {"init": init, "chunk": chunk, "evaluate": evaluation}

    @property
    def num_chunks(self) -> int:
        """Chunks until the budget is spent; the last may be shorter."""
        return -(-self.experiment.num_iterations // self.chunk_length)

    def init(self, settings: Experiment, keys: Array) -> LearnerState:
        """Fresh states for lanes with these keys [L]."""
        return self._call("init", settings, (), (keys,))

    def chunk(
        self, settings: Experiment, state: LearnerState, length: int | np.ndarray
    ) -> tuple[LearnerState, Metrics]:
        """``length`` iterations, at most `chunk_length`; the state is donated.

        The length may be [L], each lane's own: 0 leaves a lane as it is, and at width 1 costs no
        time. Metrics are [L, chunk_length, ...] and are cut on the host: on the device, every
        metric would be compiled again for every length.
        """
        given = np.asarray(length, np.int32)
        shared, own = ((), (given,)) if given.ndim else ((given,), ())
        return self._call("chunk", settings, shared, (state,), own)

    def evaluate(self, settings: Experiment, state: Any, keys: Array) -> Array:
        """Returns of fresh episodes, with the mode and with samples: [L, 2, eval_episodes]."""
        deployed = state.policy_params, state.normalizer, state.iteration
        return self._call("evaluate", settings, (), (deployed, keys))

    def put(self, lanes: PyTree) -> PyTree:
        """Spreads lanes over the devices."""
        return hosts.put(lanes, NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def _call(
        self, name: str, settings: Experiment, shared: tuple, given: tuple, each: tuple = ()
    ) -> Any:
        common = jax.tree.map(lambda x: None if np.ndim(x) else x, settings)
        own = jax.tree.map(lambda x: x if np.ndim(x) else None, settings), each
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        arguments = (hosts.put((common, shared), everywhere), self.put(own), self.put(given))
        if name not in self._compiled:
            start = time.perf_counter()
            self._compiled[name] = compiled = self._jitted(name).lower(*arguments).compile()
            self.compile_seconds[name] = time.perf_counter() - start
            self.compilations[name] = self.compilations.get(name, 0) + 1
            self.memory[name] = _bytes_of(compiled)
        # Compiled ahead of time: another shape or type is an error here, never a recompilation.
        return self._compiled[name](*arguments)

    def _jitted(self, name: str) -> Any:
        function = self._functions[name]

        def of_lane(everywhere: tuple, lane: tuple) -> Any:
            (common, shared), ((own, each), given) = everywhere, lane
            return function(joined(common, own), *shared, *each, *given)

        mapped = map_lanes(of_lane, self.mesh, self.width)
        # The settings of a lane serve every chunk: only the state is given away.
        return jax.jit(
            lambda everywhere, own, given: mapped(everywhere, (own, given)),
            donate_argnums=(2,) if name == "chunk" else (),
            compiler_options=compiler_options(self.mesh),
        )


def joined(common: Experiment, own: Experiment) -> Experiment:
    """Joins the values that all lanes share with those of each lane: one of each pair is None."""
    return jax.tree.map(
        lambda x, y: y if x is None else x, common, own, is_leaf=lambda x: x is None
    )


def _bytes_of(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    if memory is None:  # the backend does not report it
        return 0
    taken = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(taken + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


def _freezing(
    step: Callable[[LearnerState], tuple[LearnerState, Metrics]],
) -> Callable[[LearnerState], tuple[LearnerState, Metrics]]:
    """A step that keeps the old state when the new one is broken.

    The old state has the same key, so it meets the same NaN again: no flag is needed to keep it.
    """

    def guarded(state: LearnerState) -> tuple[LearnerState, Metrics]:
        new_state, metrics = step(state)
        counts = (metrics.nonfinite_rewards, metrics.nonfinite_observations)
        broken = (sum(counts) > 0) | (metrics.nonfinite_update > 0)
        return where(broken, state, new_state), metrics

    return guarded


def _run_up_to(
    learner: Learner, state: LearnerState, most: int, length: Array
) -> tuple[LearnerState, Metrics]:
    """``length`` iterations, padded to ``most``: one compilation serves a shorter last chunk."""
    # Not a scan with a condition: in one, an iteration takes 6 % longer on a CPU.
    return recording_loop(learner.step, state, most, length)
