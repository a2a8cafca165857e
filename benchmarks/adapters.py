"""Does each adapter learn? Training against uniformly random actions; on brax beside brax's PPO.

    python benchmarks/adapters.py                        everything (an hour or so on 2 cores)
    python benchmarks/adapters.py --only navix/Navix-Empty-5x5-v0 --algorithms trpo
    python benchmarks/adapters.py --only brax/hopper --algorithms brax_ppo

Each pair of environment and method is trained on the same seeds with the same number of steps and
written to benchmarks/results/adapters.json as soon as it is done, beside those that are there. All
are scored by the same function: episodes from fresh states, acting by the mode, or by sampled
actions where a `Task` says so, by the adapter's environment. brax's PPO compiles the same program
anew for each seed: JAX_COMPILATION_CACHE_DIR=FOLDER spares that.

`brax_ppo` is brax.training.agents.ppo with what our ppo_clip has: environments in parallel, steps
of each in an iteration, passes, minibatches of as many steps, Adam's rate, clipping, discount,
lambda, hidden layers, normalised observations, no entropy term. What is its own: a minibatch is of
whole unrolls, and advantages are standardised and estimated anew in each, with the critic of the
moment; observations are normalised by moments that the batch itself has moved already; rewards are
as they are, ours divided by a running deviation; no bound on gradients;
actions are squashed by tanh, ours clipped; initial weights; and every episode of a lane starts from
the same state.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, Result, built, experiment, options, rounded, versions, write_row
from record import random_baseline

OURS = ("ppo_clip", "trpo")


@dataclasses.dataclass(frozen=True)
class Task:
    """One environment: the length of its training and the shape of its batches."""

    steps: int
    num_envs: int = 16
    num_steps: int = 128
    hidden: tuple[int, ...] = (64, 64)
    channels: tuple[int, ...] = (16,)  # Convolutions, where observations are images
    normalize_observations: bool = False
    params: tuple[tuple[str, Any], ...] = ()
    brax: bool = False  # Whether brax's own PPO can be trained on it
    sampled: bool = False
    """Whether actions are sampled for the score: the mode of an exploring policy can be worse."""
    one_by_one: bool = False
    """Whether seeds run one after the other. On CPUs several together are slow with convolutions,
    or with an expensive reset: it is then computed at every step."""

    @property
    def iterations(self) -> int:
        return self.steps // (self.num_envs * self.num_steps)


MANY = {"num_envs": 64, "num_steps": 32}
PHYSICS = {**MANY, "normalize_observations": True}
BRAX = {**PHYSICS, "brax": True}
TASKS = {
    "brax/inverted_pendulum": Task(steps=204_800, **BRAX),
    "brax/hopper": Task(steps=512_000, **BRAX),
    "brax/halfcheetah": Task(steps=512_000, **BRAX),
    "craftax/Craftax-Classic-Symbolic-v1": Task(
        steps=204_800, sampled=True, one_by_one=True, params=(("max_steps", 500),)
    ),
    "jumanji/Game2048-v1": Task(steps=204_800),
    "navix/Navix-Empty-5x5-v0": Task(steps=102_400, one_by_one=True, **MANY),
    "pgx/2048": Task(steps=204_800, channels=(), **MANY),
    "playground/CartpoleBalance": Task(steps=409_600, params=(("max_steps", 500),), **PHYSICS),
}
LEARNING_RATE, EPOCHS, MINIBATCHES, CLIP_EPS = 1e-3, 4, 8, 0.2
GAMMA, GAE_LAMBDA, MAX_KL = 0.99, 0.95, 0.02


@dataclasses.dataclass(frozen=True)
class Options:
    """Which pairs, and how many seeds."""

    only: tuple[str, ...] = tuple(TASKS)
    algorithms: tuple[str, ...] = (*OURS, "brax_ppo")
    seeds: int = 3
    episodes: int = 32  # Of each seed; as many are played by random actions for each seed
    fraction: float = 1.0  # Of the tasks' steps: a smaller one tries the benchmark out
    out: Path = RESULTS / "adapters.json"


def main(options: Options) -> None:
    for name in options.only:
        task = TASKS[name]
        task = dataclasses.replace(task, steps=int(task.steps * options.fraction))
        algorithms = [a for a in options.algorithms if a in OURS or task.brax]
        episodes = options.seeds * options.episodes
        random = random_baseline(name, episodes, **dict(task.params)) if algorithms else {}
        for algorithm in algorithms:
            start = time.perf_counter()
            result = measure(name, algorithm, task, options) | {"random": random}
            write_row(options.out, result)
            print(
                f"{algorithm:9} {name:36} {np.mean(result['scores']):9.2f} "
                f"random {random['mean']:9.2f}  {time.perf_counter() - start:.0f} s",
                flush=True,
            )


def measure(name: str, algorithm: str, task: Task, options: Options) -> Result:
    """Trains one pair on all seeds; returns the table's numbers."""
    train = brax_ppo if algorithm == "brax_ppo" else ours
    scores = train(name, algorithm, task, options)
    return {
        "env": name,
        "algorithm": algorithm,
        "task": dataclasses.asdict(task),
        "steps": task.iterations * task.num_envs * task.num_steps,
        "seeds": list(range(options.seeds)),
        "episodes_per_seed": options.episodes,
        "scores": rounded(scores.mean(axis=1), 3),
        "versions": versions(),
    }


def ours(name: str, algorithm: str, task: Task, options: Options) -> np.ndarray:
    """Returns [seeds, episodes] of the trained policies."""
    import kltrust

    passes = {"num_epochs": EPOCHS, "num_minibatches": MINIBATCHES}
    clip = {"learning_rate": LEARNING_RATE, "clip_eps": CLIP_EPS, **passes}
    same = experiment(
        algorithm,
        name,
        update={"ppo_clip": clip, "trpo": {"max_kl": MAX_KL}}[algorithm],
        critic={"learning_rate": LEARNING_RATE, **passes},
        network={"hidden": task.hidden, "channels": task.channels},
        env_params=dict(task.params),
        num_envs=task.num_envs,
        num_steps=task.num_steps,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        normalize_observations=task.normalize_observations,
        normalize_rewards=True,
    )
    env, agent, learner = built(same)

    def run(seed: Any) -> Any:
        key, evaluation_key = jax.random.split(jax.random.key(seed))
        state, _ = kltrust.train(learner, key, task.iterations)
        return kltrust.evaluate(
            env, agent, state, evaluation_key, options.episodes, deterministic=not task.sampled
        )

    over_seeds = functools.partial(jax.lax.map, run) if task.one_by_one else jax.vmap(run)
    return np.asarray(jax.jit(over_seeds)(jnp.arange(options.seeds)))


def brax_ppo(name: str, algorithm: str, task: Task, options: Options) -> np.ndarray:
    """Like `ours` for brax's PPO, on the same backend."""
    from brax import envs
    from brax.training.agents.ppo import networks, train

    import kltrust
    from kltrust.environments._brax import BACKEND
    from kltrust.rollout import episode_returns

    env = kltrust.make(name, **dict(task.params))
    train_seed = functools.partial(
        train.train,
        environment=envs.get_environment(name.partition("/")[2], backend=BACKEND),
        num_timesteps=task.iterations * task.num_envs * task.num_steps,
        episode_length=env.max_steps,
        num_envs=task.num_envs,
        unroll_length=task.num_steps,
        batch_size=task.num_envs // MINIBATCHES,  # unrolls
        num_minibatches=MINIBATCHES,
        num_updates_per_batch=EPOCHS,
        learning_rate=LEARNING_RATE,
        discounting=GAMMA,
        gae_lambda=GAE_LAMBDA,
        clipping_epsilon=CLIP_EPS,
        entropy_cost=0.0,
        normalize_observations=task.normalize_observations,
        network_factory=functools.partial(
            networks.make_ppo_networks,
            policy_hidden_layer_sizes=task.hidden,
            value_hidden_layer_sizes=task.hidden,
            activation=jnp.tanh,
        ),
        run_evals=False,
    )
    # brax 0.14 calls functions that jax 0.10 no longer has.
    replicated = mock.patch.object(jax, "device_put_replicated", replicate, create=True)
    with replicated:
        trained = [train_seed(seed=seed) for seed in range(options.seeds)]
    make_policy = trained[0][0]

    def play(params: Any, seed: Any) -> Any:
        policy = make_policy(params, deterministic=True)
        _, key = jax.random.split(jax.random.key(seed))
        act = lambda obs, key: policy(obs, key)[0]  # noqa: E731
        return episode_returns(env, act, key, options.episodes, env.max_steps)[0]

    policies = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(params for _, params, _ in trained)
    )
    return np.asarray(jax.jit(jax.vmap(play))(policies, jnp.arange(options.seeds)))


def replicate(tree: Any, devices: Sequence[Any]) -> Any:
    """A copy on each device; there is only one device here."""
    (device,) = devices
    return jax.tree.map(lambda leaf: jax.device_put(jnp.expand_dims(leaf, 0), device), tree)


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
