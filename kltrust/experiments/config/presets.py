"""Tuned settings as data files, one for each algorithm and environment: presets/ALGORITHM/ENV.toml.

A preset names only what differs from the defaults, in the sections of an experiment. Where there
is none, the defaults hold.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kltrust.experiments.config.experiment import SECTIONS, Experiment
from kltrust.experiments.config.spec_source import Source

_FOLDER = Path(__file__).parent / "presets"


def preset(algorithm: str, env: str, source: str | Path | None = None) -> Experiment:
    """The settings to start from.

    The source is a TOML file of one's own; None takes the library's preset if there is one, and
    "none" the bare defaults.

    Raises:
        ValueError: on an unknown algorithm, or a file that is no preset.
    """
    sections: dict[str, Any] = {}
    if source is None:
        if (file := _FOLDER / algorithm / f"{env}.toml").is_file():
            sections = Source.of_file(file, "preset").document()
    elif source != "none":
        text = Source.of_file(source, "preset")
        sections = text.document()
        if not sections:
            raise ValueError(f"the preset {source} holds no setting: --preset none takes defaults")
        text.expect_keys((), sections, (*SECTIONS, "env_params"))
    return Experiment.from_dict({**sections, "algorithm": algorithm, "env": env})


def equal(algorithms: Sequence[str], env: str) -> str | None:
    """Whose rollout, critic, network and budget the algorithms of a comparison take.

    Those of the preset of the first, if the library has one for each of them. If one has none, no
    one takes any: tuned settings against untuned ones are no comparison.
    """
    known = available()
    return algorithms[0] if all((name, env) in known for name in algorithms) else None


@functools.cache
def available() -> list[tuple[str, str]]:
    """(algorithm, environment) of every preset of the library."""
    return sorted((file.parent.name, file.stem) for file in _FOLDER.glob("*/*.toml"))
