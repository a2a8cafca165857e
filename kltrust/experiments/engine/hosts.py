"""Several hosts as one machine, by JAX's own distributed runtime.

Every host runs the same program on its part of the devices. The first host broadcasts to the others
what it alone finds out, so that all go on or all stop. On a single host, nothing is broadcast.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from kltrust.experiments.store import versions
from kltrust.experiments.store.checkpoint import is_key, key_layout
from kltrust.experiments.store.files import StorageError, to_json
from kltrust.experiments.store.record import RunError
from kltrust.types import PyTree

T = TypeVar("T")

_FAREWELL = 60
"""Seconds that a host which is done, or has failed, waits for the others before it ends them."""


def join(
    coordinator: str | None = None,
    num_hosts: int | None = None,
    host: int | None = None,
    *,
    timeout: int = 300,
) -> None:
    """Joins the other hosts; call it before any other use of JAX.

    Args:
        coordinator: the address of the first host, as in ``10.0.0.1:8476``. None lets JAX find
            ``coordinator``, ``num_hosts`` and ``host``, as it can under SLURM, Open MPI, and on TPU
            pods.
        num_hosts: the number of processes that take part.
        host: the number of this one, from 0.
        timeout: seconds to wait for the others to join; then this process ends, with a message.

    Raises:
        ValueError: if an argument is missing or impossible.
        RuntimeError: if JAX finds no others, can't reach them, or they have different devices.
    """
    if len({x is None for x in (coordinator, num_hosts, host)}) > 1:
        raise ValueError("--coordinator, --num-hosts and --host go together")
    if num_hosts is not None and host is not None and not 0 <= host < num_hosts:
        raise ValueError(f"--host counts from 0: below --num-hosts {num_hosts}, got {host}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator takes HOST:PORT, got {coordinator!r}")
    if timeout < 1:
        raise ValueError(f"--wait takes at least 1 second, got {timeout}")
    # JAX's preemption service, which is not used here, would catch SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    # After its own limit JAX aborts the process with a stack trace.
    watch = threading.Timer(timeout, _give_up, [coordinator, timeout])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_hosts,
            host,
            initialization_timeout=timeout + _FAREWELL,
            shutdown_timeout_seconds=_FAREWELL,
        )
    except (ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"can't join the other hosts ({error}): name them by --coordinator HOST:PORT, "
            "--num-hosts N and, on each, --host I"
        ) from error
    finally:
        watch.cancel()
    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise RuntimeError(
            f"the hosts have {', '.join(str(counts[i]) for i in sorted(counts))} devices: "
            f"give each the same number (CPU cores count as devices: see XLA_FLAGS in "
            f"docs/hosts.md)"
        )


def _give_up(coordinator: str | None, timeout: int) -> None:
    where = f"at {coordinator}" if coordinator else "where JAX looked for them"
    message = (
        f"the hosts did not all meet {where} within {timeout} s: start the same command on every "
        "host, each with its own --host, and see that the first one's port can be reached; --wait "
        "gives them longer"
    )
    print(f"kltrust: error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def are_several() -> bool:
    """Whether this process is one of several."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that reads, writes and prints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
    """Within, only the first host prints; all hosts still show errors."""
    if is_first():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def on_first(function: Callable[[], T]) -> T:
    """Calls ``function()`` on the first host only; all hosts get its result, plain data.

    Raises:
        Exception: the first host's error. The others raise a RunError, a StorageError, a
            ValueError or else a RuntimeError with the same message.
    """
    if not are_several():
        return function()
    raised: Exception | None = None
    data = b""
    if is_first():
        try:
            data = to_json({"result": function()})
        except Exception as error:  # whatever it is: the others wait
            kind = next((name for name, kind in _KINDS.items() if isinstance(error, kind)), None)
            said = str(error) if kind else f"{type(error).__name__}: {error}"
            raised, data = error, to_json({"error": said, "kind": kind or "RuntimeError"})
    answer = json.loads(_broadcast(data))
    if raised is not None:
        raise raised
    if "error" in answer:
        raise _KINDS[answer["kind"]](answer["error"])
    return answer["result"]


def check_same(what: str, value: Any) -> None:
    """Refuses to go on if hosts have been given different things to do.

    Raises:
        ValueError: on all hosts, if ``value``, plain data, is not the same on all.
    """
    if not are_several():
        return
    text = json.dumps(value, sort_keys=True).encode()
    digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    different = [i for i, other in enumerate(digests) if (other != digests[0]).any()]
    if different:
        raise ValueError(
            f"{what} of host {', '.join(map(str, different))} differs from that of host "
            f"0: start all "
            "hosts with the same specification, options and versions"
        )


def check_versions() -> None:
    """Refuses to go on if hosts would compute different numbers.

    Raises:
        ValueError: on all hosts, if they differ in a version or in JAX's precision.
    """
    now = versions.snapshot()
    same = ("packages", "commit", "x64", "matmul_precision")
    check_same("a version", {name: now[name] for name in same})


def to_host(arrays: PyTree) -> PyTree:
    """All arrays as NumPy arrays, whichever hosts hold them; keys stay JAX's, on this host."""
    return jax.device_get(arrays) if not are_several() else jax.tree.map(_gather, arrays)


def put(arrays: PyTree, shardings: PyTree) -> PyTree:
    """Spreads arrays, which every host holds whole, over the devices of all hosts.

    The shardings are a prefix of the arrays. Arrays that are spread already stay as they are.
    """
    if not are_several():
        return jax.device_put(arrays, shardings)
    return jax.tree.map(_spread, arrays, jax.tree.broadcast(shardings, arrays))


def broadcast(state: PyTree | None, like: PyTree) -> PyTree:
    """The first host's arrays, bit for bit, on all hosts; the others pass None.

    ``like`` has the structure of the arrays, as arrays or as shapes and dtypes.
    """
    # Sent as bytes: JAX's broadcast is a sum over hosts, which would turn -0.0 into 0.0.
    data = jax.tree.map(_zeros, like) if state is None else jax.tree.map(_to_bytes, state)
    return jax.tree.map(_from_bytes, multihost_utils.broadcast_one_to_all(data), like)


_KINDS = {kind.__name__: kind for kind in (RunError, StorageError, ValueError, RuntimeError)}


def _broadcast(data: bytes) -> bytes:
    """The first host's bytes, on all hosts; the others' bytes are ignored."""
    length = int(multihost_utils.broadcast_one_to_all(np.uint32(len(data))))
    # Padded to one of few sizes, since each size is a compilation.
    buffer = np.zeros(1 << max(length - 1, 1023).bit_length(), np.uint8)
    if is_first():
        buffer[:length] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer))[:length].tobytes()


def _layout(x: Any) -> tuple[tuple[int, ...], np.dtype]:
    data = key_layout(x)[0] if is_key(x) else x
    return data.shape, np.dtype(data.dtype)


def _zeros(like: Any) -> np.ndarray:
    shape, dtype = _layout(like)
    return np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)


def _to_bytes(x: Any) -> np.ndarray:
    data = np.asarray(jax.random.key_data(x) if is_key(x) else x, order="C")
    return data.reshape(-1).view(np.uint8)


def _from_bytes(data: np.ndarray, like: Any) -> Any:
    shape, dtype = _layout(like)
    values = np.asarray(data).view(dtype).reshape(shape)
    if not is_key(like):
        return values
    return jax.random.wrap_key_data(jnp.asarray(values), impl=key_layout(like)[1])


def _gather(x: Any) -> Any:
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return x if is_key(x) else np.asarray(x)
    if not is_key(x):
        return multihost_utils.process_allgather(x, tiled=True)
    data = multihost_utils.process_allgather(_key_data(x), tiled=True)
    return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(x))


# Compiled: eager operators can't use an array that is partly on other hosts.
_key_data = jax.jit(jax.random.key_data)


def _spread(x: Any, sharding: Sharding) -> jax.Array:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return x  # it is spread already
    data = x if is_key(x) else np.asarray(x)
    return jax.make_array_from_callback(data.shape, sharding, lambda index: data[index])
