"""An experiment: one algorithm on one environment, with everything that decides a run but its seed.

It is a JAX pytree. Every float setting is a leaf, everything else is static. So experiments with
the same tree structure differ in floats only, and one compilation serves them all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from kltrust.algorithms import find_algorithm
from kltrust.checks import unknown
from kltrust.critic import ValueRegression
from kltrust.environments import LinearSchedule, is_schedule, static_parameters
from kltrust.learner import LearnerSettings
from kltrust.networks.settings import NetworkSettings
from kltrust.settings import setting, settings
from kltrust.types import Number
from kltrust.values import from_plain, is_nested, number_from_plain, to_plain, unknown_setting


@settings
class BudgetSettings:
    """How long, and what is measured between."""

    total_steps: int = setting(
        100_000,
        "Environment steps of each run, rounded down to whole iterations.",
        at_least=1,
        at_most=10**12,
        usual="1e5 (classic control) to 1e7 (MinAtar)",
        common=True,
    )
    anneal: Number = setting(
        0.0,
        "Shrinks step sizes linearly to (1 - anneal) of their start: 0 keeps them, 1 "
        "ends at zero. The settings page names the settings that it shrinks.",
        at_least=0,
        at_most=1,
        usual="0 or 1",
        common=True,
    )
    num_evals: int = setting(
        10,
        "Number of evaluations during training, approximately; they are evenly spaced.",
        at_least=1,
        at_most=10**5,
        usual="10",
        common=True,
    )
    eval_episodes: int = setting(
        20, "Episodes of each evaluation.", at_least=1, at_most=10**6, usual="10 to 100"
    )


SECTIONS = ("update", "critic", "learner", "network", "budget")
"""The sections of an experiment that hold settings; ``env_params`` holds the environment's own."""
_CONSTANT = (str, bool, int, tuple, list, dict, type(None))
"""What is no leaf among the environment's parameters: plain static data."""


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Experiment:
    """One algorithm on one environment; `algorithm` declares the class of ``update``."""

    env: str
    update: Any
    critic: ValueRegression = dataclasses.field(default_factory=ValueRegression)
    learner: LearnerSettings = dataclasses.field(default_factory=LearnerSettings)
    network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    budget: BudgetSettings = dataclasses.field(default_factory=BudgetSettings)
    env_params: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        """The algorithm's name."""
        return self.update.name

    @property
    def batch_size(self) -> int:
        """Environment steps per iteration."""
        return self.learner.num_envs * self.learner.num_steps

    @property
    def num_iterations(self) -> int:
        """Whole iterations that the budget pays for."""
        return self.budget.total_steps // max(self.batch_size, 1)

    @property
    def chunk_length(self) -> int:
        """Iterations between two evaluations."""
        return max(1, self.num_iterations // self.budget.num_evals)

    def to_dict(self) -> dict[str, Any]:
        """As nested plain data that JSON can hold (infinities as the string "inf").

        Raises:
            ValueError: on a value that no file can hold, such as a function of yours.
        """
        sections = {name: to_plain(getattr(self, name)) for name in (*SECTIONS, "env_params")}
        return {"algorithm": self.algorithm, "env": self.env, **sections}

    @staticmethod
    def from_dict(data: Mapping[str, Any], update: type | None = None) -> Experiment:
        """The inverse of `to_dict`; ``update`` is the class of an algorithm that is not registered.

        Raises:
            ValueError: on an unknown algorithm, section or setting, or a value of the wrong kind.
        """
        kinds = _kinds(update or find_algorithm(data["algorithm"]))
        for name in data:
            if name not in (*kinds, "algorithm", "env", "env_params"):
                raise ValueError(unknown("section", name, kinds))
        made: dict[str, Any] = {
            k: from_plain(cls, data.get(k, {}), where=k) for k, cls in kinds.items()
        }
        params = env_params_from_plain(data.get("env_params", {}))
        return Experiment(env=data["env"], env_params=params, **made)

    @property
    def scheduled(self) -> tuple[str, ...]:
        """The environment's parameters that are schedules."""
        return tuple(k for k, v in self.env_params.items() if isinstance(v, LinearSchedule))

    @property
    def final(self) -> Experiment:
        """The experiment with the last value of each schedule as a constant."""
        ends = {name: self.env_params[name].end for name in self.scheduled}
        return self._with_params(ends)

    def scheduling(self, names: Iterable[str]) -> Experiment:
        """The experiment with constants as schedules of one value, for the parameters ``names``."""
        constants = {n: self.env_params[n] for n in names if n not in self.scheduled}
        return self._with_params({n: LinearSchedule(v, v) for n, v in constants.items()})

    def _with_params(self, changes: dict[str, Any]) -> Experiment:
        if not changes:
            return self
        return dataclasses.replace(self, env_params={**self.env_params, **changes})

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted name, as in ``update.max_kl``."""
        plain = self.to_dict()

        def walk(prefix: str, value: Any) -> dict[str, Any]:
            if not isinstance(value, dict):
                return {prefix: number_from_plain(value)}
            return {k: v for n, x in value.items() for k, v in walk(f"{prefix}.{n}", x).items()}

        sections = (*SECTIONS, "env_params")
        return {k: v for name in sections for k, v in walk(name, plain[name]).items()}

    def digest(self) -> str:
        """A canonical text of the settings, equal for equal experiments."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def tree_flatten_with_keys(self) -> tuple[list[Any], tuple]:
        """Sections and traced environment parameters as children; everything else is static."""
        traced = vars(self).get("_traced")
        if traced is None:
            static = static_parameters(self.env)
            leaves = (k for k, v in self.env_params.items() if not isinstance(v, _CONSTANT))
            traced = tuple(sorted(k for k in leaves if k not in static))
        kept = tuple((k, v) for k, v in sorted(self.env_params.items()) if k not in traced)
        key = jax.tree_util.GetAttrKey
        children = [(key(name), getattr(self, name)) for name in SECTIONS]
        children += [(key(f"env_params.{k}"), self.env_params[k]) for k in traced]
        return children, (self.env, traced, kept)

    @classmethod
    def tree_unflatten(cls, aux: tuple, children: Any) -> Experiment:
        """The inverse; checks nothing."""
        env, traced, kept = aux
        values = list(children)
        sections = dict(zip(SECTIONS, values, strict=False))
        params = dict(zip(traced, values[len(SECTIONS) :], strict=True))
        self = cls(env=env, env_params={**params, **dict(kept)}, **sections)
        # Do not decide again which are leaves: JAX puts tracers and placeholders in their place.
        object.__setattr__(self, "_traced", traced)
        return self


def env_params_from_plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's parameters from plain data: tables of schedules become schedules.

    Raises:
        ValueError: names the parameter.
    """
    made = {name: number_from_plain(value) for name, value in params.items()}
    for name in [n for n, value in made.items() if is_schedule(value)]:
        try:
            made[name] = LinearSchedule.from_plain(made[name])
        except ValueError as error:
            raise ValueError(f"env_params.{name}: {error}") from error
    return made


def section_kinds(algorithm: str) -> dict[str, type]:
    """The settings class of each section, for an algorithm by name.

    Raises:
        ValueError: if the algorithm is unknown; names the nearest known one.
    """
    return _kinds(find_algorithm(algorithm))


def _kinds(update: type) -> dict[str, type]:
    kinds = (update, ValueRegression, LearnerSettings, NetworkSettings, BudgetSettings)
    return dict(zip(SECTIONS, kinds, strict=True))


def written(section: str, name: str, algorithm: str) -> str:
    """A setting as a person writes it: with its section if the name alone is ambiguous.

    Settings of the critic always have their section, as in ``critic.learning_rate``.
    """
    homes = [home for home in _homes(name, algorithm) if home != "critic"]
    return name if homes == [section] else f"{section}.{name}"


def _homes(name: str, algorithm: str) -> list[str]:
    """The sections that have a setting of this name."""
    kinds = section_kinds(algorithm).items()
    return [section for section, cls in kinds if name in {f.name for f in dataclasses.fields(cls)}]


def qualified(name: str, algorithm: str) -> str:
    """A setting's name with its section, as in ``update.max_kl``.

    For the critic's settings, and for names that two other sections share, ``name`` must include
    the section already.

    Raises:
        ValueError: on an unknown name, or one that several sections have.
    """
    kinds = section_kinds(algorithm)
    first, _, rest = name.partition(".")
    if rest and first in (*kinds, "env_params"):
        return name
    homes = _homes(first, algorithm)
    plain = [section for section in homes if section != "critic"]
    if len(plain) == 1:
        return f"{plain[0]}.{name}"
    if plain:
        choices = " or ".join(f"{section}.{name}" for section in homes)
        raise ValueError(f"{name!r} needs its section: say {choices}")
    if rest:
        raise ValueError(unknown("section", first, [*kinds, "env_params"]))
    fields = [(k, f.name) for k, cls in kinds.items() for f in dataclasses.fields(cls)]
    known = {written(section, own, algorithm) for section, own in fields}
    raise ValueError(unknown_setting(f"setting of {algorithm}", name, known))


def put(data: dict[str, Any], name: str, value: Any) -> None:
    """Changes a setting, in place, in an experiment's plain data (from `Experiment.to_dict`).

    The name includes its section. It may reach into an optimiser, as in
    ``update.optimizer.weight_decay``. A table for an optimiser that names none changes the
    settings of the present one. It may reach into a schedule, as in ``env_params.gravity.to``.
    """
    section, _, key = name.partition(".")
    head, _, tail = key.partition(".")
    kind = section_kinds(data["algorithm"]).get(section)
    field = getattr(kind, "__dataclass_fields__", {}).get(head)
    changes = {tail: value} if tail else value
    if field and is_nested(field) and isinstance(changes, Mapping) and "name" not in changes:
        now = type(field.default).of(data[section].get(head, field.default))
        key, value = head, {**to_plain(now), **changes}
    elif section == "env_params" and tail in LinearSchedule.KEYS:
        now = data[section].get(head, {})
        key, value = head, {**(now if isinstance(now, Mapping) else {}), tail: value}
    data[section][key] = value
