"""Metrics as tables: a pytree of arrays becomes columns, and columns become Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

from kltrust.experiments.store import files
from kltrust.types import PyTree

if TYPE_CHECKING:
    import pyarrow as pa

Columns: TypeAlias = Mapping[str, Any]
"""One table: column names to one-dimensional arrays of one length."""


def to_rows(
    metrics: PyTree, seeds: Sequence[int], first_iteration: int = 0
) -> dict[str, np.ndarray]:
    """Metrics [seeds, iterations] as columns, one row per seed and iteration, seed by seed.

    Leaves are [S, n], or [S, n, K] for a column of vectors; a leaf's path names its column, as in
    ``extra.beta``. The first of the n iterations has the index ``first_iteration``.

    Raises:
        ValueError: if a leaf is neither.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(metrics)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }
    shapes = {array.shape[:2] if array.ndim in (2, 3) else () for array in arrays.values()}
    if len(shapes) != 1 or not (shape := shapes.pop()) or shape[0] != len(seeds):
        detail = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"metrics must be [{len(seeds)} seeds, iterations], got {detail}")
    iterations = first_iteration + np.arange(shape[1])
    return {
        "seed": np.repeat(np.asarray(seeds, np.int64), shape[1]),
        "iteration": np.tile(iterations, shape[0]),
        **{name: array.reshape(-1, *array.shape[2:]) for name, array in arrays.items()},
    }


def encode(columns: Columns) -> tuple[memoryview, dict[str, str]]:
    """A table as Parquet bytes, and its schema as column to dtype; a row of [n, K] becomes a list.

    Raises:
        ValueError: if the columns are not one- or two-dimensional, or not of one length.
    """
    import pyarrow as pa

    arrays = {name: np.asarray(column) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    ranks, lengths = {len(s) for s in shapes.values()}, {s[:1] for s in shapes.values()}
    if len(lengths) != 1 or not ranks <= {1, 2}:
        raise ValueError(f"columns must be [n] or [n, K] and of one length, got {shapes}")

    def column(array: np.ndarray) -> pa.Array:
        values = pa.array(array.reshape(-1))
        if array.ndim == 1:
            return values
        return pa.FixedSizeListArray.from_arrays(values, array.shape[1])

    table = pa.table({name: column(array) for name, array in arrays.items()})
    return to_parquet(table), {field.name: str(field.type) for field in table.schema}


def read(parts: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """The parts as one table, in order; of the columns, reads only those asked for.

    Raises:
        DamagedError: if a part is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def whole(file: Any) -> pa.Table:
        return pq.read_table(file, columns=columns, page_checksum_verification=True)

    return pa.concat_tables([_opened(part, whole) for part in parts])


def rows_where(
    parts: Sequence[Path], columns: Sequence[str], condition: Callable[[pa.RecordBatch], pa.Array]
) -> list[dict[str, Any]]:
    """The rows of some columns where a condition holds; few others are in memory at a time.

    Raises:
        DamagedError: if a part is missing or damaged.
    """
    import pyarrow.parquet as pq

    def found(file: Any) -> Iterator[list[dict[str, Any]]]:
        table = pq.ParquetFile(file, page_checksum_verification=True)
        for batch in table.iter_batches(columns=list(columns)):
            yield batch.filter(condition(batch)).to_pylist()

    of_parts = [_opened(part, lambda file: list(found(file))) for part in parts]
    return [row for batches in of_parts for batch in batches for row in batch]


def _opened(part: Path, look: Callable[[Any], Any]) -> Any:
    """The result of ``look`` on a table's opened file."""
    import pyarrow as pa

    with files.opened(part) as file:
        try:
            return look(file)
        except (OSError, pa.ArrowException) as error:
            raise files.DamagedError(part, f"is damaged ({error})") from error


def to_parquet(table: pa.Table) -> memoryview:
    """A table as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return memoryview(sink.getvalue())
