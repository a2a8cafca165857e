"""The report of a sweep: one page that needs no network, figures, tables and presets.

_gather      reads folders; every run gets a name that is its own
_summaries   scores: aggregates over environments; curves and sensitivities of each
_region      what a setting claims of its updates, and what they did
_comparison, _environments, _movement, _audit    what is said of it
_style, _page    figures; tables, and sections of them to HTML and Markdown
_export      presets and specifications
_make        all of it, and the files
"""

from kltrust.lazy import require_sweeps

require_sweeps("a report")

from kltrust.experiments.report._make import (  # noqa: E402
    Report,
    compose,
    make_report,
    place,
    write,
)

__all__ = ["Report", "compose", "make_report", "place", "write"]
