"""The kinds of searches by name, to and from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kltrust.checks import unknown
from kltrust.experiments.search.halving import Halving
from kltrust.experiments.search.population import Population
from kltrust.experiments.search.racing import Racing
from kltrust.experiments.search.sampling import Search
from kltrust.values import from_plain, to_plain

KINDS: dict[str, type[Search]] = {kind.name: kind for kind in (Halving, Racing, Population)}


def of_plain(table: Mapping[str, Any]) -> Any:
    """A search from the table [search] of a specification.

    Raises:
        ValueError: names the key and the nearest known one.
    """
    kind = table.get("by")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(unknown("search: by", kind, KINDS) if kind else _MISSING)
    own = {key: value for key, value in table.items() if key != "by"}
    return from_plain(KINDS[kind], own, where="search")


def plain(search: Search) -> dict[str, Any]:
    """The inverse of `of_plain`, with all keys."""
    return {"by": search.name, **to_plain(search)}


_MISSING = f"a search needs its kind: by = one of {', '.join(KINDS)}"
