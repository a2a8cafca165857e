"""How the cost of an environment step grows: with environments, seeds, width, chunks, devices.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --parts envs hidden --rounds 7

    envs           of a lone run, 128 steps each
    seeds          of a sweep over all cores, 4 x 128 steps
    hidden         width of both layers of both networks of a lone run, 16 x 128 steps
    chunk          iterations between two looks of the host, 4 x 128 steps
    fisher_chunks  parts in which TRPO's Fisher products go through 64 x 128 states; 0 is the
                   library's choice
    devices        host devices for 16 runs of 16 x 128 steps

On CartPole-v1, at the algorithms' defaults but for the sizes. The sizes of a part are processes
that take turns, compiled. Writes scaling_PART.json and, of all parts that are there, scaling.png to
benchmarks/results/: of every size the microseconds per environment step of all runs together in
every round, what the compiled chunk takes of a device's memory, and what a sweep's dry run would
have said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from timing import Call, worker

RESULTS = Path(__file__).parent / "results"
PARTS = {
    "envs": (4, 16, 64, 256, 1024, 4096),
    "seeds": (1, 4, 16, 64, 256),
    "hidden": (64, 128, 256, 512, 1024),
    "chunk": (1, 4, 16, 64),
    "fisher_chunks": (0, 1, 2, 4, 8, 16),
    "devices": tuple(n for n in (1, 2, 4) if n <= (os.cpu_count() or 1)),
}
"""Sizes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    parts: tuple[str, ...] = ()
    """All, if none is named."""
    algorithms: tuple[str, ...] = ("ppo_clip", "trpo")
    rounds: int = 3
    steps_per_round: int = 50_000
    """Environment steps of all runs together, about: at least an iteration of each."""
    largest: int = 4096
    """Sizes above are left out."""
    out: Path = RESULTS


def main(options: Options) -> None:
    from kltrust.experiments.store.versions import snapshot

    if unknown := set(options.parts) - set(PARTS):
        raise SystemExit(f"no part {', '.join(unknown)}: take some of {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        of = ("trpo",) if part == "fisher_chunks" else options.algorithms
        result = {
            "part": part,
            "env": "CartPole-v1",
            "rounds": options.rounds,
            "algorithms": {algorithm: scaled(part, algorithm, options) for algorithm in of},
            "versions": snapshot(),
        }
        (options.out / f"scaling_{part}.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(recorded(options.out), options.out / "scaling.png")


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """What is there of all parts, by algorithm."""
    paths = {part: folder / f"scaling_{part}.json" for part in PARTS}
    return {
        part: json.loads(path.read_text())["algorithms"]
        for part, path in paths.items()
        if path.exists()
    }


def scaled(part: str, algorithm: str, options: Options) -> list[dict[str, Any]]:
    """All sizes of a part, in turns."""
    sizes = [size for size in PARTS[part] if size <= options.largest]
    jobs = [job(part, algorithm, size, options) for size in sizes]
    reports: list[list[dict[str, Any]]] = [[] for _ in jobs]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(worker(Call("workers.ours:scale", j))) for j in jobs]
        for _ in range(options.rounds):
            for process, told in zip(processes, reports, strict=True):
                process.send("go")
                told.append(process.receive())
    rows = []
    for size, settings, told in zip(sizes, jobs, reports, strict=True):
        learner = settings["experiment"]["learner"]
        steps = settings["runs"] * settings["iterations"]
        steps *= learner["num_envs"] * learner["num_steps"]
        each = [1e6 * t["seconds"] / steps for t in told]
        rows.append(
            {
                "size": size,
                "microseconds per step": [round(x, 4) for x in each],
                **{k: told[0][k] for k in ("bytes", "estimated bytes")},
                "compile seconds": round(told[0]["compile seconds"], 2),
            }
        )
        print(
            f"{part} {size}, {algorithm}: {np.median(each):.2f} us per step "
            f"({min(each):.2f} to {max(each):.2f}), {told[0]['bytes'] / 1e6:.1f} MB of a device, "
            f"{told[0]['estimated bytes'] / 1e6:.1f} estimated",
            flush=True,
        )
    return rows


def job(part: str, algorithm: str, size: int, options: Options) -> dict[str, Any]:
    """The keywords of `workers.ours.scale`."""
    num_envs = {"envs": size, "seeds": 4, "chunk": 4, "fisher_chunks": 64}.get(part, 16)
    runs = {"seeds": size, "devices": 16}.get(part, 1)
    experiment: dict[str, Any] = {
        "algorithm": algorithm,
        "env": "CartPole-v1",
        "learner": {"num_envs": num_envs, "num_steps": 128},
    }
    if part == "hidden":
        experiment["network"] = {"hidden": (size, size)}
    if part == "fisher_chunks":
        experiment["update"] = {"fisher_chunks": size}
    steps = options.steps_per_round
    if part == "hidden":  # each costs so much more
        steps = steps * 64**2 // size**2
    iterations = max(1, steps // (runs * num_envs * 128))
    cores = os.cpu_count() or 1
    return {
        "experiment": experiment,
        "runs": runs,
        "iterations": size if part == "chunk" else iterations,
        "num_devices": {"seeds": min(cores, size), "devices": size}.get(part, 1),
    }


def draw(parts: dict[str, Any], path: Path) -> None:
    """A panel for each part, cost above and memory below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from kltrust.experiments.reading.plots import BLUE, VERMILION

    styles = {"ppo_clip": (VERMILION, "--"), "trpo": (BLUE, "-")}
    labels = {"envs": "environments", "hidden": "units of a layer", "chunk": "iterations a chunk"}
    figure = Figure(figsize=(2.6 * len(parts), 5), layout="constrained", dpi=130)
    grid = figure.subplots(2, len(parts), sharex="col", squeeze=False)
    for column, (part, algorithms) in enumerate(parts.items()):
        top, bottom = grid[0][column], grid[1][column]
        sizes: list[int] = []
        for algorithm, rows in algorithms.items():
            color, line = styles.get(algorithm, ("black", ":"))
            rows = [row for row in rows if row["size"] > 0]  # 0 is a choice, no size
            sizes = [row["size"] for row in rows]
            rounds = np.array([row["microseconds per step"] for row in rows])
            low, middle, high = np.quantile(rounds, (0.25, 0.5, 0.75), axis=1)
            top.plot(sizes, middle, line, color=color, marker=".", label=algorithm)
            top.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
            taken, estimated = (
                [row[k] / 1e6 for row in rows] for k in ("bytes", "estimated bytes")
            )
            bottom.plot(sizes, taken, line, color=color, marker=".", label=f"{algorithm}, compiled")
            bottom.plot(sizes, estimated, ":", color=color, label=f"{algorithm}, estimated")
        for axes in (top, bottom):
            axes.set(xscale="log", yscale="log")
            axes.grid(alpha=0.3)
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
            axes.minorticks_off()
            low, high = axes.get_ylim()
            subs = (1, 1.5, 2, 3, 5, 7) if high < 50 * low else (1,)
            axes.yaxis.set_major_locator(LogLocator(subs=subs))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        bottom.set_xlabel(labels.get(part, part))
    grid[0][0].set_ylabel("microseconds per step,\nmedian and quartiles")
    grid[1][0].set_ylabel("megabytes of one device")
    for row in grid:
        row[0].legend(frameon=False, fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
