"""The report of a sweep: one page that needs no network, figures, tables and presets.

_gather      reads folders; every run gets a name that is its own
_aggregate   over environments: normalised scores, rliable's aggregates, probabilities
_summaries   of one environment: scores, curves, sensitivities
_region      what a setting claims of its updates, and what they did
_figures, _region_figures, _style            frames to figures
_*_section, _*_sections, _blocks, _tables    what is said, as sections of blocks
_export      presets and specifications
_page        sections to HTML (template.html.j2) and Markdown
_make        all of it, and the files
"""

from kltrust.experiments.report._make import Report, compose, make_report, place, write

__all__ = ["Report", "compose", "make_report", "place", "write"]
