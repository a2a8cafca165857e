"""Results of sweeps and trainings: ``kltrust.results.load(DIR)``."""

from kltrust.experiments.reading.results import Results, load

__all__ = ["Results", "load"]
