"""Results of sweeps and trainings: ``kltrust.results.load(DIR)``."""

from kltrust.experiments.results import Results, load

__all__ = ["Results", "load"]
