"""Plans, made before anything is compiled: groups, lanes, widths, shards.

A training is a sweep of one setting. A static group holds the experiments that one compilation
serves: they differ in floats only. Its lanes are settings x seeds. A run's number is its setting's
index times the number of seeds, plus its seed's index. It is the same in the whole sweep and in
every shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.config.spec import Spec
from kltrust.experiments.config.spec_setting import Setting
from kltrust.experiments.config.stand_in import read
from kltrust.experiments.engine import hosts
from kltrust.experiments.engine.devices import found
from kltrust.experiments.engine.memory import choose_width
from kltrust.experiments.engine.program import check_schedules, check_values
from kltrust.experiments.engine.spread import with_blocks
from kltrust.experiments.jobs.trials import board_of, check_search, shuffled, slots_of
from kltrust.experiments.search import kinds
from kltrust.experiments.search.board import Board, expected


class Group(NamedTuple):
    """The numbers of runs that share their compilations; ``width`` is lanes per block.

    If the group is ``spread``, the environments of its only run are spread over all devices.
    """

    runs: tuple[int, ...]
    width: int
    chunk_length: int
    spread: bool = False


@dataclass(frozen=True)
class Plan:
    """A sweep, or a shard of one, as plain data that decides every run's bits.

    Attributes:
        name, seeds, settings: those of the whole sweep, also in a shard.
        groups: the groups to run.
        shard: (i, n), i from 1; None is the whole sweep.
        on_nonfinite: what happens when a run meets a NaN or an infinity: with "freeze" the run
            stays in the state before it and harms no other; with "raise" all runs end.
        keep_best: whether each group keeps its best checkpoint, by the mean score of its runs,
            beside the latest.
        search: how each group's settings share its lanes; None gives every run a lane.
        boards: how the search of each group stands, in a plan read from a folder, see `trials`.
    """

    name: str
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    groups: tuple[Group, ...] = ()
    shard: tuple[int, int] | None = None
    on_nonfinite: Literal["freeze", "raise"] = "freeze"
    keep_best: bool = False
    search: Any = None
    boards: dict[Group, Board] = field(default_factory=dict, compare=False, repr=False)

    def setting(self, run: int) -> Setting:
        """The setting of a run."""
        return self.settings[run // len(self.seeds)]

    def seed(self, run: int) -> int:
        """The seed of a run."""
        return self.seeds[run % len(self.seeds)]

    def experiment(self, group: Group) -> Experiment:
        """The first experiment of a group: all of them have its static settings."""
        return self.setting(group.runs[0]).experiment

    def first_trained(self, group: Group) -> Group:
        """The group with only as many runs as train at once: all, without a search."""
        if self.search is None:
            return group
        trials = len(group.runs) // len(self.seeds)
        return group._replace(runs=group.runs[: slots_of(self.search, trials) * len(self.seeds)])

    def steps(self, group: Group) -> int:
        """The environment steps of all runs of a group; of a search, as many as are expected."""
        experiment = self.experiment(group)
        if self.search is None:
            return len(group.runs) * experiment.num_iterations * experiment.batch_size
        board = self.boards.get(group)
        if board is None:
            evaluations = expected(self.search, board_of(self, group))[1]
        else:
            evaluations = sum(board.ages) + expected(self.search, board)[1]
        return evaluations * group.chunk_length * experiment.batch_size * len(self.seeds)

    def alike(self, group: Group) -> list[Experiment]:
        """The experiments of all settings of the group's static group, also in other shards."""
        key = static_key(self.experiment(group))
        return [s.experiment for s in self.settings if static_key(s.experiment) == key]

    def scheduled(self, group: Group) -> list[str]:
        """The environment's parameters that are schedules in any of the experiments `alike`."""
        # Without schedules, as in most plans, no setting's key has to be made.
        if not (with_schedules := [s.experiment for s in self.settings if s.experiment.scheduled]):
            return []
        key = static_key(self.experiment(group))
        alike = [e for e in with_schedules if static_key(e) == key]
        return sorted({name for e in alike for name in e.scheduled})

    def to_config(self) -> dict[str, Any]:
        """The plan as plain data for a run folder."""
        config = {"sweep": self.name, **vars(self), "seeds": list(self.seeds)}
        del config["name"], config["search"], config["boards"]
        settings: list[dict[str, Any]] = [
            {"label": s.label, "swept": s.swept, "experiment": s.experiment.to_dict()}
            for s in self.settings
        ]
        if self.search is not None:
            config["search"] = kinds.plain(self.search)
            settings = [
                {**plain, "ranges": {name: list(r) for name, r in s.ranges.items()}}
                for plain, s in zip(settings, self.settings, strict=True)
            ]
        return {**config, "groups": [g._asdict() for g in self.groups], "settings": settings}

    @staticmethod
    def from_config(config: dict[str, Any], described: Mapping[str, Any] | None = None) -> Plan:
        """The inverse of `to_config`; ``described`` is of your algorithms: `stand_in.read`."""
        own = described or {}
        settings = [
            Setting(
                s["label"],
                s["swept"],
                read(e, own.get(e["algorithm"])),
                ranges={name: tuple(r) for name, r in s.get("ranges", {}).items()},
            )
            for s in config["settings"]
            for e in [s["experiment"]]
        ]
        groups = [Group(**{**g, "runs": tuple(g["runs"])}) for g in config["groups"]]
        shard = tuple(config["shard"]) if config["shard"] else None
        more = {name: config[name] for name in ("on_nonfinite", "keep_best")}
        more["search"] = kinds.of_plain(config["search"]) if "search" in config else None
        name, seeds = config["sweep"], tuple(config["seeds"])
        return Plan(name, seeds, tuple(settings), tuple(groups), shard, **more)


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
        width: lanes per block for all groups; None chooses, see `choose_width`.
        shard: (i, n), i from 1: the i-th of n parts with about equally many environment steps.
        devices: None takes JAX's.

    Raises:
        ValueError: on an impossible width, shard or search, or if hosts are given different ones.
        RuntimeError: if a package that the search needs is missing.
    """
    plan = Plan(spec.name, spec.seeds, spec.settings, search=spec.search)
    hosts.check_same("the sweep", [plan.to_config(), width, shard])
    plan = _grouped(plan, width, devices)
    if spec.search is not None:
        check_search(plan, shard, lambda key, said: spec.source.error(("search", key), said))
    return _take_shard(plan, shard)


def plan_training(
    experiment: Experiment,
    seeds: Sequence[int],
    *,
    width: int | None = None,
    spread: bool = False,
) -> Plan:
    """Plans a training of one setting: a NaN ends it, and the best checkpoint is kept.

    Args:
        experiment: all settings.
        seeds: one run for each.
        width: as in `make_plan`.
        spread: a single run, with its environments over all devices; see `spread`.

    Raises:
        ValueError: on impossible seeds, width or spread, or if they differ between hosts.
    """
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"seeds must be different and at least one, got {list(seeds)}")
    if bad := [seed for seed in seeds if not 0 <= seed < 2**31]:
        raise ValueError(f"a seed must be at least 0 and below 2^31, got {bad[0]}")
    if spread and (len(seeds) > 1 or width):
        raise ValueError(
            "a run is spread alone: give it one seed and no width, or spread the runs instead"
        )
    check_schedules(experiment)
    experiment = with_blocks(experiment) if spread else experiment
    name = f"{experiment.algorithm}-{experiment.env.replace('/', '-')}"
    setting = Setting(experiment.algorithm, {}, experiment)
    plan = Plan(name, tuple(map(int, seeds)), (setting,), on_nonfinite="raise", keep_best=True)
    hosts.check_same("the training", [plan.to_config(), width, spread])
    plan = _grouped(plan, width)
    return replace(plan, groups=tuple(group._replace(spread=spread) for group in plan.groups))


def _grouped(plan: Plan, width: int | None, devices: Sequence[Any] | None = None) -> Plan:
    """The plan with its static groups, in the order of their first settings."""
    devices = list(devices or found())
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    by_key: dict[str, list[int]] = {}
    for i, setting in enumerate(plan.settings):
        mine = range(i * len(plan.seeds), (i + 1) * len(plan.seeds))
        by_key.setdefault(static_key(setting.experiment), []).extend(mine)
    groups = []
    for runs in by_key.values():
        experiment = plan.setting(runs[0]).experiment
        chunk = experiment.chunk_length
        order = runs if plan.search is None else shuffled(plan.search, runs, len(plan.seeds))
        group = Group(tuple(order), 0, chunk)
        lanes = len(plan.first_trained(group).runs)
        chosen = width or choose_width(experiment, lanes, chunk, devices)
        groups.append(group._replace(width=chosen))
    return replace(plan, groups=tuple(groups))


def check_spec(spec: Spec) -> None:
    """Refuses values that an algorithm, learner or environment does not take; compiles nothing.

    Raises:
        ValueError: names the line, the setting and the remedy.
    """
    traced = set()
    for setting in spec.settings:
        experiment = setting.experiment
        key = static_key(experiment), experiment.scheduled
        try:
            if key not in traced:
                check_schedules(experiment)
            check_values(experiment)
        except ValueError as error:
            raise spec.source.blame(setting.key_paths, error) from error
        traced.add(key)


def static_key(experiment: Experiment) -> Any:
    """A key that is equal within a static group: all of the experiment except its float values.

    A constant and a schedule of it share a group.
    """
    return jax.tree.structure(experiment.final)


def _take_shard(plan: Plan, shard: tuple[int, int] | None) -> Plan:
    """The shard's part of a plan: neighbouring runs, so that few shards compile the same group."""
    if shard is None:
        return plan
    i, n = shard
    if not 1 <= i <= n:
        raise ValueError(f"a shard is i/n with 1 <= i <= n, got {i}/{n}")
    steps = {g: plan.steps(g) // len(g.runs) for g in plan.groups}
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
