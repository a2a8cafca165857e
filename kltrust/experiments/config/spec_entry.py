"""Expands one of the [[experiments]] of a specification into settings."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from kltrust.algorithms import find_algorithm
from kltrust.checks import as_float, nearest
from kltrust.experiments.config.experiment import SECTIONS, Experiment, put, qualified
from kltrust.experiments.config.presets import ACCELERATOR, preset
from kltrust.experiments.config.spec_draws import draws, sobol
from kltrust.experiments.config.spec_setting import Setting, label_of
from kltrust.experiments.config.spec_source import KeyPath, Source, files_like

EQUAL = "equal"
HELD_EQUAL = (EQUAL, ACCELERATOR)
"""The presets that hold rollout, critic, network and budget equal."""
Comparison: TypeAlias = tuple[str, str]
"""One of these presets, and an environment."""
_SWEEPERS = ("grid", "zip", "random")
_SECTIONS = (*SECTIONS, "env_params")
_ENTRY = ("label", "algorithms", "envs", "preset", *_SECTIONS, *_SWEEPERS)
MOST_SETTINGS = 10**4
"""Settings per sweep; each one is checked before anything is compiled."""
_RANGES = ("uniform", "log_uniform", "choice")
_DRAW = ("count", "seed", "draw")
"""The keys of ``random`` besides the settings."""
_Point: TypeAlias = dict[str, tuple[Any, KeyPath]]
"""Swept values by dotted name, each with its path of keys in the specification."""


@dataclass(frozen=True)
class Entry:
    """One of [[experiments]], with the defaults that [sweep] gives it."""

    source: Source
    index: int
    table: dict[str, Any]
    sweep: dict[str, Any]
    common: dict[str, dict[str, Any]]

    @property
    def key_path(self) -> KeyPath:
        """Where it stands."""
        return ("experiments", self.index)

    def compared(self) -> dict[Comparison, list[str]]:
        """The algorithms by comparison, if the preset holds everything else equal.

        Raises:
            ValueError: names file and line.
        """
        self.source.expect_keys(self.key_path, self.table)
        for key in self.table:
            has_names = self._given("algorithms")[0] is not None
            if key not in _ENTRY and has_names and (found := self._owner(key)):
                message = f"{key} is a setting: write {found[1]} = VALUE, or grid.{key} = [VALUES]"
                raise self.source.error((*self.key_path, key), message)
        self.source.expect_keys(self.key_path, self.table, _ENTRY)
        if (chosen := self._given("preset", EQUAL)[0]) not in HELD_EQUAL:
            return {}
        algorithms = self._names("algorithms")
        return {(chosen, env): algorithms for env in self._names("envs")}

    def settings(self, references: Mapping[Comparison, str | None]) -> Iterator[Setting]:
        """Algorithms x environments x swept points.

        Args:
            references: the result of `presets.shared_preset` for every comparison.

        Raises:
            ValueError: names file and line.
        """
        label = self.table.get("label")
        if not isinstance(label, str | None):
            raise self.source.error(
                (*self.key_path, "label"), f"label must be a text, got {label!r}"
            )
        for algorithm in self._names("algorithms"):
            points, ranges = list(self._points(algorithm)), self._ranges(algorithm)
            for env in self._names("envs"):
                for point in points:
                    swept = {key: value for key, (value, _) in point.items()}
                    name = label_of(label or algorithm, swept, algorithm)
                    made = self._resolve(algorithm, env, point, name, references)
                    yield replace(made, ranges=ranges)

    def _given(self, key: str, default: Any = None) -> tuple[Any, KeyPath]:
        """A value from this entry, else from [sweep], with its path of keys."""
        if key in self.table:
            return self.table[key], (*self.key_path, key)
        return self.sweep.get(key, default), ("sweep", key)

    def _names(self, key: str) -> list[str]:
        names, key_path = self._given(key)
        if names is None:
            message = f"{key} are missing: give them here, or in [sweep] for all experiments"
            raise self.source.error(self.key_path, message)
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names or any(type(n) is not str for n in names):
            raise self.source.error(key_path, f"{key} must be a name or a list of names")
        for name in names if key == "algorithms" else ():
            try:
                find_algorithm(name)
            except ValueError as error:
                raise self.source.error(key_path, str(error)) from error
        return names

    def _owner(self, name: str) -> tuple[str, str] | None:
        """The first algorithm of this entry that has the setting, and the setting's full name."""
        for algorithm in self._names("algorithms"):
            with contextlib.suppress(ValueError):
                return algorithm, qualified(name, algorithm)
        return None

    def _lacks(self, algorithm: str, name: str, key_path: KeyPath) -> ValueError | None:
        """The error for a setting that this algorithm lacks and another of this entry has."""
        if (found := self._owner(name)) is None:
            return None
        message = (
            f"{found[0]} has a setting {name!r}, {algorithm} has none: give {algorithm} an "
            "[[experiments]] of its own"
        )
        return self.source.error(key_path, message)

    def _resolve(
        self,
        algorithm: str,
        env: str,
        point: _Point,
        label: str,
        references: Mapping[Comparison, str | None],
    ) -> Setting:
        key_paths: dict[str, KeyPath] = {"": self.key_path}
        chosen, at = self._given("preset", EQUAL)
        reference = references[chosen, env] if chosen in HELD_EQUAL else None
        try:
            if chosen == EQUAL:
                chosen = "tuned" if reference else "none"
            source = None if chosen == "tuned" else chosen
            data = preset(algorithm, env, source).to_dict()
            if reference:
                like = preset(reference, env, source).to_dict()
                data |= {section: like[section] for section in SECTIONS if section != "update"}
        except (ValueError, TypeError) as error:
            absent = isinstance(error.__cause__, FileNotFoundError)
            names = (*HELD_EQUAL, "tuned", "none")
            hint = files_like(Path(chosen), names) if absent else ""
            raise self.source.error(at, f"{error}{hint}") from error

        def give(name: str, value: Any, key_path: KeyPath) -> None:
            try:
                put(data, name, value)
            except ValueError as error:
                raise self.source.error(key_path, str(error)) from error
            key_paths[name] = key_path
            if name.startswith("env_params.") and isinstance(value, dict):
                key_paths.update({f"{name}.{key}": (*key_path, key) for key in value})

        own = {section: self.table[section] for section in _SECTIONS if section in self.table}
        for start, sections in (((), self.common), (self.key_path, own)):
            for section, values in sections.items():
                if not isinstance(values, dict):
                    raise self.source.error((*start, section), f"{section} must be a table")
                for key, value in values.items():
                    at = (*start, section, key)
                    is_of_others = section == "update" and key not in data[section]
                    if is_of_others and (lacking := self._lacks(algorithm, key, at)):
                        raise lacking
                    give(f"{section}.{key}", value, at)
        for name, (value, key_path) in point.items():
            section, key = name.split(".", 1)
            if key in own.get(section, {}):
                raise self.source.error(key_path, f"{name} is swept and set: leave one of them out")
            give(name, value, key_path)
        try:
            experiment = Experiment.from_dict(data)
        except ValueError as error:
            raise self.source.blame(key_paths, error) from error
        return Setting(label, {k: v for k, (v, _) in point.items()}, experiment, key_paths)

    def _points(self, algorithm: str) -> Iterator[_Point]:
        """Every combination of the swept values."""
        grid = self._lists("grid", algorithm).items()
        axes = [[{n: (v, key_path)} for v in values] for n, (values, key_path) in grid]
        axes += [self._zip(algorithm), self._random(algorithm)]
        swept = [name for axis in axes for name in axis[0]]
        for name in swept:
            if swept.count(name) > 1:
                raise self.source.error(
                    self.key_path, f"{name} is swept twice: leave one of them out"
                )
        if (count := math.prod(map(len, axes))) > MOST_SETTINGS:
            message = f"{count:,} settings are too many: {MOST_SETTINGS:,} are the most"
            raise self.source.error(self.key_path, message)
        for parts in itertools.product(*axes):
            yield {name: value for part in parts for name, value in part.items()}

    def _swept(self, key: str, algorithm: str) -> _Point:
        """The contents of grid, zip or random, by dotted name."""
        table = self.table.get(key, {})
        if not isinstance(table, dict):
            raise self.source.error((*self.key_path, key), f"{key} must be a table of settings")
        found: _Point = {}
        for name, value in table.items():
            key_path = (*self.key_path, key, name)
            if key == "random" and name in _DRAW:
                continue
            for dotted, (inner, at) in _dotted(name, value, key_path).items():
                try:
                    found[qualified(dotted, algorithm)] = (inner, at)
                except ValueError as error:
                    raise self._lacks(algorithm, dotted, at) or self.source.error(
                        at, str(error)
                    ) from error
        return found

    def _lists(self, key: str, algorithm: str) -> _Point:
        swept = self._swept(key, algorithm)
        for name, (values, key_path) in swept.items():
            if not isinstance(values, list) or not values:
                message = f"{key} takes a list of values for {name}, got {values!r}"
                raise self.source.error(key_path, message)
        return swept

    def _zip(self, algorithm: str) -> list[_Point]:
        swept = self._lists("zip", algorithm)
        lengths = {name: len(values) for name, (values, _) in swept.items()}
        if len(set(lengths.values())) > 1:
            message = f"zip takes lists of one length, got {lengths}"
            raise self.source.error((*self.key_path, "zip"), message)
        return _rows(swept, next(iter(lengths.values()), 1))

    def _random(self, algorithm: str) -> list[_Point]:
        swept = self._swept("random", algorithm)
        if not swept and "random" not in self.table:
            return [{}]
        count, seed = (self.table["random"].get(key, 0) for key in ("count", "seed"))
        draw = self.table["random"].get("draw", "random")
        key_path = (*self.key_path, "random")
        if type(count) is not int or count < 1 or type(seed) is not int or seed < 0 or not swept:
            message = "random takes count, at least 1, a seed, at least 0, and ranges of settings"
            raise self.source.error(key_path, f"{message}; got {self.table['random']}")
        if draw not in ("random", "sobol"):
            message = f'draw must be "random" or "sobol", got {draw!r}'
            raise self.source.error((*key_path, "draw"), message)
        if count > MOST_SETTINGS:
            message = f"{count:,} settings are too many: {MOST_SETTINGS:,} are the most"
            raise self.source.error((*key_path, "count"), message)
        ranges = {n: (*self._range(n, v, at), at) for n, (v, at) in swept.items()}
        points = sobol(len(ranges), count, seed) if draw == "sobol" else [None] * len(ranges)
        names = sorted(ranges)  # so that the order in the file does not matter
        drawn = {
            n: (draws(n, kind, bounds, count, seed, points[names.index(n)]), at)
            for n, (kind, bounds, at) in ranges.items()
        }
        return _rows(drawn, count)

    def _ranges(self, algorithm: str) -> dict[str, tuple[str, float, float]]:
        """The ranges in ``random``, of numbers only."""
        swept = self._swept("random", algorithm)
        found = {n: self._range(n, v, at) for n, (v, at) in swept.items()}
        return {n: (kind, b[0], b[1]) for n, (kind, b) in found.items() if kind != "choice"}

    def _range(self, name: str, value: Any, key_path: KeyPath) -> tuple[str, list[Any]]:
        """The kind of a range in ``random``, and its bounds or choices."""
        if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in _RANGES:
            near = nearest(name.rpartition(".")[2], _RANGES)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            message = (
                f"{hint}{name} takes one of {', '.join(_RANGES)}, as in {{ uniform = [0, 1] }}"
            )
            raise self.source.error(key_path, f"{message}; got {value!r}")
        ((kind, bounds),) = value.items()
        if not isinstance(bounds, list) or not bounds:
            raise self.source.error(key_path, f"{kind} takes a list, got {bounds!r}")
        if kind == "choice":
            return kind, bounds
        numbers = len(bounds) == 2 and all(type(b) in (int, float) for b in bounds)
        bounds = [as_float(b) if type(b) is int else b for b in bounds]
        # A wider range has a width that no float can hold.
        least = 0.0 if kind == "log_uniform" else -1e300
        if not numbers or not least < bounds[0] < bounds[1] < 1e300:
            positive = "0 < " if kind == "log_uniform" else ""
            message = f"{kind} takes [low, high] with {positive}low < high, got {bounds}"
            raise self.source.error(key_path, message)
        return kind, bounds


def _rows(columns: _Point, count: int) -> list[_Point]:
    return [{n: (vs[i], key_path) for n, (vs, key_path) in columns.items()} for i in range(count)]


def _dotted(name: str, value: Any, key_path: KeyPath) -> _Point:
    """A swept key, or a table of them, as in ``grid.update.max_kl`` without quotes."""
    is_range = isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _RANGES
    if not isinstance(value, dict) or is_range or "name" in value:
        return {name: (value, key_path)}
    inner = [_dotted(f"{name}.{k}", v, (*key_path, k)) for k, v in value.items()]
    return {k: v for part in inner for k, v in part.items()}
