"""The whole family without noise: exact updates of every algorithm on random tabular MDPs."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Result, plain

NUM_STATES, NUM_ACTIONS, NUM_GROUPS = 16, 4, 4
TABLES = {"a row for each state": NUM_STATES, "states share rows": NUM_GROUPS}
"""The number of rows of the softmax policy: with a row for each state, only the step limits it."""
NATURAL: dict[str, Any] = {"damping": 1e-3}
EPOCHS: dict[str, Any] = {
    "learning_rate": 0.1,
    "num_epochs": 20,
    "num_minibatches": 1,
    "max_grad_norm": float("inf"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "vanilla_pg": {"learning_rate": 1.0},
    "npg": NATURAL,
    "trpo": NATURAL,
    "trpo, largest KL": {**NATURAL, "bounded": "quantile", "boundary_steps": 10},
    "trpo, adaptive": {**NATURAL, "adaptive": True, "max_kl": 0.1},
    "ppo_adaptive_lr": {"num_epochs": 20, "num_minibatches": 1, "init_learning_rate": 0.1}
    | {"max_learning_rate": 1.0, "max_grad_norm": float("inf")},
}
"""Settings that differ from the defaults, for algorithms that don't take EPOCHS.

EPOCHS are enough steps of Adam to come near the optimum of a loss.
"""
BOUNDS = {"spo": "eps", "fixpo": "max_state_kl", "trpl": "projected_kl"}
ROUNDING = 1e-9


def find(mdps: int, updates: int) -> Result:
    """By table and algorithm: how often J falls, and statistics of the steps."""
    import jax

    from kltrust import algorithms

    names = [*algorithms.algorithm_names(), *(n for n in SETTINGS if ", " in n)]
    with jax.enable_x64(True):
        rows = [row for name in names for row in of_one(name, mdps, updates)]
    return {"mdps": mdps, "updates": updates, "rows": rows}


def of_one(name: str, draws: int, updates: int) -> list[Result]:
    """A row for each table: all updates of all draws of an algorithm."""
    import jax
    import jax.numpy as jnp

    from kltrust import algorithms, tabular
    from kltrust.divergences import kl_divergence
    from kltrust.tree import weighted_mean
    from kltrust.types import UpdateReport
    from kltrust.updates import mean_change

    of = name.split(",")[0]
    given = SETTINGS.get(name, EPOCHS)
    algorithm: Any = algorithms.find_algorithm(of)(**given)

    def one(size: Any, key: Any) -> dict[str, Any]:
        groups = jnp.arange(NUM_STATES) % size
        policy, zeros = tabular.aggregated_policy(groups, NUM_STATES, NUM_ACTIONS)

        def probabilities(params: Any) -> Any:
            return tabular.probabilities(policy, params, NUM_STATES)

        mdp_key, params_key = jax.random.split(key)
        mdp = tabular.garnet(mdp_key, NUM_STATES, NUM_ACTIONS, branching=3)
        first = jax.random.normal(params_key, zeros.shape)

        def step(carry: Any, _: Any) -> tuple[Any, dict[str, Any]]:
            params, state = carry
            batch = tabular.exact_batch(mdp, policy, params)
            mean = weighted_mean(batch.advantage, batch.weight)
            centred = batch.advantage - mean
            spread = jnp.sqrt(weighted_mean(jnp.square(centred), batch.weight))
            batch = batch._replace(advantage=centred / (spread + 1e-8))
            new, state, report = algorithm.update(policy, params, state, batch, key)
            extra = report.extra if isinstance(report, UpdateReport) else report
            before, after = (tabular.expected_return(mdp, probabilities(p)) for p in (params, new))
            kl = kl_divergence(batch.old, policy(new, batch.obs))
            seen = {
                "change": after - before,
                "kl": weighted_mean(kl, batch.weight),
                "kl_max": jnp.max(kl),
                "ratio_change": mean_change(policy, new, batch),
                "projected": extra.get("projected_kl_max", jnp.zeros(())),
            }
            return (new, state), seen

        (params, _), seen = jax.lax.scan(step, (first, algorithm.init(first)), length=updates)
        start, end = (tabular.expected_return(mdp, probabilities(p)) for p in (first, params))
        best = tabular.expected_return(mdp, tabular.optimal_policy(mdp))
        return {**seen, "way": (end - start) / (best - start)}

    keys = jax.random.split(jax.random.key(0), draws)
    of_draws = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    both = jax.device_get(jax.jit(of_draws)(jnp.asarray(list(TABLES.values())), keys))
    rows = []
    for i, table in enumerate(TABLES):
        found = {key: x[i] for key, x in both.items()}
        row = {
            "lowered": np.mean(found["change"] < -ROUNDING),
            "worst_change": np.min(found["change"]),
            "way": np.median(found["way"]),
            "kl_median": np.median(found["kl"]),
            "kl_max": np.max(found["kl_max"]),
            "ratio_change": np.max(found["ratio_change"]),
        }
        if of == "trpl":
            row["projected_max"] = np.max(found["projected"])
        bound = {"bound": getattr(algorithm, BOUNDS[of])} if of in BOUNDS else {}
        numbers = {k: plain(v) for k, v in row.items()}
        rows.append({"table": table, "update": name, **numbers, **bound})
    return rows
