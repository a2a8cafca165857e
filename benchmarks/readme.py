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

import numpy as np
import tyro

from kltrust.experiments.plots import BLUE, VERMILION
from kltrust.experiments.report._aggregate import intervals
from kltrust.experiments.statistics import Estimate, mean_and_iqm

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
        "collapse": [collapse(recorded("collapse"))],
        **{
            f"laboratory_{part}": table(recorded(f"laboratory_{part}"))
            for part, table in LABORATORY
        },
        "trust_region": trust_region(recorded("trust_region")),
        "trust_region_setting": [recorded_setting(recorded("trust_region"))],
        "classic": classic(recorded("classic")),
        "classic_setting": [recorded_setting(recorded("classic"))],
        "table1": table1(recorded("ppo_table1")),
        "table1_setting": [recorded_setting(recorded("ppo_table1"))],
        "minatar": minatar(recorded("minatar_2m")),
        "minatar_setting": [minatar_setting(recorded("minatar_2m"))],
        "code_level": table1(recorded("code_level")),
        "code_level_setting": [recorded_setting(recorded("code_level"))],
        "audit_cost": [audit_cost(recorded("audit_cost"))],
        "sweep_speed": sweep_speed(recorded("sweep_speed")),
        "gymnasium_scores": gymnasium_scores(recorded("gymnasium_scores")),
        "gymnasium_setting": [gymnasium_setting(recorded("gymnasium_scores"))],
        "memory": memory(recorded("memory")),
        "adapters": adapters(recorded("adapters")),
        "adapters_setting": [adapters_setting(recorded("adapters"))],
        "speed": speed(recorded_parts("speed")),
        "speed_setting": [speed_setting(recorded_parts("speed"))],
        "peers": peers(recorded_parts("peers")),
        "peers_setting": [peers_setting(recorded_parts("peers"))],
        "scaling": scaling(recorded_parts("scaling")),
        "scaling_setting": [scaling_setting(recorded_parts("scaling"))],
        "survival": [survival(recorded("sweep_survival"), recorded("sweep_host_work"))],
    }


def recorded(name: str) -> dict[str, Any]:
    """One recorded result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def recorded_parts(name: str) -> dict[str, dict[str, Any]]:
    """All recorded parts of a benchmark, by their names."""
    paths = sorted(RESULTS.glob(f"{name}_*.json"))
    return {path.stem.removeprefix(f"{name}_"): json.loads(path.read_text()) for path in paths}


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
                f"{np.mean(of):.2f} ({', '.join(f'{x:g}' for x in of)})"
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
    libraries = dict.fromkeys(row["env"].partition("/")[0] for row in rows)
    versions = ", ".join(f"{name} {packages[name]}" for name in ("jax", *libraries))
    v = rows[0]["versions"]
    return (
        f"{len(rows[0]['seeds'])} seeds, the worst's and the best's mean in brackets, "
        f"{rows[0]['episodes_per_seed']} episodes each, acting by the mode; {versions}, "
        f"{v['cpu_count']} cores ({v['device_kind']}). `python benchmarks/adapters.py`"
    )


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


def minatar(result: dict[str, Any]) -> list[str]:
    """Mean training return at the end, and each seed's; a dash where nothing is recorded."""
    labels, random = by_label(result), random_means(result)
    lines = [
        "| game (steps) | random | "
        + " | ".join(f"`{label}`" for label in labels)
        + " | published |",
        "| --- | --- |" + " --- |" * (len(labels) + 1),
    ]
    for env in dict.fromkeys(row["env"] for row in result["rows"]):
        found = {label: of_env[env] for label, of_env in labels.items() if env in of_env}
        cells = [mean_and_each(found[a]["training"]) if a in found else "-" for a in labels]
        game, steps = env.removesuffix("-MinAtar"), next(iter(found.values()))["steps"]
        lines.append(
            f"| {game} ({steps:,}) | {random[env]:.1f} | {' | '.join(cells)} | "
            f"{PUBLISHED.get(game, '-')} |"
        )
    return lines


def minatar_setting(result: dict[str, Any]) -> str:
    """One line on how those were obtained."""
    v = result["versions"]
    return (
        f"{len(result['seeds'])} seeds; random: uniform actions; published: gymnax's scores at 10 "
        f"million steps; jax {v['packages']['jax']}, gymnax {v['packages']['gymnax']}, "
        f"{v['cpu_count']} cores ({v['device_kind']}). `python benchmarks/record.py "
        f"benchmarks/specs/{result['spec']}`"
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


def laboratory_clip(result: dict[str, Any]) -> list[str]:
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


def laboratory_search(result: dict[str, Any]) -> list[str]:
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


def laboratory_model(result: dict[str, Any]) -> list[str]:
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


def laboratory_hurt(result: dict[str, Any]) -> list[str]:
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
    ("clip", laboratory_clip),
    ("search", laboratory_search),
    ("model", laboratory_model),
    ("hurt", laboratory_hurt),
)


def recorded_setting(result: dict[str, Any]) -> str:
    """One line on how a recorded sweep was obtained."""
    v = result["versions"]
    broken = sum(row["broken"] for row in result["rows"])
    return (
        f"{len(result['seeds'])} seeds, scores of the last evaluation, acting by the mode, 95 % "
        f"bootstrap intervals; {result['steps']:,} environment steps; {broken} runs broke; jax "
        f"{v['packages']['jax']}, gymnax {v['packages']['gymnax']}, {v['cpu_count']} cores "
        f"({v['device_kind']}). `python benchmarks/record.py benchmarks/specs/{result['spec']}`"
    )


def sweep_speed(result: dict[str, Any]) -> list[str]:
    lines = [
        "| algorithm | steps of an iteration | one vmap | `kltrust sweep` |",
        "| --- | --- | --- | --- |",
    ]
    for case in result["cases"]:
        cells = " | ".join(
            f"{median:.2f} ({low:.2f} to {high:.2f})"
            for median, low, high in case["times as fast"].values()
        )
        lines.append(
            f"| `{case['algorithm']}` | {case['num_envs']} x {result['num_steps']} | {cells} |"
        )
    return lines


def survival(result: dict[str, Any], work: dict[str, Any]) -> str:
    """One line on kills, and one on the host's work."""
    ended, same = result["sweeps_ended"], sum(result["identical"])
    cpu, cores = sum(work["host_cpu_seconds"].values()), work["versions"]["cpu_count"]
    wall, clock = work["wall_seconds"], sum(work["host_seconds"].values())
    return (
        f"Killed by `kill -9` at {len(result['kills'])} random moments and gone on with each time, "
        f"{same} of the {ended} sweeps that ended have the tables of the one left in peace, value "
        f"by value (`python benchmarks/sweep_survival.py`). In a sweep of {wall:.0f} s, writing, "
        f"copying states and showing progress take {cpu:.1f} CPU seconds, {cpu / cores / wall:.1%} "
        f"of what {cores} cores have; by the clock they take {clock / wall:.1%} of it, while the "
        f"devices compute (`python benchmarks/sweep_host_work.py`)."
    )


def audit_cost(result: dict[str, Any]) -> str:
    """One line on what every level of the audit adds to an iteration."""
    costs = []
    for algorithm, case in result["cases"].items():
        levels = ", ".join(
            f"{level} {median - 1:.1%} ({low - 1:.1%} to {high - 1:.1%})"
            for level, (median, low, high) in case["times"].items()
        )
        costs.append(f"`{algorithm}` {levels}")
    v = result["versions"]
    return (
        f"What measuring adds to an iteration of {result['num_envs']} x {result['num_steps']} "
        f"steps of {result['env']} that measures nothing, median and quartiles of "
        f"{result['rounds']} rounds in turns: {'; '.join(costs)} (jax {v['packages']['jax']}, "
        f"{v['cpu_count']} cores, {v['device_kind']}; `python benchmarks/audit_cost.py`)."
    )


COMPARED = ("| what | against | |", "| --- | --- | --- |")


def compared(what: str, against: str, ratio: list[float], ending: str) -> str:
    """A line of a table of ratios: median and quartiles."""
    median, low, high, _ = ratio
    return f"| {what} | {against} | {median:.2f} ({low:.2f} to {high:.2f}) {ending} |"


def speed(parts: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each comparison of benchmarks/speed.py: median and quartiles of the ratios."""
    lines = list(COMPARED)

    def add(what: str, against: str, ratio: list[float], ending: str) -> None:
        lines.append(compared(what, against, ratio, ending))

    for case in parts["loop"]["cases"]:
        size = f"{case['num_envs']} x {case['num_steps']}"
        add(f"`ppo_clip`, {size}", "textbook loop", case["times as fast"], "times as fast")
    seeds = parts["sweep"]["seeds"]
    for case in parts["sweep"]["cases"]:
        what = f"`kltrust sweep`, {seeds} seeds, {case['num_envs']} x 128"
        add(what, "textbook loop, one `vmap`", case["times as fast"], "times as fast")
    ratio = parts["default"]["trpo takes times"]
    add("`trpo`, an iteration at its defaults", "`ppo_clip` at its own", ratio, "of its time")
    for case in parts["fisher"]["cases"]:
        ratio = case["takes times"][f"gauss-newton, {case['chunks by default']} chunks"]
        what = f"ten CG iterations by Gauss-Newton products, {case['rows']:,} rows"
        add(what, "the Hessian's, forward over reverse", ratio, "of the time")
    for case in parts["update"]["cases"]:
        for name, ratio in case["takes times"].items():
            share = (
                name.removeprefix("update, ").replace("1/1 of", "all").replace("1/10", "a tenth")
            )
            what = f"`trpo`'s whole update, {share} in F, {case['rows']:,} rows"
            add(what, "a surrogate gradient", ratio, "times as long")
    for name, ratio in parts["start"]["takes times the textbook's"].items():
        add(f"compiling a training by `{name}`", "textbook loop's", ratio, "times as long")
    return lines


def speed_setting(parts: dict[str, dict[str, Any]]) -> str:
    """What is no ratio, and how all of it was measured."""
    shares = ", ".join(
        f"{of['share']:.1%} (`{name}`)" for name, of in parts["evaluation"]["algorithms"].items()
    )
    start, v = parts["start"], parts["loop"]["versions"]

    def seconds(of: dict[str, list[float]]) -> str:
        return ", ".join(f"`{name}` {np.median(ms) / 1e3:.2f} s" for name, ms in of.items())

    low, high = parts["learning"]["difference, 95 %"]
    means = {name: np.mean(of) for name, of in parts["learning"]["scores"].items()}
    return (
        f"Median and quartiles of {parts['loop']['rounds']} rounds in turns, compiled; kltrust "
        f"measures the trust region all the while. Both loops learn alike: mean training return at "
        f"the end, {len(parts['learning']['scores']['kltrust'])} seeds of "
        f"{parts['learning']['steps']:,} steps, {means['kltrust']:.1f} and {means['textbook']:.1f} "
        f"(difference {low:.1f} to {high:.1f}, 95 %). Evaluating during training takes {shares} of "
        f"the training's time. From a warm compilation cache a training starts in: "
        f"{seconds(start['warm cache milliseconds'])}. Commands: "
        f"{seconds(start['commands milliseconds'])}. jax {v['packages']['jax']}, "
        f"{v['cpu_count']} cores ({v['device_kind']}). `python benchmarks/speed.py`"
    )


def peers(parts: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each comparison of benchmarks/peers.py, of the parts that are recorded."""
    lines = list(COMPARED)

    def add(job: str, found: dict[str, Any], of: str = "") -> None:
        for ours, ratios in found["times as fast"].items():
            name = ours.replace("kltrust", "`kltrust`")
            for peer, ratio in ratios.items():
                # A run alone is compared with a run alone.
                if "seeds" in ours or not peer.endswith("per core"):
                    lines.append(compared(f"{job}: {name}", peer + of, ratio, "times as fast"))

    for case in parts.get("ppo", {}).get("cases", ()):
        job = f"PPO-clip, {case['env']}, {case['num_envs']} x {case['num_steps']}"
        if case["seeds"] > 1:
            add(f"{job}, {case['seeds']} seeds", case, ", one `vmap`")
        else:
            add(job, case)
    for case in parts.get("trpo", {}).get("cases", ()):
        add(f"TRPO, {case['num_envs']} x {parts['trpo']['num_steps']}", case)
    if "solve" in parts:
        add("CartPole-v1 solved, with compilation", parts["solve"])
    return lines


def peers_setting(parts: dict[str, dict[str, Any]]) -> str:
    """What was installed, how long solving takes by the clock, and on what."""
    versions: dict[str, str] = {}
    for part in parts.values():
        for peer, of in part["peers"].items():
            shown = ("rejax", "gymnax", "sb3-contrib", "torch")
            named = [f"{name} {version}" for name, version in of.items() if name in shown]
            versions[peer] = f"{peer}: {', '.join(named)}"
    v = next(iter(parts.values()))["versions"]
    lines = [
        "Processes in turns, median and quartiles of the rounds; kltrust measures the trust region "
        f"all the while; jax {v['packages']['jax']}, {v['cpu_count']} cores ({v['device_kind']}). "
        f"The peers' environments, {'; '.join(versions.values())}."
    ]
    if "solve" in parts:
        target = parts["solve"]["target"]
        clocks = [
            f"{name} {np.median([max(r['seconds']) for r in runs]):.1f} s "
            f"({sum(sum(r['solved']) for r in runs)} of {sum(len(r['solved']) for r in runs)})"
            for name, runs in parts["solve"]["runs"].items()
        ]
        lines.append(
            f"Until 100 episodes by the mode have a mean of {target:g}, from a process that has "
            f"imported all it needs, median (runs solved): {', '.join(clocks)}."
        )
    return " ".join([*lines, "`python benchmarks/peers.py`"])


GROWN = {
    "envs": "environments of a lone run",
    "seeds": "seeds of a sweep",
    "hidden": "units of a layer",
    "chunk": "iterations of a chunk",
    "fisher_chunks": "parts of a Fisher product (0: its own choice)",
    "devices": "host devices, for 16 runs",
}


def scaling(parts: dict[str, dict[str, Any]]) -> list[str]:
    """Microseconds per environment step, from `scaling.py`, and memory against its estimate."""
    lines = [
        "| what grows | algorithm | size: microseconds per environment step | memory / estimate |",
        "| --- | --- | --- | --- |",
    ]
    for part, what in GROWN.items():
        for algorithm, rows in parts[part]["algorithms"].items() if part in parts else ():
            costs = [
                f"{row['size']:,}: {cost:{',.0f' if cost >= 100 else '.3g'}}"
                for row in rows
                for cost in [np.median(row["microseconds per step"])]
            ]
            memory = [row["bytes"] / row["estimated bytes"] for row in rows]
            lines.append(
                f"| {what} | `{algorithm}` | {', '.join(costs)} | "
                f"{min(memory):.2f} to {max(memory):.2f} |"
            )
    return lines


def scaling_setting(parts: dict[str, dict[str, Any]]) -> str:
    """One line on how those were obtained."""
    result = next(iter(parts.values()))
    v = result["versions"]
    return (
        f"{result['env']}, medians of {result['rounds']} rounds in turns, compiled; memory is that "
        f"of one device, as the compiler counts it; jax {v['packages']['jax']}, {v['cpu_count']} "
        f"cores ({v['device_kind']}). `python benchmarks/scaling.py`"
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
