"""Sentences of the docs that say what was measured: each is made from the record it is about."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import numpy as np

from recorded import Result, in_order
from recorded.scores import METHODS, PUBLISHED

WIDTH = 118
"""The columns of a page."""


def paragraph(*sentences: str) -> list[str]:
    """The lines of a paragraph; an empty sentence is left out."""
    text = " ".join(sentence for sentence in sentences if sentence)
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def listed(names: Iterable[object]) -> str:
    """As in ``a, b and c``; "none" without any."""
    *most, last = [str(name) for name in names] or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def between(values: Iterable[float], form: str = ".2f") -> str:
    """As in ``0.91 to 1.20``, or one number if both ends look alike."""
    found = list(values)
    low, high = (format(x, form) for x in (min(found), max(found)))
    return low if low == high else f"{low} to {high}"


# --- returns --------------------------------------------------------------------------------------


def left_behind(learning: dict[str, Result], random: Result) -> list[str]:
    """Seeds that end closer to random actions than to their algorithm's median."""
    zero = {row["env"]: row["mean"] for row in random["rows"]}
    behind = []
    for row in learning.values():
        half = (zero[row["env"]] + np.median(row["scores"])) / 2
        if count := sum(score < half for score in row["scores"]):
            behind.append(f"{count} of `{row['algorithm']}` on {row['env']}")
    if not behind:
        return paragraph(
            "Every seed ends closer to the median of its algorithm than to random actions."
        )
    return paragraph(
        "Some seeds end closer to random actions than to the median of their algorithm: "
        f"{listed(behind)}."
    )


def regions(result: Result) -> list[str]:
    """How far TRPO, the clip and the adaptive penalty stay within what they claim."""
    of: dict[str, list[Result]] = {}
    for row in result["rows"]:
        of.setdefault(row["label"].rpartition(" ")[0], []).append(row)
    trpo, clip, adaptive = (of[x] for x in ("trpo", "ppo_clip", "ppo_penalty adaptive"))
    left = sum(round(row["above"] * row["updates"]) for row in trpo)
    furthest = max(clip, key=lambda row: row["largest"] / row["claim"]["value"])
    beyond = max(row["largest"] / row["claim"]["value"] for row in adaptive)
    pendulum = {row["label"]: np.mean(row["scores"]) for row in trpo if row["env"] == "Pendulum-v1"}
    means = ", ".join(f"{label} {mean:.1f}" for label, mean in pendulum.items())
    return paragraph(
        f"TRPO left its bound in {left or 'none'} of {sum(row['updates'] for row in trpo):,} "
        "updates.",
        "The median KL of clipping is "
        f"{between((row['median'] / row['claim']['value'] for row in clip), '.2f')} times what "
        f"its `clip_eps` suggests; the largest, on {furthest['env']}, is "
        f"{furthest['largest'] / furthest['claim']['value']:.0f} times that.",
        "The adaptive penalty has its median at "
        f"{between((row['median'] / row['claim']['value'] for row in adaptive), '.2f')} times its "
        f"target, exceeds it in {between((row['above'] for row in adaptive), '.0%')} of the "
        f"updates, and by a factor of up to {beyond:.0f}.",
        f"TRPO's mean scores on Pendulum-v1 by the size of the region: {means}." if means else "",
    )


# --- environments ---------------------------------------------------------------------------------


def minatar_passed(*results: Result) -> list[str]:
    """Which algorithms pass the published scores, by steps, and where the seeds differ most."""
    rows = [
        row | {"game": row["env"].removesuffix("-MinAtar")}
        for result in results
        for row in result["rows"]
    ]
    said: dict[int, list[str]] = {}
    for steps, algorithm in dict.fromkeys((row["steps"], row["algorithm"]) for row in rows):
        of = [
            (row["game"], [score > PUBLISHED[row["game"]] for score in row["training"]])
            for row in rows
            if (row["steps"], row["algorithm"]) == (steps, algorithm) and row["game"] in PUBLISHED
        ]
        every = [game for game, passed in of if all(passed)]
        some = [
            f"with {sum(passed) or 'none'} of {len(passed)} seeds on {game}"
            for game, passed in of
            if not all(passed)
        ]
        found = listed([*([f"with every seed on {listed(every)}"] if every else []), *some])
        said.setdefault(steps, []).append(f"`{algorithm}` passes them {found}")
    widest = max(rows, key=lambda row: max(row["training"]) / max(1e-9, min(row["training"])))
    return paragraph(
        *(f"After {steps:,} steps {'; '.join(found)}." for steps, found in said.items()),
        f"The seeds differ most on {widest['game']}: "
        f"`{widest['algorithm']}` reaches {between(widest['training'], '.1f')} after "
        f"{widest['steps']:,} steps.",
    )


def remembered(result: Result) -> list[str]:
    """What a memory adds to the mean score, by task."""
    gains = {}
    for env, of in result.items():
        means = {(row["algorithm"], row["cell"]): np.mean(row["scores"]) for row in of["rows"]}
        algorithms = dict.fromkeys(row["algorithm"] for row in of["rows"])
        gains[env] = [float(means[a, "gru"] - means[a, "none"]) for a in algorithms]
    each = [f"{between(gain, '+.2f')} on {env}" for env, gain in gains.items()]
    return paragraph(f"The memory changes the mean score by {listed(each)}.")


def others(result: Result) -> list[str]:
    """The best on brax's tasks, whether ranges overlap, and seeds no better than random actions."""
    rows = in_order(result["rows"], METHODS)
    said = []
    for env in dict.fromkeys(row["env"] for row in rows if row["algorithm"] == "brax_ppo"):
        of = {row["algorithm"]: row["scores"] for row in rows if row["env"] == env}
        best, *rest = sorted(of, key=lambda name: -np.mean(of[name]))
        lapping = [name for name in rest if max(of[name]) >= min(of[best])]
        apart = ""
        if lapping:
            apart = f" (its seeds' range overlaps that of {listed(map(METHODS.get, lapping))})"
        said.append(f"{METHODS[best]} on `{env}`{apart}")
    low = [
        f"{METHODS[row['algorithm']]} on `{row['env']}` ({count} of {len(row['scores'])})"
        for row in rows
        if (count := sum(score <= row["random"]["mean"] for score in row["scores"]))
    ]
    return paragraph(
        f"On brax's tasks the highest mean is that of {listed(said)}." if said else "",
        f"Seeds that end no better than random actions: {listed(low)}.",
    )


# --- faults ---------------------------------------------------------------------------------------


def lost(result: Result) -> list[str]:
    """Whether a kill left anything behind."""
    faults = [f"{len(of['faults'])} of {job}" for job, of in result["jobs"].items() if of["faults"]]
    if not faults:
        return paragraph("No run lost anything: each ended as if it had been undisturbed.")
    return paragraph(f"Runs that ended with a fault: {listed(faults)}.")


# --- laboratory -----------------------------------------------------------------------------------


def clip_leaves(result: Result) -> list[str]:
    """The updates of PPO-clip whose total variation exceeds eps / 2."""
    rows = result["rows"]
    low, high = (f([row["clip_eps"] for row in rows]) for f in (min, max))

    def beyond(eps: float) -> str:
        return between((row["left_by_some_state"] for row in rows if row["clip_eps"] == eps), ".0%")

    return paragraph(
        "The mean over states exceeds it in at most "
        f"{max(row['left_by_the_mean'] for row in rows):.0%} of the updates.",
        f"The state with the largest change exceeds it in {beyond(low)} of the updates with an "
        f"eps of {low:g}, and in {beyond(high)} with {high:g}.",
    )


def refused(result: Result) -> list[str]:
    """How often TRPO's full step is refused, by damping."""
    said = []
    for damping in sorted({row["damping"] for row in result["rows"]}, reverse=True):
        needed = [row["needed"] for row in result["rows"] if row["damping"] == damping]
        said.append(f"{between(needed, '.0%')} with a damping of {damping:g}")
    return paragraph(f"Of the full steps, depending on task and batch, it refuses {listed(said)}.")


def predicted(result: Result) -> list[str]:
    """The medians of the realised KL over the predicted, by algorithm and environment."""

    def medians(name: str, *rows: Result) -> str:
        thirds = [x for row in rows for x in row["realised over predicted"][name]["thirds"]]
        return between(median for median, *_ in thirds)

    found = [
        f"{medians('kl', row)} for `{row['algorithm']}` on {row['env']}" for row in result["rows"]
    ]
    return paragraph(
        "The realised KL over that which the undamped model predicts, in the medians of the thirds "
        f"of training: {listed(found)}.",
        f"Over the damped model's prediction: {medians('kl damped', *result['rows'])}.",
    )


def hurts(result: Result) -> list[str]:
    """The shares of updates that lower J: by start, samples and size."""
    exact, sampled = ([r for r in result["rows"] if (r["samples"] == "exact") == x] for x in (1, 0))
    fewest = min(row["samples"] for row in sampled)
    said = []
    for start in dict.fromkeys(row["start"] for row in sampled):
        of = [row for row in sampled if row["start"] == start and row["samples"] == fewest]
        trpo = sorted((r for r in of if r["algorithm"] == "trpo"), key=lambda row: row["max_kl"])
        sizes = [f"{row['hurt']:.0%} with a `max_kl` of {row['max_kl']:g}" for row in trpo]
        said.append(
            f"{start.capitalize()}, with {fewest} samples, "
            f"{between((row['hurt'] for row in of), '.0%')} of the updates hurt: "
            f"of `trpo`'s, {listed([sizes[0], sizes[-1]])}."
        )
    noiseless = max(row["hurt"] for row in exact)
    return paragraph(*said, f"With exact advantages {noiseless:.0%} of them hurt at most.")


KEPT = {
    "spo": ("ratio_change", "the mean of abs(r - 1) under `spo`"),
    "fixpo": ("kl_max", "the largest KL of a state under `fixpo`"),
    "trpl": ("projected_max", "the largest KL of the projected policy of `trpl`"),
}
"""What an update claims to bound: the column, and its name."""


def monotone(result: Result) -> list[str]:
    """Which exact updates lower J, and whether what is claimed is kept."""
    rows = result["rows"]
    own, shared = (
        [row for row in rows if row["table"] == name]
        for name in dict.fromkeys(row["table"] for row in rows)
    )
    most = sorted(shared, key=lambda row: -row["lowered"])[:4]
    often = [f"`{row['update']}` ({row['lowered']:.1%} of the updates)" for row in most]

    def names(of: Iterable[Result]) -> str:
        return listed(f"`{row['update']}`" for row in of)

    def over(name: str, column: str) -> float:
        return max(row[column] / row["bound"] for row in rows if row["update"] == name)

    kept = [f"{what} is at most {over(name, column):.2f}" for name, (column, what) in KEPT.items()]
    return paragraph(
        "Where each state has its own row of parameters, J falls under "
        f"{names(row for row in own if row['lowered'])}.",
        "Where states share rows, a step that is right for one state is wrong for another. There "
        f"it never falls under {names(row for row in shared if not row['lowered'])}, and most "
        f"often under {listed(often)}.",
        f"In units of what the methods claim, {listed(kept)}. The acting policy of `trpl`, of "
        f"which no bound is claimed, reaches {over('trpl', 'kl_max'):.1f}.",
    )


# --- searches -------------------------------------------------------------------------------------


def searched(result: Result) -> list[str]:
    """How well the first evaluation tells the last, and what every kind of search finds."""
    rows = result["rows"]
    said = []
    for kind in dict.fromkeys(row["search"] for row in rows):
        of = [row for row in rows if row["search"] == kind]
        same, tried = (sum(row[name] for row in of) for name in ("same", "of"))
        lacks = np.mean([np.mean(row["lacks"]) for row in of])
        said.append(
            f"{kind} found the same best in {same} of {tried} searches with "
            f"{between((row['steps'] for row in of), '.0%')} of the steps, and lacked {lacks:.0%} "
            "on average"
        )
    return paragraph(
        "The first evaluation and the last rank the settings with a correlation of "
        f"{between(row['told_by_first'] for row in rows)}.",
        f"Over all grids, {'; '.join(said)}.",
    )


def populations(result: Result) -> list[str]:
    """Whether a population's best is better than that of settings left alone."""
    said = []
    for row in result["rows"]:
        _, low, high = row["gain"]
        found = "better" if low > 0 else "worse" if high < 0 else "not shown to be better or worse"
        said.append(f"with {row['steps_of_a_run']:,} steps a run it is {found}")
    return paragraph(f"The best of a population beside the best left alone: {', and '.join(said)}.")


# --- speed ----------------------------------------------------------------------------------------


def aims(ppo: Result, solve: Result, phases: Result) -> list[str]:
    """Which aims of speed beside a peer are missed, and why."""
    against = {
        (case["env"], case["num_envs"], case["seeds"]): case["times as fast"]["kltrust"]
        for case in ppo["cases"]
    }
    images = phases["cases"]["Breakout-MinAtar, 64 x 128"]
    share = sum(np.median(images[x]) for x in ("gradients alone", "rollout"))
    share /= np.median(images["iteration"])
    aimed = [
        (
            "Breakout-MinAtar",
            against["Breakout-MinAtar", 64, 1]["purejaxrl"][0],
            1.3,
            f"gradients and rollout, nearly the same in all libraries, take {share:.0%} of our "
            "time",
        ),
        (
            "32 seeds at 4 x 128",
            against["CartPole-v1", 4, 32]["purejaxrl"][0],
            2,
            "purejaxrl's one `vmap` steps 128 environments at once, while ours go one run after "
            "another through small arrays",
        ),
        (
            "solving CartPole once",
            solve["times as fast"]["kltrust"]["sb3-contrib"][0],
            3,
            "ours is nearly all compilation, which a persistent cache would save",
        ),
    ]
    missed = [
        f"{what}, {ratio:.2f} times as fast where {aim:g} is the aim ({why})"
        for what, ratio, aim, why in aimed
        if ratio < aim
    ]
    return (
        paragraph("Missed are the aims for", "; ".join(missed) + ".")
        if missed
        else paragraph("No aim is missed.")
    )


def gradients(result: Result) -> list[str]:
    """The share of the gradients in an iteration."""
    shares = [
        np.median(of["gradients alone"]) / np.median(of["iteration"])
        for of in result["cases"].values()
    ]
    return paragraph(
        f"The gradients of the passes alone take {between(shares, '.0%')} of an iteration. They "
        "are the same products in every implementation."
    )


def kernels(equal: Result, memory: Result) -> list[str]:
    """Which aims of the compiled programs are missed."""
    of = {
        (row["target"], row["num_envs"]): row["chunk"]
        for row in equal["rows"]
        if row["of"] == "kltrust"
    }
    gru = next(row["chunk"]["kernels"] for row in memory["rows"] if row["cell"] == "gru")
    aimed = [
        ("kernels at 4,096 x 16 on an H100", of["h100", 4096]["kernels"], 900),
        ("million cycles at 64 x 128 on a v5e", of["v5e", 64]["cycles"] / 1e6, 5),
        ("million cycles at 4,096 x 16 on a v5e", of["v5e", 4096]["cycles"] / 1e6, 3.5),
        ("kernels for the `gru`", gru, 10_000),
    ]
    missed = [
        f"{found:,.4g} {what} (aim {aim:,g})" if found < 1000 else f"{found:,} {what} (aim {aim:,})"
        for what, found, aim in aimed
        if found > aim
    ]
    return paragraph(f"Aims that are missed: {listed(missed)}.")
