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
    return [*table(rows, columns), "", setting]


def search_population(result: Result) -> list[str]:
    """The best member of each population, beside the best of the same settings left alone."""
    columns: dict[str, Form] = {
        "seed": "{seed}",
        "best of the population": "{population:.1f}",
        "best left alone": "{alone:.1f}",
        "mean of the population": "{population_mean:.1f}",
        "mean left alone": "{alone_mean:.1f}",
    }
    gains = result["gains"]
    setting = (
        f"The population's best is better in {result['wins']} of {len(gains)}; it gains "
        f"{Estimate(*result['gain'])} on average; {gains[0]['steps']:,} steps each; jax "
        f"{result['versions']['packages']['jax']}. "
        "`python benchmarks/search.py --parts search_population`"
    )
    return [*table(gains, columns), "", setting]
