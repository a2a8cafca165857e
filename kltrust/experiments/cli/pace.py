"""Predicts how long a plan takes on this machine, from earlier runs and from the current one.

The record of this machine is a small file beside the compiled programs. For each algorithm and
environment it holds the seconds that the last run took to compile, and its environment steps per
second. Only the announced time depends on it.
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
    """Seconds to compile, and environment steps per second of all runs together."""

    compile_seconds: float
    rate: float


GUESS = Pace(30.0, 100_000.0)
"""The pace assumed if nothing is known."""
SHORTEST = 10_000
"""The fewest environment steps of a group whose pace is recorded: evaluations slow shorter runs."""


def recorded_paces() -> dict[str, Pace]:
    """The paces of earlier runs on this machine, by algorithm and environment."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        read = json.loads(_file().read_text("utf-8"))
        return {name: Pace(*map(float, pace)) for name, pace in read.items()}
    return {}


def record_pace(name: str, pace: Pace) -> None:
    """Records a group's pace; if nothing can be written, nothing is recorded."""
    with contextlib.suppress(OSError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**recorded_paces(), name: pace})
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(text, "utf-8")
        part.replace(file)


def name_of(experiment: Experiment) -> str:
    """The key under which a pace is recorded; it tells a CPU from an accelerator."""
    device = jax.devices()[0]
    here = "" if device.platform == "cpu" else f" on {device.device_kind}"
    return f"{experiment.algorithm} {experiment.env}{here}"


def expected(plan: Plan) -> tuple[list[Pace], str]:
    """The expected pace of each group of a plan, and the basis of that."""
    before = recorded_paces()
    names = [name_of(plan.experiment(group)) for group in plan.groups]
    average = mean(before.values()) or GUESS
    paces = [before.get(name, average) for name in names]
    if all(name in before for name in names):
        return paces, "from earlier runs of these on this machine"
    return (
        paces,
        "from other runs on this machine" if before else "a guess, since nothing has run here yet",
    )


def mean(paces: Iterable[Pace]) -> Pace | None:
    """The mean of each number over all paces; None without any."""
    paces = list(paces)
    return Pace(*map(fmean, zip(*paces, strict=True))) if paces else None


class Remaining:
    """The time that a plan has taken, and the time left."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan, self._clock, self._start = plan, clock, clock()
        self._paces, _ = expected(plan)
        self._seen: dict[int, Pace] = {}
        self._work = [plan.steps(group) for group in plan.groups]
        self._done = [0.0] * len(self._work)

    def report(self, group: int, share: float, pace: Pace | None = None) -> None:
        """Notes that this share of a group is done, at this pace."""
        self._done[group] = share * self._work[group]
        if pace is not None:
            self._seen[group] = pace

    def share(self) -> float:
        """The share of all groups' steps that is done, from 0 to 1."""
        return sum(self._done) / max(sum(self._work), 1)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def left(self) -> float:
        """Seconds left, from the paces of groups that have run, and the record for the others."""
        seconds, average = 0.0, mean(self._seen.values())
        for i, (work, done) in enumerate(zip(self._work, self._done, strict=True)):
            pace = self._seen.get(i) or average or self._paces[i]
            begun = i in self._seen
            seconds += (work - done) / max(pace.rate, 1e-9)
            seconds += 0.0 if begun or done >= work else pace.compile_seconds
        return seconds

    def remember(self) -> None:
        """Records the paces of groups that ran long enough, for the next plan."""
        for i, pace in self._seen.items():
            if self._done[i] >= SHORTEST:
                record_pace(name_of(self.plan.experiment(self.plan.groups[i])), pace)


def _file() -> Path:
    return cache_folder() / "pace.json"
