"""How to declare a finding: one function, with the finding's texts in its decorator.

A condition is a pure function of a run, an update or several runs. It reads the columns or arrays
that it needs; a missing one raises `Missing`, and the finding is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

SEVERITIES = ("note", "warning", "error")
"""From worth knowing to making the numbers wrong."""

TRAINING, UPDATE, GROUP = "a training", "an update", "several runs"
"""The input of a condition: the metrics of one run, the arrays of one update, several runs."""


def unknown_name(what: str, name: Any, known: Iterable[str]) -> str:
    """The error message for an unknown name; suggests the nearest."""
    from kltrust.checks import unknown  # loads JAX, which findings do without

    return unknown(what, str(name), known)


class Missing(LookupError):
    """A condition's input is missing; the finding is neither made nor ruled out."""


class Evidence(NamedTuple):
    """The evidence for a finding.

    Attributes:
        quantity: the column, or the quantity computed from the arrays.
        value: its worst value.
        limit: the limit that it should have kept, or another number to compare it with; None if
            there is none.
        since: the first iteration, row or run where it was seen; None if there is no order.
        count: how often it was seen.
        of: how often it could have been seen.
        detail: more words, if the numbers alone are not clear.
        limit_name: what ``limit`` is, in a word or two: "exact KL" beside a logged one, say.
    """

    quantity: str
    value: float
    limit: float | None = None
    since: int | None = None
    count: int = 1  # type: ignore[assignment]
    of: int = 1
    detail: str = ""
    limit_name: str = "limit"

    def __str__(self) -> str:
        """Like ``kl = 0.031, limit 0.01, 12 of 50, since 3``."""
        parts = [f"{self.quantity} = {self.value:.4g}"]
        parts += [] if self.limit is None else [f"{self.limit_name} {self.limit:.4g}"]
        parts += [f"{self.count:,} of {self.of:,}"] if self.of > 1 else []
        parts += [] if self.since is None else [f"since {self.since}"]
        return ", ".join([*parts, *([self.detail] if self.detail else [])])


class Declared(NamedTuple):
    """An entry of the catalogue.

    Attributes:
        name: of the finding.
        severity: one of `SEVERITIES`.
        of: the condition's input: `TRAINING`, `UPDATE` or `GROUP`.
        says: the finding in one sentence.
        means: its usual cause.
        remedy: what to try.
        explains: findings that this one causes: they are left out if it is found.
        condition: the input -> `Evidence`, or None.
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
"""All findings by name, in the order of their declarations."""


def finding(
    severity: str, of: str, *, means: str, remedy: str, explains: tuple[str, ...] = ()
) -> Callable[[Callable], Callable]:
    """Declares a function as a condition; its name and docstring become the finding's."""

    def declare(condition: Callable) -> Callable:
        name = condition.__name__
        if severity not in SEVERITIES or name in CATALOGUE or not condition.__doc__:
            raise ValueError(f"{name} needs a severity, a name of its own and a docstring")
        says = " ".join(condition.__doc__.split())
        CATALOGUE[name] = Declared(name, severity, of, says, means, remedy, explains, condition)
        return condition

    return declare


def look(*judged: tuple[str, Any]) -> list[tuple[Declared, Evidence]]:
    """Runs all conditions on pairs (kind, input); leaves out findings that another one explains."""
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
