"""What a comparison holds equal beside the algorithms, and in what its methods differ as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from kltrust.experiments.config.experiment import Experiment

Values: TypeAlias = Mapping[str, Any]
"""What a method has of each thing that should be equal, by name."""

_OWN, _UNSEEN = "update.", ("learner.audit",)
_MOST = 6


class Difference(NamedTuple):
    """A setting, or the steps or the seeds, in which the methods of an environment differ.

    ``values`` has what each method takes, all values of a method that sweeps it.
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
    """In what the methods of each environment differ beside their algorithms.

    Args:
        runs: (environment, method, `shared`) of every setting or run. A method that sweeps
            something is equal to another one that takes the same values of it.
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


def shared(experiment: Experiment) -> dict[str, Any]:
    """Rollout, critic, network, budget and the environment's parameters, by dotted name.

    What is measured of a training changes nothing in it, and is left out.
    """
    flat = experiment.flat().items()
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in flat
        if not name.startswith(_OWN) and name not in _UNSEEN
    }


def sentences(found: Iterable[Difference]) -> dict[str, str]:
    """What is said of each environment in which methods differ."""
    of_env: dict[str, list[str]] = {}
    for difference in found:
        of_env.setdefault(difference.env, []).append(str(difference))
    said = {}
    for env, names in of_env.items():
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        said[env] = f"methods differ in more than the algorithm: {', '.join(names[:_MOST])}{more}"
    return said


def grouped(said: Mapping[str, str]) -> list[str]:
    """`sentences` with the environments of which the same is said in one."""
    envs: dict[str, list[str]] = {}
    for env, sentence in said.items():
        envs.setdefault(sentence, []).append(env)
    return [f"on {', '.join(of)} {sentence}" for sentence, of in envs.items()]


def _listed(values: tuple[Any, ...]) -> str:
    more = " or others" if len(values) > 4 else ""
    return " or ".join(map(_shown, values[:4])) + more


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
