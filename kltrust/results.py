"""Sweeps from Python, the results of sweeps and trainings, and the trained policies."""

from kltrust.experiments.jobs.events import Chunk
from kltrust.experiments.reading import statistics
from kltrust.experiments.reading.compare import compare
from kltrust.experiments.reading.deploy import numpy_policy
from kltrust.experiments.reading.frames import to_frame
from kltrust.experiments.reading.results import Results, load
from kltrust.experiments.run_spec import sweep
from kltrust.experiments.search.sequential import sequential_test

__all__ = [
    "Chunk",
    "Results",
    "compare",
    "load",
    "numpy_policy",
    "sequential_test",
    "statistics",
    "sweep",
    "to_frame",
]
