"""The atlas: every update at one realised KL, and whether published claims are seen there."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from scipy.stats import rankdata

from kltrust.experiments.reading.statistics import Estimate, estimates, improvement, mean_and_iqm
from kltrust.experiments.search.sequential import sequential_test
from recorded import Form, Result, lines, on, pivot, table
from recorded.scores import not_yet, recorded

PARTS = ("", "_physics", "_minatar")
"""The records of the atlas: atlas.json, atlas_physics.json, atlas_minatar.json."""
REFERENCE = "ppo_clip"
CLAIMS = {
    "ppo_asymmetric": (
        "DAPO's clip beats an equal one (Yu et al. 2025)",
        "a language model's tokens, whose entropy would fall; an ablation",
    ),
    "ppo_ewma": (
        "the average makes PPO robust to the batch size (Hilton et al. 2021)",
        "Procgen; the batch varies there and is fixed here",
    ),
    "spo": ("better than PPO (Xie et al. 2025)", "MuJoCo and Atari, networks up to many layers"),
    "tr_ppo": ("better than PPO (Wang et al. 2019)", "MuJoCo and Atari"),
    "tr_ppo, rollback": ("better than PPO (Wang et al. 2019)", "MuJoCo and Atari"),
    "trgppo": (
        "explores more and is better than PPO (Wang et al. 2019)",
        "MuJoCo and Atari; the paper derives the KL from the clip, by a rule not known here",
    ),
    "drift_ppo": ("better than PPO (Lu et al. 2022)", "Brax and MinAtar; found by search on Brax"),
    "fr_ppo": (
        "a proof of improvement, and performs well (Lascu et al. 2025)",
        "a penalty weight of theory; no claim to beat PPO in general",
    ),
    "espo": (
        "better than PPO, most with many workers (Sun et al. 2022)",
        "MuJoCo and more; many epochs, here 5, so that there is less to stop",
    ),
    "fixpo": ("as good as PPO or better (Zentner et al. 2023)", "MuJoCo and Meta-World"),
    "mdpo": (
        "as good as PPO or better (Tomar et al. 2020)",
        "MuJoCo; the step size is annealed there and fixed here",
    ),
    "spma": (
        "as good as PPO, TRPO and MDPO or better (Asad et al. 2025)",
        "MuJoCo and Atari, the step size from a grid",
    ),
    "trpl": (
        "as good as PPO or better (Otto et al. 2021)",
        "continuous control, with full covariances too; here they are diagonal",
    ),
    "vmpo": (
        "better than PPO's kin (Song et al. 2019)",
        "Atari-57 and DMLab with billions of steps and a target network; here neither",
    ),
}
"""What is published, and how that setting differs from the one here."""
NAMED = {"scores": "the score", "training": "the training's return"}
LEVEL = 0.05 / (3 * len(CLAIMS))
"""Of each verdict in the table of claims: that any is wrong has a chance of 5 % (Bonferroni)."""


def rows_of(result: Result, env: str) -> list[Result]:
    """The finished updates of an environment, the reference first."""
    rows = [row for row in result["rows"] if row["env"] == env]
    return sorted(rows, key=lambda row: row["label"] != REFERENCE)


def envs_of(result: Result) -> list[str]:
    return list(dict.fromkeys(row["env"] for row in result["rows"]))


Tasks = list[Any]
"""Scores by task: [tasks][seeds]."""


def better(ours: Tasks, theirs: Tasks) -> Estimate:
    """The probability of improvement with its 95 % interval."""

    def both(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return improvement(x, y)

    return estimates([np.array(ours).T, np.array(theirs).T], both)[0]


def verdict(ours: Tasks, theirs: Tasks, level: float) -> str:
    """Whether seeds of ours are "better" or "worse" than as many of theirs, or it is "not shown".

    Seeds are ranked among both on each task, and the ranks averaged over tasks. If both were alike,
    every exchange of seeds would be equally likely. The chance of another verdict is then `level`.
    The intervals of few seeds are too narrow for such small levels.
    """
    seeds = len(ours[0])
    ranks = np.array([rankdata([*x, *y]) for x, y in zip(ours, theirs, strict=True)]).T
    sides = {"better": ranks[:seeds], "worse": ranks[seeds:]}
    drawn = max(10_000, round(20 / level))
    ((_, side, _),) = sequential_test(sides, group=seeds, level=level, exchanges=drawn)
    return side or "not shown"


def reached(result: Result, row: Result) -> bool:
    factor = row["matched"]["kl_median"] / result["target_kl"]
    return bool(1 / result["reached"] <= factor <= result["reached"])


def parts_of(results: dict[str, Result]) -> list[Result]:
    return [results[name] for name in PARTS if name in results]


def atlas(results: dict[str, Result]) -> list[str]:
    """A table for each environment, and one line for each record on how they were made."""
    parts = parts_of(results)
    if not parts:
        return ["*Not yet measured.* `python benchmarks/atlas.py`"]
    first, *others = (part_of_atlas(part) for part in parts)
    return sum((["", *lines] for lines in others), first)


def part_of_atlas(result: Result) -> list[str]:
    """The tables of one record."""
    made: list[str] = []
    for env in envs_of(result):
        rows = rows_of(result, env)
        columns: dict[str, Form] = {
            "update": "`{label}`",
            "size": lambda row: ", ".join(f"{k} {v:.3g}" for k, v in row["values"].items()),
            "median KL": functools.partial(median_kl, result),
            "95 %": "{matched[kl_p95]:.4f}",
            "largest": "{matched[kl_max]:.3g}",
            "score": lambda row: mean_and_iqm(row["matched"]["scores"])[1],
            "better": functools.partial(against, rows, "scores"),
            "training": lambda row: f"{np.mean(row['matched']['training']):.1f}",
            "better in training": functools.partial(against, rows, "training"),
            "median KL, default size": "{default[kl_median]:.4f}",
            "score, default size": lambda row: mean_and_iqm(row["default"]["scores"])[1],
        }
        made += [f"### {env}", "", *table(rows, columns), ""]
    of = result["rows"]
    broken = sum(row[which]["broken"] for row in of for which in ("matched", "default"))
    setting = (
        f"{len(of)} of {result['pairs']} pairs of update and environment are measured; target "
        f"{result['target_kl']:g} nats; {len(result['seeds'])} seeds, {of[0]['steps']:,} steps a "
        f"run; {broken} runs broke; {on(result['versions'], *envs_of(result))}. "
        f"`python benchmarks/atlas.py benchmarks/specs/{result['spec']}`"
    )
    return [*made, setting]


def median_kl(result: Result, row: Result) -> str:
    """The realised median; a dagger where it is not the target."""
    return f"{row['matched']['kl_median']:.4f}" + ("" if reached(result, row) else " †")


def against(rows: list[Result], what: str, row: Result) -> str:
    """The probability that the row is better than the reference on the same task."""
    references = [other for other in rows if other["label"] == REFERENCE]
    if not references or row in references:
        return ""
    ours, theirs = (of["matched"][what] for of in (row, references[0]))
    return f"{better([ours], [theirs]):.2f}"


def atlas_claims(results: dict[str, Result]) -> list[str]:
    """For every published claim: over all tasks, at equal KL and at default sizes."""
    parts = parts_of(results)
    if not parts:
        return ["*Not yet measured.*"]
    result = {**parts[0], "rows": [row for part in parts for row in part["rows"]]}
    by = {(row["label"], row["env"]): row for row in result["rows"]}

    verdicts: dict[str, list[str]] = {}

    def over_all(label: str, of: str, what: str) -> tuple[str, int]:
        envs = [e for e in envs_of(result) if {(label, e), (REFERENCE, e)} <= by.keys()]
        if of == "matched":
            envs = [e for e in envs if all(reached(result, by[n, e]) for n in (label, REFERENCE))]
        if not envs:
            return "-", 0
        ours, theirs = ([by[n, e][of][what] for e in envs] for n in (label, REFERENCE))
        found = verdict(ours, theirs, LEVEL)
        if of == "matched":
            verdicts.setdefault(f"{found} by {NAMED[what]}", []).append(f"`{label}`")
        return f"{found}, {better(ours, theirs):.2f}", len(envs)

    rows = []
    for label, (claim, setting) in CLAIMS.items():
        score, tasks = over_all(label, "matched", "scores")
        training, _ = over_all(label, "matched", "training")
        default, _ = over_all(label, "default", "training")
        rows.append([f"`{label}`", claim, str(tasks), score, training, default, setting])
    header = ["update", "published", "tasks", "score", "training", "training, default sizes"]
    shown = [
        f"{found}: {', '.join(verdicts.get(found, ['none']))}"
        for found in (f"{x} by {name}" for x in ("better", "worse") for name in NAMED.values())
    ]
    said = f"Than `{REFERENCE}` at equal KL, {'; '.join(shown)}."
    return [*lines([*header, "the paper's setting"], rows), "", said]


def atlas_shipped(results: dict[str, Result]) -> list[str]:
    """Scores and realised KL of every update with its own defaults."""
    if "" not in results:
        return not_yet("atlas_shipped")
    result = results[""]

    def scored(row: Result) -> str:
        return f"{mean_and_iqm(row['scores'])[1]}, {row['median']:.4f}"

    rows = sorted(result["rows"], key=lambda row: row["label"] != REFERENCE)
    return recorded(result, pivot(rows, {"update": "`{label}`"}, "{env}", scored, missing="-"))


def tuned(results: dict[str, Result]) -> list[str]:
    """Scores of every update at its best size, and whether it is better than the reference."""
    if "" not in results:
        return ["*Not yet measured.* `python benchmarks/tuned.py`"]
    result = results[""]
    by = {(row["label"], row["env"]): row for row in result["rows"]}
    envs, labels = envs_of(result), list(dict.fromkeys(row["label"] for row in result["rows"]))
    level = 0.05 / max(1, len(labels) - 1)

    def scored(row: Result | None) -> str:
        if row is None:
            return "-"
        values = ", ".join(f"{name} {value:.3g}" for name, value in row["values"].items())
        mean, _ = mean_and_iqm(row["tuned"]["scores"])
        return f"{mean}, median {np.median(row['tuned']['scores']):.1f}; {values}"

    def beside(label: str) -> str:
        both = [e for e in envs if {(label, e), (REFERENCE, e)} <= by.keys()]
        if label == REFERENCE or not both:
            return ""
        ours, theirs = ([by[n, e]["tuned"]["scores"] for e in both] for n in (label, REFERENCE))
        return f"{verdict(ours, theirs, level)}, {better(ours, theirs):.2f} on {len(both)}"

    rows = [[f"`{x}`", *(scored(by.get((x, e))) for e in envs), beside(x)] for x in labels]
    setting = (
        f"{len(result['rows'])} of {result['pairs']} pairs of update and environment are measured; "
        f"{len(result['seeds'])} seeds, {result['rows'][0]['steps']:,} steps a run; "
        f"{on(result['versions'], *envs)}. `python benchmarks/tuned.py`"
    )
    return [*lines(["update", *envs, f"better than `{REFERENCE}`"], rows), "", setting]


def atlas_hours(results: dict[str, Result]) -> list[str]:
    """What has not been measured yet, and how long it would take."""
    rows = [row for of in results.values() for row in of["rows"]]
    if not rows:
        return ["*No estimate yet.*"]
    columns = {
        "environment": "{env}",
        "updates": "{updates}",
        "steps": "{steps:,}",
        "hours": "{hours:.2g}",
    }
    first = next(iter(results.values()))
    return [*table(rows, columns), "", f"Hours of {first['cores']} cores."]
