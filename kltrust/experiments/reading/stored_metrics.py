"""The metrics of runs that stay in their folders until someone reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kltrust.checks import unknown
from kltrust.experiments.store.record import Record

if TYPE_CHECKING:
    import pandas as pd

NAMES = ["label", "algorithm", "env"]
"""The columns that name a run in every table."""
_KEYS = ["run", "iteration"]
_RETURN = ["return_sum", "num_episodes"]


class Part(NamedTuple):
    """A group's folder, the number of the folder's first run, and each run's iterations, loaded."""

    record: Record
    first: int
    done: Mapping[int, int]

    @property
    def runs(self) -> set[int]:
        """The numbers of its runs."""
        return set(self.done)


class StoredMetrics(NamedTuple):
    """The metrics of the runs in ``names``, which are still in their folders."""

    parts: tuple[Part, ...]
    names: pd.DataFrame

    @property
    def size(self) -> int:
        """The most numbers there can be, with a vector counted as one."""
        return sum(sum(p.done.values()) * len(p.record.columns()) for p in self.parts)

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All columns, or some of them after those that identify a row."""
        runs = set(self.names.index)
        mine = [part for part in self.parts if part.runs & runs]
        known = dict.fromkeys(c for part in mine for c in part.record.columns())
        if set(_RETURN) <= set(known):
            known["mean_return"] = None
        for name in columns or ():
            if name not in known and name not in NAMES:
                raise ValueError(unknown("column of the metrics", name, list(known)))
        frames = []
        for part in mine:
            record, first, done = part
            there = record.columns()
            wanted = None
            if columns is not None:
                wanted = ["run", "seed", "iteration", "env_steps", *columns]
                wanted += _RETURN if "mean_return" in columns else []
                wanted = [name for name in dict.fromkeys(wanted) if name in there]
            frame = record.metrics(wanted)
            frame = frame.assign(run=frame.run + first)
            if not record.finished:  # later commits are not in `runs`
                frame = frame[frame.iteration < frame.run.map(done).fillna(0)]
            frames.append(frame if part.runs <= runs else frame[frame.run.isin(runs)])
        table = named(concatenated(frames), self.names)
        wants_return = "mean_return" not in table and (columns is None or "mean_return" in columns)
        if set(_RETURN) <= set(table) and wants_return:
            ended = table.num_episodes.where(table.num_episodes > 0)
            place = list(table).index("env_steps") + 1
            table.insert(place, "mean_return", (table.return_sum / ended).astype(float))
        unasked = [c for c in _RETURN if columns is not None and c in table and c not in columns]
        return table.drop(columns=unasked)


def named(table: pd.DataFrame, names: pd.DataFrame) -> pd.DataFrame:
    """The table with label, algorithm and environment of each row's run."""
    import pandas as pd

    if not len(table):
        return table
    own = pd.DataFrame({name: table.run.map(names[name]) for name in NAMES})
    # All at once: a frame of many pieces is slow, and pandas warns about it.
    return pd.concat([table.iloc[:, :1], own, table.iloc[:, 1:]], axis=1)


def concatenated(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """One table in the order of runs; a value is missing if the algorithm has no such column."""
    import pandas as pd

    if not parts:
        return pd.DataFrame()
    shared = set.intersection(*(set(p.columns) for p in parts))
    # A flag or a count must not turn into a float because another algorithm has no such column.
    nullable = {"b": "boolean", "i": "Int64", "u": "Int64"}
    own = [p.dtypes[p.columns.difference(shared)] for p in parts]
    kinds = [{c: nullable[d.kind] for c, d in of.items() if d.kind in nullable} for of in own]
    typed = [p.astype(kind) for p, kind in zip(parts, kinds, strict=True)]
    return pd.concat(typed, ignore_index=True).sort_values(_KEYS, ignore_index=True)
