"""Names as strings, files, compilation: all that the pure rooms leave to their caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kltrust.lazy import offered

if TYPE_CHECKING:
    from kltrust.experiments.doors import Results, load, numpy_policy, sweep

__all__ = ["Results", "load", "numpy_policy", "sweep"]

__getattr__ = offered(__name__, "doors", __all__)
