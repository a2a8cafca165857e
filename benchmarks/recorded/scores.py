"""Scores, and who stays in the region: tables from learning.py, adapters.py and record.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import COLOURS, panels

from kltrust.experiments.config.presets import ACCELERATOR, preset
from kltrust.experiments.reading.statistics import (
    Estimate,
    estimates,
    mean as overall_mean,
    mean_and_iqm,
)
from kltrust.experiments.search.sequential import sequential_test
from recorded import Form, Result, each, in_order, lines, on, pivot, table

LINES = {"trpo": "-", "ppo_clip": "--", "ppo_penalty": "-."}
STYLES = {name: (COLOURS[i], line) for i, (name, line) in enumerate(LINES.items())}

# --- learning.py ----------------------------------------------------------------------------------


def scores(results: dict[str, Result], random: Result) -> list[str]:
    zero = {row["env"]: row["mean"] for row in random["rows"]}

    def score(row: Result) -> str:
        return f"{with_median(row)}, worst {min(row['scores']):.1f}"

    rows = in_order(results.values(), STYLES)
    first: dict[str, Form] = {
        "environment (steps)": "{env} ({experiment[budget][total_steps]:,})",
        "random": lambda row: f"{zero[row['env']]:.1f}",
    }
    seeds, clocks = rows[0]["seeds"], [row["seconds"] for row in rows]
    # What was recorded before 0.2 has the evaluations' seconds apart.
    apart = "compilation and evaluation" if all("train" in of for of in clocks) else "compilation"
    seconds = sum(of["train"] if "train" in of else of["run"] for of in clocks)
    total = sum(len(r["seeds"]) * r["experiment"]["budget"]["total_steps"] for r in rows)
    setting = (
        f"{len(seeds)} seeds each ({seeds[0]} to {seeds[-1]}), {rows[0]['episodes_per_seed']} "
        f"episodes a seed; {on(rows[0]['versions'], rows[0]['env'])}; {total:,} environment steps "
        f"trained in {seconds / 60:.0f} minutes ({apart} apart)."
    )
    return [*pivot(rows, first, "`{algorithm}`", score), "", setting]


def by_env(results: dict[str, Result]) -> dict[str, list[Result]]:
    """Results by environment, in the order of the pictures."""
    envs: dict[str, list[Result]] = {}
    for row in in_order(results.values(), STYLES):
        envs.setdefault(row["env"], []).append(row)
    return envs


def region(results: dict[str, Result]) -> list[str]:
    def claim(row: Result) -> str:
        return f"`{row['algorithm']}`" + (f" (max_kl {row['max_kl']:g})" if "max_kl" in row else "")

    columns: dict[str, Form] = {
        "environment": "{env}",
        "algorithm": claim,
        "updates": "{updates:,}",
        "median": "{kl_median:.4f}",
        "95 %": "{kl_p95:.4f}",
        "largest": "{kl_max:.4f}",
        "largest ratio": "{max_ratio:.1f}",
    }
    return table([row for rows in by_env(results).values() for row in rows], columns)


def trpo(results: dict[str, Result]) -> list[str]:
    columns = {
        "environment": "{env}",
        "updates": "{updates:,}",
        "above the bound": "{violations}",
        "median KL / bound": "{region_used_median:.2f}",
        "accepted until solved": "{accepted_share_until_solved:.1%}",
        "rejected, of these moved": "{rejected}, {rejected_that_moved}",
    }
    return table(in_order(results.values(), ["trpo"]), columns)


def draw(results: dict[str, Result], path: Path) -> None:
    """Returns above, the KL of every update below; one column per environment."""
    envs = by_env(results)
    figure, grid = panels(len(envs), 2, (3.1, 2.7), sharex="col")
    for (env, rows), of_env in zip(envs.items(), grid.T, strict=True):
        for axes, steps, middle, name in (
            (of_env[0], "eval_steps", "return_mean", "return"),
            (of_env[1], "kl_steps", "kl_median", "kl"),
        ):
            for row in rows:
                (color, line), c = STYLES[row["algorithm"]], row["curves"]
                x = [step / 1000 for step in c[steps]]
                axes.plot(x, c[middle], line, color=color, label=row["algorithm"])
                between = c[f"{name}_low"], c[f"{name}_high"]
                axes.fill_between(x, *between, color=color, alpha=0.15, linewidth=0)
        bound = rows[0]["max_kl"]
        of_env[1].axhline(bound, color="black", linewidth=1, linestyle=":", label="trpo's max_kl")
        of_env[1].set(yscale="log", xlabel="thousand environment steps")
        of_env[0].set_title(env, fontsize=10)
    grid[0][0].set_ylabel("return (mode),\nmean and 10-90 % of seeds")
    grid[1][0].set_ylabel("KL(old || new) of an update,\nmedian and 5-95 % of seeds, nats")
    grid[1][0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


def gymnasium_scores(result: Result) -> list[str]:
    """The scores of the presets' policies in gymnasium's own environments."""

    def score(where: str) -> Form:
        return lambda row: Estimate(*(row[where][k] for k in ("mean", "low", "high")))

    columns: dict[str, Form] = {
        "environment": "{env}",
        "algorithm": "`{algorithm}`",
        "gymnasium": score("gymnasium"),
        "each seed": lambda row: each(".1f", (of[0] for of in row["gymnasium"]["by_seed"])),
        "gymnax": score("gymnax"),
        "aimed at": lambda row: "" if row["target"] is None else f"{row['target']:g}",
    }
    first = result["rows"][0]
    seeds, v = first["seeds"], first["versions"]
    setting = (
        f"Seeds {seeds[0]} to {seeds[-1]}, {first['episodes']:,} episodes each, acting by the "
        f"mode; 95 % bootstrap intervals over seeds and episodes; gymnasium {v['gymnasium']}, "
        f"{on(v, first['env'])}. `python benchmarks/learning.py --parts gymnasium_scores`"
    )
    return [*table(result["rows"], columns), "", setting]


# --- adapters.py ----------------------------------------------------------------------------------

METHODS = {"ppo_clip": "`ppo_clip`", "trpo": "`trpo`", "brax_ppo": "brax's PPO"}


def adapters(result: Result) -> list[str]:
    """Mean score, and the worst and the best seed's."""

    def score(row: Result) -> str:
        return "{:.4g} ({:.4g} to {:.4g})".format(*(f(row["scores"]) for f in (np.mean, min, max)))

    rows = in_order(result["rows"], METHODS)
    random = {"environment (steps)": "`{env}` ({steps:,})", "random": "{random[mean]:.4g}"}
    packages = {name: v for row in rows for name, v in row["versions"]["packages"].items()}
    envs = dict.fromkeys(row["env"] for row in result["rows"])
    sampled = dict.fromkeys(f"`{row['env']}`" for row in rows if row["task"].get("sampled"))
    acting = "acting by the mode" + (f", on {', '.join(sampled)} by sampling" if sampled else "")
    setting = (
        f"{len(rows[0]['seeds'])} seeds, the worst's and the best's mean in brackets, "
        f"{rows[0]['episodes_per_seed']} episodes each, {acting}; "
        f"{on({**rows[0]['versions'], 'packages': packages}, *envs)}. "
        "`python benchmarks/adapters.py`"
    )
    of = pivot(rows, random, lambda row: METHODS[row["algorithm"]], score)
    return [*of, "", setting]


# --- record.py ------------------------------------------------------------------------------------


def recorded(result: Result, of: list[str]) -> list[str]:
    """A table of a recorded sweep, and one line on how it was made."""
    setting = (
        f"{len(result['seeds'])} seeds, scores of the last evaluation, acting by the mode, 95 % "
        f"bootstrap intervals; {result['steps']:,} environment steps; "
        f"{sum(row['broken'] for row in result['rows'])} runs broke; "
        f"{on(result['versions'], *result['random'])}. {command(result)}"
    )
    return [*of, "", setting]


def not_yet(spec: str) -> list[str]:
    """In place of the table of a sweep that no record is of."""
    return [f"*Not yet measured.* `python benchmarks/record.py benchmarks/specs/{spec}.toml`"]


def command(result: Result) -> str:
    return f"`python benchmarks/record.py benchmarks/specs/{result['spec']}`"


def score(row: Result) -> str:
    return str(mean_and_iqm(row["scores"])[0])


def with_median(row: Result) -> str:
    return f"{score(row)}, median {np.median(row['scores']):.1f}"


def with_random(result: Result) -> list[Result]:
    """The rows, each with the return of random actions."""
    return [row | {"random": result["random"][row["env"]]["mean"]} for row in result["rows"]]


def table1(result: Result) -> list[str]:
    """Scores scaled so that random actions are 0 and the best setting's mean is 1."""
    envs = list(result["random"])
    labels: dict[str, dict[str, list[float]]] = {}
    for row in result["rows"]:
        labels.setdefault(row["label"], {})[row["env"]] = row["scores"]
    scores = {label: np.array([of[env] for env in envs]).T for label, of in labels.items()}
    zero = np.array([result["random"][env]["mean"] for env in envs])
    one = np.max([of.mean(axis=0) for of in scores.values()], axis=0)
    scaled = {label: (of - zero) / (one - zero) for label, of in scores.items()}
    rows = []
    for label, of in scaled.items():
        (mean,) = estimates(of, overall_mean)
        rows.append((label, f"{mean:.2f}", scores[label].mean(axis=0)))
    rows += [("*random actions: 0*", "0", zero), ("*best setting: 1*", "1", one)]
    filled = ([label, mean, *(f"{x:.1f}" for x in of)] for label, mean, of in rows)
    *found, _, setting = recorded(result, lines(["surrogate", "scaled score", *envs], filled))
    return [*found, "", ranking(scaled), "", setting]


def ranking(scaled: dict[str, np.ndarray]) -> str:
    """Which settings are shown to be worse than the best one; scores are [seeds, tasks].

    The best is known only from the same scores. So the test is one of all pairs: the chance that it
    tells any two apart that are alike is 5 %.
    """
    best = max(scaled, key=lambda label: scaled[label].mean())
    seeds = len(scaled[best])
    worse = [
        label
        for (first, second), better, _ in sequential_test(scaled, group=seeds)
        for label in {first, second} - {best}
        if better == best
    ]
    return f"Shown to be worse than *{best}*, by a test of all pairs: {', '.join(worse) or 'none'}."


ppo_table1 = ppo_table1_brax = code_level = stagger = table1


def wide(results: dict[str, Result]) -> list[str]:
    """Scores of the presets for accelerators, beside random actions."""
    if "" not in results:
        return not_yet("wide")
    result = results[""]
    rows = in_order(with_random(result), result["random"], "env")
    first = {"environment (steps)": "{env} ({steps:,})", "random": "{random:.1f}"}
    return recorded(result, pivot(rows, first, "`{label}`", with_median))


def tuning_classic(results: dict[str, Result]) -> list[str]:
    return tuning(results, "tuning_classic")


def tuning_accelerator(results: dict[str, Result]) -> list[str]:
    return tuning(results, "tuning_accelerator", ACCELERATOR)


def tuning(results: dict[str, Result], spec: str, source: str | None = None) -> list[str]:
    """Mean scores by the value of one setting, the best in bold, and the preset's value."""
    if "" not in results:
        return not_yet(spec)
    result = results[""]
    found: dict[tuple[str, str, str], dict[float, float]] = {}
    for row in in_order(result["rows"], result["random"], "env"):
        name, _, value = row["label"].rpartition(" ")[2].partition("=")
        of = found.setdefault((row["env"], row["algorithm"], name), {})
        of[float(value)] = float(np.mean(row["scores"]))
    rows = []
    for (env, algorithm, name), means in found.items():
        best = max(means.values())
        tried = [f"{v:g}: {x:.1f}" if x < best else f"**{v:g}: {x:.1f}**" for v, x in means.items()]
        own = getattr(preset(algorithm, env, source).update, name)
        rows.append([env, f"`{algorithm}`", f"`{name}`", "; ".join(tried), f"{own:g}"])
    header = ["environment", "algorithm", "setting", "value: mean score", "the preset's"]
    return recorded(result, lines(header, rows))


PUBLISHED = {"Breakout": 28, "Asterix": 15, "SpaceInvaders": 131, "Freeway": 58}
"""The scores on MinAtar that gymnax publishes."""


def minatar(*results: Result) -> list[str]:
    """Mean training return at the end, and each seed's; a dash where nothing is recorded."""
    first: dict[str, Form] = {
        "game (steps)": "{game} ({steps:,})",
        "random": "{random:.1f}",
        "published": lambda row: PUBLISHED.get(row["game"], "-"),
    }
    rows = [
        row | {"game": row["env"].removesuffix("-MinAtar")}
        for result in results
        for row in with_random(result)
    ]
    training = lambda r: f"{np.mean(r['training']):.1f} ({each('.1f', r['training'])})"  # noqa: E731
    setting = (
        f"{len(results[0]['seeds'])} seeds; random: uniform actions; published: gymnax's scores at "
        f"10 million steps; {on(results[0]['versions'], *results[0]['random'])}. "
        + ", ".join(map(command, results))
    )
    return [*pivot(rows, first, "`{label}`", training, missing="-"), "", setting]


def trust_region(result: Result) -> list[str]:
    def claims(row: Result) -> str:
        return "{what} = {value:g}".format(**row["claim"]) if row["claim"]["value"] else "nothing"

    columns: dict[str, Form] = {
        "environment": "{env}",
        "setting": "{label}",
        "claims": claims,
        "median": "{median:.4f}",
        "95 %": "{p95:.4f}",
        "largest": "{largest:.4f}",
        "above the claim": lambda row: "" if row["above"] is None else f"{row['above']:.0%}",
        "largest ratio": "{max_ratio:,.1f}",
        "score": score,
    }
    return recorded(result, table(sorted(result["rows"], key=lambda row: row["env"]), columns))
