"""Makes a report from folders: composes its content, then writes the files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd

from kltrust.experiments.config.fairness import describe_grouped
from kltrust.experiments.report import (
    _audit,
    _comparison,
    _difference,
    _environments,
    _export,
    _judged,
    _measured,
    _movement,
    _page,
    _region,
    _search,
    _summaries,
)
from kltrust.experiments.report._gather import Source, Study, gather
from kltrust.experiments.report._style import RC, image, looks_of
from kltrust.experiments.store import files
from kltrust.experiments.store.record import total_seconds

INDEX = "index.html"
FIRST = 4
"""The number of learning curves at the top of the page."""
MARK = b'<meta name="generator" content="kltrust report">'
"""A folder whose page contains this mark is a report, and may be replaced."""


class Report(NamedTuple):
    """A report before it is written.

    ``notes`` stand before any number, ``headlines`` name the best setting of each environment, and
    ``specifications`` are texts by file name.
    """

    title: str
    notes: tuple[str, ...]
    headlines: list[str]
    sections: list[_page.Section]
    presets: pd.DataFrame
    specifications: dict[str, str]


def make_report(
    paths: Sequence[str | Path], out: str | Path | None = None, preset_dir: str | Path | None = None
) -> Path:
    """Writes the report of sweeps and trainings, finished or not: `place`, `compose`, `write`.

    Its folder then holds index.html, tables.md, figures/, presets/ and specs/.
    """
    folder = report_folder(paths, out)
    return write(compose(paths, folder), folder, preset_dir)


def report_folder(paths: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """The folder for a report: ``report`` in the first folder, unless ``out`` names another.

    Raises:
        StorageError: if the folder holds something else than a report.
    """
    folder = Path(out) if out is not None else Path(paths[0]) / "report" if paths else Path()
    folder = folder.absolute()
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    index = folder / INDEX
    if occupied and not (index.is_file() and MARK in index.read_bytes()[:2000]):
        raise files.StorageError(
            f"{folder} holds something that is no report: name another folder with --out, so that "
            "nothing is overwritten"
        )
    return folder


def compose(paths: Sequence[str | Path], folder: Path | None = None) -> Report:
    """Reads the folders and makes the content of the report.

    ``folder`` is where the report will be written, if that is known: its commands name it.

    Raises:
        ValueError: if there is nothing to report yet.
        StorageError: if a folder holds no run, or is damaged.
    """
    study = gather(paths)
    scores = _summaries.scores(study)
    updates = _region.updates(study)
    measured = _region.measured(study, updates)
    presets = _export.presets(scores)
    specifications = {
        f"specs/{i}-{_page.slug(source.name)}.toml": _export.specification(source)
        for i, source in enumerate(study.sources)
    }
    headlines, looks = _headlines(scores, study.unequal), looks_of(study.methods)
    pairs = _difference.pairs(study)
    headlines += [pair.line for pair in pairs]
    with matplotlib.rc_context(RC):
        learning = _environments.learning(study, scores, looks)
        first = [pictures[0] for pictures in learning.values()][:FIRST]
        found = [
            _page.Section("summary", "In short", [headlines, *first, _region.verdicts(measured)]),
            _what_ran(study),
            _search.section(study),
            _comparison.section(_summaries.compare(study), looks, describe_grouped(study.unequal)),
            _difference.section(study, pairs),
            _environments.section(study, scores, learning, looks),
            _movement.section(updates, measured, looks),
            _measured.section(updates, scores, looks),
            _audit.section(updates, looks),
            _movement.equal_kl(measured, scores, looks),
            _judged.section(study),
        ]
    sections = [section for section in found if section is not None]
    to_copy = "For a paper's appendix or a README; tables.md beside this page is the same."
    markdown = _page.Code(_page.markdown(sections), fold="Show the Markdown")
    sections += [
        _page.Section("markdown", "The tables as Markdown", [to_copy, markdown]),
        _export.repeat(study, specifications, presets, _from_here(folder)),
    ]
    title = ", ".join(source.name for source in study.sources)
    return Report(title, study.notes, headlines, sections, presets, specifications)


def _from_here(folder: Path | None) -> str:
    """A folder relative to the working folder; "" if it is elsewhere, since paths are private."""
    here = Path.cwd()
    if folder is None or not folder.is_relative_to(here):
        return ""
    return folder.relative_to(here).as_posix()


def _headlines(scores: pd.DataFrame, unequal: Mapping[str, str]) -> list[str]:
    """A sentence for each environment, from `_summaries.scores`: the best, and the runner-up.

    If methods differ in more than the algorithm, it lists the differences.
    """
    said = []
    for env, rows in scores.groupby("env", sort=False):
        whole = rows if "stopped" not in rows else rows[~rows.stopped.astype(bool)]
        left_out = len(rows) - len(whole) if len(whole) else 0
        rows = whole if left_out else rows
        best, others = rows.iloc[0], rows[rows.method != rows.method.iloc[0]]
        ties = list(rows.label[rows.score == best.score])
        line = f"{best.label} has the highest mean, {best.shown}"
        if not ties:
            line = "no run has a score that is a number"
        elif len(ties) > 1:
            more = f" and {len(ties) - 3} more" if len(ties) > 3 else ""
            line = f"{len(ties)} settings share the highest mean, {best.shown}: "
            line += ", ".join(ties[:3]) + more
            alike = (rows.through[rows.score == best.score] == best.through).sum() > 1
            how = "the first of the best" if alike else "which got there first"
            line += f"; where one is needed it is {best.label}, {how}"
        elif len(others):
            second = others.iloc[0]
            line += f"; the best of another method is {second.label}, {second.shown}"
            if best.low <= second.high:
                line += ". Their intervals overlap, so these seeds do not tell them apart"
        if left_out:
            line += (
                f" (of what was trained to the end; a search stopped {left_out} settings before)"
            )
        mark = f"; but {unequal[env]}" if env in unequal else ""
        said.append(f"{env}, {best.seeds} seed{'s' if best.seeds > 1 else ''}: {line}{mark}.")
    return said


def _what_ran(study: Study) -> _page.Section:
    """Algorithms, environments, seeds, machine, versions and seconds of every folder."""
    facts = [_facts(s, study.runs[study.runs.source == i]) for i, s in enumerate(study.sources)]
    rows = max(map(list, facts), key=len)
    columns = {"": rows}
    for source, of in zip(study.sources, facts, strict=True):
        columns[source.name] = [of.get(row, "") for row in rows]
    table = _page.Table(
        "what-ran", "What the numbers below come from.", columns, words=len(columns)
    )
    equal = [f"{text[0].upper()}{text[1:]}." for text in describe_grouped(study.unequal)] or [
        "Rollout, critic, network, budget, steps and seeds are equal for all methods."
    ]
    alone = study.runs.method.nunique() == 1
    return _page.Section("what-ran", "What ran", [table, *([] if alone else [equal])])


def _facts(source: Source, runs: pd.DataFrame) -> dict[str, str]:
    experiments = [setting.experiment for setting in source.plan.settings]
    labels = pd.Series([setting.label for setting in source.plan.settings])
    of_env = sorted(set(labels.groupby([e.env for e in experiments]).nunique()))
    seconds = total_seconds(*(part.seconds for _, part in source.parts if part is not None))
    versions = source.record.versions
    code = source.record.code
    commits = [f"{_commit(of)} ({name})" for name, of in code.get("commits", {}).items()]
    modules = [f"{name} {digest}" for name, digest in code.get("sources", {}).items()]
    packages = [f"{name} {v}" for name, v in versions.get("packages", {}).items() if v]
    flags = f", XLA_FLAGS {versions['XLA_FLAGS']}" if versions.get("XLA_FLAGS") else ""
    return {
        "folder": f"{source.name}, {'' if source.record.finished else 'not '}finished",
        "algorithms": ", ".join(dict.fromkeys(e.algorithm for e in experiments)),
        "environments": ", ".join(dict.fromkeys(e.env for e in experiments)),
        "settings": f"{' or '.join(map(str, of_env))} on each environment",
        "seeds": _page.listed(source.plan.seeds),
        "runs": f"{len(runs):,}, {(runs.iterations >= runs.planned).sum():,} finished",
        "broken runs": str(runs.broken.notna().sum()),
        "environment steps": f"{runs.steps.sum():,}",
        "seconds": f"{seconds.get('compile', 0):,.0f} compiling, {seconds.get('run', 0):,.0f} "
        "training and evaluating",
        "devices": f"{versions.get('device_count')} x {versions.get('device_kind')}, "
        f"{versions.get('cpu_count')} cores, {versions.get('platform')}",
        **({"modules of your own": ", ".join(modules)} if code else {}),
        **({"your commit": ", ".join(commits) or "none"} if code else {}),
        "kltrust's commit": _commit(versions),
        "versions": ", ".join([f"Python {versions.get('python')}", *packages]),
        "arithmetic": f"{'float64' if versions.get('x64') else 'float32'}, matrix products "
        f"{versions.get('matmul_precision')}{flags}",
    }


def _commit(of: Mapping[str, Any]) -> str:
    if not (commit := of.get("commit")):
        return "not from a git checkout with commits"
    return f"{commit[:12]}{' with changes that are not committed' if of.get('dirty') else ''}"


def write(report: Report, folder: Path, preset_dir: str | Path | None = None) -> Path:
    """Writes a report beside its place, then moves it there whole.

    Writes its presets into ``preset_dir``, too, if that is given.

    Raises:
        StorageError: if it can't be written; an earlier report then stands. Also if a different
            preset is in the way; then nothing is written.
    """
    presets = {row.path: row.text.encode() for row in report.presets.itertuples()}
    pictures = [p for s in report.sections for part in s.walk() for p in part.pictures]
    content = {
        INDEX: _page.render(report.title, report.notes, report.sections).encode(),
        "tables.md": _page.markdown(report.sections).encode(),
        **{f"figures/{_page.slug(p.name)}.png": image(p.figure, "png") for p in pictures},
        **{f"presets/{path}": text for path, text in presets.items()},
        **{name: text.encode() for name, text in report.specifications.items()},
    }
    elsewhere = {} if preset_dir is None else {Path(preset_dir, n): t for n, t in presets.items()}
    _refuse_overwriting(elsewhere)
    partial, old = (folder.with_name(folder.name + end + files.DEBRIS) for end in ("", ".old"))
    with files.explained(f"write the report {folder}"):
        for debris in (partial, old):
            files.remove(debris)
        for name, data in content.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(data)
        if folder.exists():
            folder.rename(old)
        try:
            files.publish_folder(partial, folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        finally:
            files.remove(partial)
        files.remove(old)
    with files.explained(f"write presets to {preset_dir}"):
        for path, data in elsewhere.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomic(path, data)
    return folder


def _refuse_overwriting(content: dict[Path, bytes]) -> None:
    """Refuses to overwrite a person's presets, which are worth more than ours."""
    for path, data in content.items():
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == data):
            raise files.StorageError(
                f"{path} exists and differs: move it away, or name another folder with "
                "--preset-dir, so that nothing is overwritten"
            )
