"""TRPO of sb3-contrib, in its own environment: see `ours` for what a round is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


def train(env: str, num_envs: int, settings: dict[str, Any], threads: int) -> Callable[[], None]:
    """A round: one more iteration.

    Args:
        env: gymnasium's name.
        num_envs: in one process, its default.
        settings: of its TRPO.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    model = TRPO("MlpPolicy", make_vec_env(env, num_envs), device="cpu", **settings)
    batch = model.n_steps * num_envs

    def turn() -> None:
        model.learn(batch, reset_num_timesteps=False)

    turn()
    return turn


def solve(
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
    torch.set_num_threads(threads)

    def turn() -> dict[str, Any]:
        begin = time.perf_counter()
        training = make_vec_env(env, num_envs, seed=seed)
        model = TRPO("MlpPolicy", training, device="cpu", seed=seed, **settings)
        # As many at once as it plays: its networks then see them as one batch.
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
