"""Findings about trust regions, measured: clipping, the line search, the model, updates that hurt.

    python benchmarks/laboratory.py             all four, some minutes on two cores
    python benchmarks/laboratory.py --parts hurt

- clip: how far PPO-clip leaves the region that its clip_eps suggests. Ratios within eps of 1 in all
  actions of a state mean TV <= eps / 2 there; the TV is exact, at the batch's states.
- search: how often TRPO's line search is needed at all, by damping and batch size: updates whose
  full step, sqrt(2 max_kl / x'(F + damping I)x) x, is refused.
- model: the realised KL and gain over those that the quadratic and linear models predict.
- hurt: the share of updates after which the exact J is lower, on random tabular MDPs, against the
  number of samples and the size of the step or of the region. The advantages are GAE's with the
  exact V: what hurts is the sampling alone. An update that is refused hurts none.

The first three are sweeps of benchmarks/specs/laboratory_PART.toml. Writes laboratory_PART.json and
.png to benchmarks/results/.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
from record import run

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
SWEEPS = ("clip", "search", "model")
MODELS = {"kl": "kl_quadratic", "kl damped": "kl_quadratic_damped", "gain": "surrogate_gain_linear"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    parts: tuple[str, ...] = (*SWEEPS, "hurt")
    specs: Path = HERE / "specs"
    draws: int = 200
    """Random MDPs, policies and batches of each point of the last part."""
    samples: tuple[int, ...] = (32, 256, 1024)
    """Steps of a batch there, in trajectories of 32; beside them the batch without noise."""
    out: Path = HERE / "results"


def main(options: Options) -> None:
    from kltrust.experiments.store.versions import snapshot

    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        if part not in FINDERS:
            raise ValueError(f"--parts are among {', '.join(FINDERS)}, got {part!r}")
    for part in options.parts:
        find, draw = FINDERS[part]
        if part in SWEEPS:
            updates = swept(options, part)
            result = {**find(updates), "seeds": int(updates.seed.nunique())}
        else:
            result = find(options)
        result["versions"] = snapshot()
        (options.out / f"laboratory_{part}.json").write_text(json.dumps(result, indent=1) + "\n")
        figure = draw(result)
        figure.savefig(options.out / f"laboratory_{part}.png")
        print(f"wrote laboratory_{part}.json and .png to {options.out}", flush=True)


def swept(options: Options, part: str) -> pd.DataFrame:
    """Every update of a part's sweep, with its environment and settings."""
    from kltrust.experiments.config import spec
    from kltrust.experiments.reading import results

    folder = Path(tempfile.mkdtemp())
    try:
        run(spec.load(options.specs / f"laboratory_{part}.toml"), folder / "sweep")
        loaded = results.load(folder / "sweep")
    finally:
        shutil.rmtree(folder)
    settings = loaded.runs.drop(columns=["seed", "iterations", "score", "broken"])
    return loaded.metrics.merge(settings, on="run", suffixes=("", "_of_run"))


def rounded(values: Any) -> Any:
    """Numbers to five digits, so that a file that is committed stays small."""
    return [float(f"{x:.5g}") for x in np.ravel(values)]


# --- clip -----------------------------------------------------------------------------------------


def clip(updates: pd.DataFrame) -> dict[str, Any]:
    """By environment and clip_eps: total variation over eps / 2, mean over states and largest."""
    rows = []
    for (env, eps), part in updates.groupby(["env", "update.clip_eps"]):
        region = float(eps) / 2
        mean, largest = (part[f"audit.update.tv.{name}"] / region for name in ("mean", "max"))
        by_step = [x.groupby(part.env_steps).median() for x in (mean, largest)]
        rows.append(
            {
                "env": env,
                "clip_eps": round(float(eps), 6),
                "updates": len(part),
                "left_by_some_state": round(float((largest > 1).mean()), 4),
                "left_by_the_mean": round(float((mean > 1).mean()), 4),
                # Median, 95th percentile and largest over updates, in units of eps / 2.
                "mean_tv": rounded([*mean.quantile([0.5, 0.95]), mean.max()]),
                "largest_tv": rounded([*largest.quantile([0.5, 0.95]), largest.max()]),
                "steps": [int(x) for x in by_step[0].index],
                "mean_tv_along": rounded(by_step[0]),
                "largest_tv_along": rounded(by_step[1]),
            }
        )
    return {"rows": rows}


def draw_clip(result: dict[str, Any]) -> Any:
    figure, grid = panels(result["rows"])
    for env, axes in grid.items():
        for row, color in zip(of_env(result, env), COLOURS, strict=False):
            label = f"clip_eps {row['clip_eps']:g}"
            axes.plot(row["steps"], row["largest_tv_along"], color=color, label=label)
            axes.plot(row["steps"], row["mean_tv_along"], color=color, linestyle="--")
        axes.axhline(1, color="black", linewidth=1)
        axes.set(title=env, xlabel="environment steps")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    first = next(iter(grid.values()))
    first.plot([], [], color="#777777", linestyle="--", label="mean over states")
    first.plot([], [], color="#777777", label="largest over states")
    first.set_ylabel("TV / (clip_eps / 2), median of seeds")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


# --- search ---------------------------------------------------------------------------------------


def search(updates: pd.DataFrame) -> dict[str, Any]:
    """By environment, batch size and damping: how often the full step is refused."""
    batch = updates["learner.num_envs"] * updates["learner.num_steps"]
    rows = []
    keys = ["env", "batch", "update.damping"]
    for (env, size, damping), part in updates.assign(batch=batch).groupby(keys):
        moved = part[~part["extra.zero_gradient"].astype(bool)]
        refused = (moved["extra.backtracks"] > 0) | ~moved["extra.accepted"].astype(bool)
        rows.append(
            {
                "env": env,
                "batch": int(size),
                "damping": round(float(damping), 6),
                "updates": len(moved),
                "needed": round(float(refused.mean()), 4),
                "given_up": round(float((~moved["extra.accepted"].astype(bool)).mean()), 4),
                "backtracks": round(float(moved["extra.backtracks"].mean()), 3),
                "cg_residual": rounded([moved["extra.cg_residual"].median()])[0],
                "region_used": rounded([(moved.kl / moved["extra.max_kl"]).median()])[0],
            }
        )
    return {"rows": rows}


def draw_search(result: dict[str, Any]) -> Any:
    figure, grid = panels(result["rows"], rows=2)
    for (env, which), axes in grid.items():
        name = ("needed", "region_used")[which]
        rows = of_env(result, env)
        dampings = sorted({row["damping"] for row in rows})
        for batch, color in zip(sorted({row["batch"] for row in rows}), COLOURS, strict=False):
            found = {row["damping"]: row[name] for row in rows if row["batch"] == batch}
            places = [dampings.index(d) for d in found]
            label = f"batch of {batch:,}"
            axes.plot(places, list(found.values()), color=color, marker="o", label=label)
        axes.set_xticks(range(len(dampings)), [f"{d:g}" for d in dampings])
        axes.set(xlabel="damping", title=env if which == 0 else "")
        axes.set_ylim(-0.03, 1.03)
    first = next(iter(grid.values()))
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    first.set_ylabel("share of updates whose\nfull step is refused")
    list(grid.values())[len(grid) // 2].set_ylabel("KL / max_kl, median")
    return figure


# --- model ----------------------------------------------------------------------------------------


def model(updates: pd.DataFrame) -> dict[str, Any]:
    """By environment and algorithm: realised over predicted, in thirds of training and along it."""
    rows = []
    for (env, algorithm), part in updates.groupby(["env", "algorithm"]):
        third = np.minimum(3 * part.iteration // (part.iteration.max() + 1), 2)
        found: dict[str, Any] = {}
        for name, predicted in MODELS.items():
            realised = "surrogate_gain" if name == "gain" else "kl"
            model = part[f"audit.curvature.{predicted}"]
            ratio = part[f"audit.curvature.{realised}"] / model.where(model > 0)
            found[name] = {
                # Median, 5th and 95th percentile in each third of training.
                "thirds": [
                    rounded(ratio[third == i].quantile([0.5, 0.05, 0.95])) for i in range(3)
                ],
                "along": rounded(ratio.groupby(part.env_steps).median()),
            }
        rows.append(
            {
                "env": env,
                "algorithm": algorithm,
                "updates": len(part),
                "kl_median": rounded([part.kl.median()])[0],
                "largest_eigenvalue": rounded(
                    [part["audit.curvature.largest_eigenvalue.value"].median()]
                )[0],
                "steps": sorted({int(x) for x in part.env_steps}),
                "realised over predicted": found,
            }
        )
    return {"rows": rows}


def draw_model(result: dict[str, Any]) -> Any:
    figure, grid = panels(result["rows"])
    lines = {"kl": "-", "kl damped": ":", "gain": "--"}
    for env, axes in grid.items():
        for row, color in zip(of_env(result, env), COLOURS, strict=False):
            for name, line in lines.items():
                along = row["realised over predicted"][name]["along"]
                label = f"{row['algorithm']}, {name}"
                axes.plot(row["steps"], along, color=color, linestyle=line, label=label)
        axes.axhline(1, color="black", linewidth=1)
        axes.set(title=env, xlabel="environment steps")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    first = next(iter(grid.values()))
    first.set_ylabel("realised / predicted, median of seeds")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


# --- hurt -----------------------------------------------------------------------------------------

NUM_STATES, NUM_ACTIONS, NUM_GROUPS = 16, 4, 4
NUM_STEPS = 32  # of a trajectory
SIZES: dict[str, tuple[str, tuple[float, ...]]] = {
    "vanilla_pg": ("learning_rate", (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    "trpo": ("max_kl", (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3)),
}
STARTS = {"from a random policy": 0, "from a better one": 4}
"""Exact natural steps that a random policy has made before the update that is measured."""
# The Fisher matrix of a table is small: at 0.1 it would be the damping that bounds TRPO's step.
FIXED: dict[str, dict[str, float]] = {"vanilla_pg": {}, "trpo": {"damping": 1e-3}}
ROUNDING = 1e-9


def hurt(options: Options) -> dict[str, Any]:
    """By start, algorithm, number of samples and size: how often J falls, and by how much."""
    import jax

    rows = []
    with jax.enable_x64(True):
        for name, (setting, sizes) in SIZES.items():
            for samples in (options.samples, None):
                found = outcomes(name, samples, options.draws)
                cases = itertools.product(STARTS, samples or ("exact",), sizes)
                flat = (np.reshape(x, (-1, options.draws)) for x in found)
                for (start, n, size), change, kl in zip(cases, *flat, strict=True):
                    rows.append(
                        {
                            "start": start,
                            "algorithm": name,
                            "samples": n,
                            setting: size,
                            "hurt": round(float(np.mean(change < -ROUNDING)), 4),
                            "unmoved": round(float(np.mean(kl == 0)), 4),
                            "mean_change": rounded([np.mean(change)])[0],
                            "kl_median": rounded([np.median(kl)])[0],
                        }
                    )
    return {"draws": options.draws, "rows": rows}


def outcomes(
    name: str, samples: tuple[int, ...] | None, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Changes of the exact J and mean KLs of one update each: [starts, samples, sizes, draws].

    States share the rows of the table, so that a step that is right for one can be wrong for
    another: with a row for each, an exact step of `vanilla_pg` never lowers J.
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


def draw_hurt(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained", dpi=110)
    grid = figure.subplots(len(STARTS), 3, sharey="row")
    for start, of_start in zip(STARTS, grid, strict=True):
        for i, (name, (setting, _)) in enumerate(SIZES.items()):
            rows = [r for r in result["rows"] if (r["start"], r["algorithm"]) == (start, name)]
            for n, color in zip(dict.fromkeys(r["samples"] for r in rows), COLOURS, strict=False):
                mine = [r for r in rows if r["samples"] == n]
                share = [r["hurt"] for r in mine]
                label = n if n == "exact" else f"{n:,} samples"
                of_start[i].plot(
                    [r[setting] for r in mine], share, color=color, marker="o", label=label
                )
                of_start[2].plot(
                    [r["kl_median"] for r in mine],
                    share,
                    color=color,
                    marker="so"[i],
                    linestyle=("--", "-")[i],
                )
            of_start[i].set(xscale="log", xlabel=setting, title=f"{name}, {start}")
        of_start[2].set(xscale="log", xlabel="median KL(old || new), nats")
        of_start[2].set_title("both (dashed: vanilla_pg)")
        of_start[0].set_ylabel("share of updates that lower J")
    grid[0][0].legend(fontsize=8, framealpha=0.8)
    for axes in grid.flatten():
        axes.grid(alpha=0.3)
    return figure


# --- figures --------------------------------------------------------------------------------------

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
FINDERS: dict[str, tuple[Callable[[Any], dict[str, Any]], Callable[[dict[str, Any]], Any]]] = {
    "clip": (clip, draw_clip),
    "search": (search, draw_search),
    "model": (model, draw_model),
    "hurt": (hurt, draw_hurt),
}


def panels(found: list[dict[str, Any]], rows: int = 1) -> tuple[Any, dict[Any, Any]]:
    """A figure with a column for each environment, by name (and row, where there are several)."""
    from matplotlib.figure import Figure

    envs = list(dict.fromkeys(row["env"] for row in found))
    figure = Figure(figsize=(5 * len(envs), 3.6 * rows), layout="constrained", dpi=110)
    grid = figure.subplots(rows, len(envs), squeeze=False, sharey="row")
    for axes in grid.flatten():
        axes.grid(alpha=0.3)
    if rows == 1:
        return figure, dict(zip(envs, grid[0], strict=True))
    return figure, {(env, r): grid[r][c] for r in range(rows) for c, env in enumerate(envs)}


def of_env(result: dict[str, Any], env: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["env"] == env]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
