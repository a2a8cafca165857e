"""The command ``kltrust compare``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from kltrust.experiments.cli import typed
from kltrust.experiments.cli.launch import Switch

WORSE = 2
"""The exit status if a setting of B is worse."""


@dataclasses.dataclass(frozen=True)
class _Compare:
    """Say whether the runs of B are worse than those of A: two versions of your code, two devices.

    Settings are matched by environment and label, seeds by their number. The exit status is 2 if B
    is worse on some setting by more than the margin, with an interval that holds for all settings
    together; else 0. "not shown" means that these seeds show no difference, not that there is none.

    Example: kltrust compare runs/before runs/after
    """

    a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A")]
    """The folder of a sweep or training to compare with."""
    b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B")]
    """The folder in question."""
    margin: float = 0.0
    """A loss of mean final return that does not matter."""
    level: float = 0.95
    """The level of all intervals together."""
    json: Switch = False
    """Print the table as JSON."""


def compare(arguments: list[str]) -> int:
    """``kltrust compare``."""
    options = typed.cli(_Compare, prog="kltrust compare", args=arguments)
    from kltrust.experiments.reading import compare as comparing
    from kltrust.experiments.reading.results import load

    table, only = comparing.compare(
        load(options.a), load(options.b), level=options.level, margin=options.margin
    )
    if options.json:
        print(table.to_json(orient="records", indent=1))
    else:
        shown = Table("setting", "seeds", *"AB", "B - A", "", box=None)
        for row in table.itertuples():
            seeds = (
                str(row.seeds_a) if row.seeds_a == row.seeds_b else f"{row.seeds_a}, {row.seeds_b}"
            )
            gap = f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
            name = f"{row.label} on {row.env}"
            shown.add_row(name, seeds, f"{row.a:.1f}", f"{row.b:.1f}", gap, row.verdict)
        Console().print(shown)
        for name in only:
            print(f"only one of the two has {name}")
    return WORSE if (table.verdict == "worse").any() else 0
