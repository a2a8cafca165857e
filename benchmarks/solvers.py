"""TRPO's natural gradient and its whole update, timed on batches of a continuous policy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import Result
from timing import compare, ready

import kltrust
from kltrust import tree
from kltrust.fisher import fitting_chunks
from kltrust.types import Box, Env, Outcome, PolicyBatch


def gaussian(rows: int) -> tuple[Any, Any, Any]:
    """(policy, params, obs): 17 inputs, two layers of 64 tanh units, a 6-dimensional Gaussian."""
    zeros = jnp.zeros(17)
    outcome = Outcome(jnp.float32(0), False, False, zeros)
    observations, actions = (Box(-b, b, b.shape) for b in (np.ones(17), np.ones(6)))
    env = Env(lambda key: ((), zeros), lambda *_: ((), zeros, outcome), observations, actions)
    agent = kltrust.actor_critic(env)
    params, _ = agent.init(jax.random.key(0))
    return agent.policy, params, jax.random.normal(jax.random.key(1), (rows, 17))


def compared(functions: dict[str, Any], arguments: tuple, rounds: int, rows: int) -> Result:
    """The functions' times as multiples of the first one's time."""
    turns = {name: ready(f, *arguments) for name, f in functions.items()}
    each, ratios = compare(turns, next(iter(functions)), rounds, f"{rows} rows")
    return {"rows": rows, "milliseconds": each, "takes times": ratios}


def fisher(rows: int, rounds: int) -> Result:
    """The same ten iterations, without early stopping; products in one chunk and in several."""
    policy, params, obs = gaussian(rows)
    gradient = jax.grad(lambda p: jnp.mean(policy(p, obs).mode() ** 2))(params)

    def solve(product: Any) -> Any:
        damped = lambda v: tree.add_scaled(product(v), 0.1, v)  # noqa: E731
        return kltrust.conjugate_gradient(damped, gradient, 10, rtol=0.0)[0]

    def gauss_newton(chunks: int) -> Any:
        return lambda params, obs: solve(
            kltrust.fisher_vector_product(policy, params, obs, num_chunks=chunks)
        )

    def hessian(params: Any, obs: Any) -> Any:
        old = policy(params, obs)
        kl = lambda p: jnp.mean(kltrust.kl_divergence(old, policy(p, obs)))  # noqa: E731
        return solve(lambda v: jax.jvp(jax.grad(kl), (params,), (v,))[1])

    chosen = fitting_chunks(rows, rows)
    fitting = [n for n in (2, 4, 8, 16, 32) if rows % n == 0 and rows // n >= 512]
    solvers = {"hessian": hessian} | {
        f"gauss-newton, {n} chunks": gauss_newton(n) for n in sorted({1, chosen, *fitting})
    }
    right = jax.jit(hessian)(params, obs)

    def apart(solver: Any) -> float:
        x = jax.jit(solver)(params, obs)
        return float(tree.norm(tree.add_scaled(x, -1.0, right)) / tree.norm(x))

    return {
        **compared(solvers, (params, obs), rounds, rows),
        "chunks by default": chosen,
        "solutions apart, relative": {name: apart(solver) for name, solver in solvers.items()},
    }


def update(rows: int, rounds: int) -> Result:
    """The update on a batch of its policy's actions, with all states in F or every tenth."""
    policy, params, obs = gaussian(rows)
    old = policy(params, obs)
    action = old.sample(seed=jax.random.key(2))
    advantage = jnp.tanh(action[:, 0] + jax.random.normal(jax.random.key(3), (rows,)))
    batch = PolicyBatch(obs, action, advantage - advantage.mean(), old)

    def surrogate(params: Any, batch: PolicyBatch) -> Any:
        log_ratio = policy(params, batch.obs).log_prob(batch.action)
        log_ratio -= batch.old.log_prob(batch.action)
        return jnp.mean(kltrust.surrogate_loss(log_ratio, batch.advantage))

    def trpo(stride: int) -> Any:
        algorithm, key = kltrust.trpo(fisher_stride=stride), jax.random.key(4)
        return lambda params, batch: algorithm.update(policy, params, (), batch, key)

    updates = {f"update, 1/{stride} of the states": trpo(stride) for stride in (1, 10)}
    functions = {"gradient": jax.grad(surrogate), **updates}
    return {
        **compared(functions, (params, batch), rounds, rows),
        "backtracks": {
            name: int(jax.jit(of)(params, batch)[2]["backtracks"]) for name, of in updates.items()
        },
    }
