"""A group of a run folder, followed: each look reads what was committed since the last one."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kltrust.experiments.jobs.plan import Group, Plan
from kltrust.experiments.reading.claims import ROUNDING, claim_of, schedule_of
from kltrust.experiments.store import files, layout, tables
from kltrust.experiments.store.layout import COMMIT, EVALUATION, METRICS
from kltrust.experiments.watch._series import Extremes, Place, Series

EVALUATED = {"return": "mean_return", "return, sampled": "sampled_mean_return"}
"""The curves from evaluations, and their columns."""
RATIOS = {
    "return of training episodes": ("return_sum", "num_episodes"),
    "length of training episodes": ("length_sum", "num_episodes"),
}
"""The curves that are a mean over episodes: two columns of the metrics."""
USED = "kl / claim"
_KEYS = {"run", "seed", "iteration", "env_steps"}

Stamp = tuple[int, int, int]


def stamp(file: Path) -> Stamp | None:
    """What changes when a file is replaced; None if there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Followed:
    """A group's folder as far as it was read.

    Attributes:
        marker: its last commit; None before the group has begun.
        version: of its last change.
        extremes: a row for each run.
        wrong: what can't be read, or "".
    """

    def __init__(self, path: Path, plan: Plan, group: Group, points: int) -> None:
        """Follows the folder ``path`` of a ``group``; its curves have so many ``points``."""
        self.path, self.plan, self.group, self._points = path, plan, group, points
        self.experiment = plan.experiment(group)
        self.runs = np.array(group.runs)
        self.marker: dict[str, Any] | None = None
        self.version, self.wrong = 0, ""
        self.extremes = Extremes(len(self.runs))
        self._description: dict[str, Any] | None = None
        self._seen: Stamp | None = None
        self._series: dict[str, Series] = {}
        self._read = {METRICS: Place(), EVALUATION: Place()}
        self._order = np.argsort(self.runs)

    @property
    def columns(self) -> list[str]:
        """The curves that can be asked for; none before the first commit."""
        if self.marker is None or not (schema := self.marker["schemas"].get(METRICS)):
            return []
        there = [name for name, of in RATIOS.items() if set(of) <= set(schema)]
        used = [] if np.isnan(self._schedules[0]).all() else [USED]
        plain = [n for n, kind in schema.items() if n not in _KEYS and "list" not in kind]
        ahead = [name for name in ("kl", "kl_max", "entropy") if name in plain]
        return [*EVALUATED, *there, *used, *ahead, *(n for n in plain if n not in ahead)]

    @property
    def done(self) -> int:
        """Iterations so far of the run that is furthest."""
        return int(self.extremes.iterations.max(initial=0))

    @property
    def planned(self) -> int:
        """Iterations that each run is to have."""
        return self.experiment.num_iterations

    def steps(self) -> tuple[int, int]:
        """Environment steps of all runs, taken and planned; a search plans what it expects."""
        planned = self.plan.steps(self.group)
        if self.marker is None or self.marker["finished"]:
            return 0 if self.marker is None else planned, planned
        if self.plan.search is None:  # a run that was left at a NaN has fewer rows
            done = min((self.marker["chunk"] + 1) * self.group.chunk_length, self.planned)
            return done * self.experiment.batch_size * len(self.runs), planned
        return min(self._read[METRICS].rows * self.experiment.batch_size, planned), planned

    @property
    def rate(self) -> float:
        """Environment steps a second of all runs, without compilation; 0 if not known."""
        seconds = 0.0 if self.marker is None else self.marker["seconds"].get("run", 0.0)
        return self.steps()[0] / seconds if seconds else 0.0

    def update(self, version: int) -> bool:
        """Reads what is new, under this version; whether anything is.

        A writer may replace files while they are read: what can't be read is named only if no newer
        commit explains it at the next look.
        """
        now = stamp(self.path / COMMIT)
        if now is None or (now == self._seen and not self.wrong):
            return False
        try:
            if self._description is None:
                self._description = layout.describe(self.path)
            marker = layout.committed(self.path, self._description)
            self._advance(marker, version)
        except (files.StorageError, OSError) as error:
            again = now == self._seen
            self._seen = now
            changed = again and self.wrong != str(error)
            self.wrong = str(error) if again else self.wrong or " "
            return changed
        self._seen, self.wrong, self.version = now, "", version
        return True

    def decide(self, plan: Plan) -> None:
        """Takes the settings that a search has decided on."""
        self.plan = plan
        self.__dict__.pop("_schedules", None)

    def curve(self, name: str, version: int) -> Series | None:
        """A curve with all that is committed, read as far as it was not; None if there is none."""
        if self.marker is None or name not in self.columns:
            return None
        if name not in self._series:
            self._series[name] = self._new(name)
        found = self._series[name]
        if found.place.chunk < self.marker["chunk"]:
            try:
                self._extend(name, found, version)
            except files.StorageError:
                self._seen = None  # the next look tells whether it was replaced, or is damaged
        return found

    def _new(self, name: str) -> Series:
        lanes = len(self.runs)
        if name in EVALUATED:
            rows = -(-self.planned // self.group.chunk_length)
            return Series([EVALUATED[name]], lanes, rows, self._points)
        columns = RATIOS.get(name) or (("kl", *self._claims) if name == USED else (name,))
        return Series(columns, lanes, self.planned, self._points)

    def _extend(self, name: str, found: Series, version: int) -> None:
        assert self.marker is not None
        table = EVALUATION if name in EVALUATED else METRICS
        rows, place = self._rows(table, found.place, found.columns)
        if rows is not None:
            first, *others = (rows[column] for column in found.columns)
            below: np.ndarray | None = None
            if name in RATIOS:
                below = others[0]
            elif name == USED:
                first = first / self._in_force(rows)
            found.add(rows["lane"], rows["row"], first, below, version=version)
        found.place = place

    def _advance(self, marker: dict[str, Any], version: int) -> None:
        """Takes a commit: brings the table up to it, and the curves that were asked for."""
        self.marker = marker
        counts = [n for n in marker["schemas"].get(METRICS, ()) if n.startswith("nonfinite_")]
        wanted = ["kl", *self._claims, *counts]
        rows, place = self._rows(METRICS, self._read[METRICS], wanted)
        if rows is not None:
            lanes, iterations = rows["lane"], rows["iteration"]
            claim = self._in_force(rows) * (1 + ROUNDING)
            self.extremes.add_updates(lanes, iterations, rows["kl"], claim)
            for name in counts:
                bad = rows[name] > 0
                self.extremes.add_broken(lanes[bad], iterations[bad])
        self._read[METRICS] = place
        rows, place = self._rows(EVALUATION, self._read[EVALUATION], ["mean_return"])
        if rows is not None:
            self.extremes.add_evaluations(rows["lane"], rows["row"], rows["mean_return"])
        self._read[EVALUATION] = place
        for name, series in self._series.items():
            self._extend(name, series, version)

    def _rows(
        self, table: str, place: Place, columns: Sequence[str]
    ) -> tuple[dict[str, np.ndarray] | None, Place]:
        """The committed rows after a place, by column, with ``lane`` and ``row``; the new place.

        In a finished table the parts stand one after the other, so that what was read is its
        beginning.
        """
        assert self.marker is not None
        parts, now = self.marker["parts"].get(table, []), self.marker["chunk"]
        if not any(chunk > place.chunk for chunk in parts):
            return None, place._replace(chunk=now)
        names, read_before = layout.table_files(self.marker, table), place.rows
        if not self.marker["finished"]:
            names = [n for n, chunk in zip(names, parts, strict=True) if chunk > place.chunk]
            read_before = 0
        wanted = list(dict.fromkeys(["run", "iteration", *columns]))
        read = tables.read([self.path / name for name in names], wanted).slice(read_before)
        arrays = {name: np.asarray(read.column(name).to_numpy(), np.float64) for name in columns}
        run, iteration = (read.column(name).to_numpy() for name in ("run", "iteration"))
        arrays["lane"] = self._order[np.searchsorted(self.runs, run, sorter=self._order)]
        arrays["iteration"] = arrays["row"] = iteration
        if table == EVALUATION:  # it has the number of iterations done
            arrays["iteration"] = iteration - 1
            arrays["row"] = (iteration - 1) // self.group.chunk_length
        return arrays, Place(now, place.rows + len(run))

    @property
    def _claims(self) -> list[str]:
        """The column in which the algorithm reports the claim in force, if it does."""
        stated = claim_of(self.experiment).what
        schema = {} if self.marker is None else self.marker["schemas"].get(METRICS, {})
        return [f"extra.{stated}"] if f"extra.{stated}" in schema else []

    def _in_force(self, rows: dict[str, np.ndarray]) -> np.ndarray:
        """The claim at each row, NaN without one."""
        value, anneal, power = (numbers[rows["lane"]] for numbers in self._schedules)
        claim = value * (1 - anneal * rows["iteration"] / max(self.planned, 1)) ** power
        for name in self._claims:
            return np.where(np.isnan(rows[name]), claim, rows[name])
        return claim

    @functools.cached_property
    def _schedules(self) -> np.ndarray:
        """[3, L], `schedule_of` of each run."""
        seeds = len(self.plan.seeds)
        of = {i: schedule_of(self.plan.settings[i].experiment) for i in set(self.runs // seeds)}
        return np.array([of[i] for i in self.runs // seeds]).T
