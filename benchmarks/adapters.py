"""Does each adapter learn? Training against uniformly random actions; on brax beside brax's PPO.

    python benchmarks/adapters.py                        everything (an hour or so on 2 cores)
    python benchmarks/adapters.py --only navix/Navix-Empty-5x5-v0 --algorithms trpo
    python benchmarks/adapters.py --only brax/hopper --algorithms brax_ppo

Each pair of environment and method is trained on the same seeds with the same number of steps and
written to benchmarks/results/adapters.json as soon as it is done, beside those that are there. All
are scored by the same function: episodes from fresh states, acting by the mode, by the adapter's
environment. `brax_ppo` is brax.training.agents.ppo with the batch, epochs, learning rate, clipping,
discount and network of our ppo_clip; its own are the loss's other details, the reuse of one
initial state for all episodes of a lane, and the log-probabilities of its squashed actions.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

RESULTS = Path(__file__).parent / "results" / "adapters.json"
OURS = ("ppo_clip", "trpo")


@dataclasses.dataclass(frozen=True)
class Task:
    """One environment: how long, and in batches of what shape."""

    steps: int
    num_envs: int = 16
    num_steps: int = 128
    hidden: tuple[int, ...] = (64, 64)
    normalize_observations: bool = False
    params: tuple[tuple[str, Any], ...] = ()
    brax: bool = False
    """Whether brax's own PPO can be trained on it."""
    one_by_one: bool = False
    """Seeds one after the other: on CPUs a convolution with weights of several seeds is slow."""

    @property
    def iterations(self) -> int:
        return self.steps // (self.num_envs * self.num_steps)


IMAGES = {"num_envs": 64, "num_steps": 32, "one_by_one": True}
PHYSICS = {"normalize_observations": True, "brax": True}
TASKS = {
    "brax/inverted_pendulum": Task(steps=204_800, **PHYSICS),
    "brax/hopper": Task(steps=1_024_000, **PHYSICS),
    "brax/halfcheetah": Task(steps=1_024_000, **PHYSICS),
    "craftax/Craftax-Classic-Symbolic-v1": Task(steps=204_800, params=(("max_steps", 500),)),
    "jumanji/Game2048-v1": Task(steps=204_800),
    "navix/Navix-Empty-5x5-v0": Task(steps=102_400, **IMAGES),
    "pgx/2048": Task(steps=204_800, **IMAGES),
    "playground/CartpoleBalance": Task(
        steps=204_800, normalize_observations=True, params=(("max_steps", 500),)
    ),
}
LEARNING_RATE, EPOCHS, MINIBATCHES, CLIP_EPS = 1e-3, 4, 8, 0.2
GAMMA, GAE_LAMBDA, MAX_KL = 0.99, 0.95, 0.02


@dataclasses.dataclass(frozen=True)
class Options:
    """Which pairs, and how many seeds."""

    only: tuple[str, ...] = tuple(TASKS)
    algorithms: tuple[str, ...] = (*OURS, "brax_ppo")
    seeds: int = 3
    episodes: int = 32
    fraction: float = 1.0
    """Of the tasks' steps: a smaller one tries the benchmark out."""
    out: Path = RESULTS


def main(options: Options) -> int:
    cache = tempfile.TemporaryDirectory()
    # brax's PPO compiles the same program anew for each seed.
    jax.config.update("jax_compilation_cache_dir", cache.name)
    for name in options.only:
        task = TASKS[name]
        task = dataclasses.replace(task, steps=int(task.steps * options.fraction))
        for algorithm in options.algorithms:
            if algorithm == "brax_ppo" and not task.brax:
                continue
            result = measure(name, algorithm, task, options)
            seconds = result.pop("seconds")  # no result: compilation is nearly all of it
            write(options.out, result)
            print(
                f"{algorithm:9} {name:36} {np.mean(result['scores']):9.2f} "
                f"random {result['random']['mean']:9.2f}  {seconds:.0f} s",
                flush=True,
            )
    return 0


def measure(name: str, algorithm: str, task: Task, options: Options) -> dict[str, Any]:
    """Trains one pair on all seeds; what the table needs, as plain numbers."""
    from kltrust.experiments.versions import snapshot

    start = time.perf_counter()
    train = brax_ppo if algorithm == "brax_ppo" else ours
    scores, random = train(name, algorithm, task, options)
    return {
        "env": name,
        "algorithm": algorithm,
        "task": dataclasses.asdict(task),
        "seeds": list(range(options.seeds)),
        "episodes_per_seed": options.episodes,
        "scores": [round(float(x), 3) for x in scores.mean(axis=1)],
        "random": {
            "mean": round(float(random.mean()), 3),
            "standard_error": round(float(random.std(ddof=1) / np.sqrt(random.size)), 3),
            "episodes": random.size,
        },
        "seconds": round(time.perf_counter() - start, 1),
        "versions": snapshot(),
    }


def ours(name: str, algorithm: str, task: Task, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Returns [seeds, episodes] of the trained policies, and of random actions."""
    import kltrust

    env = kltrust.make(name, **dict(task.params))
    agent = kltrust.actor_critic(env, task.hidden)
    update = {
        "ppo_clip": kltrust.ppo_clip(
            learning_rate=LEARNING_RATE,
            clip_eps=CLIP_EPS,
            num_epochs=EPOCHS,
            num_minibatches=MINIBATCHES,
        ),
        "trpo": kltrust.trpo(max_kl=MAX_KL),
    }[algorithm]
    learner = kltrust.make_learner(
        env,
        agent,
        update,
        num_envs=task.num_envs,
        num_steps=task.num_steps,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        value_learning_rate=LEARNING_RATE,
        value_epochs=EPOCHS,
        value_minibatches=MINIBATCHES,
        normalize_observations=task.normalize_observations,
        normalize_rewards=True,
    )

    def run(seed: Any) -> tuple[Any, Any]:
        key, evaluation_key = jax.random.split(jax.random.key(seed))
        state, _ = kltrust.train(learner, key, task.iterations)
        scores = kltrust.evaluate(env, agent, state, evaluation_key, options.episodes)
        return scores, random_returns(env, evaluation_key, options.episodes)

    over_seeds = functools.partial(jax.lax.map, run) if task.one_by_one else jax.vmap(run)
    scores, random = jax.jit(over_seeds)(jnp.arange(options.seeds))
    return np.asarray(scores), np.asarray(random)


def random_returns(env: Any, key: Any, episodes: int) -> Any:
    """Returns [episodes] of uniformly random (allowed) actions."""
    from kltrust.environments import sample_action
    from kltrust.masks import mask_of
    from kltrust.rollout import episode_returns
    from kltrust.types import Box

    def one(obs: Any, key: Any) -> Any:
        if isinstance(env.action_space, Box):
            return jax.random.uniform(key, env.action_space.shape, minval=-1.0, maxval=1.0)
        return sample_action(env.action_space, key, mask_of(obs))

    def act(obs: Any, key: Any) -> Any:
        return jax.vmap(one)(obs, jax.random.split(key, episodes))

    return episode_returns(env, act, key, episodes, env.max_steps)[0]


def brax_ppo(
    name: str, algorithm: str, task: Task, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    """The same of brax's own PPO, on the same backend."""
    from brax import envs
    from brax.training.agents.ppo import networks, train

    import kltrust
    from kltrust.environments._brax import BACKEND
    from kltrust.rollout import episode_returns

    env = kltrust.make(name, **dict(task.params))
    raw = envs.get_environment(name.partition("/")[2], backend=BACKEND)
    unroll = task.num_steps // MINIBATCHES
    found = []
    for seed in range(options.seeds):
        make_policy, params, _ = train.train(
            environment=raw,
            num_timesteps=task.iterations * task.num_envs * task.num_steps,
            episode_length=env.max_steps,
            num_envs=task.num_envs,
            unroll_length=unroll,
            batch_size=task.num_envs,
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
            seed=seed,
            run_evals=False,
        )

        def play(params: Any, key: Any, make_policy: Any = make_policy) -> Any:
            policy = make_policy(params, deterministic=True)
            act = lambda obs, key: policy(obs, key)[0]  # noqa: E731
            returns, _ = episode_returns(env, act, key, options.episodes, env.max_steps)
            return returns, random_returns(env, key, options.episodes)

        _, key = jax.random.split(jax.random.key(seed))
        found.append(jax.tree.map(np.asarray, jax.jit(play)(params, key)))
    scores, random = zip(*found, strict=True)
    return np.stack(scores), np.stack(random)


def write(path: Path, result: dict[str, Any]) -> None:
    """Puts a result in the place of that of the same pair."""
    results = json.loads(path.read_text()) if path.exists() else []
    pair = result["env"], result["algorithm"]
    results = [r for r in results if (r["env"], r["algorithm"]) != pair]
    results = sorted([*results, result], key=lambda r: (r["env"], r["algorithm"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
