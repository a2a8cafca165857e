"""The files of a report for further use: presets of the best settings, and specifications.

There is a specification for every source. The report's last section says how to use them.
"""

import dataclasses
import json
import posixpath
import re
import shlex
from typing import Any

import pandas as pd

from kltrust.environments import LinearSchedule
from kltrust.experiments.config.experiment import SECTIONS, Experiment
from kltrust.experiments.report._gather import Source, Study
from kltrust.experiments.report._page import Block, Code, Section, Table, slug


def presets(scores: pd.DataFrame) -> pd.DataFrame:
    """The best setting of each algorithm and environment, by the mean, from `_summaries.scores`.

    Each has algorithm, path (of the file, below the folder of presets) and text (its content).
    """
    named = scores.assign(
        algorithm=[setting.experiment.algorithm for setting in scores.setting],
        line=scores.label.str.replace(r"[\x00-\x1f\x7f]+", " ", regex=True),
    )
    best = named.dropna(subset="mean").drop_duplicates(["algorithm", "env"])
    texts = [
        f"# Best of a report by its mean score, {row.shown} over {row.seeds} "
        f"seed{'s' if row.seeds > 1 else ''} after {row.steps:,} steps each:\n"
        f"# {row.line}. Chosen on these very seeds.\n\n" + sections_toml(row.setting.experiment)
        for row in best.itertuples()
    ]
    names = best.algorithm + "/" + best.env  # brax/hopper is a file in a folder
    paths = ["/".join(map(slug, name.split("/"))) + ".toml" for name in names]
    return best.assign(path=paths, text=texts)


def specification(source: Source) -> str:
    """The settings and seeds of a folder as the text of a specification for `kltrust sweep`.

    All settings are resolved: the text depends on no preset, which may change one day.
    """
    parts = [
        f"[sweep]\nname = {_value(slug(source.plan.name))}\nseeds = {_value(source.plan.seeds)}\n"
        'preset = "none"\n'
    ]
    for setting in source.plan.settings:
        experiment = setting.experiment
        parts.append(
            f"[[experiments]]\nlabel = {_value(setting.label)}\n"
            f"algorithms = {_value(experiment.algorithm)}\nenvs = {_value(experiment.env)}\n"
        )
        parts.append(sections_toml(experiment, prefix="experiments."))
    return "\n".join(filter(None, parts))


def sections_toml(experiment: Experiment, *, prefix: str = "") -> str:
    """The settings that differ from the defaults, as TOML tables with a preset's names."""
    tables = []
    for section in (*SECTIONS, "env_params"):
        values = getattr(experiment, section)
        if dataclasses.is_dataclass(values):
            whole = hasattr(values, "stands_in")  # its defaults are not known
            values = {
                f.name: getattr(values, f.name)
                for f in dataclasses.fields(values)
                if whole or getattr(values, f.name) != f.default
            }
        if values:
            lines = [f"{_key(name)} = {_value(value)}" for name, value in values.items()]
            tables.append("\n".join([f"[{prefix}{section}]", *lines]) + "\n")
    return "\n".join(tables)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    """A number, text, flag, schedule or list as TOML; strings of JSON are strings of TOML, too."""
    if isinstance(value, bool | str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, LinearSchedule):
        value = value.to_plain()
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
    # An optimiser is written as the text that names it.
    return repr(value) if isinstance(value, int | float) else _value(repr(value))


def repeat(
    study: Study, specifications: dict[str, str], presets: pd.DataFrame, folder: str = ""
) -> Section:
    """The section on how to run everything again, and how to continue from the best settings.

    ``folder`` is the page's folder, relative to where the commands are typed; "" is that place.
    """
    commands, folders = [], []
    for i, (path, source) in enumerate(zip(specifications, study.sources, strict=True)):
        folders.append(f"runs/again{i or ''}")
        widths = {group.width for group in source.plan.groups}
        width = f" --width {widths.pop()}" if len(widths) == 1 else ""
        spec = shlex.quote(posixpath.join(folder, path))
        own = "".join(f" --import {name}" for name in source.record.code.get("import", ()))
        commands.append(f"kltrust sweep {spec} --out {folders[-1]}{width}{own}")
    blocks: list[Block] = [
        "Beside this page lie the specifications of all that ran, every setting resolved. With the "
        "same versions, kind of device and width a sweep gives the same numbers. Commands are for "
        + ("the place where this report was made." if folder else "the folder of this page."),
        Code("\n".join([*commands, f"kltrust report {' '.join(folders)}"])),
        *(Code(text, fold=path) for path, text in specifications.items()),
    ]
    if presets.empty:
        return Section("again", "Run it again", blocks)
    first, paths = presets.iloc[0], "presets/" + presets.path
    words = ["kltrust", "train", first.algorithm, first.env, "--preset"]
    words.append(posixpath.join(folder, paths.iloc[0]))
    modules = dict.fromkeys(n for s in study.sources for n in s.record.code.get("import", ()))
    imported = [word for name in modules for word in ("--import", name)]
    columns = {
        "algorithm": presets.algorithm,
        "environment": presets.env,
        "setting": presets.label,
        "score": presets.shown,
        "file": paths,
    }
    caption = (
        "Presets, chosen by the mean score on these very seeds; of equal ones, by the mean over "
        "all evaluations. `kltrust evaluate`, `play` and `numpy_policy` choose alike."
    )
    blocks += [
        "The best setting of each algorithm on each environment is a preset; new seeds say what it "
        "is worth:",
        Code(shlex.join([*words, "--seed", "1000", "--seeds", "10", *imported])),
        Table("presets", caption, columns, words=len(columns)),
    ]
    return Section("again", "Run it again", blocks)
