"""The first section of a report and the last ones: what ran, what was found, how to repeat it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from kltrust.experiments.report import _export, _region_sections
from kltrust.experiments.report._blocks import Block, Code, Fold, List, Section, Text
from kltrust.experiments.report._gather import Source, Study
from kltrust.experiments.report._tables import Table, estimate
from kltrust.experiments.store.record import total_seconds

if TYPE_CHECKING:
    import pandas as pd


def headlines(scores: pd.DataFrame) -> list[str]:
    """A sentence for each environment, from `_summaries.scores`: the best, and the runner-up."""
    said = []
    for env, rows in scores.groupby("env", sort=False):
        best, others = rows.iloc[0], rows[rows.method != rows.method.iloc[0]]
        value = estimate(best["mean"], best.seeds)
        ties = list(rows.label[rows.value == best.value])
        line = f"{best.label} has the highest mean, {value}"
        if not ties:
            line = "no run has a score that is a number"
        elif len(ties) > 1:
            more = f" and {len(ties) - 3} more" if len(ties) > 3 else ""
            line = f"{len(ties)} settings share the highest mean, {value}"
            line += f": {', '.join(ties[:3])}{more}"
        elif len(others):
            second = others.iloc[0]
            line += f"; the best of another method is {second.label}, "
            line += estimate(second["mean"], second.seeds)
        said.append(f"{env}, {best.seeds} seed{'s' if best.seeds > 1 else ''}: {line}.")
    return said


def summary(scores: pd.DataFrame, measured: pd.DataFrame) -> Section:
    """The findings in some sentences."""
    return Section(
        "summary",
        "In short",
        [List([*headlines(scores), *_region_sections.verdicts(measured)])],
    )


def what_ran(study: Study) -> Section:
    """Algorithms, environments, seeds, machine, versions and seconds of every folder."""
    facts = [_facts(study, source) for source in study.sources]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    rows = [[name, *(fact.get(name, "–") for fact in facts)] for name in names]
    table = Table(
        "what-ran",
        "What the numbers below come from.",
        ["", *(source.name for source in study.sources)],
        rows,
        words=1 + len(facts),
    )
    return Section("what-ran", "What ran", [table])


def _facts(study: Study, source: Source) -> dict[str, str]:
    runs = study.runs[study.runs.source == study.sources.index(source)]
    experiments = [setting.experiment for setting in source.plan.settings]
    steps = sum(
        int(row.iterations) * source.setting(int(row.run)).experiment.batch_size
        for row in runs.itertuples()
    )
    seconds = total_seconds(part for _, part in source.parts)
    of_env = {
        len({s.label for s in source.plan.settings if s.experiment.env == e.env})
        for e in experiments
    }
    return {
        "folder": f"{source.name}, {'' if source.record.finished else 'not '}finished",
        "algorithms": ", ".join(dict.fromkeys(e.algorithm for e in experiments)),
        "environments": ", ".join(dict.fromkeys(e.env for e in experiments)),
        "settings": f"{' or '.join(map(str, sorted(of_env)))} on each environment",
        "seeds": _listed(list(source.plan.seeds)),
        "runs": f"{len(runs):,}, {int((runs.iterations >= runs.planned).sum()):,} finished",
        "broken runs": str(int(runs.broken.notna().sum())),
        "environment steps": f"{steps:,}",
        "seconds": f"{seconds.get('compile', 0):,.0f} compiling, {seconds.get('run', 0):,.0f} "
        "training and evaluating",
        **_machine(source.record.versions),
    }


def _machine(versions: dict[str, Any]) -> dict[str, str]:
    commit = versions.get("commit")
    state = " with changes that are not committed" if versions.get("dirty") else ""
    packages = versions.get("packages", {})
    return {
        "devices": f"{versions.get('device_count')} x {versions.get('device_kind')}, "
        f"{versions.get('cpu_count')} cores, {versions.get('platform')}",
        "commit": f"{commit[:12]}{state}" if commit else "not from a git checkout with commits",
        "versions": ", ".join(
            [f"Python {versions.get('python')}", *(f"{k} {v}" for k, v in packages.items() if v)]
        ),
        "arithmetic": f"{'float64' if versions.get('x64') else 'float32'}, matrix products "
        f"{versions.get('matmul_precision')}"
        + (f", XLA_FLAGS {flags}" if (flags := versions.get("XLA_FLAGS")) else ""),
    }


def _listed(seeds: list[int]) -> str:
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{len(seeds)}: {seeds[0]} to {seeds[-1]}"
    return f"{len(seeds)}: {', '.join(map(str, seeds))}"


def to_copy(markdown: str) -> Section:
    """All tables as Markdown."""
    return Section(
        "markdown",
        "The tables as Markdown",
        [
            Text("For a paper's appendix or a README; tables.md beside this page is the same."),
            Fold("Show the Markdown", Code(markdown)),
        ],
    )


def repeat(study: Study, specifications: dict[str, str], presets: list[_export.Preset]) -> Section:
    """How to run it again, and how to go on from the best settings."""
    widths = [sorted({group.width for group in s.plan.groups}) for s in study.sources]
    commands = [
        f"kltrust sweep {path} --out runs/again{i or ''}"
        + (f" --width {width[0]}" if len(width) == 1 else "")
        for i, (path, width) in enumerate(zip(specifications, widths, strict=True))
    ]
    again = " ".join(f"runs/again{i or ''}" for i in range(len(commands)))
    return Section(
        "again",
        "Run it again",
        [
            Text(
                "Beside this page lie the specifications of all that ran, every setting resolved. "
                "With the same versions, kind of device and width a sweep gives the same numbers."
            ),
            Code("\n".join([*commands, f"kltrust report {again}"])),
            *(Fold(path, Code(text)) for path, text in specifications.items()),
            *(_of_presets(presets) if presets else []),
        ],
    )


def _of_presets(presets: list[_export.Preset]) -> list[Block]:
    first = presets[0]
    words = ["kltrust", "train", first.algorithm, first.env, "--preset", f"presets/{first.path}"]
    return [
        Text(
            "The best setting of each algorithm on each environment is a preset; new seeds say "
            "what it is worth:"
        ),
        Code(shlex.join([*words, "--seed", "1000", "--seeds", "10"])),
        Table(
            "presets",
            "Presets, chosen by the mean score on these very seeds.",
            ["algorithm", "environment", "setting", "score", "file"],
            [[p.algorithm, p.env, p.label, p.score, f"presets/{p.path}"] for p in presets],
            words=5,
        ),
    ]
