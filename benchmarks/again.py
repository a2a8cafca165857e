"""Runs recorded results again, and says whether the same comes out.

    python benchmarks/again.py                     two commands that take minutes, drawn at random
    python benchmarks/again.py --number 5 --seed 7 --hours 0.5
    python benchmarks/again.py --names laboratory_hurt stagger
    python benchmarks/again.py --names stagger memory --accept "What changed, in a sentence."

Writes to a temporary folder, whose files it compares with those in benchmarks/results/. A result is
the same if all of its numbers are; times, versions and origins are not compared. Other versions, or
another processor, may round otherwise, and then a training goes another way. So where numbers
differ, the scores decide: Welch's t-test must not tell the means over seeds apart, at a level of
5 % for all means of a result together (Bonferroni). Without scores, every number has to agree to
a thousandth of itself. The exit status is the number of results that came out otherwise.

With --accept, if all have the same bits, the code's changes since then no longer make results
stale: accepted.json holds them. It takes a clean commit and the versions of the records.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import provenance
import tyro
from common import chosen
from scipy.stats import ttest_ind

TIMED = (
    *("speed_*", "peers_*", "scaling_*", "sweep_*", "phases", "audit_cost", "watch", "reading"),
    *("extras", "kills", "compiled_*", "accelerator*", "random_policy"),
)
"""Results that are times, belong to a machine or compiler, or write more than results."""
UNEQUAL = ("origin", "versions", "seconds", "minutes", "hours", "notes")
"""Keys whose values are not compared."""
NAMING = ("env", "label", "algorithm", "cell", "task", "table", "update", "start", "samples")
"""Keys that say what a row is of."""
CLOSE = 1e-3
"""The same, where there are no scores: rounding by other versions changes the last digits."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Which results."""

    names: tuple[str, ...] = ()  # As in results/; drawn at random, if none is named
    number: int = 2
    seed: int = 0
    hours: float = 0.25  # Of each command that is drawn, at most
    accept: str | None = None  # What changed since these results, where it may change no bit


class Verdict(NamedTuple):
    """Whether a result came out the same, whether to the bit, and what differs."""

    same: bool
    identical: bool
    said: str


class Leaf(NamedTuple):
    """A value of a result, and of the same result run again; its place, as keys and numbers."""

    place: str
    before: Any
    now: Any


def main(options: Options) -> int:
    known = provenance.results()
    if options.accept:
        provenance.refuse_uncommitted(provenance.RESULTS)
    if options.names:
        named = chosen("names", options.names, known)
        lines = list(provenance.commands({name: known[name] for name in named}))
    else:
        lines = drawn(options.number, options.seed, options.hours)
    found: dict[str, Verdict] = {}
    for line in lines:
        print(f"== {line}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "results")
            subprocess.run(again(line, out), cwd=provenance.ROOT, check=True)
            for name, now in provenance.results_in(out).items():
                found[name] = compared(known[name], now)
                print(f"{name}: {found[name].said}", flush=True)
    if options.accept and found:
        if all(verdict.identical for verdict in found.values()):
            shown = {name: verdict.said for name, verdict in found.items()}
            changed = provenance.accept(options.accept, shown)
            print(f"accepted the changes of {', '.join(changed) or 'no module'}")
        else:
            print("nothing is accepted: bits differ")
    return sum(not verdict.same for verdict in found.values())


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


def compared(before: Any, now: Any) -> Verdict:
    """Compares a result with the same one run again."""
    found = list(leaves(before, now))
    differ = [leaf for leaf in found if leaf.before != leaf.now]
    if not differ:
        return Verdict(True, True, f"the same bits, all {len(found)} values")
    said = f"{len(differ)} of {len(found)} values differ"
    pairs = list(scores(before, now))
    if not pairs:
        worst = max(differ, key=_relative)
        close = _relative(worst) <= CLOSE
        where = f"most at {worst.place}: {worst.before} before, {worst.now} now"
        how = f"by {CLOSE:g} of themselves at most" if close else where
        return Verdict(close, False, f"{said}, {how}")
    apart = [
        f"{place}: {np.mean(of):.4g} before, {np.mean(again):.4g} now"
        for place, of, again in pairs
        if _apart(of, again, 0.05 / len(pairs))
    ]
    said += f"; of {len(pairs)} means of scores "
    if apart:
        return Verdict(False, False, f"{said}{len(apart)} differ: {'; '.join(apart)}")
    return Verdict(True, False, f"{said}none is shown to differ")


def _relative(leaf: Leaf) -> float:
    """The difference as a share of the larger number; infinite if one is no number."""
    if not all(isinstance(x, int | float) for x in (leaf.before, leaf.now)):
        return float("inf")
    return abs(leaf.now - leaf.before) / max(abs(leaf.now), abs(leaf.before), 1e-12)


def _apart(before: Sequence[float], now: Sequence[float], level: float) -> bool:
    if np.ptp(before) == np.ptp(now) == 0:
        return before[0] != now[0]
    with warnings.catch_warnings(action="ignore"):  # of nearly equal scores
        return bool(ttest_ind(before, now, equal_var=False).pvalue < level)


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
        return rows if len(rows) == len(value) and "" not in rows else value
    return value


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
