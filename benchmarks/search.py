"""Does a search find what a whole grid finds, and does a population beat settings left alone?

    python benchmarks/search.py                      both parts, some forty minutes of CPU
    python benchmarks/search.py --parts search_population

Part "grids": three grids run whole, for two budgets, with the seeds of ten repetitions. Then
halving and a race decide on each repetition's scores as if they had trained only what they chose.
That is exact: a lane of a search has the bits of the same run in a sweep, as
tests/test_searching.py shows. The best setting is chosen as everywhere in kltrust: by the mean over
seeds at the last evaluation; of equal ones, by the mean over all evaluations.

Part "population": for both budgets, ten populations run, each with a seed of its own, and their
first settings run without exchanges. Compared is the last score of the best member.

Writes search_grids.json and search_population.json to benchmarks/results/.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, SPECS, Result, options, plain, plains, record_parts

GRIDS = ("search_cartpole", "search_trpo", "search_pendulum")
LENGTHS = (1, 4)
"""The budgets, in multiples of the specification's: in the shorter one, little is learned."""
CLOSE = 0.05
"""A setting is as good as the best if it lacks at most this share of the grid's range of scores."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    parts: tuple[str, ...] = ()  # All, if none is named
    rounds: int = 0  # Repetitions, 0 for the usual number
    folder: Path | None = None  # Of the sweeps, to go on with; default a temporary one
    out: Path = RESULTS


def grids(given: Options, rounds: int) -> Result:
    """Each grid, and what each kind of search finds of it."""
    import kltrust
    from kltrust.experiments.search.halving import Halving
    from kltrust.experiments.search.racing import Racing

    rules = {
        "halving": (Halving(), 1.0),
        "halving, a quarter at once": (Halving(), 0.25),
        "halving, later and gentler (`first = 3`, `eta = 2`)": (Halving(first=3, eta=2), 1.0),
        "racing, a quarter at once": (Racing(level=0.2, first=2, every=3), 0.25),
    }
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, length in itertools.product(GRIDS, LENGTHS):
            document = tomllib.loads((SPECS / f"{name}.toml").read_text("utf-8"))
            each = document["sweep"]["seeds"] // 10
            document["sweep"]["seeds"] = each * rounds
            document["budget"]["total_steps"] *= length
            loaded = kltrust.sweep(document, (given.folder or Path(scratch)) / f"{name}{length}")
            table, labels = scores(loaded)
            parts = np.split(table, rounds, axis=2)
            of = {"grid": name, "steps_of_a_run": int(loaded.evaluations.env_steps.max())}
            of |= {"settings": len(labels), "seeds": each}
            of["told_by_first"] = plain(np.mean([told(part) for part in parts]))
            for rule, (kind, share) in rules.items():
                found = [searched(part, kind, share, seed) for seed, part in enumerate(parts)]
                chance = plain(np.mean([lacks(part).mean() for part in parts]))
                row = {**of, "search": rule, **summary(found), "lacks_by_chance": chance}
                rows.append({**row, "steps_of_each": plains([f["steps"] for f in found])})
    return {"rows": rows, "close": CLOSE}


def scores(loaded: Any) -> tuple[np.ndarray, list[str]]:
    """The mean returns [settings, evaluations, seeds], and the labels."""
    labels = list(dict.fromkeys(loaded.runs.label))
    found = []
    for label in labels:
        rows = loaded.evaluations[loaded.evaluations.label == label]
        found.append(rows.pivot(index="iteration", columns="seed", values="mean_return"))
    return np.stack([f.to_numpy(float) for f in found]), labels


def searched(table: np.ndarray, rule: Any, share: float, seed: int) -> Result:
    """One search over a repetition's scores [settings, evaluations, seeds]."""
    from kltrust.experiments.search.board import Board

    trials, whole, seeds = table.shape
    order = np.random.default_rng(seed).permutation(trials)
    slots = max(1, round(share * trials))
    board = Board.of(trials, whole, seeds, slots)
    for decision in board.begin(board.free()):
        board.apply(decision)
    while board.busy:
        now = np.zeros((slots, seeds))
        for slot, trial in board.occupied():
            now[slot] = table[order[trial], board.ages[trial]]
        board.advance(now)
        for decision in rule.decide(board) if board.arrived(rule) else ():
            board.apply(decision)
    ended = [order[t] for t in range(trials) if board.states[t] == "end"]
    chosen, best = best_of(table, ended), best_of(table, range(trials))
    steps = sum(board.ages) / (trials * whole)
    short = float(lacks(table)[chosen])
    return {"same": chosen == best, "lacks": short, "steps": steps, "ended": len(ended)}


def lacks(table: np.ndarray) -> np.ndarray:
    """What each setting's last score lacks of the best one's, as a share of their range."""
    last = table[:, -1].mean(axis=1)
    return (last.max() - last) / max(np.ptp(last), 1e-9)


def told(table: np.ndarray) -> float:
    """Spearman's correlation of the settings' first and last scores [settings, times, seeds]."""
    ends = pd.DataFrame({at: table[:, at].mean(axis=1) for at in (0, -1)})
    return float(ends.rank().corr().iloc[0, 1])


def best_of(table: np.ndarray, settings: Any) -> int:
    """The best of some settings, by the rule of `choice`."""
    last, through = table[:, -1].mean(axis=1), table.mean(axis=(1, 2))
    return int(max(settings, key=lambda i: (last[i], through[i], -i)))


def summary(found: list[Result]) -> Result:
    return {
        "steps": plain(np.mean([f["steps"] for f in found])),
        "same": sum(f["same"] for f in found),
        "as_good": sum(f["lacks"] <= CLOSE for f in found),
        "of": len(found),
        "lacks": plains(f["lacks"] for f in found),
        "ended": plain(np.mean([f["ended"] for f in found])),
    }


def population(given: Options, rounds: int) -> Result:
    """The best of each population, and of the same settings left alone."""
    from kltrust.experiments.reading.statistics import mean_and_iqm

    spec = tomllib.loads((SPECS / "search_population.toml").read_text("utf-8"))
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for length in LENGTHS:
            folder = (given.folder or Path(scratch)) / f"population{length}"
            rows = [beside(spec, seed, length, folder) for seed in range(rounds)]
            gains = np.array([row["population"] - row["alone"] for row in rows])
            mean, _ = mean_and_iqm(gains)
            of = {"steps_of_a_run": spec["budget"]["total_steps"] * length, "gains": rows}
            found.append({**of, "gain": plains(mean), "wins": int((gains > 0).sum())})
    return {"rows": found}


def beside(spec: Result, seed: int, length: int, folder: Path) -> Result:
    """A population, and its first settings left alone."""
    import kltrust

    (entry,) = spec["experiments"]
    entry = {**entry, "random": {**entry["random"], "seed": seed}}
    budget = {**spec["budget"], "total_steps": spec["budget"]["total_steps"] * length}
    sweep = {**spec["sweep"], "seeds": [seed]}
    searched = {**spec, "sweep": sweep, "budget": budget, "experiments": [entry]}
    searched["search"] = {**spec["search"], "seed": seed}
    alone = {name: part for name, part in searched.items() if name != "search"}
    row: Result = {"seed": seed}
    for kind, document in (("population", searched), ("alone", alone)):
        loaded = kltrust.sweep(document, folder / f"{kind}{seed}")
        table, _ = scores(loaded)
        row[kind] = plain(table[:, -1].max())
        row[f"{kind}_mean"] = plain(table[:, -1].mean())
        row["steps"] = int((loaded.evaluations.groupby("run").env_steps.max()).sum())
        if kind == "population":
            row["copies"] = int((loaded.decisions.action == "copy").sum())
    print(row, flush=True)
    return row


PARTS = {"search_grids": (grids, 10), "search_population": (population, 10)}


def main(given: Options) -> None:
    import jax

    from kltrust.experiments.engine.devices import compilation_cache

    # Ten equal programs: compiled once.
    if folder := compilation_cache():
        jax.config.update("jax_compilation_cache_dir", str(folder))
    record_parts(PARTS, given)


if __name__ == "__main__":
    sys.exit(main(options(Options, __doc__)))
