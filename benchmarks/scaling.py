"""How the cost of an environment step grows: with environments, seeds, width, chunks, devices.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --parts scaling_envs scaling_hidden --rounds 7

    scaling_envs           of a lone run, 128 steps each
    scaling_seeds          of a sweep over all cores, 4 x 128 steps
    scaling_hidden         width of both layers of both networks of a lone run, 16 x 128 steps
    scaling_chunk          iterations between two looks of the host, 4 x 128 steps
    scaling_fisher_chunks  parts in which TRPO's Fisher products go through 64 x 128 states; 0 is
                           the library's choice
    scaling_devices        host devices for 16 runs of 16 x 128 steps

On CartPole-v1, at the algorithms' defaults but for the sizes. The sizes of a part are processes
that take turns, compiled. Writes PART.json and, of all parts that are there, scaling.png to
benchmarks/results/: of every size the microseconds per environment step of all runs together in
every round, what the compiled chunk takes of a device's memory, and what a sweep's dry run would
have said.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from common import COLOURS, Parts, Result, experiment, options, panels, record_parts, rounded
from timing import Call, processes_in_turns

CORES = os.cpu_count() or 1
SIZES = {
    "envs": (4, 16, 64, 256, 1024, 4096),
    "seeds": (1, 4, 16, 64, 256),
    "hidden": (64, 128, 256, 512, 1024),
    "chunk": (1, 4, 16, 64),
    "fisher_chunks": (0, 1, 2, 4, 8, 16),
    "devices": tuple(n for n in (1, 2, 4) if n <= CORES),
}


@dataclasses.dataclass(frozen=True)
class Options(Parts):
    """What is timed."""

    algorithms: tuple[str, ...] = ("ppo_clip", "trpo")
    rounds: int = 3
    steps_per_round: int = 50_000
    """Environment steps of all runs together, about: at least an iteration of each."""
    largest: int = 4096  # Sizes above are left out


def main(options: Options) -> None:
    record_parts(PARTS, options)
    draw(recorded(options.out), options.out / "scaling.png")


def grown(part: str, options: Options, rounds: int) -> Result:
    of = ("trpo",) if part == "fisher_chunks" else options.algorithms
    algorithms = {algorithm: scaled(part, algorithm, options, rounds) for algorithm in of}
    return {"env": "CartPole-v1", "algorithms": algorithms}


PARTS = {f"scaling_{part}": (functools.partial(grown, part), 3) for part in SIZES}


def recorded(folder: Path) -> dict[str, Result]:
    """The recorded results of all parts, by algorithm."""
    paths = {part: folder / f"scaling_{part}.json" for part in SIZES}
    return {
        p: json.loads(x.read_text("utf-8"))["algorithms"] for p, x in paths.items() if x.exists()
    }


def scaled(part: str, algorithm: str, options: Options, rounds: int) -> list[Result]:
    """All sizes of a part, in turns."""
    sizes = {str(n): n for n in SIZES[part] if n <= options.largest}
    jobs = {name: job(part, algorithm, n, options) for name, n in sizes.items()}
    calls = {name: Call("workers.ours:scale", of) for name, of in jobs.items()}
    seconds, answers = processes_in_turns(calls, rounds)
    rows = []
    for name, size in sizes.items():
        learner, told = jobs[name]["experiment"]["learner"], answers[name][0]
        steps = jobs[name]["runs"] * jobs[name]["iterations"] * learner["num_envs"] * 128
        each = rounded(1e6 * s / steps for s in seconds[name])
        rows.append({"size": size, "microseconds per step": each, **told})
        taken, estimated = (f"{told[k] / 1e6:.1f} MB" for k in ("bytes", "estimated bytes"))
        cost = f"{np.median(each):.2f} us per step ({min(each):.2f} to {max(each):.2f})"
        print(f"{part} {size}, {algorithm}: {cost}, {taken} of a device, {estimated} estimated")
    return rows


def job(part: str, algorithm: str, size: int, options: Options) -> dict[str, Any]:
    """The keywords of `workers.ours.scale`."""
    num_envs = {"envs": size, "seeds": 4, "chunk": 4, "fisher_chunks": 64}.get(part, 16)
    runs = {"seeds": size, "devices": 16}.get(part, 1)
    network = {"hidden": (size, size)} if part == "hidden" else None
    update = {"fisher_chunks": size} if part == "fisher_chunks" else None
    sections = {"network": network, "update": update, "num_envs": num_envs, "num_steps": 128}
    steps = options.steps_per_round
    if part == "hidden":  # each costs so much more
        steps = steps * 64**2 // size**2
    iterations = size if part == "chunk" else max(1, steps // (runs * num_envs * 128))
    devices = {"seeds": min(CORES, size), "devices": size}.get(part, 1)
    of = {"experiment": experiment(algorithm, "CartPole-v1", **sections), "runs": runs}
    return {**of, "iterations": iterations, "num_devices": devices}


def draw(parts: dict[str, Result], path: Path) -> None:
    """A panel for each part, cost above and memory below."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    styles = {"ppo_clip": (COLOURS[1], "--"), "trpo": (COLOURS[0], "-")}
    labels = {"envs": "environments", "hidden": "units of a layer", "chunk": "iterations a chunk"}
    figure, grid = panels(len(parts), 2, (2.6, 2.5), sharex="col")
    for (part, algorithms), (top, bottom) in zip(parts.items(), grid.T, strict=True):
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
    main(options(Options, __doc__))
