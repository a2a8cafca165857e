"""Tuned settings as data files, one for each algorithm and environment: presets/ALGORITHM/ENV.toml.

A preset names only what differs from the defaults, in the sections of an experiment. Where there
is none, the defaults hold.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from kltrust.experiments.config.experiment import SECTIONS, Experiment
from kltrust.experiments.config.spec_source import Source


def preset(algorithm: str, env: str, source: str | Path | None = None) -> Experiment:
    """The settings to start from.

    Args:
        algorithm: its name.
        env: the environment's name.
        source: a TOML file of one's own; None takes the library's preset if there is one, and
            "none" the bare defaults.

    Raises:
        ValueError: on an unknown algorithm, or a file that is no preset.
    """
    sections: dict[str, Any] = {}
    if source is None:
        if (file := _folder() / algorithm / f"{env}.toml").is_file():
            sections = tomllib.loads(file.read_text())
    elif source != "none":
        text = Source.of_file(source, "preset")
        sections = text.document()
        text.expect_keys((), sections, (*SECTIONS, "env_params"))
    return Experiment.from_dict({**sections, "algorithm": algorithm, "env": env})


def available() -> list[tuple[str, str]]:
    """(algorithm, environment) of every preset of the library."""
    return sorted(
        (folder.name, file.name.removesuffix(".toml"))
        for folder in _folder().iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    )


def _folder() -> Any:
    return resources.files("kltrust.experiments.config") / "presets"
