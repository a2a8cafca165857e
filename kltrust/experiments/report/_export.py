"""What a report hands on: the best settings as presets, and every source as a specification."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from kltrust.experiments.config.experiment import Experiment
from kltrust.experiments.config.presets import SECTIONS
from kltrust.experiments.report._gather import Source, Study
from kltrust.experiments.report._tables import estimate

if TYPE_CHECKING:
    import pandas as pd


class Preset(NamedTuple):
    """The best setting of an algorithm on an environment.

    Attributes:
        algorithm: its name.
        env: the environment.
        label: of the setting.
        score: as text.
        path: of the file, below the folder of presets.
        text: its content.
    """

    algorithm: str
    env: str
    label: str
    score: str
    path: str
    text: str


def presets(study: Study, scores: pd.DataFrame) -> list[Preset]:
    """From `_summaries.scores`: one for each algorithm and environment, by the mean."""
    experiments = [study.setting(run).experiment for run in scores.run]
    named = scores.assign(algorithm=[e.algorithm for e in experiments], experiment=experiments)
    found = []
    for row in named.dropna(subset="value").drop_duplicates(["algorithm", "env"]).itertuples():
        score = estimate(row.mean, row.seeds)
        seeds = f"{row.seeds} seed{'s' if row.seeds > 1 else ''}"
        comment = (
            f"# Best of a report by its mean score, {score} over {seeds} after {row.steps:,} steps "
            f"each:\n# {_one_line(row.label)}. Chosen on these very seeds.\n\n"
        )
        path = f"{_safe(row.algorithm)}/{_safe(row.env)}.toml"
        text = comment + sections_toml(row.experiment)
        found.append(Preset(row.algorithm, row.env, row.label, score, path, text))
    return found


def specification(source: Source) -> str:
    """The settings and seeds of a folder as the text of a specification for `kltrust sweep`.

    All resolved: no preset that may change one day has a part in it.
    """
    name = re.sub(r"[^\w.-]", "_", source.plan.name)
    parts = [
        f"[sweep]\nname = {json.dumps(name)}\nseeds = {_value(source.plan.seeds)}\n"
        'preset = "none"\n'
    ]
    for setting in source.plan.settings:
        experiment = setting.experiment
        parts.append(
            f"[[experiments]]\nlabel = {_value(setting.label)}\n"
            f"algorithms = {_value(experiment.algorithm)}\nenvs = {_value(experiment.env)}\n"
        )
        parts.append(sections_toml(experiment, prefix="experiments."))
    return "\n".join(part for part in parts if part)


def sections_toml(experiment: Experiment, *, prefix: str = "") -> str:
    """What differs from the defaults, as TOML tables named as a preset names them."""
    tables = []
    for section in SECTIONS:
        values = getattr(experiment, section)
        if dataclasses.is_dataclass(values):
            values = {
                f.name: getattr(values, f.name)
                for f in dataclasses.fields(values)
                if getattr(values, f.name) != f.default
            }
        if values:
            lines = [f"{_key(name)} = {_value(value)}" for name, value in values.items()]
            tables.append("\n".join([f"[{prefix}{section}]", *lines]) + "\n")
    return "\n".join(tables)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    """Numbers, texts, flags and lists of them: the texts of JSON are texts of TOML too."""
    if isinstance(value, bool | str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def _safe(name: str) -> str:
    """A name as part of a path that stays below its folder; brax/hopper stays what it is."""
    words = [re.sub(r"[^\w.-]", "_", word) for word in name.split("/")]
    return "/".join(word for word in words if word.strip(".")) or "_"
