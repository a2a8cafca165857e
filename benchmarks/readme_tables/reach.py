"""Of gymnasium_scores.py, memory.py and adapters.py: other people's environments, and memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from kltrust.experiments.reading.statistics import Estimate
from readme_tables._common import by_env, versions


def gymnasium_scores(result: dict[str, Any]) -> list[str]:
    """What the presets' policies score in gymnasium's own environments, from `gymnasium_scores`."""
    lines = [
        "| environment | algorithm | gymnasium | each seed | gymnax | aimed at |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        theirs, ours = (
            Estimate(found["mean"], found["low"], found["high"])
            for found in (row["gymnasium"], row["gymnax"])
        )
        each = ", ".join(f"{mean:.1f}" for mean, _, _ in row["gymnasium"]["by_seed"])
        target = "" if row["target"] is None else f"{row['target']:g}"
        lines.append(
            f"| {row['env']} | `{row['algorithm']}` | {theirs} | {each} | {ours} | {target} |"
        )
    return lines


def gymnasium_setting(result: dict[str, Any]) -> str:
    """One line on how those were obtained."""
    row = result["rows"][0]
    packages = row["versions"]["packages"]
    return (
        f"Seeds {row['seeds'][0]} to {row['seeds'][-1]}, {row['episodes']:,} episodes each, acting "
        f"by the mode; 95 % bootstrap intervals over seeds and episodes; gymnasium "
        f"{row['versions']['gymnasium']}, gymnax {packages['gymnax']}, jax {packages['jax']}. "
        "`python benchmarks/gymnasium_scores.py`"
    )


def memory(result: dict[str, Any]) -> list[str]:
    """Mean score of all seeds, without and with a memory, beside what is known of the task."""
    lines = [
        '| environment (steps) | algorithm | without memory | `cell = "gru"` | known |',
        "| --- | --- | --- | --- | --- |",
    ]
    for env, found in result.items():
        known = ", ".join(f"{what} {value:g}" for what, value in found["known"].items())
        scores = {(row["algorithm"], row["cell"]): row["scores"] for row in found["rows"]}
        for algorithm in dict.fromkeys(name for name, _ in scores):
            cells = [
                f"{np.mean(of):.2f} ({', '.join(f'{x:.4g}' for x in of)})"
                for of in (scores[algorithm, "none"], scores[algorithm, "gru"])
            ]
            steps = found["rows"][0]["steps"][-1]
            lines.append(f"| {env} ({steps:,}) | `{algorithm}` | {' | '.join(cells)} | {known} |")
    return lines


def adapters(result: dict[str, Any]) -> list[str]:
    """Mean score, and the worst and the best seed's, from `adapters.py`."""
    methods = {"ppo_clip": "`ppo_clip`", "trpo": "`trpo`", "brax_ppo": "brax's PPO"}
    lines = [
        "| environment (steps) | random | " + " | ".join(methods.values()) + " |",
        "| --- | --- |" + " --- |" * len(methods),
    ]
    for env, row in by_env(result["rows"]).items():
        (steps,) = {run["steps"] for run in row.values()}  # or they can't be compared
        random = next(iter(row.values()))["random"]["mean"]
        cells = []
        for method in methods:
            scores = row[method]["scores"] if method in row else []
            cells.append(
                f"{np.mean(scores):.4g} ({min(scores):.4g} to {max(scores):.4g})" if scores else ""
            )
        lines.append(f"| `{env}` ({steps:,}) | {random:.4g} | {' | '.join(cells)} |")
    return lines


def adapters_setting(result: dict[str, Any]) -> str:
    """One line on how those were obtained."""
    rows = result["rows"]
    packages: dict[str, str] = {}
    for row in rows:
        packages |= row["versions"]["packages"]
    used = versions(packages, (row["env"] for row in rows))
    sampled = dict.fromkeys(f"`{row['env']}`" for row in rows if row["task"].get("sampled"))
    acting = "acting by the mode" + (f", on {', '.join(sampled)} by sampling" if sampled else "")
    v = rows[0]["versions"]
    return (
        f"{len(rows[0]['seeds'])} seeds, the worst's and the best's mean in brackets, "
        f"{rows[0]['episodes_per_seed']} episodes each, {acting}; {used}, "
        f"{v['cpu_count']} cores ({v['device_kind']}). `python benchmarks/adapters.py`"
    )
