"""Every update with the size that scores best, each chosen with the same effort, on 30 seeds.

    nice -n 19 python benchmarks/tuned.py

For every update and environment of the specification, one compiled program runs

1. on two tuning seeds, five sizes, for half of the budget. They are the size at which the atlas
   found the target KL (benchmarks/atlas.py), and a half, a quarter, twice and four times that.
   On an environment that the atlas lacks, it is the median of the sizes on the others.
2. the size with the best mean score of the last evaluation, on the report seeds. Of equal ones, the
   one with the better mean return of all episodes.

Each part is kept in the folder as soon as it is done, so an interrupted run goes on where it was.
Writes tuned.json to benchmarks/results/, with all pairs that are finished.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from atlas import TUNING_SEEDS, Pair, Runner, run_and_record
from common import RESULTS, SPECS, Result, in_order_of_envs, load_spec, plain, plains, start

FACTORS = 2.0 ** np.arange(-2, 3)


@dataclasses.dataclass(frozen=True)
class Options:
    """Which updates, and where."""

    spec: tyro.conf.Positional[Path] = SPECS / "tuned.toml"
    folder: Path | None = None  # Of what is done; default runs/NAME
    atlas: Path = RESULTS / "atlas.json"  # It has the sizes to start from
    run: bool = True
    """--no-run records what is there."""
    out: Path = RESULTS


def main(options: Options) -> None:
    specification = load_spec(options.spec)
    folder = options.folder or Path("runs") / specification.name
    known = json.loads(options.atlas.read_text("utf-8"))["rows"]
    pairs = [
        Tuned(s, specification.seeds, folder, centre(known, s.label, s.experiment.env))
        for s in in_order_of_envs(specification.settings)
    ]
    start(pairs[0].lanes())
    run_and_record(pairs, options, specification)


def centre(known: list[Result], label: str, env: str) -> float:
    """The atlas's size, on the environment or, where it has none, on the others."""
    sizes = {row["env"]: row["size"] for row in known if row["label"] == label}
    if not sizes:
        raise ValueError(f"the atlas has no size of {label}: run benchmarks/atlas.py first")
    return sizes.get(env, float(np.median(list(sizes.values()))))


class Tuned(Pair):
    """An update on an environment."""

    reports = ("tuned",)

    def __init__(self, setting: Any, seeds: Any, folder: Path, size: float):
        self.sizes = plains(size * FACTORS)
        super().__init__(setting, seeds, folder, tried=self.sizes)

    def lanes(self) -> int:
        """Those of the search. The report seeds take several rounds."""
        return len(FACTORS) * len(TUNING_SEEDS)

    def search(self, runner: Runner, whole: int) -> None:
        """The size with the best score on the tuning seeds."""
        seeds, half = TUNING_SEEDS * len(self.sizes), max(1, whole // 2)
        sizes = np.repeat(self.sizes, len(TUNING_SEEDS))
        found = runner.run(sizes, seeds, half, evaluate=True)
        by_size = {k: np.reshape(found[k], (len(self.sizes), -1)) for k in found}
        scores, training = (by_size[k].mean(axis=1) for k in ("scores", "training"))
        best = max(range(len(self.sizes)), key=lambda i: tuple(or_worst(scores[i], training[i])))
        ladder = {"sizes": self.sizes, "kl": plains(np.median(by_size["kl"], axis=1))}
        ladder |= {"scores": plains(scores), "training": plains(training), "iterations": half}
        self.keep(ladders=[ladder], chosen={"size": plain(self.sizes[best])})


def or_worst(*values: float) -> np.ndarray:
    """The values; what a run that broke did not measure is worst."""
    return np.nan_to_num(np.array(values, float), nan=-np.inf)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
