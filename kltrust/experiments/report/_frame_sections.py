"""The first section of a report and the last ones: what ran, what was found, how to repeat it."""

import shlex

import pandas as pd

from kltrust.experiments.report._gather import Source, Study
from kltrust.experiments.report._page import Block, Code, Section, Table
from kltrust.experiments.store.record import total_seconds


def headlines(scores: pd.DataFrame) -> list[str]:
    """A sentence for each environment, from `_summaries.scores`: the best, and the runner-up."""
    said = []
    for env, rows in scores.groupby("env", sort=False):
        best, others = rows.iloc[0], rows[rows.method != rows.method.iloc[0]]
        ties = list(rows.label[rows["mean"] == best["mean"]])
        line = f"{best.label} has the highest mean, {best.shown}"
        if not ties:
            line = "no run has a score that is a number"
        elif len(ties) > 1:
            more = f" and {len(ties) - 3} more" if len(ties) > 3 else ""
            line = f"{len(ties)} settings share the highest mean, {best.shown}: "
            line += ", ".join(ties[:3]) + more
        elif len(others):
            second = others.iloc[0]
            line += f"; the best of another method is {second.label}, {second.shown}"
        said.append(f"{env}, {best.seeds} seed{'s' if best.seeds > 1 else ''}: {line}.")
    return said


def what_ran(study: Study) -> Section:
    """Algorithms, environments, seeds, machine, versions and seconds of every folder."""
    facts = [_facts(s, study.runs[study.runs.source == i]) for i, s in enumerate(study.sources)]
    columns = {"": list(facts[0])}
    columns |= {s.name: list(of.values()) for s, of in zip(study.sources, facts, strict=True)}
    table = Table("what-ran", "What the numbers below come from.", columns, words=len(columns))
    return Section("what-ran", "What ran", [table])


def _facts(source: Source, runs: pd.DataFrame) -> dict[str, str]:
    experiments = [setting.experiment for setting in source.plan.settings]
    labels = pd.Series([setting.label for setting in source.plan.settings])
    of_env = sorted(set(labels.groupby([e.env for e in experiments]).nunique()))
    seconds = total_seconds(*(part.seconds for _, part in source.parts if part is not None))
    versions = source.record.versions
    commit = versions.get("commit")
    state = " with changes that are not committed" if versions.get("dirty") else ""
    packages = [f"{name} {v}" for name, v in versions.get("packages", {}).items() if v]
    flags = f", XLA_FLAGS {versions['XLA_FLAGS']}" if versions.get("XLA_FLAGS") else ""
    return {
        "folder": f"{source.name}, {'' if source.record.finished else 'not '}finished",
        "algorithms": ", ".join(dict.fromkeys(e.algorithm for e in experiments)),
        "environments": ", ".join(dict.fromkeys(e.env for e in experiments)),
        "settings": f"{' or '.join(map(str, of_env))} on each environment",
        "seeds": _listed(list(source.plan.seeds)),
        "runs": f"{len(runs):,}, {(runs.iterations >= runs.planned).sum():,} finished",
        "broken runs": str(runs.broken.notna().sum()),
        "environment steps": f"{runs.steps.sum():,}",
        "seconds": f"{seconds.get('compile', 0):,.0f} compiling, {seconds.get('run', 0):,.0f} "
        "training and evaluating",
        "devices": f"{versions.get('device_count')} x {versions.get('device_kind')}, "
        f"{versions.get('cpu_count')} cores, {versions.get('platform')}",
        "commit": f"{commit[:12]}{state}" if commit else "not from a git checkout with commits",
        "versions": ", ".join([f"Python {versions.get('python')}", *packages]),
        "arithmetic": f"{'float64' if versions.get('x64') else 'float32'}, matrix products "
        f"{versions.get('matmul_precision')}{flags}",
    }


def _listed(seeds: list[int]) -> str:
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{len(seeds)}: {seeds[0]} to {seeds[-1]}"
    return f"{len(seeds)}: {', '.join(map(str, seeds))}"


def repeat(study: Study, specifications: dict[str, str], presets: pd.DataFrame) -> Section:
    """How to run it again, and how to go on from the best settings."""
    commands, folders = [], []
    for i, (path, source) in enumerate(zip(specifications, study.sources, strict=True)):
        folders.append(f"runs/again{i or ''}")
        widths = {group.width for group in source.plan.groups}
        width = f" --width {widths.pop()}" if len(widths) == 1 else ""
        commands.append(f"kltrust sweep {path} --out {folders[-1]}{width}")
    blocks: list[Block] = [
        "Beside this page lie the specifications of all that ran, every setting resolved. With the "
        "same versions, kind of device and width a sweep gives the same numbers.",
        Code("\n".join([*commands, f"kltrust report {' '.join(folders)}"])),
        *(Code(text, fold=path) for path, text in specifications.items()),
    ]
    if len(presets):
        blocks += _of_presets(presets)
    return Section("again", "Run it again", blocks)


def _of_presets(presets: pd.DataFrame) -> list[Block]:
    first, paths = presets.iloc[0], "presets/" + presets.path
    words = ["kltrust", "train", first.algorithm, first.env, "--preset", paths.iloc[0]]
    columns = {
        "algorithm": presets.algorithm,
        "environment": presets.env,
        "setting": presets.label,
        "score": presets.shown,
        "file": paths,
    }
    caption = "Presets, chosen by the mean score on these very seeds."
    return [
        "The best setting of each algorithm on each environment is a preset; new seeds say what it "
        "is worth:",
        Code(shlex.join([*words, "--seed", "1000", "--seeds", "10"])),
        Table("presets", caption, columns, words=len(columns)),
    ]
