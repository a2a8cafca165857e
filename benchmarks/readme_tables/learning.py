"""Of benchmarks/learning.py and collapse.py: what presets reach, and who stays in the region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kltrust.experiments.reading.plots import BLUE, VERMILION
from kltrust.experiments.reading.statistics import mean_and_iqm
from readme_tables._common import by_env

GREEN = "#009E73"


STYLES = {
    "trpo": (BLUE, "-"),
    "ppo_clip": (VERMILION, "--"),
    "ppo_penalty": (GREEN, "-."),
}


def scores(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| environment (steps) | " + " | ".join(f"`{a}`" for a in STYLES) + " |",
        "| --- |" + " --- |" * len(STYLES),
    ]
    for env, row in by_env(results).items():
        cells = []
        for algorithm in STYLES:
            mean, iqm = mean_and_iqm(row[algorithm]["scores"])
            worst = min(row[algorithm]["scores"])
            cells.append(f"{mean}, IQM {iqm.value:.1f}, worst {worst:.1f}")
        steps = row["trpo"]["experiment"]["budget"]["total_steps"]
        lines.append(f"| {env} ({steps:,}) | " + " | ".join(cells) + " |")
    return lines


def region(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| environment | algorithm | updates | median | 95 % | largest | largest ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for env, row in by_env(results).items():
        for algorithm in STYLES:
            r = row[algorithm]
            claim = f" (max_kl {r['max_kl']:g})" if "max_kl" in r else ""
            lines.append(
                f"| {env} | `{algorithm}`{claim} | {r['updates']:,} | {r['kl_median']:.4f} | "
                f"{r['kl_p95']:.4f} | {r['kl_max']:.4f} | {r['max_ratio']:.1f} |"
            )
    return lines


def trpo(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| environment | updates | above the bound | median KL / bound | accepted until solved | "
        "rejected, of these moved |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for env, row in by_env(results).items():
        r = row["trpo"]
        lines.append(
            f"| {env} | {r['updates']:,} | {r['violations']} | {r['region_used_median']:.2f} | "
            f"{r['accepted_share_until_solved']:.1%} | {r['rejected']}, "
            f"{r['rejected_that_moved']} |"
        )
    return lines


def setting(results: list[dict[str, Any]]) -> str:
    """One line on how the numbers were obtained."""
    first = results[0]
    v = first["versions"]
    seconds = sum(r["seconds"]["train"] for r in results)
    total = sum(len(r["seeds"]) * r["experiment"]["budget"]["total_steps"] for r in results)
    return (
        f"{len(first['seeds'])} seeds each ({first['seeds'][0]} to {first['seeds'][-1]}), "
        f"{first['episodes_per_seed']} episodes a seed; jax {v['packages']['jax']}, gymnax "
        f"{v['packages']['gymnax']}, {v['cpu_count']} cores ({v['device_kind']}); {total:,} "
        f"environment steps trained in {seconds / 60:.0f} minutes (compilation and evaluation "
        "apart)."
    )


def collapse(result: dict[str, Any]) -> str:
    """One line on the unconstrained step."""
    seeds = len(result["seeds"])
    return (
        f"With `learning_rate={result['learning_rate']:g}`, `vanilla_pg` falls below half of its "
        f"own peak within {result['window']} updates of one whose KL exceeds "
        f"{result['large_kl']:g} on {result['vanilla_pg']['fell_after_a_large_update']} of {seeds} "
        f"seeds of CartPole-v1; `trpo`, on the same seeds, falls so low on "
        f"{result['trpo']['fell']}."
    )


def draw_learning(results: list[dict[str, Any]], path: Path) -> None:
    """Returns above, the KL of every update below; one column per environment."""
    from matplotlib.figure import Figure

    envs = by_env(results)
    figure = Figure(figsize=(3.1 * len(envs), 5.4), layout="constrained", dpi=130)
    grid = figure.subplots(2, len(envs), sharex="col", squeeze=False)
    for column, (env, row) in enumerate(envs.items()):
        top, bottom = grid[0][column], grid[1][column]
        for algorithm, (color, line) in STYLES.items():
            c = row[algorithm]["curves"]
            steps = [x / 1000 for x in c["eval_steps"]]
            top.plot(steps, c["return_mean"], line, color=color, label=algorithm)
            top.fill_between(
                steps, c["return_low"], c["return_high"], color=color, alpha=0.15, linewidth=0
            )
            steps = [x / 1000 for x in c["kl_steps"]]
            bottom.plot(steps, c["kl_median"], line, color=color, label=algorithm)
            bottom.fill_between(
                steps, c["kl_low"], c["kl_high"], color=color, alpha=0.15, linewidth=0
            )
        bound = row["trpo"]["max_kl"]
        bottom.axhline(bound, color="black", linewidth=1, linestyle=":", label="trpo's max_kl")
        bottom.set(yscale="log", xlabel="thousand environment steps")
        top.set_title(env, fontsize=10)
        for axes in (top, bottom):
            axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("return (mode),\nmean and 10-90 % of seeds")
    grid[1][0].set_ylabel("KL(old || new) of an update,\nmedian and 5-95 % of seeds, nats")
    grid[1][0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
