"""A run folder, followed, whatever becomes of it: not begun, running, killed, resumed, finished."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kltrust.experiments.jobs.folder import group_path, plan_of
from kltrust.experiments.jobs.plan import Plan
from kltrust.experiments.jobs.trials import as_decided, board_in
from kltrust.experiments.reading.claims import NONE, claim_of
from kltrust.experiments.reading.results import decisions_of
from kltrust.experiments.search.board import COPY, PAUSE, STOP
from kltrust.experiments.store import activity, files
from kltrust.experiments.store.layout import COMMIT, RUN
from kltrust.experiments.store.record import Record
from kltrust.experiments.watch._group import Followed, Stamp, stamp

POINTS = 200
"""The most points of a curve."""
NUMBERS = 200_000
"""About the most points of all runs' curves of one quantity: with many runs, each has fewer."""
LAST = 20
"""The decisions of a search that are shown."""
LEAST = 50
"""The fewest points of a curve, however many runs there are."""


class Folder:
    """What is known of a folder.

    Attributes:
        planned: the plan of its run; None before the run has begun.
        plan: the same, with the settings that a search has decided on.
        groups: those of the plan.
        version: of the last change.
        structure: the version at which the runs or their curves last changed as such.
        decisions: the last ones of a search, the latest first, of the version ``decided``.
        state: "missing", "waiting", "running", "stopped", "unknown", "finished" or "damaged".
        sentence: the state in a sentence.
    """

    def __init__(self, path: Path) -> None:
        """Follows the folder ``path``, which need not hold a run yet."""
        self.path = path
        self.planned: Plan | None = None
        self.plan: Plan | None = None
        self.groups: list[Followed] = []
        self.version = self.structure = self.decided = 0
        self.decisions: list[str] = []
        self.state, self.sentence = "waiting", ""
        self.record: Record | None = None
        self._seen: tuple[Stamp | None, Stamp | None] = (None, None)
        self._run: Stamp | None = None
        self._columns: list[str] = []
        self._wrong, self._sign = "", 0.0

    def update(self, version: int) -> None:
        """Reads what is new since the last look, under this version."""
        seen = stamp(self.path / RUN), stamp(self.path / COMMIT)
        if seen != self._seen or self._wrong:
            self._open(seen, version)
        changed = [group.update(version) for group in self.groups]
        if any(changed):
            self.version = version
            self._decide(version)
        if self.columns != self._columns:
            self._columns, self.structure = self.columns, version
        state = self._state()
        if state != (self.state, self.sentence):
            (self.state, self.sentence), self.version = state, version

    def _open(self, seen: tuple[Stamp | None, Stamp | None], version: int) -> None:
        """Reads the description and the last commit; another run in the same folder starts anew."""
        again = seen == self._seen
        try:
            record = Record(self.path) if seen[0] else None
            plan = None if record is None else plan_of(record)
        except (files.StorageError, ValueError) as error:
            # A kill between two files, or a writer at work: the next look tells.
            self._wrong, self._seen = str(error) if again else " ", seen
            return
        self._wrong, self.version = "", version
        if plan is None or self._run != seen[0]:
            self.planned = self.plan = plan
            self._run = seen[0]
            self.structure = version
            self.groups = [] if plan is None else self._followed(plan)
        self.record, self._seen = record, seen

    def _decide(self, version: int) -> None:
        """Brings the settings up to what a search has decided so far."""
        if self.planned is None or self.plan is None or self.planned.search is None:
            return
        boards, parts = {}, {}
        for group in self.groups:
            with contextlib.suppress(files.StorageError):  # it is replaced just now
                part = Record(group.path) if group.marker is not None else None
                boards[group.group] = board_in(self.planned, group.group, part)
                parts[group.group] = part
        settings = as_decided(self.planned, boards).settings
        if settings != self.plan.settings:
            self.plan, self.structure = dataclasses.replace(self.plan, settings=settings), version
            for group in self.groups:
                group.decide(self.plan)
        found = [decisions_of(self.plan, group, part) for group, part in parts.items()]
        rows = [row for frame in found for row in frame.to_dict("records")]
        rows = [row for row in rows if row["action"] in (PAUSE, STOP, COPY)][-LAST:]
        self.decided = version
        self.decisions = [
            f"{row['label']} on {row['env']} after {row['env_steps']:,} steps, score "
            f"{row['score']:.4g}: {row['action']}, {row['reason']}"
            for row in reversed(rows)
        ]

    def _followed(self, plan: Plan) -> list[Followed]:
        lanes = sum(len(group.runs) for group in plan.groups)
        points = int(np.clip(NUMBERS // max(lanes, 1), LEAST, POINTS))
        places = [group_path(self.path, i) for i in range(len(plan.groups))]
        return [
            Followed(place, plan, group, points)
            for place, group in zip(places, plan.groups, strict=True)
        ]

    @property
    def columns(self) -> list[str]:
        """The curves that some group has."""
        return list(dict.fromkeys(name for group in self.groups for name in group.columns))

    @property
    def finished(self) -> bool:
        """Whether the whole run is."""
        return self.record is not None and self.record.finished

    def share(self) -> float:
        """The share of all steps that is done, from 0 to 1."""
        done, planned = np.sum([(0, 0), *(group.steps() for group in self.groups)], axis=0)
        return 1.0 if self.finished else float(done / max(planned, 1))

    def left(self) -> float | None:
        """Seconds left, at each group's pace, or the others'; None if none is known."""
        rates = [group.rate for group in self.groups if group.rate]
        if not rates:
            return None
        mean = float(np.mean(rates))
        steps = [(*group.steps(), group.rate or mean) for group in self.groups]
        return float(sum((planned - done) / rate for done, planned, rate in steps))

    def _state(self) -> tuple[str, str]:
        if not self.path.is_dir():
            return "missing", "there is no such folder any more"
        wrong = [w for w in (self._wrong, *(g.wrong for g in self.groups)) if w.strip()]
        if wrong:
            return "damaged", wrong[0]
        if self.finished:
            return "finished", "finished"
        found = activity.read(self.path)
        self._sign = found.seen
        doing = found.doing or "at work"
        if found.alive:
            return "running", doing
        if self.plan is None:
            return "waiting", "no run has begun here yet"
        if found.alive is None:
            return "unknown", f"this file system can't tell whether a process works here; {doing}"
        count = len(self.plan.settings)
        command = "train" if count == 1 else "sweep"
        where = shlex.quote(os.path.relpath(self.path))
        return "stopped", f"no process works on it; kltrust {command} --resume {where} goes on"

    def described(self) -> dict[str, Any]:
        """Settings, seeds and groups: what decides which curves there are."""
        if self.plan is None:
            return {"settings": [], "seeds": [], "groups": [], "columns": []}
        settings = []
        for setting in self.plan.settings:
            claim = claim_of(setting.experiment)
            settings.append(
                {
                    "label": setting.label,
                    "method": setting.method,
                    "env": setting.experiment.env,
                    "swept": {name: _plain(value) for name, value in setting.swept.items()},
                    "claim": None if claim.kind == NONE else claim.value,
                    "claims": str(claim),
                }
            )
        groups = [
            {
                "runs": group.runs.tolist(),
                "planned": group.planned,
                "batch": group.experiment.batch_size,
                "chunk": group.group.chunk_length,
            }
            for group in self.groups
        ]
        seeds = list(self.plan.seeds)
        return {"settings": settings, "seeds": seeds, "groups": groups, "columns": self.columns}

    def as_data(self) -> Mapping[str, Any]:
        """Name, state, progress and time left."""
        done, left = self.share(), self.left()
        return {
            "name": self.path.name,
            "path": str(self.path),
            "state": self.state,
            "sentence": self.sentence,
            "done": done,
            "left": left if self.state == "running" and done < 1 else None,
            "ago": max(0.0, time.time() - self._sign) if self._sign else None,
        }


def _plain(value: Any) -> Any:
    """A swept value for JSON: a number, or text."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return value if isinstance(value, str) else json.dumps(value, default=str)
    return value
