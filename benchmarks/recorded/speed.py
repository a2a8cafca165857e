"""Tables of timings: an iteration, its peers, sweeps, the audit, and how costs grow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from recorded import Form, Result, lines, on, spread, table

Parts = dict[str, Result]
Line = tuple[str, str, str]
"""What was timed, what it is compared with, and the ratio."""


def compared(of: Iterable[Line], setting: str) -> list[str]:
    return [*lines(["what", "against", ""], of), "", setting]


def speed_lines(parts: Parts) -> Iterator[Line]:
    """A line for each comparison of speed.py: median and quartiles of the ratios."""
    for case in parts["loop"]["cases"]:
        what = f"`ppo_clip`, {case['num_envs']} x {case['num_steps']}"
        yield what, "textbook loop", f"{spread(case['times as fast'])} times as fast"
    for case in parts["sweep"]["cases"]:
        what = f"`kltrust sweep`, {parts['sweep']['seeds']} seeds, {case['num_envs']} x 128"
        fast = f"{spread(case['times as fast'])} times as fast"
        yield what, "textbook loop, one `vmap`", fast
    ratio = spread(parts["default"]["trpo takes times"])
    yield "`trpo`, an iteration at its defaults", "`ppo_clip` at its own", f"{ratio} of its time"
    for case in parts["fisher"]["cases"]:
        ratio = case["takes times"][f"gauss-newton, {case['chunks by default']} chunks"]
        what = f"ten CG iterations by Gauss-Newton products, {case['rows']:,} rows"
        yield what, "the Hessian's, forward over reverse", f"{spread(ratio)} of the time"
    for case in parts["update"]["cases"]:
        for name, ratio in case["takes times"].items():
            share = "all the" if "1/1 " in name else "a tenth of the"
            what = f"`trpo`'s whole update, {share} states in F, {case['rows']:,} rows"
            yield what, "a surrogate gradient", f"{spread(ratio)} times as long"
    for name, ratio in parts["start"]["takes times the textbook's"].items():
        long = f"{spread(ratio)} times as long"
        yield f"compiling a training by `{name}`", "textbook loop's", long


def speed(parts: Parts) -> list[str]:
    """The ratios, the other numbers, and how all of them were measured."""
    evaluating = parts["evaluation"]["algorithms"].items()
    shares = ", ".join(f"{of['share']:.1%} (`{name}`)" for name, of in evaluating)
    start, learning = parts["start"], parts["learning"]

    def seconds(of: dict[str, list[float]]) -> str:
        return ", ".join(f"`{name}` {np.median(ms) / 1e3:.2f} s" for name, ms in of.items())

    low, high = learning["difference, 95 %"]
    means = {name: np.mean(of) for name, of in learning["scores"].items()}
    if low > 0 or high < 0:
        verdict = f"The {'textbook' if high < 0 else 'kltrust'} loop learns more here"
    else:
        verdict = "A difference in what both loops learn is not shown"
    setting = (
        f"Median and quartiles of {parts['loop']['rounds']} rounds in turns, compiled; kltrust "
        f"measures the trust region all the while. {verdict}: mean training return at "
        f"the end, {len(learning['scores']['kltrust'])} seeds of {learning['steps']:,} steps, "
        f"{means['kltrust']:.1f} and {means['textbook']:.1f} (difference {low:.1f} to {high:.1f}, "
        f"95 %). Evaluating during training takes {shares} of the training's time. From a warm "
        f"compilation cache a training starts in: {seconds(start['warm cache milliseconds'])}. "
        f"Commands: {seconds(start['commands milliseconds'])}. {on(parts['loop']['versions'])}. "
        "`python benchmarks/speed.py`"
    )
    return compared(speed_lines(parts), setting)


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


def fast(speeds: Parts, others: Parts) -> list[str]:
    """The lines of `speed` and `peers` that the README shows, whether they flatter or not."""
    found = {" | ".join(line[:2]): line for line in (*speed_lines(speeds), *peer_lines(others))}
    setting = (
        f"Median and quartiles; {on(speeds['loop']['versions'])}. `python benchmarks/speed.py`, "
        "`python benchmarks/peers.py`"
    )
    return compared([found[name] for name in FAST], setting)


def phases(result: Result) -> list[str]:
    """Medians of every phase in per cent of the iteration."""
    cases = result["cases"]

    def column(of: dict[str, list[float]]) -> Form:
        whole = np.median(of["iteration"])
        shares = {name: f"{np.median(ms) / whole:.0%}" for name, ms in of.items()}
        shares["iteration"] = f"{whole:.3g} ms"
        return lambda row: shares.get(row["name"], "")

    names = [{"name": name} for name in next(iter(cases.values()))]
    columns: dict[str, Form] = {"": "{name}", **{case: column(of) for case, of in cases.items()}}
    setting = (
        f"Medians of {result['rounds']} rounds in turns; {on(result['versions'])}. "
        "`python benchmarks/speed.py --parts phases`"
    )
    return [*table(names, columns), "", setting]


def peer_lines(parts: Parts) -> Iterator[Line]:
    """A line for each comparison of peers.py in the recorded parts."""
    jobs: list[tuple[str, Result, str]] = []
    for case in parts.get("ppo", {}).get("cases", ()):
        job = f"PPO-clip, {case['env']}, {case['num_envs']} x {case['num_steps']}"
        many = case["seeds"] > 1
        job += f", {case['seeds']} seeds" if many else ""
        jobs.append((job, case, ", one `vmap`" if many else ""))
    for case in parts.get("trpo", {}).get("cases", ()):
        jobs.append((f"TRPO, {case['num_envs']} x {parts['trpo']['num_steps']}", case, ""))
    if "solve" in parts:
        jobs.append(("CartPole-v1 solved, with compilation", parts["solve"], ""))
    for job, found, of in jobs:
        for ours, ratios in found["times as fast"].items():
            name = ours.replace("kltrust", "`kltrust`")
            for peer, ratio in ratios.items():
                # A run alone is compared with a run alone.
                if "seeds" in ours or not peer.endswith("per core"):
                    yield f"{job}: {name}", peer + of, f"{spread(ratio)} times as fast"


def peers(parts: Parts) -> list[str]:
    """The ratios, the installed versions, the seconds to solve by the clock, and the machine."""
    shown = ("rejax", "gymnax", "sb3-contrib", "torch")
    installed = {peer: of for part in parts.values() for peer, of in part["peers"].items()}
    named = (
        f"{peer}: " + ", ".join(f"{name} {v}" for name, v in of.items() if name in shown)
        for peer, of in installed.items()
    )
    setting = (
        "Processes in turns, median and quartiles of the rounds; kltrust measures the trust region "
        f"all the while; {on(next(iter(parts.values()))['versions'])}. The peers' environments, "
        f"{'; '.join(named)}. "
    )
    if "solve" in parts:
        clocks = ", ".join(
            f"{name} {np.median([max(r['seconds']) for r in runs]):.1f} s "
            f"({sum(sum(r['solved']) for r in runs)} of {sum(len(r['solved']) for r in runs)})"
            for name, runs in parts["solve"]["runs"].items()
        )
        setting += (
            f"Until 100 episodes by the mode have a mean of {parts['solve']['target']:g}, from a "
            f"process that has imported all it needs, median (runs solved): {clocks}. "
        )
    return compared(peer_lines(parts), f"{setting}`python benchmarks/peers.py`")


GROWN = {
    "envs": "environments of a lone run",
    "seeds": "seeds of a sweep",
    "hidden": "units of a layer",
    "chunk": "iterations of a chunk",
    "fisher_chunks": "parts of a Fisher product (0: its own choice)",
    "devices": "host devices, for 16 runs",
}


def scaling(parts: Parts) -> list[str]:
    """Microseconds per environment step, and memory against its estimate."""
    rows = []
    for part in (part for part in GROWN if part in parts):
        for algorithm, sizes in parts[part]["algorithms"].items():
            costs = {row["size"]: np.median(row["microseconds per step"]) for row in sizes}
            shown = (f"{n:,}: {c:{',.0f' if c >= 100 else '.3g'}}" for n, c in costs.items())
            memory = [row["bytes"] / row["estimated bytes"] for row in sizes]
            of = f"{min(memory):.2f} to {max(memory):.2f}"
            rows.append((GROWN[part], f"`{algorithm}`", ", ".join(shown), of))
    result = next(iter(parts.values()))
    setting = (
        f"{result['env']}, medians of {result['rounds']} rounds in turns, compiled; memory is that "
        f"of one device, as the compiler counts it; {on(result['versions'])}. "
        "`python benchmarks/scaling.py`"
    )
    header = ["what grows", "algorithm", "size: microseconds per environment step"]
    return [*lines([*header, "memory / estimate"], rows), "", setting]


def sweep_speed(result: Result) -> list[str]:
    columns: dict[str, Form] = {
        "algorithm": "`{algorithm}`",
        "steps of an iteration": f"{{num_envs}} x {result['num_steps']}",
        "one vmap": lambda case: spread(case["times as fast"]["one vmap"]),
        "`kltrust sweep`": lambda case: spread(case["times as fast"]["sweep"]),
    }
    return table(result["cases"], columns)


def host_work(work: Result) -> list[str]:
    """One line on a sweep's work on the host besides computing."""
    cpu, cores = sum(work["host_cpu_seconds"].values()), work["versions"]["cpu_count"]
    wall, clock = work["wall_seconds"], sum(work["host_seconds"].values())
    return [
        f"In a sweep of {wall:.0f} s, writing, copying states and showing progress take "
        f"{cpu:.1f} CPU seconds, {cpu / cores / wall:.1%} of what {cores} cores have; by the clock "
        f"they take {clock / wall:.1%} of it, while the devices compute. "
        "`python benchmarks/sweeps.py`"
    ]


def audit_cost(result: Result) -> list[str]:
    """One line on the time that every level of the audit adds to an iteration."""
    costs = []
    for algorithm, case in result["cases"].items():
        added = {level: [x - 1 for x in ratio] for level, ratio in case["times"].items()}
        levels = ", ".join(f"{level} {spread(ratio, '.1%')}" for level, ratio in added.items())
        costs.append(f"`{algorithm}` {levels}")
    return [
        f"What measuring adds to an iteration of {result['num_envs']} x {result['num_steps']} "
        f"steps of {result['env']} that measures nothing, median and quartiles of "
        f"{result['rounds']} rounds in turns: {'; '.join(costs)}; {on(result['versions'])}. "
        "`python benchmarks/speed.py --parts audit_cost`"
    ]
