"""Operations with an implementation for each kind of processor.

The rest of the library calls them by name. Each one chooses its implementation by the platform that
the program is lowered for. On a CPU, memory and arithmetic are the cost. On a GPU or TPU, it is the
number of kernels that wait for each other.
"""

from __future__ import annotations

from kltrust.lowering._choose import choose
from kltrust.lowering._columns import argmax, log_softmax
from kltrust.lowering._keys import split_rows
from kltrust.lowering._loop import recording_loop
from kltrust.lowering._permutation import permutation
from kltrust.lowering._products import conv3x3, head_product
from kltrust.lowering._quantiles import quantiles
from kltrust.lowering._recurrence import gated_recurrence
from kltrust.lowering._scans import recording_scan, scan
from kltrust.lowering._shortcut import cpu_shortcut

__all__ = [
    "argmax",
    "choose",
    "conv3x3",
    "cpu_shortcut",
    "gated_recurrence",
    "head_product",
    "log_softmax",
    "permutation",
    "quantiles",
    "recording_loop",
    "recording_scan",
    "scan",
    "split_rows",
]
