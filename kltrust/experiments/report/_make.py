"""From folders to a report: what it says, then the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kltrust.experiments.report import (
    _aggregate,
    _audit_section,
    _comparison_section,
    _env_sections,
    _export,
    _frame_sections,
    _page,
    _region,
    _region_sections,
    _summaries,
)
from kltrust.experiments.report._blocks import Section
from kltrust.experiments.report._gather import gather
from kltrust.experiments.report._style import plain_text, png, styles
from kltrust.experiments.store import files

INDEX = "index.html"
MARK = b'<meta name="generator" content="kltrust report">'
"""By this a folder is known as one that may be replaced."""


@dataclass(frozen=True)
class Report:
    """A report before it is written.

    Attributes:
        title: of the page.
        notes: what a reader has to know before any number.
        headlines: the best setting of each environment, a sentence each.
        sections: of the page.
        presets: to be written.
        specifications: text by file name, one for each folder.
    """

    title: str
    notes: tuple[str, ...]
    headlines: list[str]
    sections: list[Section]
    presets: list[_export.Preset]
    specifications: dict[str, str]


def make_report(
    paths: Sequence[str | Path], out: str | Path | None = None, preset_dir: str | Path | None = None
) -> Path:
    """Writes the report of sweeps and trainings, finished or not; replaces an earlier one.

    Args:
        paths: their folders.
        out: the folder of the report; None takes ``report`` in the first of the paths.
        preset_dir: a folder for the presets beside the report's own copy of them.

    Returns:
        The report's folder: index.html, tables.md, figures/, presets/, specs/.

    Raises:
        ValueError: if there is nothing to report yet.
        StorageError: if a folder holds no run, or the report can't be written there.
    """
    folder = place(paths, out)
    return write(compose(paths), folder, preset_dir)


def place(paths: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Where a report goes, refused before any work where something else is.

    Raises:
        StorageError: if the folder holds something that is no report.
    """
    folder = Path(out) if out is not None else Path(paths[0]) / "report" if paths else Path()
    folder = folder.absolute()
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not _is_report(folder):
        raise files.StorageError(
            f"{folder} holds something that is no report: name another folder with --out, so that "
            "nothing is overwritten"
        )
    return folder


def compose(paths: Sequence[str | Path]) -> Report:
    """Reads the folders and works out all that is said of them.

    Raises:
        ValueError: if there is nothing to report yet.
        StorageError: if a folder holds no run, or is damaged.
    """
    study = gather(paths)
    scores = _summaries.scores(study)
    updates = _region.updates(study)
    measured = _region.measured(study, updates)
    presets = _export.presets(study, scores)
    specifications = {
        f"specs/{i}-{_page.slug(source.name)}.toml": _export.specification(source)
        for i, source in enumerate(study.sources)
    }
    looks = styles(study.methods)
    with plain_text():
        sections = [
            _frame_sections.summary(scores, measured),
            _frame_sections.what_ran(study),
            _comparison_section.section(study, _aggregate.compare(study), looks),
            _env_sections.section(study, scores, looks),
            _region_sections.section(study, updates, measured, looks),
            *filter(None, [_audit_section.section(updates)]),
            *filter(None, [_region_sections.equal_kl(measured, scores, looks)]),
        ]
    sections += [
        _frame_sections.to_copy(_page.markdown(sections)),
        _frame_sections.repeat(study, specifications, presets),
    ]
    return Report(
        title=", ".join(source.name for source in study.sources),
        notes=study.notes,
        headlines=_frame_sections.headlines(scores),
        sections=sections,
        presets=presets,
        specifications=specifications,
    )


def write(report: Report, folder: Path, preset_dir: str | Path | None = None) -> Path:
    """Writes a report beside its place, then puts it there whole.

    Raises:
        StorageError: if it can't be written; an earlier report stands.
    """
    content = dict(_content(report))
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
        for preset in report.presets if preset_dir is not None else ():
            path = Path(preset_dir or "") / preset.path
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomic(path, preset.text.encode())
    return folder


def _content(report: Report) -> dict[str, bytes]:
    """Every file of the report by its name."""
    pictures = [p for s in report.sections for part in s.walk() for p in part.pictures]
    page = _page.render(report.title, report.notes, report.sections).encode()
    return {
        INDEX: page,
        "tables.md": _page.markdown(report.sections).encode(),
        **{f"figures/{_page.slug(p.name)}.png": png(p.figure) for p in pictures},
        **{f"presets/{preset.path}": preset.text.encode() for preset in report.presets},
        **{name: text.encode() for name, text in report.specifications.items()},
    }


def _is_report(folder: Path) -> bool:
    index = folder / INDEX
    return index.is_file() and MARK in index.read_bytes()[:2000]
