"""A sweep as one TOML file: algorithms x environments x settings x seeds.

    [sweep]
    name = "example"
    seeds = 10                                    # a count, or a list
    envs = ["CartPole-v1", "Acrobot-v1"]          # for the experiments that name none

    [budget]                                      # [critic], [learner] and [network] likewise
    total_steps = 50_000

    [[experiments]]
    algorithms = "trpo"
    grid.max_kl = [0.005, 0.01, 0.02]             # every value with every value of the other keys

    [[experiments]]
    algorithms = ["ppo_clip", "ppo_penalty"]      # a product with the environments
    preset = "none"                               # see below; or a TOML file
    update.num_epochs = 4                         # update, critic, learner, network, budget,
    update.optimizer = "adamw(weight_decay=0.1)"  # env_params
    env_params.gravity = { from = 5.0, to = 9.8, until = 0.5 }            # a curriculum, or 9.8
    zip = { entropy_coef = [0.0, 0.01], gamma = [0.99, 0.98] }            # row by row
    random = { count = 8, seed = 1, learning_rate = { log_uniform = [1e-4, 1e-2] } }

    [search]                                      # optional: see below
    by = "halving"                                # or "racing", or "population"
    lanes = 4                                     # settings that train at once

A swept key is a setting's name, or a dotted one (``learner.gamma``, ``env_params.gravity``,
``optimizer.weight_decay``). Settings of the critic are always dotted (``critic.learning_rate``),
and so is a name that two sections have.

Rollout, critic, network and budget are equal for all algorithms of an environment, unless the
specification says otherwise. ``preset`` decides where they come from:

- "equal", the default: if every algorithm has a tuned preset in the library, each starts from its
  own, but takes rollout, critic, network and budget from the first algorithm's. If one algorithm
  has none, all start from the bare defaults.
- "none": all start from the bare defaults.
- "accelerator": like "equal", with the presets for accelerators, which every algorithm must have.
- "tuned": each algorithm takes its whole preset, if it has one.

The dry run and the report name every other difference between methods.

A random draw depends only on the seed of ``random`` and on its key, so all algorithms and
environments get the same draws. With ``draw = "sobol"`` in ``random`` the draws fill the ranges
evenly: a scrambled Sobol sequence, best with a power of two as ``count``.

With ``[search]``, not every setting gets its whole budget. The keys of each kind are the settings
of `Halving`, `Racing` and `Population`. All settings that share a compilation are one search.
Errors name the file, the line, the number and the algorithms of one of [[experiments]], and the
nearest known name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kltrust.experiments.config.presets import available, shared_preset
from kltrust.experiments.config.spec_entry import EQUAL, MOST_SETTINGS, Comparison, Entry
from kltrust.experiments.config.spec_setting import Setting
from kltrust.experiments.config.spec_source import Source, line_of
from kltrust.experiments.search.kinds import of_plain
from kltrust.experiments.search.sampling import Search

__all__ = ["Setting", "Spec", "from_dict", "line_of", "load", "parse"]

_COMMON = ("critic", "learner", "network", "budget")
MOST_RUNS = 10**6
"""Runs per sweep. The tables are read as a whole and take some kilobytes per run."""

_TOP = ("sweep", "search", "experiments", *_COMMON)
_SWEEP = ("name", "seeds", "algorithms", "envs", "preset")


@dataclass(frozen=True)
class Spec:
    """A resolved sweep: every setting runs with every seed; ``notes`` name the choices made.

    With a ``search``, it decides which settings run, and how long.
    """

    name: str
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    source: Source
    notes: tuple[str, ...] = ()
    search: Search | None = None


def load(path: str | Path) -> Spec:
    """Reads and resolves a specification.

    Raises:
        ValueError: names file and line.
    """
    return _resolve(Source.of_file(path, "specification"))


def parse(text: str, name: str = "specification") -> Spec:
    """Resolves the text of a specification; errors call it ``name``.

    Raises:
        ValueError: names file and line.
    """
    return _resolve(Source(name, text))


def from_dict(document: dict[str, Any], name: str = "specification") -> Spec:
    """Resolves a specification whose tables are dicts and whose lists are lists.

    Raises:
        ValueError: names the setting.
    """
    return _resolve(Source(name, ""), document)


def _resolve(source: Source, document: dict[str, Any] | None = None) -> Spec:
    document = source.document() if document is None else document
    source.expect_keys((), document, _TOP)
    sweep = document.get("sweep", {})
    source.expect_keys(("sweep",), sweep, _SWEEP)
    entries = document.get("experiments", [{}])
    if not isinstance(entries, list):
        raise source.error(("experiments",), "write [[experiments]]: there may be several")
    if "experiments" in document:
        source = source._replace(entries=tuple(_algorithms(entry, sweep) for entry in entries))
    common = {section: document[section] for section in _COMMON if section in document}
    made = [Entry(source, i, entry, sweep, common) for i, entry in enumerate(entries)]
    compared: dict[Comparison, list[str]] = {}
    for entry in made:
        for comparison, algorithms in entry.compared().items():
            compared.setdefault(comparison, []).extend(algorithms)
    references = {
        (chosen, env): shared_preset(algorithms, env, None if chosen == EQUAL else chosen)
        for (chosen, env), algorithms in compared.items()
    }
    settings: dict[tuple[str, str], Setting] = {}
    seeds = _seeds(source, sweep)
    for entry in made:
        for setting in entry.settings(references):
            name = (setting.label, setting.experiment.env)
            if name in settings:  # no table could tell them apart
                message = f"{name[0]!r} on {name[1]} is there twice: give one of them a label"
                raise source.error(setting.key_paths[""], message)
            settings[name] = setting
            _check_number(source, len(settings), len(seeds))
    title = sweep.get("name", Path(source.name).stem)
    if not isinstance(title, str) or not re.fullmatch(r"[\w.-]+", title):
        raise source.error(
            ("sweep", "name"), f"name must be letters, digits, '_', '-', '.', got {title!r}"
        )
    notes = tuple(_notes(compared, references))
    return Spec(title, seeds, tuple(settings.values()), source, notes, _search(source, document))


def _algorithms(entry: Any, sweep: dict[str, Any]) -> str:
    """The algorithms of one of [[experiments]] as an error names them, whatever was written."""
    given = entry.get("algorithms", sweep.get("algorithms")) if isinstance(entry, dict) else None
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not names:
        return "no algorithms"
    return ", ".join(map(str, names))


def _search(source: Source, document: dict[str, Any]) -> Search | None:
    if "search" not in document:
        return None
    table = document["search"]
    source.expect_keys(("search",), table)
    key_paths = {"": ("search",), **{f"search.{key}": ("search", key) for key in table}}
    try:
        return of_plain(table)
    except ValueError as error:
        raise source.blame(key_paths, error) from error


def _notes(
    compared: Mapping[Comparison, list[str]], references: Mapping[Comparison, str | None]
) -> Iterator[str]:
    """Says which presets are taken where the specification does not."""
    said: dict[str, list[str]] = {}
    for (chosen, env), algorithms in compared.items():
        tuned = [name for name in dict.fromkeys(algorithms) if (name, env) in available()]
        first = references[chosen, env]
        if first and len(set(algorithms)) > 1:
            kind = "tuned" if chosen == EQUAL else chosen
            text = f"{kind} presets, all methods with {first}'s rollout, critic, network and budget"
        elif chosen == EQUAL and not first and tuned:
            lacking = [name for name in dict.fromkeys(algorithms) if name not in tuned]
            text = f"the bare defaults for all, as there is no preset of {', '.join(lacking)}"
        else:
            continue
        said.setdefault(text, []).append(env)
    for text, envs in said.items():
        yield f'{", ".join(envs)}: {text} (preset = "tuned" takes each its own)'


def _check_number(source: Source, settings: int, seeds: int) -> None:
    """Refuses a sweep of too many runs before more settings are made."""
    if settings > MOST_SETTINGS or settings * seeds > MOST_RUNS:
        raise source.error(
            ("experiments",),
            f"a sweep has {MOST_SETTINGS:,} settings and {MOST_RUNS:,} runs at most: this one has "
            f"more, with {seeds:,} seeds of each setting",
        )


def _seeds(source: Source, sweep: dict[str, Any]) -> tuple[int, ...]:
    seeds = sweep.get("seeds", 10)
    if type(seeds) is int and seeds > MOST_RUNS:
        raise source.error(
            ("sweep", "seeds"), f"{seeds:,} seeds are too many: {MOST_RUNS:,} are most"
        )
    listed = list(range(max(seeds, 0))) if type(seeds) is int else seeds
    fine = isinstance(listed, list) and all(type(s) is int and 0 <= s < 2**31 for s in listed)
    if not fine or not listed or len(set(listed)) != len(listed):
        message = "seeds must be a count, or a list of different numbers from 0 to 2^31 - 1"
        raise source.error(("sweep", "seeds"), f"{message}, got {seeds!r}")
    return tuple(listed)
