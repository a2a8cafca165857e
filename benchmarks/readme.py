"""Makes the README's tables and its picture from the recorded results.

python benchmarks/readme.py            rewrites what stands between the markers in README.md
python benchmarks/readme.py --check    fails if that would change anything
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tyro

from kltrust.experiments.plots import BLUE, VERMILION
from kltrust.experiments.statistics import mean_and_iqm

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PICTURE = RESULTS / "learning.png"
GREEN = "#009E73"
STYLES = {
    "trpo": (BLUE, "-"),
    "ppo_clip": (VERMILION, "--"),
    "ppo_penalty": (GREEN, "-."),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do."""

    check: bool = False
    """Change nothing; fail if the README is not what the results say."""


def main(options: Options) -> int:
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = old
    for name, lines in tables().items():
        new = between(new, name, lines)
    if options.check:
        print("README.md is up to date" if new == old else "README.md: run benchmarks/readme.py")
        return int(new != old)
    readme.write_text(new)
    draw_learning(load("learning"))
    print(f"wrote {readme.name} and {PICTURE.relative_to(ROOT)}")
    return 0


def load(name: str) -> list[dict[str, Any]]:
    """All recorded results of a benchmark, in the order of its tables."""
    return [json.loads(path.read_text()) for path in sorted((RESULTS / name).glob("*.json"))]


def between(text: str, name: str, lines: list[str]) -> str:
    """The text with what stands between a table's markers replaced."""
    begin, end = f"<!-- table:{name} -->\n", f"<!-- end:{name} -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"README.md has no {begin.strip()} ... {end}")
    return head + begin + "\n".join(lines) + "\n" + end + tail


def tables() -> dict[str, list[str]]:
    """Every generated table, as Markdown lines."""
    learning = load("learning")
    return {
        "scores": scores(learning),
        "region": region(learning),
        "trpo": trpo(learning),
        "setting": [setting(learning)],
        "collapse": [collapse(json.loads((RESULTS / "collapse.json").read_text()))],
    }


def by_env(results: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Results by environment and algorithm."""
    envs: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        envs.setdefault(result["env"], {})[result["algorithm"]] = result
    return envs


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


def draw_learning(results: list[dict[str, Any]]) -> None:
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
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
