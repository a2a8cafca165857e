"""Several folders as one state with a version: a page asks for what changed since its own."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kltrust.experiments.store.layout import runs_in
from kltrust.experiments.watch._folder import Folder
from kltrust.experiments.watch._judging import Judge

BETWEEN = 1.0
"""Seconds between two looks at the disk, however often and by however many pages they are asked."""


class State:
    """The folders, followed; nothing is read while nobody asks."""

    def __init__(self, paths: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        """Follows the folders ``paths``.

        A folder that holds no run itself stands for the run folders in it, also those to come.
        """
        self._paths, self._clock = [path.absolute() for path in paths], clock
        self._folders: dict[Path, Folder] = {}
        self._judge = Judge(clock)
        self._lock = threading.Lock()
        self._version, self._next = 0, -np.inf
        self._known = 0
        self.id = secrets.token_hex(8)

    def changes(self, since: int, curves: Sequence[str], new: Sequence[str] = ()) -> dict[str, Any]:
        """What a page needs beyond what it has: plain data.

        Args:
            since: the version that the page has; 0 has nothing.
            curves: those of which it needs what changed.
            new: those that it needs as a whole.
        """
        with self._lock:
            self._look()
            wanted = {**dict.fromkeys(curves, since), **dict.fromkeys(new, 0)}
            folders = [
                self._of_folder(i, folder, since, wanted)
                for i, folder in enumerate(self._folders.values())
            ]
            return {"id": self.id, "version": self._version, "folders": folders}

    def _look(self) -> None:
        if (now := self._clock()) < self._next:
            return
        self._next = now + BETWEEN
        self._version += 1
        for path in self._found():
            self._folders.setdefault(path, Folder(path))
        for folder in self._folders.values():
            folder.update(self._version)
        self._judge.update(list(self._folders.values()), self._version)

    def _found(self) -> list[Path]:
        """The run folders: those given, and those within one that holds none itself."""
        found = []
        for path in self._paths:
            found += runs_in(path) or [path]
        known = {path for path in self._folders if self._folders[path].plan is not None}
        # A folder in which runs have appeared is no longer shown itself.
        for path in [p for p in self._folders if p not in found and p not in known]:
            del self._folders[path]
            self.id = secrets.token_hex(8)
        return found

    def _of_folder(
        self, index: int, folder: Folder, since: int, wanted: Mapping[str, int]
    ) -> dict[str, Any]:
        told: dict[str, Any] = {**folder.as_data(), "index": index}
        if folder.structure > since:
            told["structure"] = folder.described()
        told["groups"], told["curves"] = [], []
        for i, group in enumerate(folder.groups):
            if group.version > max(since, 0):
                table = {k: _packed(v) for k, v in group.extremes.table().items()}
                told["groups"].append({"group": i, "done": group.done, "table": table})
            for name, start in wanted.items():
                series = group.curve(name, self._version)
                if series is not None and (new := series.since(start)) is not None:
                    first, means = new
                    told["curves"].append(
                        {
                            "group": i,
                            "name": name,
                            "stride": series.stride,
                            "buckets": series.shape[1],
                            "first": first,
                            "count": means.shape[1],
                            "values": _packed(means),
                        }
                    )
        if folder.decided > since:
            told["decisions"] = folder.decisions
        if self._judge.version(folder) > since:
            told["findings"], told["judged"] = self._judge.rows(folder)
        return told


def _packed(values: np.ndarray) -> str:
    """Numbers as float32, little-endian, in base64: a third of their size as text."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
