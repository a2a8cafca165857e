"""How long a plan takes here: by what this machine took before, and by what it takes now.

The record of this machine is a small file beside the compiled programs. It holds, for each
algorithm and environment, the seconds that the last run took to compile, and its environment steps
a second. Nothing but the time that is announced depends on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import jax

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.engine.devices import cache_folder
from kltrust.experiments.jobs.plan import Plan


class Pace(NamedTuple):
    """Seconds to compile, and environment steps a second of all runs together."""

    compile_seconds: float
    rate: float


GUESS = Pace(30.0, 100_000.0)
"""Where nothing is known."""


def known() -> dict[str, Pace]:
    """What this machine took before, by algorithm and environment."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        read = json.loads(_file().read_text("utf-8"))
        return {name: Pace(*map(float, pace)) for name, pace in read.items()}
    return {}


def remember(name: str, pace: Pace) -> None:
    """Writes what a group took; where nothing can be written, nothing is remembered."""
    with contextlib.suppress(OSError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**known(), name: pace})
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(text, "utf-8")
        part.replace(file)


def name_of(experiment: Experiment) -> str:
    """What a pace is remembered under: a CPU's is none of the accelerator beside it."""
    device = jax.devices()[0]
    here = "" if device.platform == "cpu" else f" on {device.device_kind}"
    return f"{experiment.algorithm} {experiment.env}{here}"


def expected(plan: Plan) -> tuple[list[Pace], str]:
    """The pace of each group of a plan, and what that is based on."""
    before = known()
    names = [name_of(plan.experiment(group)) for group in plan.groups]
    average = mean(before.values()) or GUESS
    paces = [before.get(name, average) for name in names]
    if all(name in before for name in names):
        return paces, "as these took here before"
    return paces, "as other runs took here" if before else "a guess: nothing has run here yet"


def mean(paces: Iterable[Pace]) -> Pace | None:
    """Of each, over all; None of none."""
    paces = list(paces)
    return Pace(*map(fmean, zip(*paces, strict=True))) if paces else None


class Remaining:
    """The time that a plan has taken, and the time that is left of it."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan, self._clock, self._start = plan, clock, clock()
        self._paces, _ = expected(plan)
        self._seen: dict[int, Pace] = {}
        experiments = [plan.experiment(group) for group in plan.groups]
        self._work = [
            len(group.runs) * e.num_iterations * e.batch_size
            for e, group in zip(experiments, plan.groups, strict=True)
        ]
        self._done = [0.0] * len(self._work)

    def report(self, group: int, share: float, pace: Pace | None = None) -> None:
        """So much of a group is done, at this pace."""
        self._done[group] = share * self._work[group]
        if pace is not None:
            self._seen[group] = pace

    def share(self) -> float:
        """Of the steps of all groups, those that are done, from 0 to 1."""
        return sum(self._done) / max(sum(self._work), 1)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def left(self) -> float:
        """Seconds, by the groups that have run, and by the record for those that have not."""
        seconds, average = 0.0, mean(self._seen.values())
        for i, (work, done) in enumerate(zip(self._work, self._done, strict=True)):
            pace = self._seen.get(i) or average or self._paces[i]
            begun = i in self._seen
            seconds += (work - done) / max(pace.rate, 1e-9)
            seconds += 0.0 if begun or done >= work else pace.compile_seconds
        return seconds

    def remember(self) -> None:
        """Writes what the groups took, for the next plan."""
        for i, pace in self._seen.items():
            remember(name_of(self.plan.experiment(self.plan.groups[i])), pace)


def _file() -> Path:
    return cache_folder() / "pace.json"
