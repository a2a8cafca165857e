"""The report of a sweep: one page that needs no network, figures, tables and presets.

`_make` composes it: what `_gather` reads, and a module for each part of the page.
"""

from kltrust.lazy import require_sweeps

require_sweeps("a report")

from kltrust.experiments.report._make import (  # noqa: E402
    Report as Report,
    compose as compose,
    make_report as make_report,
    place as place,
    write as write,
)
