"""The judge beside running jobs: it takes a small share of the time, and nothing waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kltrust import findings
from kltrust.experiments.store import files, layout
from kltrust.experiments.store.layout import METRICS
from kltrust.experiments.watch._folder import Folder

if TYPE_CHECKING:
    import pandas as pd

SHARE = 0.01
"""The share of a processor that it takes while a sweep goes on."""
AT_REST = 0.3
"""The share when no process works on the folder."""
WORKING = "running", "unknown"
"""The states of a folder in which a process may be at work."""
SLICE = 100
"""So many runs of a group are judged at a time."""
FIRST = 3.0
"""Seconds from the start to the first judgement."""

Place = tuple[int, int]
"""A slice: the number of the group, and the first of its runs."""


class _Judged:
    """What was found in a folder's present run so far."""

    def __init__(self, planned: Any) -> None:
        self.planned, self.version, self.pending = planned, 0, False
        self.found: dict[Place, findings.Findings] = {}
        self.at: dict[Place, tuple[int, float]] = {}


class Judge:
    """Judges the runs of folders slice by slice, in a thread, the longest waiting first.

    Conditions between runs hold of those in a slice, which are all runs of most groups.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the time from ``clock``, in seconds."""
        self._clock, self._next = clock, clock() + FIRST
        self._of: dict[Any, _Judged] = {}
        self._thread: threading.Thread | None = None

    def update(self, folders: Sequence[Folder], version: int) -> None:
        """Takes what was found meanwhile; begins with the next slice, if its time has come."""
        due = []
        for i, folder in enumerate(folders):
            judged = self._of.get(folder.path)
            if judged is None or judged.planned is not folder.planned:
                judged = self._of[folder.path] = _Judged(folder.planned)
                judged.version = version
            if judged.pending:
                judged.pending, judged.version = False, version
            resting = folder.state not in WORKING
            due += [(when, resting, i, place) for when, place in _due(folder, judged)]
        busy = self._thread is not None and self._thread.is_alive()
        if busy or not due or self._clock() < self._next:
            return
        _, _, i, place = min(due)
        chosen = folders[i]
        of = (chosen, self._of[chosen.path], place)
        self._thread = threading.Thread(target=self._judge, args=of, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns when nothing is being judged."""
        if self._thread is not None:
            self._thread.join()

    def version(self, folder: Folder) -> int:
        """The version at which a folder's findings last changed."""
        return self._of[folder.path].version if folder.path in self._of else 0

    def rows(self, folder: Folder) -> tuple[list[dict[str, Any]], int]:
        """The findings of a folder, worst first, see `Findings.rows`; and how many runs it saw."""
        found = list(self._of[folder.path].found.values())
        of = sum(each.of for each in found)
        return findings.Findings([one for each in found for one in each], of).rows(), of

    def _judge(self, folder: Folder, judged: _Judged, place: Place) -> None:
        start, cpu = self._clock(), time.thread_time()
        index, first = place
        group = folder.groups[index]
        assert group.marker is not None
        marker, runs = group.marker, group.runs[first : first + SLICE].tolist()
        try:
            metrics = _metrics(group.path, marker, runs)
            found = findings.judge(_results(folder.plan, runs, metrics))
            judged.found = {**judged.found, place: found}
            judged.pending = True
        except (files.StorageError, OSError, ValueError):
            pass  # it changes meanwhile, or has no column that the judge knows
        judged.at[place] = marker["chunk"], start
        share = SHARE if folder.state in WORKING else AT_REST
        self._next = self._clock() + (time.thread_time() - cpu) / share


def _due(folder: Folder, judged: _Judged) -> list[tuple[float, Place]]:
    """The slices with new commits, and when each was judged last."""
    due = []
    for index, group in enumerate(folder.groups):
        chunk = -1 if group.marker is None else group.marker["chunk"]
        for first in range(0, len(group.runs), SLICE):
            before, when = judged.at.get((index, first), (-1, -1.0))
            if chunk > before:
                due.append((when, (index, first)))
    return due


def _metrics(path: Any, marker: Any, runs: list[int]) -> pd.DataFrame:
    """The committed rows of some runs of a group; few others are in memory at a time."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted, frames = pa.array(runs), []
    for name in layout.table_files(marker, METRICS):
        with files.opened(path / name) as file:
            try:
                for batch in pq.ParquetFile(file).iter_batches():
                    mine = batch.filter(pc.is_in(batch.column("run"), wanted))
                    if len(mine):
                        frames.append(mine.to_pandas())
            except (OSError, pa.ArrowException) as error:
                raise files.DamagedError(path / name, f"is damaged ({error})") from error
    if not frames:
        raise ValueError("no iteration is there yet")
    return pd.concat(frames, ignore_index=True).sort_values(["run", "iteration"])


def _results(plan: Any, runs: list[int], metrics: pd.DataFrame) -> Any:
    """What the judge looks at in `kltrust.results.Results`: runs, metrics and stand-ins."""
    import pandas as pd

    rows = []
    for run in runs:
        setting = plan.setting(run)
        experiment = setting.experiment
        named = {"run": run, "label": setting.label, "seed": plan.seed(run)}
        of = {"algorithm": experiment.algorithm, "env": experiment.env}
        rows.append({**named, **of, **experiment.flat()})
    updates = [setting.experiment.update for setting in plan.settings]
    stand_ins = {u.name: type(u) for u in updates if hasattr(u, "stands_in")}
    return SimpleNamespace(runs=pd.DataFrame(rows), metrics=metrics, stand_ins=stand_ins)
