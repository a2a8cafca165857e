"""Faults of a training or an update: named findings, each with its evidence.

Every finding is declared once, by a function with its severity, its usual cause and a remedy; see
the page of findings for all of them. Nothing here compiles anything: the findings come from the
metrics and arrays of a finished training.
"""

from kltrust.findings._declare import CATALOGUE, Declared, Evidence
from kltrust.findings._found import Finding, Findings
from kltrust.findings._judge import ROLES, judge
from kltrust.findings._one_update import judge_update
from kltrust.findings._scalars import NAMES

__all__ = [
    "CATALOGUE",
    "NAMES",
    "ROLES",
    "Declared",
    "Evidence",
    "Finding",
    "Findings",
    "judge",
    "judge_update",
]
