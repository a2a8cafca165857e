"""How a finding is declared: one function, with all that is said of it at its head.

A condition is a pure function of what is judged. It reads the columns or arrays that it needs, and
what is not there raises `Missing`: then nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

SEVERITIES = ("note", "warning", "error")
"""From what is worth knowing to what makes the numbers wrong."""

TRAINING, UPDATE, GROUP = "a training", "an update", "several runs"
"""What a condition looks at: the metrics of one run, the arrays of one update, runs together."""


class Missing(LookupError):
    """What a condition needs is not there; the finding is neither made nor ruled out."""


class Evidence(NamedTuple):
    """What a condition has seen.

    Attributes:
        quantity: which column, or what was worked out of the arrays.
        value: the worst of it.
        limit: what it should have kept to; None where there is no number for it.
        since: the first iteration, row or run where it was seen; None where there is no order.
        count: how often it was seen.
        of: how often it could have been.
        detail: more words, if the numbers do not say it.
    """

    quantity: str
    value: float
    limit: float | None = None
    since: int | None = None
    count: int = 1  # type: ignore[assignment]
    of: int = 1
    detail: str = ""

    def __str__(self) -> str:
        """Like ``kl = 0.031, limit 0.01, 12 of 50, since 3``."""
        parts = [f"{self.quantity} = {self.value:.4g}"]
        parts += [] if self.limit is None else [f"limit {self.limit:.4g}"]
        parts += [f"{self.count:,} of {self.of:,}"] if self.of > 1 else []
        parts += [] if self.since is None else [f"since {self.since}"]
        return ", ".join([*parts, *([self.detail] if self.detail else [])])


class Declared(NamedTuple):
    """An entry of the catalogue.

    Attributes:
        name: of the finding.
        severity: one of `SEVERITIES`.
        of: what the condition looks at: `TRAINING`, `UPDATE` or `GROUP`.
        says: what was found, one sentence.
        means: what it usually comes from.
        remedy: what to try.
        explains: the findings that this one is the reason of: they are left out beside it.
        condition: what is judged -> `Evidence`, or None.
    """

    name: str
    severity: str
    of: str
    says: str
    means: str
    remedy: str
    explains: tuple[str, ...]
    condition: Callable[[Any], Evidence | None]


CATALOGUE: dict[str, Declared] = {}
"""Every finding by its name, in the order of their declarations."""


def finding(
    severity: str, of: str, *, means: str, remedy: str, explains: tuple[str, ...] = ()
) -> Callable[[Callable], Callable]:
    """Declares the function below it as a condition; its name and docstring are the finding's."""

    def declare(condition: Callable) -> Callable:
        name = condition.__name__
        if severity not in SEVERITIES or name in CATALOGUE or not condition.__doc__:
            raise ValueError(f"{name} needs a severity, a name of its own and a docstring")
        says = " ".join(condition.__doc__.split())
        CATALOGUE[name] = Declared(name, severity, of, says, means, remedy, explains, condition)
        return condition

    return declare


def look(*judged: tuple[str, Any]) -> list[tuple[Declared, Evidence]]:
    """All that conditions find of pairs (what it is, it), less what another one explains."""
    found: dict[str, tuple[Declared, Evidence]] = {}
    for of, thing in judged:
        for entry in CATALOGUE.values():
            if entry.of != of or entry.name in found:
                continue
            try:
                evidence = entry.condition(thing)
            except Missing:
                continue
            if evidence is not None:
                found[entry.name] = (entry, evidence)
    explained = {name for entry, _ in found.values() for name in entry.explains}
    return [pair for name, pair in found.items() if name not in explained]
