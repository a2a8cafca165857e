"""Of the benchmarks that time: an iteration, its peers, sweeps, the audit, and how costs grow."""

from __future__ import annotations

from typing import Any

import numpy as np

from readme_tables._common import COMPARED, compared


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


FAST = (
    "`ppo_clip`, 64 x 128 | textbook loop",
    "PPO-clip, CartPole-v1, 4 x 128: `kltrust` | purejaxrl",
    "PPO-clip, CartPole-v1, 64 x 128: `kltrust` | purejaxrl",
    "PPO-clip, CartPole-v1, 64 x 128, 32 seeds: `kltrust` | purejaxrl, one `vmap`",
    "PPO-clip, Breakout-MinAtar, 64 x 128: `kltrust` | purejaxrl",
    "TRPO, 1 x 2048: `kltrust` | sb3-contrib",
    "CartPole-v1 solved, with compilation: `kltrust` | sb3-contrib",
    "`trpo`, an iteration at its defaults | `ppo_clip` at its own",
    "ten CG iterations by Gauss-Newton products, 16,384 rows | the Hessian's, forward over reverse",
)


def fast(speeds: dict[str, dict[str, Any]], others: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of `speed` and `peers` that the README shows, whether they flatter or not."""
    rows = [*speed(speeds), *peers(others)]
    return [*COMPARED, *(one for name in FAST for one in rows if one.startswith(f"| {name} |"))]


def fast_setting(speeds: dict[str, dict[str, Any]]) -> str:
    """One line on how those were obtained."""
    v = speeds["loop"]["versions"]
    return (
        f"Median and quartiles; jax {v['packages']['jax']}, {v['cpu_count']} cores "
        f"({v['device_kind']}). `python benchmarks/speed.py`, `python benchmarks/peers.py`"
    )


def phases(result: dict[str, Any]) -> list[str]:
    """Medians of every phase in per cent of the iteration, from `phases.py`."""
    cases = result["cases"]
    lines = ["| | " + " | ".join(cases) + " |", "| --- |" + " --- |" * len(cases)]
    for name in next(iter(cases.values())):
        cells = []
        for found in cases.values():
            whole = np.median(found["iteration"])
            part = np.median(found[name]) if name in found else np.nan
            share = "" if np.isnan(part) else f"{part / whole:.0%}"
            cells.append(f"{whole:.3g} ms" if name == "iteration" else share)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def phases_setting(result: dict[str, Any]) -> str:
    """One line on how those were obtained."""
    v = result["versions"]
    return (
        f"Medians of {result['rounds']} rounds in turns; jax {v['packages']['jax']}, "
        f"{v['cpu_count']} cores ({v['device_kind']}). `python benchmarks/phases.py`"
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
