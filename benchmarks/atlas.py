"""Every update at one realised KL: its size is searched, then it is run on other seeds.

    nice -n 19 python benchmarks/atlas.py
    python benchmarks/atlas.py --dry-run                     # steps and hours
    python benchmarks/atlas.py benchmarks/specs/atlas_minatar.toml --folder runs/atlas_minatar

For every update and environment of the specification (SIZES says what its size is):

1. On two tuning seeds, five sizes far apart, for half of the budget. Where the median over all
   updates of KL(old || new) does not cross the target, five more beyond the nearer end.
2. Five sizes around the crossing, for the whole budget; again, if the crossing is not among them.
3. The size where the median crosses the target, by interpolation in both logarithms, on the report
   seeds. If the KL never reaches the target, the size that comes nearest.
4. The default size, on the report seeds.

All of these are one compiled program: the number of lanes is that of the report seeds. Each part
is kept in the folder as soon as it is done, so an interrupted run goes on where it was. Writes
NAME.json to benchmarks/results/, with all pairs that are finished.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import (
    RESULTS,
    SPECS,
    Result,
    in_order_of_envs,
    load_spec,
    plain,
    plains,
    rounded,
    start,
    versions,
    write,
)

SIZES: dict[str, dict[str, int]] = {
    "vanilla_pg": {"learning_rate": 1},
    "npg": {"target_kl": 2},
    "trpo": {"max_kl": 2},
    "ppo_clip": {"clip_eps": 1},
    "ppo_asymmetric": {"clip_eps": 1, "clip_high": 1},
    "ppo_ewma": {"clip_eps": 1},
    "ppo_penalty": {"target_kl": 2},
    "ppo_reverse_kl": {"target_kl": 2},
    "ppo_adaptive_lr": {"target_kl": 2},
    "ppo, dual": {"target_kl": 2},
    "spo": {"eps": 1},
    "tr_ppo": {"state_kl": 2},
    "tr_ppo, rollback": {"clip_eps": 1},
    "trgppo": {"clip_eps": 1, "state_kl": 2},
    "drift_ppo": {"drift_alpha": 1, "drift_beta": 1},
    "fr_ppo": {"tau": 1},
    "espo": {"max_change": 1},
    "fixpo": {"max_state_kl": 2},
    "mdpo": {"step_size": 1},
    "spma": {"step_size": 1},
    "trpl": {"projected_kl": 2, "projected_scale_kl": 2},
    "vmpo": {"target_kl": 2, "target_scale_kl": 2},
}
"""The settings that size s multiplies by a power of s: the KL grows about as s squared."""
TARGET_KL = 0.01
TUNING_SEEDS = (1000, 1001)
FAR = 2.0 ** np.array([-4, -2, 0, 2, 4])
NEAR = 2.0 ** np.array([-1, -0.5, 0, 0.5, 1])
MOST_ROUNDS = 3
REPEATS = 3.5
"""Budgets that a pair takes as a rule: half of one, one near the crossing, and both reports."""
REACHED = 1.25
"""A median within this factor of the target on the report seeds counts as reached."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Which atlas, and where."""

    spec: tyro.conf.Positional[Path] = SPECS / "atlas.toml"
    folder: Path | None = None  # Of what is done; default runs/NAME
    target_kl: float = TARGET_KL
    dry_run: bool = False
    """Measure how long an iteration takes on each environment, and record how long all would."""
    run: bool = True
    """--no-run records what is there."""
    out: Path = RESULTS


def main(options: Options) -> None:
    specification = load_spec(options.spec)
    settings = in_order_of_envs(specification.settings)
    folder = options.folder or Path("runs") / specification.name
    start(len(specification.seeds))
    if options.dry_run:
        rows: list[Result] = []
        for row in estimates(settings, specification.seeds):
            print("{env}: {updates} updates, {steps:,} steps, {hours:.2g} hours".format(**row))
            rows.append(row)
            of = {"spec": options.spec.name, "rows": rows, "cores": os.cpu_count()}
            write(options.out / f"{specification.name}_hours.json", of | {"versions": versions()})
        return
    target = {"target_kl": options.target_kl}
    pairs = [Pair(s, specification.seeds, folder, **target) for s in settings]
    run_and_record(pairs, options, specification, **target, reached=REACHED)


def run_and_record(pairs: Sequence[Pair], options: Any, specification: Any, **of: Any) -> None:
    """Runs what is missing, and writes the rows of all pairs that are finished."""
    for pair in pairs if options.run else ():
        pair.run()
    rows = [pair.row() for pair in pairs if pair.done.keys() >= set(pair.reports)]
    found = {"spec": options.spec.name, "seeds": list(specification.seeds), "rows": rows}
    found |= {"pairs": len(pairs), "tuning_seeds": list(TUNING_SEEDS), **of}
    found |= {"versions": pairs[0].versions()}
    write(options.out / f"{specification.name}.json", found)


def sized(update: Any, label: str, size: np.ndarray) -> Any:
    """The update with a size in each lane: [L] arrays."""
    changes = {
        name: np.float32(getattr(update, name) * np.float64(size) ** power)
        for name, power in SIZES[label].items()
    }
    return dataclasses.replace(update, **changes)


class Runner:
    """One compiled program for any sizes and seeds of an experiment."""

    def __init__(self, setting: Any, lanes: int):
        from kltrust.experiments.engine import lanes as engine
        from kltrust.experiments.engine.program import Program, traced_settings

        self.label, self.lanes = setting.label, lanes
        self.experiment = traced_settings(setting.experiment)
        mesh = engine.make_mesh(lanes, 1)
        if lanes % mesh.size:
            raise ValueError(f"{lanes} seeds do not fill {mesh.size} devices: take a multiple")
        self.program = Program(setting.experiment, mesh, 1, freeze=True)
        self.iterations = setting.experiment.num_iterations

    def run(self, sizes: Any, seeds: Any, iterations: int, *, evaluate: bool) -> Result:
        """Runs of these sizes and seeds, n each.

        Returns:
            ``kl`` [n, iterations], ``training``, the mean return of all episodes, ``iteration``,
            how far a run got, and ``scores``, of the last evaluation by the mode: [n] each.
        """
        parts = []
        for first in range(0, len(sizes), self.lanes):
            some = slice(first, first + self.lanes)
            # The last lanes repeat others where the runs do not fill them.
            given = (np.resize(np.asarray(x)[some], self.lanes) for x in (sizes, seeds))
            parts.append(self._lanes(*given, iterations, evaluate))
        return {k: np.concatenate([x[k] for x in parts])[: len(sizes)] for k in parts[0]}

    def _lanes(self, size: Any, seeds: Any, iterations: int, evaluate: bool) -> Result:
        from kltrust.experiments.engine.lanes import keys_of

        keys, eval_keys = keys_of(seeds)
        update = sized(self.experiment.update, self.label, size)
        settings = dataclasses.replace(self.experiment, update=update)
        state, parts, left = self.program.init(settings, keys), [], iterations
        while left > 0:
            length = min(left, self.program.chunk_length)
            state, metrics = self.program.chunk(settings, state, length)
            found = (metrics.kl, metrics.return_sum, metrics.num_episodes)
            parts.append([np.asarray(x)[:, :length] for x in found])
            left -= length
        kl, returns, episodes = (np.concatenate(x, axis=1) for x in zip(*parts, strict=True))
        total = episodes.sum(1)
        result = {"kl": np.where(np.isfinite(kl), kl, np.inf)}
        result["training"] = np.where(total > 0, returns.sum(1) / np.maximum(total, 1), np.nan)
        result["iteration"] = np.asarray(state.iteration)
        if evaluate:
            played = np.asarray(self.program.evaluate(settings, state, eval_keys))
            result["scores"] = played[:, 0].mean(-1)
        return result


def crossing(sizes: Any, kls: Any, target: float) -> float | None:
    """Where log KL, linear in log size between neighbours, crosses the target; nearest to 1."""
    order = np.argsort(sizes)
    x = np.log(np.asarray(sizes, float)[order])
    y = np.log(np.clip(np.asarray(kls, float)[order], 1e-30, 1e30) / target)
    ends = [(i, i + 1) for i in range(len(x) - 1) if y[i] <= 0 < y[i + 1] or y[i] == 0]
    found = [x[i] - y[i] * (x[j] - x[i]) / (y[j] - y[i]) for i, j in ends]
    return float(np.exp(min(found, key=abs))) if found else None


class Pair:
    """An update on an environment: what is done is a file in the folder."""

    reports: tuple[str, ...] = ("matched", "default")

    def __init__(self, setting: Any, seeds: Any, folder: Path, **sought: Any):
        """Continues what the folder holds; ``sought`` is what else a search depends on."""
        name = re.sub(r"\W+", "_", f"{setting.experiment.env}-{setting.label}")
        self.setting, self.seeds, self.target = setting, seeds, sought.get("target_kl")
        self.path = folder / f"{name}.json"
        self.done: Result = {}
        of = {"experiment": setting.experiment.to_dict(), "seeds": list(seeds)}
        self.of = {**of, **sought, "sizes": SIZES[setting.label]}
        if self.path.exists():
            self.done = json.loads(self.path.read_text("utf-8"))
            if self.done["of"] != self.of:
                raise ValueError(f"{self.path} is of other settings: take another folder")

    def versions(self) -> Result:
        return self.done.get("versions", {}) or versions()

    def keep(self, **found: Any) -> None:
        self.done |= {"of": self.of, "versions": versions(), **found}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.done), "utf-8")
        partial.replace(self.path)

    def run(self) -> None:
        """Whatever is missing of the search and of the reports."""
        if self.done.keys() >= set(self.reports):
            return
        begin = time.perf_counter()
        runner = Runner(self.setting, self.lanes())
        whole = runner.iterations
        if "chosen" not in self.done:
            self.search(runner, whole)
        for name in self.reports:
            if name not in self.done:
                size = 1.0 if name == "default" else self.done["chosen"]["size"]
                sizes = [size] * len(self.seeds)
                found = runner.run(sizes, self.seeds, whole, evaluate=True)
                self.keep(**{name: report(found, whole)})
        seconds = self.done.get("seconds", 0) + time.perf_counter() - begin
        self.keep(seconds=round(seconds, 1))
        row = self.row()
        print(
            f"{row['env']} {row['label']}: size {row['size']:.3g}, median KL "
            f"{row[self.reports[0]]['kl_median']}, {seconds:.0f} s",
            flush=True,
        )

    def lanes(self) -> int:
        """The runs of one compiled program."""
        return len(self.seeds)

    def search(self, runner: Runner, whole: int) -> None:
        """The size whose median KL is the target, on the tuning seeds."""
        ladders = self.done.get("ladders", [])

        def climb(sizes: Any, iterations: int) -> None:
            of_runs = np.repeat(np.asarray(sizes, float), len(TUNING_SEEDS))
            seeds = TUNING_SEEDS * len(sizes)
            found = runner.run(of_runs, seeds, iterations, evaluate=False)
            kl = found["kl"].reshape(len(sizes), -1)
            medians = plains(np.median(kl, axis=1))
            ladders.append({"sizes": plains(sizes), "kl": medians, "iterations": iterations})
            self.keep(ladders=ladders)

        half = max(1, whole // 2)
        if not ladders:
            climb(FAR, half)
        if self.among(half) is None and len(ladders) < 2:
            next_to_it = FAR[-1] / FAR[0] * 4
            climb(FAR * next_to_it if self.nearest(half) >= 1 else FAR / next_to_it, half)
        rounds = MOST_ROUNDS if self.among(half) else 1
        centre = self.among(half) or self.nearest(half)
        while self.among(whole) is None and sum(x["iterations"] == whole for x in ladders) < rounds:
            climb(centre * NEAR, whole)
            centre = self.nearest(whole)
        size = self.among(whole) or self.nearest(whole)
        self.keep(chosen={"size": plain(size), "crossed": self.among(whole) is not None})

    def points(self, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """Sizes and their median KL, of all ladders of so many iterations."""
        ladders = [x for x in self.done.get("ladders", []) if x["iterations"] == iterations]
        sizes = [s for x in ladders for s in x["sizes"]]
        # None is an infinite KL.
        kls = [np.inf if kl is None else kl for x in ladders for kl in x["kl"]]
        return np.array(sizes), np.array(kls)

    def among(self, iterations: int) -> float | None:
        sizes, kls = self.points(iterations)
        return crossing(sizes, kls, self.target) if len(sizes) else None

    def nearest(self, iterations: int) -> float:
        sizes, kls = self.points(iterations)
        miss = np.abs(np.log(np.clip(kls, 1e-30, 1e30) / self.target))
        return float(sizes[np.argmin(miss)])

    def row(self) -> Result:
        """What the tables need."""
        update, size = self.setting.experiment.update, self.done["chosen"]["size"]
        names = SIZES[self.setting.label]
        values = {n: plain(getattr(update, n) * size**p, 3) for n, p in names.items()}
        of = {"env": self.setting.experiment.env, "label": self.setting.label, "size": size}
        of |= {"algorithm": self.setting.experiment.algorithm, "values": values}
        of |= {"steps": self.setting.experiment.num_iterations * self.setting.experiment.batch_size}
        kept = (*self.reports, "ladders")
        return of | {k: self.done[k] for k in kept} | {"seconds": self.done.get("seconds")}


def report(found: Result, iterations: int) -> Result:
    """Numbers of a run on the report seeds."""
    kl = found["kl"]
    return {
        "kl_median": plain(np.median(kl)),
        "kl_p95": plain(np.quantile(kl, 0.95)),
        "kl_max": plain(np.max(kl)),
        "broken": int(np.sum(found["iteration"] < iterations)),
        "scores": rounded(found["scores"]),
        "training": plains(found["training"]),
    }


def estimates(settings: list[Any], seeds: Any) -> Iterator[Result]:
    """Times a few iterations of the first update on each environment, and multiplies.

    CPU seconds of all threads over the number of cores, so that neighbours do not count.
    """
    cores = os.cpu_count() or 1

    def seconds(runner: Runner, iterations: int) -> float:
        begin = time.process_time()
        runner.run([1.0] * len(seeds), seeds, iterations, evaluate=False)
        return (time.process_time() - begin) / cores

    for env in dict.fromkeys(s.experiment.env for s in settings):
        mine = [s for s in settings if s.experiment.env == env]
        runner = Runner(mine[0], len(seeds))
        compiling = seconds(runner, 1)
        each = seconds(runner, 2) / 2
        iterations = REPEATS * runner.iterations
        hours = len(mine) * (compiling + iterations * each) / 3600
        steps = int(iterations * mine[0].experiment.batch_size * len(seeds) * len(mine))
        yield {"env": env, "updates": len(mine), "steps": steps, "hours": plain(hours)}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
