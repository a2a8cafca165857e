"""Findings about trust regions, and about memory, measured.

    python benchmarks/laboratory.py             all, about an hour on two cores
    python benchmarks/laboratory.py --parts laboratory_hurt

    laboratory_clip    how far PPO-clip leaves the region that its clip_eps suggests. Ratios within
                       eps of 1 in all actions of a state mean TV <= eps / 2 there; the TV is exact,
                       at the batch's states
    laboratory_search  how often TRPO's line search is needed at all, by damping and batch size:
                       updates whose full step, sqrt(2 max_kl / x'(F + damping I)x) x, is refused
    laboratory_model   the realised KL and gain over those that the quadratic and linear models
                       predict
    laboratory_hurt    the share of updates after which the exact J is lower, on random tabular
                       MDPs, by the number of samples and the size of the step or of the region. The
                       advantages are GAE's with the exact V: what hurts is the sampling alone. An
                       update that is refused hurts none
    laboratory_family  exact updates of every algorithm on random tabular MDPs: how often J falls,
                       and whether what is bounded, or said to be, is
    collapse           what a trust region is for: an unconstrained step that is too large, and
                       TRPO, on the same seeds. On how many does the return fall below half of its
                       own peak, at all and within a few updates of one whose KL is ten times TRPO's
                       bound?
    memory             what a memory is worth: tasks whose observation does not tell the state, with
                       and without a cell, beside what can be known of them (`KNOWN`)

All but laboratory_hurt and laboratory_family are sweeps of benchmarks/specs/PART.toml. Writes
PART.json to benchmarks/results/ and, but for memory and laboratory_family, PART.png.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import family
import hurt
import numpy as np
import provenance
from common import COLOURS, Result, options, panels, plain, plains, rounded

Frame = Any
"""A pandas frame: all updates of a sweep, with their environment and settings."""


@dataclasses.dataclass(frozen=True)
class Options(common.Parts):
    """What is measured."""

    specs: Path = common.SPECS
    envs: tuple[str, ...] = ()
    """Of the specifications' environments, all without any; memory keeps others that are there."""
    window: int = 5  # Updates, the large one the first of them, within which the return must fall
    large_kl: float = 0.1
    draws: int = 200  # Random MDPs, policies and batches of each point of laboratory_hurt
    samples: tuple[int, ...] = (32, 256, 1024)
    """Steps of a batch there, in trajectories of 32; beside them the batch without noise."""
    updates: int = 20  # Of each training of laboratory_family
    mdps: int = 20  # Random ones, and policies to begin with, there


def main(options: Options) -> None:
    for name in common.chosen("parts", options.parts, PARTS):
        find, draw = PARTS[name]
        path = options.out / f"{name}.json"
        loaded = None if name in EXACT else sweep(options, name)
        result = find(loaded, options)
        if name == "memory":
            made = {
                env: part | {"versions": common.versions(), "origin": provenance.origin()}
                for env, part in result.items()
            }
            result = (json.loads(path.read_text("utf-8")) if path.exists() else {}) | made
        else:
            result["versions"] = common.versions()
        common.write(path, result)
        if draw is not None:
            draw(result, loaded).savefig(path.with_suffix(".png"))


def sweep(options: Options, name: str) -> Any:
    register()
    specification = common.load_spec(options.specs / f"{name}.toml")
    envs = dict.fromkeys(s.experiment.env for s in specification.settings)
    wanted = common.chosen("envs", options.envs, envs)
    settings = tuple(s for s in specification.settings if s.experiment.env in wanted)
    return common.swept(dataclasses.replace(specification, settings=settings))


def register() -> None:
    """Registers CartPole without its velocities under a name."""
    from kltrust import environments

    def positions(**params: Any) -> Any:
        env = environments.make("CartPole-v1", **params)
        return environments.hide_observations(env, keep=(0, 2))

    environments.register("CartPole-positions", positions, overwrite=True)


Find = Callable[[Any, Options], Result]


def of_updates(find: Callable[[Frame], list[Result]]) -> Find:
    def found(loaded: Any, options: Options) -> Result:
        settings = loaded.runs.drop(columns=["seed", "iterations", "score", "broken"])
        updates = loaded.metrics.merge(settings, on="run", suffixes=("", "_of_run"))
        return {"rows": find(updates), "seeds": int(updates.seed.nunique())}

    return found


# --- clip, search, model --------------------------------------------------------------------------


def clip(updates: Frame) -> list[Result]:
    """Total variation over eps / 2, its mean and largest over states, by environment and eps."""
    rows = []
    for (env, eps), part in updates.groupby(["env", "update.clip_eps"]):
        row = {"env": env, "clip_eps": plain(eps), "updates": len(part)}
        for kind, name, left in (
            ("mean", "mean_tv", "left_by_the_mean"),
            ("max", "largest_tv", "left_by_some_state"),
        ):
            tv = part[f"audit.update.tv.{kind}"] / (eps / 2)
            by_step = tv.groupby(part.env_steps).median()
            row |= {left: plain((tv > 1).mean()), f"{name}_along": plains(by_step)}
            row[name] = plains(tv.quantile([0.5, 0.95, 1]))  # over updates
        rows.append({**row, "steps": [int(x) for x in by_step.index]})
    return rows


def search(updates: Frame) -> list[Result]:
    """By environment, batch size and damping: how often the full step is refused."""
    batch = updates["learner.num_envs"] * updates["learner.num_steps"]
    keys = ["env", "batch", "update.damping"]
    rows = []
    for (env, size, damping), part in updates.assign(batch=batch).groupby(keys):
        moved = part[~part["extra.zero_gradient"].astype(bool)]
        given_up, backtracks = ~moved["extra.accepted"].astype(bool), moved["extra.backtracks"]
        needed = (backtracks > 0) | given_up
        means = {"needed": needed, "given_up": given_up, "backtracks": backtracks}
        used = moved.kl / moved["extra.max_kl"]
        medians = {"cg_residual": moved["extra.cg_residual"], "region_used": used}
        row = {"env": env, "batch": int(size), "damping": plain(damping), "updates": len(moved)}
        row |= {name: plain(of.mean()) for name, of in means.items()}
        rows.append(row | {name: plain(of.median()) for name, of in medians.items()})
    return rows


MODELS = {
    "kl": ("kl", "kl_quadratic"),
    "kl damped": ("kl", "kl_quadratic_damped"),
    "gain": ("surrogate_gain", "surrogate_gain_linear"),
}
"""Realised numbers, and their predictions."""


def model(updates: Frame) -> list[Result]:
    """By environment and algorithm: realised over predicted, in thirds of training and along it."""
    rows = []
    for (env, algorithm), part in updates.groupby(["env", "algorithm"]):
        third = np.minimum(3 * part.iteration // (part.iteration.max() + 1), 2)
        found = {}
        for name, columns in MODELS.items():
            realised, predicted = (part[f"audit.curvature.{column}"] for column in columns)
            ratio = realised / predicted.where(predicted > 0)
            # Median, 5th and 95th percentile.
            thirds = [plains(ratio[third == i].quantile([0.5, 0.05, 0.95])) for i in range(3)]
            along = plains(ratio.groupby(part.env_steps).median())
            found[name] = {"thirds": thirds, "along": along}
        largest = part["audit.curvature.largest_eigenvalue.value"]
        medians = {"kl_median": part.kl, "largest_eigenvalue": largest}
        row = {"env": env, "algorithm": algorithm, "updates": len(part)}
        row |= {name: plain(of.median()) for name, of in medians.items()}
        steps = sorted({int(x) for x in part.env_steps})
        rows.append({**row, "steps": steps, "realised over predicted": found})
    return rows


# --- collapse -------------------------------------------------------------------------------------


def collapse(loaded: Any, options: Options) -> Result:
    """How often the return of fresh episodes falls, by algorithm."""
    result: Result = {
        "seeds": sorted(int(seed) for seed in loaded.runs.seed.unique()),
        "learning_rate": float(loaded.runs["update.learning_rate"].max()),
        "window": options.window,
        "large_kl": options.large_kl,
    }
    for algorithm, returns, kl in by_seed(loaded):
        lanes = list(zip(returns, kl, strict=True))
        falls = [falls_after(r, k >= 0, options) for r, k in lanes]
        large = [falls_after(r, k > options.large_kl, options) for r, k in lanes]
        result[algorithm] = {
            "fell": sum(falls),
            "fell_after_a_large_update": sum(large),
            "fell_after_a_large_update_by_seed": large,
            "peak_by_seed": rounded(returns.max(axis=1), 1),
            "final_by_seed": rounded(returns[:, -1], 1),
            "kl_median": float(np.median(kl)),
            "kl_max": float(kl.max()),
        }
    return result


def by_seed(loaded: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """By algorithm: returns of episodes after each update, and its KL, each [seeds, iterations]."""
    for algorithm, runs in loaded.runs.groupby("algorithm", sort=False):
        of = loaded.evaluations, loaded.metrics
        tables = (
            frame[frame.run.isin(runs.run)].pivot(index="run", columns="iteration", values=values)
            for frame, values in zip(of, ("sampled_mean_return", "kl"), strict=True)
        )
        yield algorithm, *(table.to_numpy() for table in tables)


def falls_after(returns: np.ndarray, updates: np.ndarray, options: Options) -> bool:
    """Whether the return falls below half of its peak so far within a window after an update."""
    peak = np.maximum.accumulate(returns)
    # The evaluation right after an update is the first to show its effect.
    return any(
        bool(np.any(returns[update : update + options.window] < peak[update] / 2))
        for update in np.flatnonzero(updates)
    )


# --- memory ---------------------------------------------------------------------------------------


def memory(loaded: Any, options: Options) -> Result:
    """By environment: a row for every algorithm and cell."""
    found: Result = {}
    for (env, algorithm, cell), runs in loaded.runs.groupby(
        ["env", "algorithm", "network.cell"], sort=False
    ):
        evaluations, metrics = (
            frame[frame.run.isin(runs.run)] for frame in (loaded.evaluations, loaded.metrics)
        )
        along = evaluations.groupby("env_steps").mean_return.mean()
        scores, steps = rounded(runs.sort_values("seed").score), [int(x) for x in along.index]
        kl = {"kl_median": plain(metrics.kl.median(), 4), "kl_max": plain(metrics.kl.max(), 4)}
        row = {"algorithm": algorithm, "cell": cell, "scores": scores, **kl}
        place = found.setdefault(env, {"known": KNOWN[env](runs.iloc[0]), "rows": []})
        place["rows"].append({**row, "steps": steps, "curve": rounded(along)})
    return found


def bandit(row: Any) -> dict[str, float]:
    """Expected returns of 100 pulls by two rules: stay after a reward; take the better arm so far.

    Each episode draws which arm pays with probability 1 - p; the other pays with p. Both arms tell
    the same about each other. So with a memory, the better arm so far is Bayes-optimal. Without
    one, stay after a reward and change after none.
    """
    from scipy import stats

    p, pulls = float(row["env_params.reward_prob"]), 100
    # After t pulls: a majority of t signs, each right with 1 - p.
    count = [np.arange(t + 1) for t in range(pulls)]
    weight = [np.where(2 * c == t, 0.5, 2 * c > t) for t, c in enumerate(count)]
    right = (
        w @ stats.binom.pmf(c, t, 1 - p) for t, (c, w) in enumerate(zip(count, weight, strict=True))
    )
    better = sum(float(g * (1 - p) + (1 - g) * p) for g in right)
    stay = 0.5 + (pulls - 1) * ((1 - p) ** 2 + p**2)
    return {"random": pulls / 2, "stay after a reward": round(stay, 3), "optimal": round(better, 3)}


KNOWN = {
    # The context is shown only in the first step, and needed in the last.
    "MemoryChain-bsuite": lambda row: {"guessing": 0.0, "optimal": 1.0},
    "BernoulliBandit-misc": bandit,
    "CartPole-positions": lambda row: {"optimal": 500.0},
    # For comparison: every observation shows the whole state.
    "UmbrellaChain-bsuite": lambda row: {"guessing": 0.0, "optimal": 1.0},
}


# --- pictures -------------------------------------------------------------------------------------


def of_env(result: Result) -> dict[str, list[Result]]:
    return {
        row["env"]: [r for r in result["rows"] if r["env"] == row["env"]] for row in result["rows"]
    }


def legend(figure: Any, axes: Any) -> Any:
    """One panel's legend for the whole figure."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


Line = tuple[str, str, list[float]]


def along(ylabel: str, lines: Callable[[Result], list[Line]]) -> Callable[[Result, Any], Any]:
    """Draws a panel for each environment: each row's lines (label, style, values) by steps."""

    def draw(result: Result, loaded: Any = None) -> Any:
        rows_of = of_env(result)
        figure, (grid,) = panels(len(rows_of), sharey="row")
        for (env, rows), axes in zip(rows_of.items(), grid, strict=True):
            for row, color in zip(rows, COLOURS, strict=False):
                for label, style, values in lines(row):
                    axes.plot(row["steps"], values, style, color=color, label=label)
            axes.axhline(1, color="black", linewidth=1)
            axes.set(title=env, xlabel="environment steps")
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        grid[0].set_ylabel(f"{ylabel}, median of seeds")
        return legend(figure, grid[0])

    return draw


def clip_lines(row: Result) -> list[Line]:
    return [
        (f"clip_eps {row['clip_eps']:g}, {what}", style, row[f"{name}_tv_along"])
        for what, style, name in (("largest", "-", "largest"), ("mean of states", "--", "mean"))
    ]


def model_lines(row: Result) -> list[Line]:
    found = row["realised over predicted"]
    styles = zip(MODELS, ("-", ":", "--"), strict=True)
    return [(f"{row['algorithm']}, {name}", style, found[name]["along"]) for name, style in styles]


def draw_search(result: Result, loaded: Any = None) -> Any:
    rows_of = of_env(result)
    figure, grid = panels(len(rows_of), 2, sharey="row")
    for (env, rows), column in zip(rows_of.items(), grid.T, strict=True):
        dampings = sorted({row["damping"] for row in rows})
        for name, axes in zip(("needed", "region_used"), column, strict=True):
            for batch, color in zip(sorted({row["batch"] for row in rows}), COLOURS, strict=False):
                found = {row["damping"]: row[name] for row in rows if row["batch"] == batch}
                places = [dampings.index(d) for d in found]
                label = f"batch of {batch:,}"
                axes.plot(places, list(found.values()), "o-", color=color, label=label)
            axes.set_xticks(range(len(dampings)), [f"{d:g}" for d in dampings])
            axes.set(xlabel="damping", ylim=(-0.03, 1.03))
        column[0].set_title(env)
    grid[0][0].set_ylabel("share of updates whose\nfull step is refused")
    grid[1][0].set_ylabel("KL / max_kl, median")
    return legend(figure, grid[0][0])


def draw_collapse(result: Result, loaded: Any) -> Any:
    """Every seed's return and KL, the two algorithms side by side."""
    figure, grid = panels(2, 2, (4.5, 2.5), sharex=True, sharey="row")
    for (name, *found), column, color in zip(by_seed(loaded), grid.T, COLOURS[1::-1], strict=True):
        for axes, of in zip(column, found, strict=True):
            axes.plot(of.T, color=color, alpha=0.4, linewidth=0.8)
        column[0].set_title(name)
        column[1].axhline(0.01, color="black", linestyle=":", linewidth=1)
        column[1].set(yscale="log", xlabel="update")
    grid[0][0].set_ylabel("return of 20 fresh episodes")
    grid[1][0].set_ylabel("KL(old || new), nats")
    return figure


PARTS: dict[str, tuple[Find, Callable[[Result, Any], Any] | None]] = {
    "laboratory_clip": (of_updates(clip), along("TV / (clip_eps / 2)", clip_lines)),
    "laboratory_search": (of_updates(search), draw_search),
    "laboratory_model": (of_updates(model), along("realised / predicted", model_lines)),
    "laboratory_hurt": (
        lambda _, options: hurt.find(options.draws, options.samples),
        lambda result, _: hurt.draw(result),
    ),
    "laboratory_family": (lambda _, options: family.find(options.mdps, options.updates), None),
    "collapse": (collapse, draw_collapse),
    "memory": (memory, None),
}
"""Each part, with the function that finds it in a sweep's tables and the one that draws it."""
EXACT = ("laboratory_hurt", "laboratory_family")
"""The parts that need no sweep."""


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
