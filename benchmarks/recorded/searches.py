"""Tables from search.py: what a search finds of a whole grid, and what a population gains."""

from __future__ import annotations

import numpy as np

from kltrust.experiments.reading.statistics import Estimate
from recorded import Form, Result, table


def search_grids(result: Result) -> list[str]:
    """A line for every grid, budget and kind of search."""
    columns: dict[str, Form] = {
        "grid": "{grid}, {settings} settings, {steps_of_a_run:,} steps",
        "first told of last": "{told_by_first:.2f}",
        "search": "{search}",
        "steps": "{steps:.0%}",
        "the same best": "{same} of {of}",
        f"within {result['close']:.0%}": "{as_good} of {of}",
        "lacks": lambda row: f"{np.mean(row['lacks']):.0%}",
        "lacks by chance": "{lacks_by_chance:.0%}",
    }
    rows = [row | {"grid": row["grid"].removeprefix("search_")} for row in result["rows"]]
    first = rows[0]
    setting = (
        f"{first['of']} repetitions with {first['seeds']} seeds each; jax "
        f"{result['versions']['packages']['jax']}. "
        "`python benchmarks/search.py --parts search_grids`"
    )
    cheap = [row for row in rows if row["steps"] <= 0.25]
    found = [row for row in cheap if row["same"] > row["of"] / 2]
    said = (
        f"Of {len(cheap)} searches with a quarter of the steps or less, {len(found)} found the "
        "same best setting in more than half of the repetitions."
    )
    return [*table(rows, columns), "", said, "", setting]


def search_population(result: Result) -> list[str]:
    """Of each budget, the best of the populations beside the best of the settings left alone."""

    def mean(name: str) -> Form:
        return lambda row: f"{np.mean([of[name] for of in row['gains']]):.1f}"

    columns: dict[str, Form] = {
        "steps of a run": "{steps_of_a_run:,}",
        "best of the population": mean("population"),
        "best left alone": mean("alone"),
        "gain": lambda row: Estimate(*row["gain"]),
        "better": lambda row: f"{row['wins']} of {len(row['gains'])}",
        "mean of the population": mean("population_mean"),
        "mean left alone": mean("alone_mean"),
    }
    setting = (
        f"jax {result['versions']['packages']['jax']}. "
        "`python benchmarks/search.py --parts search_population`"
    )
    return [*table(result["rows"], columns), "", setting]
