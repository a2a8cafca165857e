"""Tuned settings as data files, one for each algorithm and environment: presets/ALGORITHM/ENV.toml.

A preset names only what differs from the defaults, in the sections of an experiment. Without a
preset, the defaults hold. The presets in presets/accelerator/ are for GPUs and TPUs, where the
number of sequential steps decides the time. They have thousands of environments, short rollouts,
and few, large minibatches.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kltrust.algorithms import find_algorithm
from kltrust.experiments.config.experiment import SECTIONS, Experiment
from kltrust.experiments.config.spec_source import Source

ACCELERATOR = "accelerator"
"""The source of the presets for accelerators."""
_FOLDER = Path(__file__).parent / "presets"


def preset(algorithm: str, env: str, source: str | Path | None = None) -> Experiment:
    """The settings to start from.

    The source is a TOML file of yours. None takes the library's preset if there is one,
    "accelerator" takes the library's preset for accelerators, and "none" the bare defaults.

    Raises:
        ValueError: on an unknown algorithm, a pair that has no preset for accelerators, or a file
            that holds no preset.
    """
    sections: dict[str, Any] = {}
    if source is None or source == ACCELERATOR:
        if (algorithm, env) in available(source):
            file = _folder(source) / algorithm / f"{env}.toml"
            sections = Source.of_file(file, "preset").document()
        elif source == ACCELERATOR:
            find_algorithm(algorithm)
            envs = ", ".join(e for a, e in available(source) if a == algorithm) or "nothing"
            raise ValueError(
                f"there is no accelerator preset of {algorithm} on {env}: it has one for {envs}. "
                "Give a file of your own, or --preset none for the defaults"
            )
    elif source != "none":
        text = Source.of_file(source, "preset")
        sections = text.document()
        if not sections:
            raise ValueError(f"the preset {source} holds no setting: --preset none takes defaults")
        text.expect_keys((), sections, (*SECTIONS, "env_params"))
    return Experiment.from_dict({**sections, "algorithm": algorithm, "env": env})


def shared_preset(algorithms: Sequence[str], env: str, source: str | None = None) -> str | None:
    """The preset whose rollout, critic, network and budget all algorithms of a comparison take.

    It is the first algorithm's preset, if the library has a preset for each of them. If one has
    none, no algorithm takes a preset: comparing tuned with untuned settings would be unfair. The
    source is None or "accelerator", as in `preset`.
    """
    known = available(source)
    return algorithms[0] if all((name, env) in known for name in algorithms) else None


@functools.cache
def available(source: str | None = None) -> list[tuple[str, str]]:
    """(algorithm, environment) of every preset of the library, or of those for accelerators."""
    return sorted((file.parent.name, file.stem) for file in _folder(source).glob("*/*.toml"))


def _folder(source: str | Path | None) -> Path:
    return _FOLDER / ACCELERATOR if source == ACCELERATOR else _FOLDER
