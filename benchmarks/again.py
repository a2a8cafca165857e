"""Runs recorded results again, and says whether the same comes out.

    python benchmarks/again.py                     two commands that take minutes, drawn at random
    python benchmarks/again.py --number 5 --seed 7 --hours 0.5
    python benchmarks/again.py --names laboratory_hurt stagger

Writes to a temporary folder, whose files it compares with those in benchmarks/results/. A result is
the same if all of its numbers are; times, versions and origins are not compared. Other versions, or
another processor, may round otherwise, and then a training goes another way. So where numbers
differ, the scores decide: of every pair of scores by seed, the difference of the means has to have
a bootstrap interval that holds 0. The intervals hold together with a probability of 95 %
(Bonferroni). The exit status is the number of results that came out otherwise.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import provenance
import tyro
from common import chosen

from kltrust.experiments.reading.statistics import estimates

TIMED = (
    *("speed_*", "peers_*", "scaling_*", "sweep_*", "phases", "audit_cost", "watch", "reading"),
    *("extras", "kills", "compiled_*", "accelerator*", "random_policy"),
)
"""Results that are times, belong to a machine or compiler, or write more than results."""
UNEQUAL = ("origin", "versions", "seconds", "minutes", "hours", "notes")
"""Keys whose values are not compared."""
NAMING = ("env", "label", "algorithm", "cell", "task", "table", "update", "start", "samples")
"""Keys that say what a row is of."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Which results."""

    names: tuple[str, ...] = ()  # As in results/; drawn at random, if none is named
    number: int = 2
    seed: int = 0
    hours: float = 0.25  # Of each command that is drawn, at most


class Leaf(NamedTuple):
    """A value of a result, and of the same result run again; its place, as keys and numbers."""

    place: str
    before: Any
    now: Any


def main(options: Options) -> int:
    known = provenance.results()
    if options.names:
        named = chosen("names", options.names, known)
        lines = list(provenance.commands({name: known[name] for name in named}))
    else:
        lines = drawn(options.number, options.seed, options.hours)
    otherwise = 0
    for line in lines:
        print(f"== {line}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "results")
            subprocess.run(again(line, out), cwd=provenance.ROOT, check=True)
            for name, now in provenance.results_in(out).items():
                same, said = compared(known[name], now)
                otherwise += not same
                print(f"{name}: {said}", flush=True)
    return otherwise


def drawn(number: int, seed: int, hours: float) -> list[str]:
    """Commands that are known to take at most these hours."""
    timed = lambda name: any(fnmatch.fnmatch(name, pattern) for pattern in TIMED)  # noqa: E731
    found = provenance.commands({n: r for n, r in provenance.results().items() if not timed(n)})
    short = [line for line, took in found.items() if took is not None and took <= hours]
    order = np.random.default_rng(seed).permutation(len(short))
    return [short[i] for i in order[:number]]


def again(line: str, out: Path) -> list[str]:
    """The command as arguments, writing to another folder, without what is kept of earlier runs."""
    _, script, *rest = line.split()
    own = script.rpartition("/")[2] in ("record.py", "atlas.py", "tuned.py", "judge.py")
    folder = ["--folder", str(out.with_name("runs"))] if own else []
    return [sys.executable, script, *rest, "--out", str(out), *folder]


def compared(before: Any, now: Any) -> tuple[bool, str]:
    """Whether a result came out the same, and in what sense."""
    found = list(leaves(before, now))
    differ = [leaf for leaf in found if leaf.before != leaf.now]
    if not differ:
        return True, f"the same bits, all {len(found)} values"
    pairs = list(scores(before, now))
    if not pairs:
        return False, f"{len(differ)} of {len(found)} values differ, the first: {differ[0]}"
    confidence = 1 - 0.05 / len(pairs)
    apart = []
    for place, *both in pairs:
        columns = [np.asarray(of, float)[:, None] for of in both]
        (apart_by,) = estimates(columns, further, resamples=10_000, confidence=confidence)
        if not apart_by.low <= 0 <= apart_by.high:
            apart.append(f"{place}: {np.mean(both[0]):.4g} before, {np.mean(both[1]):.4g} now")
    said = f"{len(differ)} of {len(found)} values differ; "
    if apart:
        return False, said + f"of {len(pairs)} means of scores, {len(apart)}: {'; '.join(apart)}"
    return True, said + f"of {len(pairs)} means of scores, none is shown to differ"


def further(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """The difference of the means: [..., seeds, 1] each to [...]."""
    return now.mean((-2, -1)) - before.mean((-2, -1))


def leaves(before: Any, now: Any, place: str = "") -> Iterator[Leaf]:
    """All values of both, in order; where one lacks a part, the part."""
    before, now = by_name(before), by_name(now)
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            if key not in UNEQUAL:
                yield from leaves(before.get(key), now.get(key), f"{place}/{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, both in enumerate(zip(before, now, strict=True)):
            yield from leaves(*both, f"{place}/{i}")
    else:
        yield Leaf(place, before, now)


def scores(before: Any, now: Any, place: str = "") -> Iterator[Leaf]:
    """All values named ``scores`` that both have."""
    before, now = by_name(before), by_name(now)
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [key for key in before if key in now]:
            here = f"{place}/{key}"
            if key == "scores" and all(isinstance(of, list) for of in (before[key], now[key])):
                yield Leaf(here, before[key], now[key])
            else:
                yield from scores(before[key], now[key], here)


def by_name(value: Any) -> Any:
    """Rows as a dictionary by what they are of; a row may be recorded earlier or later."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        rows = {", ".join(str(row[k]) for k in NAMING if k in row): row for row in value}
        return rows if len(rows) == len(value) else value
    return value


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
