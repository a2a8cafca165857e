"""The judge's section: each finding once, and the worst of each run."""

from __future__ import annotations

from kltrust import findings
from kltrust.experiments.report._gather import Study
from kltrust.experiments.report._page import Section, Table


def section(study: Study) -> Section | None:
    """Findings of all runs, worst first; None where nothing was found."""
    found = findings.judge(study)
    if not len(found):
        return None
    rows = found.rows()
    serious = found.at_least("warning")
    said = [
        f"{row['name']}: {row['says']} Usually: {row['means']} Try: {row['remedy']}"
        for row in serious.rows()
    ]
    columns = {
        "finding": [row["name"] for row in rows],
        "severity": [row["severity"] for row in rows],
        "worst run": [row["where"] or "–" for row in rows],
        "evidence there": [row["evidence"] for row in rows],
        "runs": [f"{row['runs']} of {row['of']}" for row in rows],
    }
    text = (
        "Conditions that hold of a run's metrics, by name (`kltrust judge` prints the same). An "
        "error makes numbers wrong, a warning is worth a look before anything is concluded, a note "
        "is worth knowing. What is not measured is not judged."
    )
    caption = "Each finding with the run that has most of it."
    tables = [Table("judged", caption, columns, words=4)]
    if len(serious) and found.of > 1:
        tables.append(_by_run(serious))
    return Section("judged", "What the judge found", [text, *([said] if said else []), *tables])


def _by_run(serious: findings.Findings) -> Table:
    """The worst finding of every run that has a warning or worse."""
    worst: dict[str, findings.Finding] = {}
    for one in serious:
        worst.setdefault(one.run_text, one)
    worst.pop("", None)
    columns = {
        "run": list(worst),
        "severity": [one.severity for one in worst.values()],
        "worst finding": [one.name for one in worst.values()],
        "evidence": [str(one.evidence) for one in worst.values()],
    }
    caption = f"The worst of each of the {len(worst)} runs that have a warning or an error."
    return Table("judged-runs", caption, columns, words=4, fold="Show the runs")
