"""Updates that hurt: the share that lowers the exact J, on random tabular MDPs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from common import COLOURS, Result, panels, plain

NUM_STATES, NUM_ACTIONS, NUM_GROUPS = 16, 4, 4
NUM_STEPS = 32  # of a trajectory
SIZES: dict[str, tuple[str, tuple[float, ...]]] = {
    "vanilla_pg": ("learning_rate", (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    "trpo": ("max_kl", (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3)),
}
STARTS = {"from a random policy": 0, "from a better one": 4}
"""The number of exact natural steps of a random policy before the measured update."""
# The Fisher matrix of a table is small: at 0.1 it would be the damping that bounds TRPO's step.
FIXED: dict[str, dict[str, float]] = {"vanilla_pg": {}, "trpo": {"damping": 1e-3}}
ROUNDING = 1e-9


def find(draws: int, samples_of: tuple[int, ...]) -> Result:
    """How often J falls, and by how much, by start, algorithm, number of samples and size."""
    import jax

    rows = []
    with jax.enable_x64(True):
        for name, (setting, sizes) in SIZES.items():
            for samples in (samples_of, None):
                found = outcomes(name, samples, draws)
                cases = itertools.product(STARTS, samples or ("exact",), sizes)
                flat = (np.reshape(x, (-1, draws)) for x in found)
                for (start, n, size), change, kl in zip(cases, *flat, strict=True):
                    means = {"hurt": change < -ROUNDING, "unmoved": kl == 0, "mean_change": change}
                    row = {"start": start, "algorithm": name, "samples": n, setting: size}
                    row |= {name: plain(np.mean(of)) for name, of in means.items()}
                    rows.append({**row, "kl_median": plain(np.median(kl))})
    return {"draws": draws, "rows": rows}


def outcomes(
    name: str, samples: tuple[int, ...] | None, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Changes of the exact J and mean KLs of one update each: [starts, samples, sizes, draws].

    States share the rows of the table, so a step that is right for one state can be wrong for
    another. With a row for each state, an exact step of `vanilla_pg` never lowers J.
    """
    import jax
    import jax.numpy as jnp

    import kltrust
    from kltrust import tabular
    from kltrust.tree import weighted_mean

    setting, sizes = SIZES[name]
    groups = jnp.arange(NUM_STATES) % NUM_GROUPS
    policy, zeros = tabular.aggregated_policy(groups, NUM_GROUPS, NUM_ACTIONS)
    better = kltrust.npg(target_kl=0.1, damping=1e-3)

    def probabilities(params: Any) -> Any:
        return tabular.probabilities(policy, params, NUM_STATES)

    def one(start: Any, count: Any, size: Any, key: Any) -> tuple[Any, Any]:
        mdp_key, params_key, batch_key, update_key = jax.random.split(key, 4)
        mdp = tabular.garnet(mdp_key, NUM_STATES, NUM_ACTIONS, branching=3)

        def improve(_: Any, params: Any) -> Any:
            exact = tabular.exact_batch(mdp, policy, params)
            return better.update(policy, params, (), exact, update_key)[0]

        first = jax.random.normal(params_key, zeros.shape)
        params = jax.lax.fori_loop(0, start, improve, first)
        exact = tabular.exact_batch(mdp, policy, params)
        batch = exact
        if samples is not None:
            batch = tabular.rollout_batch(
                mdp,
                policy,
                params,
                batch_key,
                num_envs=max(samples) // NUM_STEPS,
                num_steps=NUM_STEPS,
                lam=0.95,
                value=tabular.solve(mdp, probabilities(params)).value,
            )
            # Rows of weight 0 are padding: one compilation for every number of samples.
            batch = batch._replace(weight=1.0 * (jnp.arange(max(samples)) < count))
        mean = weighted_mean(batch.advantage, batch.weight)
        spread = jnp.sqrt(weighted_mean(jnp.square(batch.advantage - mean), batch.weight))
        batch = batch._replace(advantage=(batch.advantage - mean) / (spread + 1e-8))
        algorithm = getattr(kltrust, name)(**{setting: size}, **FIXED[name])
        state = algorithm.init(params)
        new, _, _ = algorithm.update(policy, params, state, batch, update_key)
        before, after = (tabular.expected_return(mdp, probabilities(p)) for p in (params, new))
        return after - before, kltrust.audit_update(policy, None, new, exact).kl.mean

    def of_all(cases: Any, keys: Any) -> Any:
        return jax.lax.map(lambda case: jax.vmap(lambda key: one(*case, key))(keys), cases)

    grid = itertools.product(STARTS.values(), samples or (0,), sizes)
    cases = tuple(jnp.asarray(column) for column in zip(*grid, strict=True))
    keys = jax.random.split(jax.random.key(0), draws)
    return jax.device_get(jax.jit(of_all)(cases, keys))


def draw(result: Result) -> Any:
    figure, grid = panels(3, len(STARTS), (4, 3.5), sharey="row")
    for start, axes in zip(STARTS, grid, strict=True):
        for i, (name, (setting, _)) in enumerate(SIZES.items()):
            rows = [r for r in result["rows"] if (r["start"], r["algorithm"]) == (start, name)]
            for n, color in zip(dict.fromkeys(r["samples"] for r in rows), COLOURS, strict=False):
                mine = [r for r in rows if r["samples"] == n]
                share = [r["hurt"] for r in mine]
                label = n if n == "exact" else f"{n:,} samples"
                axes[i].plot([r[setting] for r in mine], share, "o-", color=color, label=label)
                kls = [r["kl_median"] for r in mine]
                axes[2].plot(kls, share, ("s--", "o-")[i], color=color)
            axes[i].set(xscale="log", xlabel=setting, title=f"{name}, {start}")
        axes[2].set(xscale="log", xlabel="median KL(old || new), nats")
        axes[2].set_title("both (dashed: vanilla_pg)")
        axes[0].set_ylabel("share of updates that lower J")
    grid[0][0].legend(fontsize=8, framealpha=0.8)
    return figure
