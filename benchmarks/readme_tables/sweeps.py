"""Of benchmarks/record.py: sweeps, recorded."""

from __future__ import annotations

from typing import Any

import numpy as np

from kltrust.experiments.reading.statistics import Estimate, mean_and_iqm
from kltrust.experiments.report._aggregate import intervals
from readme_tables._common import versions


def by_label(result: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of a recorded sweep by label and environment."""
    labels: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        labels.setdefault(row["label"], {})[row["env"]] = row
    return labels


def table1(result: dict[str, Any]) -> list[str]:
    """Scores scaled so that random actions are 0 and the best setting's mean is 1."""
    labels, zeros = by_label(result), result["random"]
    ones = {env: max(np.mean(rows[env]["scores"]) for rows in labels.values()) for env in zeros}
    lines = [
        "| surrogate | scaled score | " + " | ".join(zeros) + " |",
        "| --- | --- |" + " --- |" * len(zeros),
    ]
    for label, rows in labels.items():
        scores = np.array([rows[env]["scores"] for env in zeros]).T
        zero, one = ([d[env] for env in zeros] for d in (random_means(result), ones))
        scaled = (scores - zero) / np.subtract(one, zero)
        mean = Estimate(*(float(x[0]) for x in intervals(scaled, of_all)))
        cells = " | ".join(f"{x:.1f}" for x in scores.mean(axis=0))
        lines.append(f"| {label} | {mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}] | {cells} |")
    constants = " | ".join(f"{random_means(result)[env]:.1f}" for env in zeros)
    lines.append(f"| *random actions: 0* | 0 | {constants} |")
    lines.append(
        "| *best setting: 1* | 1 | " + " | ".join(f"{one:.1f}" for one in ones.values()) + " |"
    )
    return lines


def random_means(result: dict[str, Any]) -> dict[str, float]:
    return {env: found["mean"] for env, found in result["random"].items()}


def of_all(scores: np.ndarray) -> np.ndarray:
    """The mean over seeds and environments, as a vector."""
    return np.array([scores.mean()])


def classic(result: dict[str, Any]) -> list[str]:
    labels = by_label(result)
    envs = list(result["random"])
    lines = [
        "| environment (steps) | random | " + " | ".join(f"`{label}`" for label in labels) + " |",
        "| --- | --- |" + " --- |" * len(labels),
    ]
    for env in envs:
        rows = [of_env[env] for of_env in labels.values()]
        cells = " | ".join(str(mean_and_iqm(row["scores"])[0]) for row in rows)
        lines.append(
            f"| {env} ({rows[0]['steps']:,}) | {random_means(result)[env]:.1f} | {cells} |"
        )
    return lines


PUBLISHED = {"Breakout": 28, "Asterix": 15, "SpaceInvaders": 131, "Freeway": 58}
"""The scores on MinAtar that gymnax publishes."""


def minatar(*results: dict[str, Any]) -> list[str]:
    """Mean training return at the end, and each seed's; a dash where nothing is recorded."""
    labels = list(dict.fromkeys(row["label"] for result in results for row in result["rows"]))
    lines = [
        "| game (steps) | random | "
        + " | ".join(f"`{label}`" for label in labels)
        + " | published |",
        "| --- | --- |" + " --- |" * (len(labels) + 1),
    ]
    for result in results:
        found, random = by_label(result), random_means(result)
        for env in dict.fromkeys(row["env"] for row in result["rows"]):
            rows = {label: of_env[env] for label, of_env in found.items() if env in of_env}
            cells = [mean_and_each(rows[a]["training"]) if a in rows else "-" for a in labels]
            game, steps = env.removesuffix("-MinAtar"), next(iter(rows.values()))["steps"]
            lines.append(
                f"| {game} ({steps:,}) | {random[env]:.1f} | {' | '.join(cells)} | "
                f"{PUBLISHED.get(game, '-')} |"
            )
    return lines


def minatar_setting(*results: dict[str, Any]) -> str:
    """One line on how those were obtained."""
    v = results[0]["versions"]
    specs = ", ".join(
        f"`python benchmarks/record.py benchmarks/specs/{result['spec']}`" for result in results
    )
    return (
        f"{len(results[0]['seeds'])} seeds; random: uniform actions; published: gymnax's scores at "
        f"10 million steps; jax {v['packages']['jax']}, gymnax {v['packages']['gymnax']}, "
        f"{v['cpu_count']} cores ({v['device_kind']}). {specs}"
    )


def mean_and_each(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ({', '.join(f'{x:.1f}' for x in values)})"


def trust_region(result: dict[str, Any]) -> list[str]:
    lines = [
        "| environment | setting | claims | median | 95 % | largest | above the claim | "
        "largest ratio | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(result["rows"], key=lambda row: row["env"]):
        claim = row["claim"]
        claims = f"{claim['what']} = {claim['value']:g}" if claim["value"] else "nothing"
        above = "" if row["above"] is None else f"{row['above']:.0%}"
        lines.append(
            f"| {row['env']} | {row['label']} | {claims} | {row['median']:.4f} | "
            f"{row['p95']:.4f} | "
            f"{row['largest']:.4f} | {above} | {row['max_ratio']:,.1f} | "
            f"{mean_and_iqm(row['scores'])[0]} |"
        )
    return lines


def recorded_setting(result: dict[str, Any]) -> str:
    """One line on how a recorded sweep was obtained."""
    v = result["versions"]
    broken = sum(row["broken"] for row in result["rows"])
    used = versions(v["packages"], result["random"])
    return (
        f"{len(result['seeds'])} seeds, scores of the last evaluation, acting by the mode, 95 % "
        f"bootstrap intervals; {result['steps']:,} environment steps; {broken} runs broke; "
        f"{used}, {v['cpu_count']} cores ({v['device_kind']}). "
        f"`python benchmarks/record.py benchmarks/specs/{result['spec']}`"
    )
