"""What a sweep is to do, before anything is compiled: groups, lanes, widths, shards.

A static group is what one compilation serves: experiments that differ in floats only. Its lanes
are settings x seeds. A run's number is that of its setting times the number of seeds, plus that of
its seed: the same in the whole sweep and in every shard of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.config.spec import Setting, Spec
from kltrust.experiments.engine import hosts
from kltrust.experiments.engine.memory import choose_width
from kltrust.experiments.engine.program import check_values


class Group(NamedTuple):
    """Runs that share their compilations.

    Attributes:
        runs: their numbers.
        width: lanes per block.
        chunk_length: iterations of a chunk.
    """

    runs: tuple[int, ...]
    width: int
    chunk_length: int


@dataclass(frozen=True)
class Plan:
    """A sweep, or a shard of one, as plain data: what decides the bits of every run is in it."""

    name: str
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    groups: tuple[Group, ...]
    shard: tuple[int, int] | None = None

    def setting(self, run: int) -> Setting:
        """The setting of a run."""
        return self.settings[run // len(self.seeds)]

    def seed(self, run: int) -> int:
        """The seed of a run."""
        return self.seeds[run % len(self.seeds)]

    def experiment(self, group: Group) -> Experiment:
        """The first experiment of a group: its static settings are those of all."""
        return self.setting(group.runs[0]).experiment

    def to_config(self) -> dict[str, Any]:
        """As plain data for a run folder."""
        settings = [
            {"label": s.label, "swept": s.swept, "experiment": s.experiment.to_dict()}
            for s in self.settings
        ]
        return {
            "sweep": self.name,
            "shard": self.shard,
            "seeds": list(self.seeds),
            "groups": [g._asdict() for g in self.groups],
            "settings": settings,
        }

    @staticmethod
    def from_config(config: dict[str, Any]) -> Plan:
        """The inverse of `to_config`."""
        return Plan(
            name=config["sweep"],
            seeds=tuple(config["seeds"]),
            settings=tuple(
                Setting(s["label"], s["swept"], Experiment.from_dict(s["experiment"]))
                for s in config["settings"]
            ),
            groups=tuple(
                Group(tuple(g["runs"]), g["width"], g["chunk_length"]) for g in config["groups"]
            ),
            shard=tuple(config["shard"]) if config["shard"] else None,
        )


def make_plan(
    spec: Spec,
    *,
    width: int | None = None,
    shard: tuple[int, int] | None = None,
    devices: Sequence[Any] | None = None,
) -> Plan:
    """Groups the runs of a sweep.

    Args:
        spec: the sweep.
        width: lanes per block for all groups; None chooses, by the number of lanes of the whole
            group and by the devices' memory.
        shard: (i, n), i from 1: the i-th of n parts of about as many environment steps each.
        devices: None takes JAX's.

    Raises:
        ValueError: on a width or a shard that can't be, or if hosts are given different ones.
    """
    devices = list(devices or jax.devices())
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    plan = Plan(spec.name, spec.seeds, spec.settings, ())
    hosts.check_same("the sweep", [plan.to_config(), width, shard])
    by_key: dict[str, list[int]] = {}
    for i, setting in enumerate(spec.settings):
        mine = range(i * len(spec.seeds), (i + 1) * len(spec.seeds))
        by_key.setdefault(static_key(setting.experiment), []).extend(mine)
    groups = []
    for runs in by_key.values():
        experiment = plan.setting(runs[0]).experiment
        chunk = experiment.chunk_length
        chosen = width or choose_width(experiment, len(runs), chunk, devices)
        groups.append(Group(tuple(runs), chosen, chunk))
    return _take_shard(replace(plan, groups=tuple(groups)), shard)


def check_spec(spec: Spec) -> None:
    """Refuses values that no algorithm, learner or environment takes; compiles nothing.

    Raises:
        ValueError: names the line, the setting and the remedy.
    """
    for setting in spec.settings:
        try:
            check_values(setting.experiment)
        except ValueError as error:
            raise spec.source.blame(setting.places, error) from error


def static_key(experiment: Experiment) -> Any:
    """Equal for experiments of one static group: all of it but the values of floats."""
    return jax.tree.structure(experiment)


def _take_shard(plan: Plan, shard: tuple[int, int] | None) -> Plan:
    """Neighbouring runs go together, so that few shards compile the same group."""
    if shard is None:
        return plan
    i, n = shard
    if not 1 <= i <= n:
        raise ValueError(f"a shard is i/n with 1 <= i <= n, got {i}/{n}")
    steps = {g: (e := plan.experiment(g)).num_iterations * e.batch_size for g in plan.groups}
    total = sum(steps[g] * len(g.runs) for g in plan.groups)
    done, groups = 0, []
    for group in plan.groups:
        mine = []
        for run in group.runs:
            middle = 2 * done + steps[group]
            if middle * n // (2 * total) == i - 1:
                mine.append(run)
            done += steps[group]
        if mine:
            groups.append(group._replace(runs=tuple(mine)))
    if not groups:
        raise ValueError(f"shard {i}/{n} would hold no run: take fewer shards")
    return replace(plan, groups=tuple(groups), shard=(i, n))
