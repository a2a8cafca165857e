"""The report of a sweep: one page that needs no network, figures, tables and presets.

`_make` composes it from the runs that `_gather` reads; each part of the page has a module.
"""

from kltrust.lazy import require_sweeps

require_sweeps("a report")

from kltrust.experiments.report._make import (  # noqa: E402
    Report as Report,
    compose as compose,
    make_report as make_report,
    report_folder as report_folder,
    write as write,
)
