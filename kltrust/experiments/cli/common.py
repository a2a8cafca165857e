"""What the commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

# Names and paths are there to be copied: never cut, the terminal wraps them.
WIDE = 400

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclasses.dataclass(frozen=True)
class HostFlags:
    """How a process finds the other hosts, if there are any; see `hosts`."""

    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Several hosts: where the first one listens. The same command on all, but for --host."""
    num_hosts: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Several hosts: how many there are."""
    host: Annotated[int | None, tyro.conf.arg(metavar="I")] = None
    """Several hosts: the number of this one, from 0, which reads and writes the folder."""
    distributed: Switch = False
    """Several hosts that SLURM, Open MPI or a TPU pod started: JAX finds out the rest."""
    wait: Annotated[int, tyro.conf.arg(metavar="SECONDS")] = 300
    """Several hosts: how long to wait for the others to come."""


def are_several(flags: HostFlags) -> bool:
    """Whether the flags speak of other hosts."""
    named = (flags.coordinator, flags.num_hosts, flags.host)
    return flags.distributed or any(flag is not None for flag in named)


@contextlib.contextmanager
def all_hosts(flags: HostFlags) -> Iterator[None]:
    """Joins the other hosts; within, only the first one prints."""
    from kltrust.experiments.engine import devices, hosts

    if flags.distributed and (flags.coordinator, flags.num_hosts, flags.host) != (None,) * 3:
        raise ValueError(
            "--distributed finds the hosts by itself: leave out --coordinator, --num-hosts, --host"
        )
    # Every host makes as many devices of its cores, however many runs there are.
    devices.use_all_cores(sys.maxsize)
    hosts.join(flags.coordinator, flags.num_hosts, flags.host, timeout=flags.wait)
    with hosts.only_first_prints():
        yield


@contextlib.contextmanager
def naming(folder: Path, command: str) -> Iterator[None]:
    """Whoever interrupts a run is told how it goes on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        begun = (folder / "run.json").exists()
        goes_on = f"; `kltrust {command} --resume {folder}` goes on"
        raise KeyboardInterrupt(goes_on if begun else " before anything was written") from stop
