"""Does the judge find what is wrong, and leave alone what is not?

    python benchmarks/judge.py
    python benchmarks/judge.py --folder runs/judge

planted   every fault of tests/planted: updates as arrays, trainings of a learner, tables. Found
          is one whose finding is among the first three lines of its severity or worse
healthy   the runs of benchmarks/specs/judge.toml: every preset, every algorithm on six
          environments. A false alarm is a run with a warning or an error

Where the folder holds that sweep already it goes on with it; --no-run judges what is there. Writes
judge.json to benchmarks/results/
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, SPECS, Result, load_spec, options, run_sweep, versions, write

import kltrust
from kltrust.findings import CATALOGUE, Findings

sys.path.insert(0, str(HERE.parent / "tests"))


@dataclasses.dataclass(frozen=True)
class Options:
    """Which runs."""

    folder: Path = Path("runs/judge")
    run: bool = True
    """Go on with the sweep; --no-run judges what is there."""
    out: Path = RESULTS


def main(options: Options) -> None:
    spec = SPECS / "judge.toml"
    if options.run:
        run_sweep(load_spec(spec), options.folder)
    result = {"spec": spec.name, "planted": planted(), "healthy": healthy(options.folder)}
    write(options.out / "judge.json", {**result, "versions": versions()})


def planted() -> Result:
    """The number of faults of each kind that are found, and those that are missed."""
    from planted import trainings, updates

    judged: dict[str, list[tuple[str, str, bool, Findings]]] = {"updates": []}
    for name, (_, _, finding, public) in updates.UPDATES.items():
        found = kltrust.judge_update(**updates.arrays(name))
        judged["updates"].append((name, finding, public, found))
    judged["trainings"] = [
        (name, finding, public, kltrust.judge(metrics, claims=claims))
        for which in ("fitted", "searched")
        for name, (metrics, claims, finding, public) in trainings.lanes(which).items()
        if finding
    ]
    judged["tables"] = [
        (name, finding, public, kltrust.judge(columns, claims=trainings.CLAIMS))
        for name, (columns, finding, public) in trainings.TABLES.items()
    ]
    rows = []
    for kind, of in judged.items():
        missed = [name for name, finding, _, found in of if not is_found(finding, found)]
        public = sum(public for _, _, public, _ in of)
        rows.append({"kind": kind, "faults": len(of), "public": public, "missed": missed})
    return {"rows": rows, "findings": len(CATALOGUE)}


def is_found(finding: str, found: Findings) -> bool:
    return finding in found.at_least(CATALOGUE[finding].severity).names[:3]


def healthy(folder: Path) -> Result:
    """The number of runs with a warning or worse, and which they are."""
    loaded = kltrust.load(folder)
    runs = loaded.runs[loaded.runs.run.isin(loaded.metrics.run)]
    start = time.perf_counter()
    found = kltrust.judge(loaded)
    seconds = time.perf_counter() - start
    alarms: dict[str, Any] = {}
    for one in found.at_least("warning"):
        alarms.setdefault(one.run_text, f"{one.name}: {one.evidence}")
    notes = Counter(one.name for one in found if one.severity == "note")
    return {
        "runs": len(runs),
        "planned": len(loaded.runs),
        "algorithms": int(runs.algorithm.nunique()),
        "environments": int(runs.env.nunique()),
        "iterations": int(loaded.metrics.shape[0]),
        "alarms": alarms,
        "notes": dict(notes),
        "seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    main(options(Options, __doc__))
