"""One state, one folder: any pytree of arrays, saved with orbax and restored bit for bit.

A checkpoint holds orbax's own files under ``arrays/``, one array per leaf under the leaf's path.
Its manifest has the things that orbax does not keep: the implementation of typed PRNG keys, arrays
without entries, and a checksum of every file. Saving is synchronous. For small states of any size
it takes a few tens of milliseconds, most of them in orbax.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.experiments.store import files
from kltrust.types import PyTree

FORMAT = "kltrust checkpoint 1"
_MANIFEST = "kltrust.json"
_ARRAYS = "arrays"
_LEAF = {"shape": [int], "dtype": str, "key": (type(None), str)}
_KIND = {"leaves": {str: _LEAF}, "files": {str: [int]}}
_SHOWN = 3


class CheckpointError(files.StorageError):
    """A checkpoint is missing, foreign, damaged or of another state; the message has a remedy."""


class _DamagedError(CheckpointError, files.DamagedError):
    """A checkpoint is damaged."""

    def __init__(self, path: Path, wrong: str) -> None:
        self.file, self.wrong = path, f"holds a damaged file: {wrong}"
        remedy = "take it from a backup, or restore another checkpoint"
        RuntimeError.__init__(self, f"{path} {self.wrong}; {remedy}")


class _Leaf(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    key: str | None = None

    def __str__(self) -> str:
        """As in ``float32[4,64]``, or ``key<fry>[20]``."""
        kind = self.dtype if self.key is None else f"key<{self.key}>"
        return f"{kind}[{','.join(map(str, self.shape))}]"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def save(path: str | Path, state: PyTree) -> int:
    """Saves a pytree of arrays as the folder ``path``, wholly or not at all; returns its digest.

    The state may hold JAX and NumPy arrays, typed PRNG keys, numbers and booleans. It may be
    donated as soon as this returns.

    Raises:
        CheckpointError: if ``path`` exists, a leaf was donated or is no array, or the disk fails.
    """
    path = Path(path).absolute()
    if path.exists():
        raise CheckpointError(f"{path} exists: remove it first, or save under another name")
    leaves = {name: _to_host(name, leaf) for name, leaf in _named(state).items()}
    partial = path.with_name(path.name + files.DEBRIS)
    files.remove(partial)
    try:
        partial.mkdir(parents=True)
        _save_arrays(partial / _ARRAYS, {name: a for name, (_, a) in leaves.items() if a.size})
        content = {
            "leaves": {name: leaf._asdict() for name, (leaf, _) in leaves.items()},
            "files": _checksums(partial),
        }
        manifest = files.sealed({"format": FORMAT, **content})
        (partial / _MANIFEST).write_bytes(files.to_json(manifest))
        files.publish_folder(partial, path)
        return manifest["crc32"]
    except Exception as error:
        files.remove(partial)
        raise CheckpointError(f"can't save {path}: {files.explain(error)}") from error


def restore(path: str | Path, like: PyTree, digest: int | None = None) -> PyTree:
    """The state that was saved at ``path``, bit for bit; `save` returned its ``digest``.

    The result has the structure, shapes, dtypes and types of ``like``, which holds arrays or is the
    result of ``jax.eval_shape(init, key)``, which computes nothing. The types are JAX arrays (with
    the leaf's sharding, if it has one over several devices), NumPy arrays and numbers.

    Raises:
        CheckpointError: if the checkpoint is missing, not kltrust's, damaged, or of another
            structure; the first leaves that differ are named.
    """
    path = Path(path).absolute()
    saved, checksums = _read_manifest(path, digest)
    targets = _named(like)
    _check_structure(path, saved, {name: _describe(name, leaf) for name, leaf in targets.items()})
    _check_files(path, checksums)
    try:
        arrays = _load_arrays(path / _ARRAYS, [n for n, leaf in saved.items() if leaf.size])
    except Exception as error:  # orbax and tensorstore have no common kind of error
        raise _DamagedError(path, f"{type(error).__name__} while reading the arrays") from error
    restored = []
    for name, target in targets.items():
        leaf = saved[name]
        data = arrays[name] if leaf.size else np.zeros(leaf.shape, jnp.dtype(leaf.dtype))
        restored.append(_from_host(path, name, data, leaf, target))
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def verify(path: Path, digest: int | None = None) -> None:
    """Checks that all bytes at ``path`` are as saved, and that `save` returned this digest.

    Raises:
        CheckpointError: if not.
    """
    _check_files(path, _read_manifest(path, digest)[1])


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves in order, each under its path as written in Python."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path).lstrip(".") or "state": leaf for path, leaf in leaves}


def is_key(leaf: Any) -> bool:
    """Whether it is an array of typed PRNG keys, concrete or abstract."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def key_layout(key: Any) -> tuple[jax.ShapeDtypeStruct, str]:
    """The parts of typed keys, concrete or abstract: the data and the implementation's name."""
    names: list[str] = []

    def look(key: jax.Array) -> jax.Array:
        names.append(str(jax.random.key_impl(key)))
        return jax.random.key_data(key)

    return jax.eval_shape(look, key), names[0]


def _describe(name: str, leaf: Any) -> _Leaf:
    if is_key(leaf):
        data, implementation = key_layout(leaf)
        return _Leaf(data.shape, str(data.dtype), implementation)
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    if np.dtype(leaf.dtype).kind in "OUSmM":
        raise CheckpointError(f"{name} is {leaf.dtype}, no array of numbers: leave it out")
    return _Leaf(tuple(leaf.shape), str(leaf.dtype))


def _to_host(name: str, leaf: Any) -> tuple[_Leaf, np.ndarray]:
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise CheckpointError(f"{name} was donated to a computation: save its result, or a copy")
    data = jax.random.key_data(leaf) if is_key(leaf) else leaf
    # This may be a view of a device's buffer: it lives only until the save ends, which waits.
    return _describe(name, leaf), np.asarray(data, order="C")


def _from_host(path: Path, name: str, data: np.ndarray, saved: _Leaf, like: Any) -> Any:
    if isinstance(like, bool | int | float):
        return type(like)(data.item())
    if isinstance(like, np.ndarray | np.generic):
        return data if isinstance(like, np.ndarray) else data[()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the truncation that is refused below
        array = jnp.asarray(data)
    if array.dtype != data.dtype:
        raise CheckpointError(
            f"{path} holds {data.dtype} at {name}: set JAX_ENABLE_X64=1, as when it was saved"
        )
    if saved.key is not None:
        array = jax.random.wrap_key_data(array, impl=saved.key)
    sharding = getattr(like, "sharding", None)
    if sharding is not None and len(sharding.device_set) > 1:
        array = jax.device_put(array, sharding)
    return array


def _check_structure(path: Path, saved: dict[str, _Leaf], expected: dict[str, _Leaf]) -> None:
    differences = [
        f"{name}: saved {saved.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in dict.fromkeys([*expected, *saved])
        if saved.get(name) != expected.get(name)
    ]
    if not differences:
        return
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    raise CheckpointError(
        f"the structure of {path} differs at {'; '.join(differences[:_SHOWN])}{more}: "
        "restore it with the settings that it was saved with (environment, network, algorithm, "
        "number of seeds)"
    )


def _read_manifest(path: Path, digest: int | None) -> tuple[dict[str, _Leaf], dict[str, list[int]]]:
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint at {path}: check the path")
    file = path / _MANIFEST
    if not os.path.lexists(file):
        raise CheckpointError(
            f"{path} is not a kltrust checkpoint (it has no {_MANIFEST}): "
            "name a folder that kltrust saved"
        )
    try:
        manifest = files.read_json(file, _KIND, formats=[FORMAT])
    except files.DamagedError as error:
        raise _DamagedError(path, f"{_MANIFEST} {error.wrong}") from error
    except files.StorageError as error:
        raise CheckpointError(str(error)) from error
    if digest not in (None, manifest["crc32"]):
        raise _DamagedError(path, f"{_MANIFEST} is of another checkpoint")
    leaves = manifest["leaves"].items()
    described = {n: _Leaf(tuple(e["shape"]), e["dtype"], e["key"]) for n, e in leaves}
    return described, manifest["files"]


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if arrays:  # none, orbax would refuse
        with _orbax() as checkpointer:
            checkpointer.save(path, arrays)


def _load_arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    if not names:
        return {}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    with _orbax() as checkpointer:
        return checkpointer.restore(path, restore_args=as_numpy)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Whether neither the record nor the task that it names is in one of orbax's files."""
    return f"orbax{os.sep}checkpoint" not in f"{record.pathname} {record.getMessage()}"


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax for this process alone: by default it would wait for the processes on all other hosts.

    Orbax does not log the tracebacks of its errors here, since we explain them anyway. After its
    first error it closes its event loop. Writes that end later complain about the closed loop, or
    fail too, with nobody to tell. After an interrupt, so do its threads while Python ends. All of
    this may happen after this function ends, and is silenced.
    """
    import orbax.checkpoint as ocp  # takes a second to import: only where it is used

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_is_not_of_orbax)  # adding it again changes nothing
    told = sys.unraisablehook

    def hook(event: sys.UnraisableHookArgs, /) -> None:
        if str(event.exc_value) != "Event loop is closed":
            told(event)

    sys.unraisablehook = hook
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            yield checkpointer
        sys.unraisablehook = told  # after an error the hook stays: complaints may come later
    except BaseException:
        logger.addFilter(_is_not_of_orbax)
        raise
    finally:
        logger.setLevel(level)


def _checksums(folder: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file in a folder, by its path within."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            found[file.relative_to(folder).as_posix()] = [len(data), zlib.crc32(data)]
    return found


def _check_files(path: Path, checksums: dict[str, list[int]]) -> None:
    # Checked before orbax reads them: its errors about damaged files help nobody.
    for name, (_, crc32) in checksums.items():
        try:
            files.check(path / name, crc32)
        except files.DamagedError as error:
            raise _DamagedError(path, f"{name} {error.wrong}") from error
