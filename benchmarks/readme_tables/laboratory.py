"""Of benchmarks/laboratory.py."""

from __future__ import annotations

from typing import Any


def clip(result: dict[str, Any]) -> list[str]:
    """How far PPO-clip leaves TV <= clip_eps / 2, from `laboratory.py`."""
    lines = [
        "| environment | clip_eps | updates | some state beyond | mean beyond | "
        "largest TV: median, 95 %, largest | mean TV: median |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        largest = ", ".join(f"{x:.2f}" for x in row["largest_tv"])
        lines.append(
            f"| {row['env']} | {row['clip_eps']:g} | {row['updates']} | "
            f"{row['left_by_some_state']:.0%} | {row['left_by_the_mean']:.0%} | {largest} | "
            f"{row['mean_tv'][0]:.2f} |"
        )
    return lines


def search(result: dict[str, Any]) -> list[str]:
    """Share of TRPO's updates whose full step is refused, from `laboratory.py`."""
    dampings = sorted({row["damping"] for row in result["rows"]})
    lines = [
        "| environment | batch | " + " | ".join(f"damping {d:g}" for d in dampings) + " |",
        "| --- | --- |" + " --- |" * len(dampings),
    ]
    cells: dict[tuple[str, int], dict[float, str]] = {}
    for row in result["rows"]:
        cell = f"{row['needed']:.0%} ({row['region_used']:.2f})"
        cells.setdefault((row["env"], row["batch"]), {})[row["damping"]] = cell
    for (env, batch), found in cells.items():
        lines.append(f"| {env} | {batch:,} | " + " | ".join(found[d] for d in dampings) + " |")
    return lines


def model(result: dict[str, Any]) -> list[str]:
    """Realised over predicted in the thirds of training, from `laboratory.py`."""
    names = {"kl": "KL / undamped", "kl damped": "KL / damped", "gain": "gain / linear"}
    lines = [
        "| environment | algorithm | median KL | " + " | ".join(names.values()) + " |",
        "| --- | --- | --- |" + " --- |" * len(names),
    ]
    for row in result["rows"]:
        found = row["realised over predicted"]
        cells = [
            ", ".join(f"{median:.2f} [{low:.2f}, {high:.2f}]" for median, low, high in thirds)
            for thirds in (found[name]["thirds"] for name in names)
        ]
        lines.append(
            f"| {row['env']} | `{row['algorithm']}` | {row['kl_median']:.4f} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


def hurt(result: dict[str, Any]) -> list[str]:
    """Share of updates that lower the exact J, from `laboratory.py`: least to largest step."""
    settings = {"vanilla_pg": "learning_rate", "trpo": "max_kl"}
    columns = list(dict.fromkeys(row["samples"] for row in result["rows"]))
    heads = [n if n == "exact" else f"{n:,} samples" for n in columns]
    lines = [
        "| start | update | " + " | ".join(heads) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    cells: dict[tuple[str, str], dict[Any, str]] = {}
    for row in result["rows"]:
        setting = settings[row["algorithm"]]
        update = f"`{row['algorithm']}`, {setting} {row[setting]:g}"
        cells.setdefault((row["start"], update), {})[row["samples"]] = f"{row['hurt']:.1%}"
    for (start, update), found in cells.items():
        lines.append(f"| {start} | {update} | " + " | ".join(found[n] for n in columns) + " |")
    return lines


LABORATORY = (
    ("clip", clip),
    ("search", search),
    ("model", model),
    ("hurt", hurt),
)
