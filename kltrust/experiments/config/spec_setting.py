"""One setting of a sweep, and its label in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kltrust.environments import is_schedule
from kltrust.experiments.config.experiment import SECTIONS, Experiment, put, written
from kltrust.experiments.config.spec_source import KeyPath


@dataclass(frozen=True)
class Setting:
    """One experiment of a sweep, to be run with every seed.

    Attributes:
        label: its name in tables; the same on all environments.
        swept: its swept values, by dotted name.
        experiment: all settings, resolved.
        key_paths: each setting's path of keys in the specification, by dotted name; "" is the
            experiment.
        ranges: (kind, low, high) of its settings that were drawn from a range, by dotted name.
    """

    label: str
    swept: dict[str, Any]
    experiment: Experiment
    key_paths: dict[str, KeyPath] = field(default_factory=dict, compare=False, repr=False)
    ranges: dict[str, tuple[str, float, float]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def having(self, values: Mapping[str, float]) -> Setting:
        """The same with other swept values, also in its label."""
        data, algorithm = self.experiment.to_dict(), self.experiment.algorithm
        swept = {**self.swept, **values}
        for name, value in values.items():
            put(data, name, value)
        experiment = Experiment.from_dict(data, type(self.experiment.update))
        return replace(
            self, label=label_of(self.method, swept, algorithm), swept=swept, experiment=experiment
        )

    @property
    def method(self) -> str:
        """The label without the swept values: the algorithm, or its name in the specification."""
        return self.label.rsplit(" ", len(self.swept))[0]  # one word for each


def label_of(method: str, swept: Mapping[str, Any], algorithm: str) -> str:
    """The method, and each swept value as one word."""
    return " ".join([method, *(f"{_named(k, algorithm)}={_shown(v)}" for k, v in swept.items())])


def _named(name: str, algorithm: str) -> str:
    """A swept setting's name in a label: with its section if the name alone is ambiguous."""
    section, _, key = name.partition(".")
    if section not in SECTIONS:
        return key
    first, dot, rest = key.partition(".")
    return f"{written(section, first, algorithm)}{dot}{rest}"


def _shown(value: Any) -> str:
    if is_schedule(value):
        return f"{{{','.join(f'{key}={_shown(number)}' for key, number in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")
