"""The peers' processes, each in a separate environment; `ours` explains rounds."""

from __future__ import annotations

import functools
import importlib
import operator
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock


def purejaxrl_ppo(checkout: str, config: dict[str, Any], seeds: int) -> Callable[[], None]:
    """A round: trainings from their start, all seeds in one vmap.

    Args:
        checkout: the repository's folder; its ``ppo.py`` is run as it is.
        config: the configuration, in that file's form.
        seeds: the number of seeds; 1 is a single training.
    """
    if seeds > 1:
        # With a thread per core, two cores and many seeds, its orthogonal initialisers deadlock:
        # each QR decomposition of a batch holds a thread of the pool that its parts wait for.
        os.environ.setdefault("NPROC", str(2 * (os.cpu_count() or 1)))  # before JAX starts
    return _whole(purejaxrl(checkout).make_train(config), seeds)


def purejaxrl(checkout: str | Path) -> Any:
    """purejaxrl's ``ppo.py`` as a module that works with any version of gymnax.

    The packages that its wrappers import for other environments need not be installed.
    """
    import gymnax

    for name in ("brax", "brax.envs.wrappers.training", "navix"):
        try:
            importlib.import_module(name)
        except ImportError:
            parts = name.split(".")
            names = (".".join(parts[: i + 1]) for i in range(len(parts)))
            sys.modules |= {part: mock.MagicMock() for part in names}
    sys.path.insert(0, f"{checkout}/purejaxrl")  # its wrappers
    module = importlib.import_module("ppo")
    module.gymnax = SimpleNamespace(make=lambda name: _before_gymnax_1(*gymnax.make(name)))
    return module


def _before_gymnax_1(env: Any, params: Any) -> tuple[Any, Any]:
    """The environment with a step that has only one kind of end, as purejaxrl needs."""

    class Before:
        def __getattr__(self, name: str) -> Any:
            return getattr(env, name)

        def step(self, *arguments: Any) -> tuple:
            obs, state, reward, *ends, info = env.step(*arguments)
            info = {k: x for k, x in info.items() if k != "final_observation"}
            return obs, state, reward, functools.reduce(operator.or_, ends), info

    return Before(), params


def rejax_ppo(settings: dict[str, Any], seeds: int) -> Callable[[], None]:
    """The same for rejax's PPO; without evaluations."""
    from rejax import PPO

    steps = settings["total_timesteps"]
    algorithm = PPO.create(**settings, eval_freq=steps, skip_initial_evaluation=True)
    return _whole(algorithm.replace(eval_callback=lambda *_: ()).train, seeds)


def _whole(train: Callable, seeds: int) -> Callable[[], None]:
    import jax
    from timing import ready

    keys = jax.random.split(jax.random.PRNGKey(0), seeds)
    return ready(train, keys[0]) if seeds == 1 else ready(jax.vmap(train), keys)


def _sb3(threads: int) -> tuple[Any, Callable]:
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(threads)
    return TRPO, make_vec_env


def sb3_trpo(env: str, num_envs: int, settings: dict[str, Any], threads: int) -> Callable[[], None]:
    """A round: one more iteration.

    Args:
        env: gymnasium's name of the environment.
        num_envs: the number of environments, in one process, which is its default.
        settings: the settings of its TRPO.
        threads: the number of torch's threads.
    """
    TRPO, make_vec_env = _sb3(threads)
    model = TRPO("MlpPolicy", make_vec_env(env, num_envs), device="cpu", **settings)

    def turn() -> None:
        model.learn(model.n_steps * num_envs, reset_num_timesteps=False)

    return turn


def sb3_solve(
    env: str,
    num_envs: int,
    settings: dict[str, Any],
    threads: int,
    seed: int,
    total_steps: int,
    episodes: int,
    every: int,
    target: float,
    confirm: int,
) -> Callable[[], dict[str, Any]]:
    """A round: one training from nothing, until it is solved or the budget ends."""
    from stable_baselines3.common.evaluation import evaluate_policy

    TRPO, make_vec_env = _sb3(threads)

    def turn() -> dict[str, Any]:
        begin = time.perf_counter()
        training = make_vec_env(env, num_envs, seed=seed)
        model = TRPO("MlpPolicy", training, device="cpu", seed=seed, **settings)
        # An environment for every episode: the networks then see them as one batch.
        played = make_vec_env(env, episodes, seed=seed + 100_000)

        def score(number: int) -> float:
            return float(evaluate_policy(model, played, number, deterministic=True)[0])

        solved = False
        while not solved and model.num_timesteps + every <= total_steps:
            model.learn(every, reset_num_timesteps=False)
            solved = score(episodes) >= target and score(confirm * episodes) >= target
        seconds = time.perf_counter() - begin
        return {"seconds": [round(seconds, 3)], "steps": [model.num_timesteps], "solved": [solved]}

    return turn
