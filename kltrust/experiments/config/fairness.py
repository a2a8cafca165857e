"""Finds settings, other than the algorithm's own, in which the methods of a comparison differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from kltrust.experiments.config.experiment import Experiment

Values: TypeAlias = Mapping[str, Any]
"""A method's values of the things that should be equal, by name."""

_OWN, _UNSEEN = "update.", ("learner.audit",)
_MOST = 6


class Difference(NamedTuple):
    """A setting, the steps or the seeds, where the methods of an environment differ.

    ``values`` lists each method's values: all of them if the method sweeps the setting.
    """

    env: str
    name: str
    values: dict[str, tuple[Any, ...]]

    def __str__(self) -> str:
        """Like ``learner.num_envs (ppo_clip 16; trpo, npg 8)``."""
        methods: dict[tuple[Any, ...], list[str]] = {}
        for method, values in self.values.items():
            methods.setdefault(values, []).append(method)
        said = [f"{', '.join(of)} {_listed(values)}" for values, of in methods.items()]
        return f"{self.name} ({'; '.join(said)})"


def differences(runs: Iterable[tuple[str, str, Values]]) -> list[Difference]:
    """The differences between the methods of each environment, other than their algorithms.

    Args:
        runs: (environment, method, `shared`) of every setting or run. Two methods that sweep a
            setting over the same values count as equal in it.
    """
    found: dict[str, dict[str, dict[str, dict[Any, None]]]] = {}
    methods: dict[str, dict[str, None]] = {}
    for env, method, values in runs:
        methods.setdefault(env, {})[method] = None
        for name, value in values.items():
            of_name = found.setdefault(env, {}).setdefault(name, {})
            of_name.setdefault(method, {})[value] = None
    differ = []
    for env, of_env in found.items():
        for name, of_name in of_env.items():
            taken = {m: tuple(of_name.get(m, {"the default": None})) for m in methods[env]}
            if len({frozenset(values) for values in taken.values()}) > 1:
                differ.append(Difference(env, name, taken))
    return differ


def shared_settings(experiment: Experiment) -> dict[str, Any]:
    """Rollout, critic, network, budget and the environment's parameters, by dotted name.

    Settings that only decide what is measured are left out: they do not change the training.
    """
    scheduled = {f"env_params.{name}": experiment.env_params[name] for name in experiment.scheduled}
    parts = tuple(f"{name}." for name in scheduled)
    shared = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in experiment.flat().items()
        if not name.startswith((_OWN, *parts)) and name not in _UNSEEN
    }
    return {**shared, **{name: str(schedule) for name, schedule in scheduled.items()}}


def describe_differences(found: Iterable[Difference]) -> dict[str, str]:
    """A sentence for each environment whose methods differ."""
    of_env: dict[str, list[str]] = {}
    for difference in found:
        of_env.setdefault(difference.env, []).append(str(difference))
    notes = {}
    for env, names in of_env.items():
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        notes[env] = f"methods differ in more than the algorithm: {', '.join(names[:_MOST])}{more}"
    return notes


def describe_grouped(notes: Mapping[str, str]) -> list[str]:
    """`describe_differences`, with environments that would have the same sentence put into one."""
    envs: dict[str, list[str]] = {}
    for env, sentence in notes.items():
        envs.setdefault(sentence, []).append(env)
    return [f"on {', '.join(of)} {sentence}" for sentence, of in envs.items()]


def _listed(values: tuple[Any, ...]) -> str:
    more = " or others" if len(values) > 4 else ""
    return " or ".join(map(_shown, values[:4])) + more


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
