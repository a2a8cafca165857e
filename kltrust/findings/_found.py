"""The result of a judgement: findings, worst first, as lines, rows, a table or plain data."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from kltrust.findings._declare import CATALOGUE, SEVERITIES, Declared, Evidence, unknown_name


class Finding(NamedTuple):
    """One condition that holds.

    Attributes:
        name: in the catalogue.
        severity: "note", "warning" or "error".
        evidence: the number, its limit, and since when.
        where: the run: its label, env, seed and number, as far as they are known.
    """

    name: str
    severity: str
    evidence: Evidence
    where: dict[str, Any]

    @property
    def declared(self) -> Declared:
        """Its entry in the catalogue: the usual cause and the remedy."""
        return CATALOGUE[self.name]

    @property
    def run_text(self) -> str:
        """The run in a few words, or ""."""
        said = [str(self.where[key]) for key in ("label", "env") if self.where.get(key)]
        seed = self.where.get("seed")
        return ", ".join([*said, *([f"seed {seed}"] if seed is not None else [])])


class Findings(Sequence[Finding]):
    """All findings of a judgement, worst first; a notebook shows them as a table.

    ``of`` is the number of runs or updates that were judged.
    """

    def __init__(self, findings: Sequence[Finding], of: int = 1):
        order = list(CATALOGUE)

        def rank(found: Finding) -> tuple:
            evidence = found.evidence
            share = evidence.count / max(evidence.of, 1)
            return -SEVERITIES.index(found.severity), order.index(found.name), -share

        self._found, self.of = tuple(sorted(findings, key=rank)), of

    def __getitem__(self, index: Any) -> Any:
        return (
            Findings(self._found[index], self.of)
            if isinstance(index, slice)
            else self._found[index]
        )

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    @property
    def names(self) -> list[str]:
        """The findings' names, each once, worst first."""
        return list(dict.fromkeys(found.name for found in self._found))

    @property
    def severity(self) -> str:
        """The worst finding's severity; "" if nothing was found."""
        return self._found[0].severity if self._found else ""

    def at_least(self, severity: str) -> Findings:
        """The findings of this ``severity`` or worse -> `Findings`.

        Raises:
            ValueError: if there is no such severity; names those there are.
        """
        if severity not in SEVERITIES:
            raise ValueError(unknown_name("severity", severity, SEVERITIES))
        least = SEVERITIES.index(severity)
        kept = [f for f in self._found if SEVERITIES.index(f.severity) >= least]
        return Findings(kept, self.of)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each name, worst first: severity, name, runs, evidence of the worst, place.

        Returns:
            Plain data: ``json.dumps`` takes it.
        """
        groups: dict[str, list[Finding]] = defaultdict(list)
        for found in self._found:
            groups[found.name].append(found)
        rows: list[dict[str, Any]] = []
        for name, group in groups.items():
            worst = max(group, key=lambda f: f.evidence.count / max(f.evidence.of, 1))
            said = CATALOGUE[name]
            rows.append(
                {
                    "severity": said.severity,
                    "name": name,
                    "says": said.says,
                    "runs": len(group),
                    "of": self.of,
                    "evidence": str(worst.evidence),
                    "where": worst.run_text,
                    "means": said.means,
                    "remedy": said.remedy,
                }
            )
        # Within a severity, the finding in most runs comes first.
        rows.sort(key=lambda row: (-SEVERITIES.index(row["severity"]), -row["runs"]))
        return rows

    def lines(self, most: int | None = None) -> list[str]:
        """A line for each name -> "warning critic_learns_nothing: ...", say; ``most`` of them."""
        rows, said = self.rows(), []
        for row in rows[:most]:
            runs = f" ({row['runs']} of {row['of']} runs)" if self.of > 1 else ""
            where = f" [{row['where']}]" if row["where"] else ""
            said.append(
                f"{row['severity']} {row['name']}: {row['says']}{runs} {row['evidence']}{where}"
            )
        if most is not None and len(rows) > most:
            said.append(f"and {len(rows) - most} more")
        return said

    def to_dicts(self) -> list[dict[str, Any]]:
        """Every finding with its evidence -> plain data, without NaN or infinity, for JSON."""

        def plain(value: Any) -> Any:
            if isinstance(value, np.generic):
                value = value.item()
            if isinstance(value, float) and not np.isfinite(value):
                return str(value)
            return value

        return [
            {
                "name": f.name,
                "severity": f.severity,
                **{k: plain(v) for k, v in f.where.items()},
                "evidence": {k: plain(v) for k, v in f.evidence._asdict().items()},
            }
            for f in self._found
        ]

    def __repr__(self) -> str:
        if not self._found:
            return "nothing found"
        rows = self.rows()
        return "\n".join(
            f"{line}\n    usually: {row['means']}\n    try: {row['remedy']}"
            for line, row in zip(self.lines(), rows, strict=True)
        )

    def _repr_html_(self) -> str:
        if not self._found:
            return "<p>nothing found</p>"
        titles = ["severity", "name", "says", "runs", "evidence", "where", "means", "remedy"]
        head = "".join(f"<th>{title}</th>" for title in titles)
        cells = (
            "".join(f"<td>{html.escape(str(row[title]))}</td>" for title in titles)
            for row in self.rows()
        )
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
