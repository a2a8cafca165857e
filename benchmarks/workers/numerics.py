"""Compares an accelerator's numbers with the CPU's, and its fast products with full precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from common import Result, built, experiment, made, plain
from workers.ours import build

from kltrust import tree
from kltrust.algorithms import find_algorithm
from kltrust.learner import train
from kltrust.rollout import acting
from kltrust.rollout.batches import make_batch
from kltrust.updates import log_ratio

FEW = {"num_epochs": 1, "num_minibatches": 4}


def first_update(
    algorithm: str, env: str, hidden: tuple[int, ...], num_envs: int, num_steps: int
) -> Result:
    """The same batch of the same policy on both devices, by products in full precision.

    It takes few passes: Adam divides by its own noise, which would grow over many.
    """
    fields = {field.name for field in dataclasses.fields(find_algorithm(algorithm))}
    few = {name: value for name, value in FEW.items() if name in fields}
    given = experiment(algorithm, env, few, FEW, {"hidden": hidden}, num_envs=num_envs)
    world, agent, learner = built(given)
    update = made(given).update.update
    first_key, noise_key, key = jax.random.split(jax.random.key(0), 3)

    def inputs(key: Any) -> tuple:
        state = learner.init(key)
        _, steps = acting.play(world, agent, state, key, num_steps)
        advantage = jax.random.normal(noise_key, steps.reward.shape)
        batch = make_batch(agent.policy, state.policy_params, steps.obs, steps.action, advantage)
        return state.policy_params, state.update_state, batch

    def updated(params: Any, state: Any, batch: Any, key: Any) -> Any:
        return update(agent.policy, params, state, batch, key)[0]

    places = jax.local_devices(backend="cpu")[0], jax.devices()[0]
    with jax.default_matmul_precision("highest"):
        with jax.default_device(places[0]):
            start = jax.jit(inputs)(first_key)
        step = jax.jit(updated)
        new = [jax.device_get(step(*jax.device_put((*start, key), place))) for place in places]
    return apart(jax.device_get(start[0]), *new)


def apart(old: Any, here: Any, there: Any) -> Result:
    """The distance between two updates of the same parameters, in lengths of the first."""
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (old, here, there)]
    before, first, second = (x.astype(np.float64) for x in flat)
    step, difference = np.linalg.norm(first - before), np.linalg.norm(second - first)
    return {
        "step": plain(step),
        "apart, in steps": plain(difference / max(step, 1e-30)),
        "largest difference": plain(np.abs(second - first).max()),
    }


def searched(
    products: str | None,
    bounds: Sequence[float],
    hidden: tuple[int, ...],
    num_envs: int,
    num_steps: int,
    iterations: int,
) -> list[Result]:
    """For every bound, the outcome of TRPO's steps, and the controls at the update's start.

    Means over some iterations on Pendulum-v1. The log-ratio of old and new policy at the start of
    an update is 0 in exact arithmetic. Its largest size is measured with full-precision products,
    which controls and metrics use, and with the products that gradients use.
    """
    size = {"num_envs": num_envs, "num_steps": num_steps}
    given = made(experiment("trpo", "Pendulum-v1", None, FEW, {"hidden": hidden}, **size))

    def of_bound(bound: Any) -> Result:
        changed = dataclasses.replace(given.update, max_kl=bound)
        env, agent, learner = build(dataclasses.replace(given, update=changed))
        state, metrics = train(learner, jax.random.key(0), iterations)
        _, steps = acting.play(env, agent, state, jax.random.key(1), num_steps)
        batch = make_batch(agent.policy, state.policy_params, steps.obs, steps.action, steps.reward)

        def start(policy: Any) -> Any:
            return abs(log_ratio(policy(state.policy_params, batch.obs), batch)).max()

        return {
            "accepted": metrics.extra["accepted"].mean(),
            "backtracks": metrics.extra["backtracks"].mean(),
            "share of the bound": metrics.kl.mean() / bound,
            "log-ratio at the start": start(tree.in_full_precision(agent.policy)),
            "by fast products": start(agent.policy),
        }

    with jax.default_matmul_precision(products):
        run = jax.jit(of_bound)
        found = [jax.device_get(run(np.float32(bound))) for bound in bounds]
    return [{name: plain(x) for name, x in row.items()} for row in found]
